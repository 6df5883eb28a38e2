//! Ingest: rows of any form and from anywhere become the bars that a fold of them gives.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use barcast::aggregate::{Empty, Rules};
use barcast::ahead::MaxAhead;
use barcast::bar::{Message, Number, Resolution, write_message};
use barcast::bus::{Bus, MemoryBus, Outgoing, Publisher, RedisBus};
use barcast::feed::{Config, Input, Source, Totals, run};
use barcast::generator::pack::Form;
use barcast::metrics::FeedMetrics;
use common::{RedisServer, Subscription, eventually};
use tokio_util::sync::CancellationToken;

/// Monday 2024-01-01, 00:00 UTC, ms.
const START: i64 = 1_704_067_200_000;

fn config(source: Source, input: Input) -> Config {
    Config {
        source,
        format: None,
        input,
        symbol: None,
        resolutions: vec![Resolution::M1, Resolution::M5, Resolution::Day],
        rules: Rules {
            late_ms: 60_000,
            ..Rules::default()
        },
        live: false,
        max_delay: Duration::from_secs(3_600),
        flush: Duration::from_millis(50),
        form: Form::Single,
        max_ahead: MaxAhead::default(),
    }
}

/// A file of its own with this text.
fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Runs over the in-process bus; what was published comes beside.
async fn ingested(config: Config) -> (Totals, Vec<Message>) {
    let bus = MemoryBus::default();
    let subscription = Subscription::start(bus.clone()).await;
    let stop = CancellationToken::new();
    let totals = run(config, bus.publisher(), FeedMetrics::default(), stop)
        .await
        .unwrap();
    let collector = &subscription.collector;
    eventually("bars", || {
        collector.decoded().len() as u64 >= totals.published
    })
    .await;
    (totals, collector.decoded())
}

/// The newest state of each bar of a topic: time, numbers, closed.
fn bars(messages: &[Message], topic: &str) -> Vec<(i64, [f64; 5], bool)> {
    let mut bars = BTreeMap::new();
    for message in messages.iter().filter(|m| m.topic.to_string() == topic) {
        let numbers = message.bar.numbers().map(Number::value);
        bars.insert(message.bar.time(), (numbers, message.bar.closed));
    }
    let bars = bars.into_iter();
    bars.map(|(time, (numbers, closed))| (time, numbers, closed))
        .collect()
}

/// Two symbols' trades over three minutes; one comes late.
const TRADES: &str = r#"
{"symbol":"A","time":1704067200000,"price":10,"size":1}
{"symbol":"B","time":1704067201,"price":"5.5","size":"0.1"}
{"symbol":"A","time":"2024-01-01T00:00:30Z","price":12.5,"qty":2,"side":"buy"}
{"ticker":"A","ts":1704067260000,"price":11,"size":1}
{"symbol":"A","time":1704067245000,"price":9,"size":4}
{"symbol":"B","time":1704067320000.0,"price":6,"size":0.2}
"#;

fn check_trades(messages: &[Message]) {
    assert_eq!(
        bars(messages, "bars:A:1"),
        [
            (START, [10.0, 12.5, 9.0, 9.0, 7.0], true),
            (START + 60_000, [11.0, 11.0, 11.0, 11.0, 1.0], false)
        ]
    );
    assert_eq!(
        bars(messages, "bars:A:D"),
        [(START, [10.0, 12.5, 9.0, 11.0, 8.0], false)]
    );
    assert_eq!(
        bars(messages, "bars:B:5"),
        [(START, [5.5, 6.0, 5.5, 6.0, 0.3], false)]
    );
    for topic in ["bars:A:1", "bars:B:D"] {
        let of_topic = messages.iter().filter(|m| m.topic.to_string() == topic);
        let seqs: Vec<_> = of_topic.map(|m| m.seq).collect();
        let expected: Vec<_> = (1..=seqs.len() as u64).map(Some).collect();
        assert_eq!(seqs, expected, "{topic} is numbered without a hole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trades_as_json_become_bars() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::Files(vec![file(&folder, "trades.ndjson", TRADES)]);
    let (totals, messages) = ingested(config(source, Input::Trades)).await;
    assert_eq!((totals.taken, totals.late, totals.bad), (6, 0, 0));
    check_trades(&messages);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_follow_each_other_and_bad_rows_cost_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<&str> = TRADES.trim().lines().collect();
    let long = format!("{{\"symbol\":\"{}\"}}", "x".repeat(100_000));
    let far = r#"{"symbol":"A","time":99999999999,"price":1,"size":1}"#;
    let first = [
        lines[0],
        "not json",
        "{\"symbol\":\"A\"}",
        &long,
        lines[1],
        r#"{"symbol":"A","time":0,"price":null,"size":1}"#,
        r#"{"symbol":"no good","time":0,"price":1,"size":1}"#,
        r#"{"symbol":"A","time":0,"price":1,"size":-1}"#,
        r#"["A"]"#,
        far,
        "\u{0}",
    ];
    let second = "price;size\n";
    let sources = [
        file(&folder, "1.ndjson", &first.join("\n")),
        file(
            &folder,
            "2.csv",
            &format!("Price,SIZE,Symbol,Time\n12.5,2,A,2024-01-01 00:00:30\n1,2,A,never\n{second}"),
        ),
        file(&folder, "3.ndjson", &lines[3..].join("\r\n")),
    ];
    let source = Source::Files(sources.into());
    let (totals, messages) = ingested(config(source, Input::Trades)).await;
    assert_eq!((totals.taken, totals.late, totals.bad), (6, 0, 10));
    assert_eq!(totals.future, 1);
    check_trades(&messages);
}

#[tokio::test(flavor = "multi_thread")]
async fn lower_bars_become_higher_ones_and_a_pause_can_be_filled() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "time,open,high,low,close,volume\n\
        2024-01-01 00:00,1,2,1,2,10\n\
        2024-01-01 00:01,2,3,2,3,10\n\
        2024-01-01 00:07,4,5,4,5,10\n";
    let source = Source::Files(vec![file(&folder, "bars.csv", rows)]);
    let mut config = config(source, Input::Bars(Resolution::M1));
    config.symbol = Some("A".parse().unwrap());
    config.rules.empty = Empty::Flat;
    let (totals, messages) = ingested(config).await;
    assert_eq!((totals.taken, totals.bad), (3, 0));
    assert_eq!(bars(&messages, "bars:A:1").len(), 8);
    assert_eq!(
        bars(&messages, "bars:A:5"),
        [
            (START, [1.0, 3.0, 1.0, 3.0, 20.0], true),
            (START + 300_000, [3.0, 5.0, 3.0, 5.0, 10.0], false)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_bars_say_what_they_are_and_whether_they_are_closed() {
    let folder = tempfile::tempdir().unwrap();
    let row = |time: &str, rest: &str| {
        format!(
            "{{\"symbol\":\"A\",\"time\":\"2024-01-01 {time}\",\"open\":1,\"high\":1,\"low\":1,\"close\":1,\"volume\":1{rest}}}\n"
        )
    };
    let rows = [
        row("00:00", ",\"resolution\":\"1\",\"closed\":false"),
        row("00:04", ",\"closed\":true"),
        row("00:05", ",\"resolution\":\"5\""),
        row("00:05", ",\"closed\":\"perhaps\""),
    ];
    let source = Source::Files(vec![file(&folder, "bars.ndjson", &rows.concat())]);
    let (totals, messages) = ingested(config(source, Input::Bars(Resolution::M1))).await;
    assert_eq!((totals.taken, totals.bad), (2, 2));
    let one = |volume| [1.0, 1.0, 1.0, 1.0, volume];
    let minutes = [(START, one(1.0), true), (START + 240_000, one(1.0), true)];
    assert_eq!(bars(&messages, "bars:A:1"), minutes);
    let five = [(START, one(2.0), true)];
    assert_eq!(bars(&messages, "bars:A:5"), five, "its last minute is over");
    assert_eq!(bars(&messages, "bars:A:D"), [(START, one(2.0), false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_bars_close_by_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::Files(vec![file(&folder, "trades.ndjson", TRADES)]);
    let mut config = config(source, Input::Trades);
    config.live = true;
    let (_, messages) = ingested(config).await;
    // All of them are of years ago.
    for topic in ["bars:A:1", "bars:A:D", "bars:B:5"] {
        let bars = bars(&messages, topic);
        assert!(!bars.is_empty() && bars.iter().all(|bar| bar.2), "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_not_late_by_the_clock() {
    const TRADES_LEFT: i64 = 30_000;
    let folder = tempfile::tempdir().unwrap();
    let row = |at: i64| {
        let time = START + at * 100;
        format!("{{\"symbol\":\"A\",\"time\":{time},\"price\":1,\"size\":1}}\n")
    };
    let text: String = (0..TRADES_LEFT).map(row).collect();
    let source = Source::Files(vec![file(&folder, "trades.ndjson", &text)]);
    let mut config = config(source, Input::Trades);
    config.live = true;
    config.rules.late_ms = 0;
    let (totals, messages) = ingested(config).await;
    assert_eq!((totals.taken, totals.late), (30_000, 0));
    let minutes = bars(&messages, "bars:A:1");
    assert_eq!(minutes.len(), 50);
    assert!(minutes.iter().all(|bar| bar.1[4] == 600.0 && bar.2));
    let of_minutes = messages
        .iter()
        .filter(|m| m.topic.to_string() == "bars:A:1");
    let revised = of_minutes.filter(|m| m.rev.is_some()).count();
    assert_eq!(revised, 0, "none was closed before its trades were read");
}

/// A row with a wrong hour costs itself alone, and not all trades of its symbol until that hour comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_trade_far_ahead_of_the_clock_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let now = barcast::clock::now_ms();
    let row = |time: i64| format!(r#"{{"symbol":"A","time":{time},"price":2.5,"size":1}}"#);
    let mut rows = vec![row(now + 3 * 3_600_000)];
    rows.extend((0..5).map(|n| row(now - 100 + n)));
    // Within what clocks differ by.
    rows.push(row(now + 2_000));
    let path = file(&folder, "trades.ndjson", &(rows.join("\n") + "\n"));
    let mut config = config(Source::Files(vec![path]), Input::Trades);
    config.live = true;
    let (totals, _) = ingested(config).await;
    let Totals { taken, late, .. } = totals;
    assert_eq!((taken, late, totals.bad, totals.future), (6, 0, 0, 1));
}

/// What would be refused by every gateway is not published, whatever the rows are; unless that is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn rows_ahead_of_the_clock_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let now = Resolution::M1.floor(barcast::clock::now_ms());
    let times = [now - 60_000, now, now + 3_600_000, now + 86_400_000];
    let trade = |time| format!(r#"{{"symbol":"A","time":{time},"price":2.5,"size":1}}"#);
    let bar = |time| {
        let prices = r#""open":1,"high":1,"low":1,"close":1,"volume":1"#;
        format!(r#"{{"symbol":"A","time":{time},{prices}}}"#)
    };
    let trades = file(
        &folder,
        "trades.ndjson",
        &(times.map(trade).join("\n") + "\n"),
    );
    let bars = file(&folder, "bars.ndjson", &(times.map(bar).join("\n") + "\n"));
    for (path, input) in [(trades, Input::Trades), (bars, Input::Bars(Resolution::M1))] {
        for (live, max, future) in [
            (false, MaxAhead::default(), 2),
            (true, MaxAhead::default(), 2),
            (false, MaxAhead::within(Duration::from_secs(7_200)), 1),
            (false, MaxAhead::OFF, 0),
            (true, MaxAhead::OFF, 0),
        ] {
            let mut config = config(Source::Files(vec![path.clone()]), input);
            (config.live, config.max_ahead) = (live, max);
            let (totals, messages) = ingested(config).await;
            assert_eq!(
                (totals.taken, totals.future),
                (4 - future, future),
                "{input:?} {max:?}"
            );
            let newest = messages.iter().map(|m| m.bar.time()).max().unwrap();
            assert_eq!(newest > now, future < 2);
        }
    }
}

/// Data that is sold delayed: the clock says nothing of intervals whose trades are still to come.
#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_feed_has_no_empty_bars_where_trades_were() {
    const BEHIND_MS: i64 = 30_000;
    let server = RedisServer::start();
    let subscription = Subscription::start(RedisBus::new(&server.url()).unwrap()).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_barcast"))
        .args(["ingest", "--redis-url", &server.url(), "--live"])
        .args(["--empty", "flat", "--resolutions", "1S", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    for _ in 0..40 {
        let time = barcast::clock::now_ms() - BEHIND_MS;
        let row = format!(r#"{{"symbol":"A","time":{time},"price":2.5,"size":1}}"#);
        pipe.write_all(format!("{row}\n").as_bytes()).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    drop(pipe);
    assert!(child.wait().unwrap().success());
    let closed = || {
        let published = bars(&subscription.collector.decoded(), "bars:A:1S");
        published
            .into_iter()
            .filter(|bar| bar.2)
            .collect::<Vec<_>>()
    };
    eventually("bars", || closed().len() >= 3).await;
    let empty: Vec<_> = closed().into_iter().filter(|bar| bar.1[4] == 0.0).collect();
    assert!(empty.is_empty(), "{empty:?}");
}

/// What one ingest publishes with `--empty null` is read by another, as Redis carries it.
#[tokio::test(flavor = "multi_thread")]
async fn intervals_without_trades_are_bars_without_prices() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "time,symbol,price,size\n\
        2024-01-01 00:00,A,1,1\n\
        2024-01-01 00:12,A,2,1\n";
    let source = Source::Files(vec![file(&folder, "trades.csv", rows)]);
    let mut with_nulls = config(source, Input::Trades);
    with_nulls.rules.empty = Empty::Null;
    let (_, messages) = ingested(with_nulls).await;
    let empty = |messages: &[Message], topic: &str| {
        let of_topic = messages.iter().filter(|m| m.topic.to_string() == topic);
        let empty = of_topic.filter(|m| m.bar.is_empty() && m.bar.closed);
        empty
            .map(|m| (m.bar.time() - START) / 60_000)
            .collect::<Vec<_>>()
    };
    assert_eq!(empty(&messages, "bars:A:1"), (1..12).collect::<Vec<_>>());
    assert_eq!(empty(&messages, "bars:A:5"), [5]);
    assert_eq!(empty(&messages, "bars:A:D"), [] as [i64; 0]);

    let minutes = messages
        .iter()
        .filter(|m| m.topic.resolution == Resolution::M1);
    let mut lines = Vec::new();
    for minute in minutes {
        write_message(&mut lines, minute);
        lines.push(b'\n');
    }
    let lines = String::from_utf8(lines).unwrap();
    let source = Source::Files(vec![file(&folder, "minutes.ndjson", &lines)]);
    let (totals, again) = ingested(config(source, Input::Bars(Resolution::M1))).await;
    assert_eq!((totals.taken, totals.bad), (13, 0), "{lines}");
    assert_eq!(
        empty(&again, "bars:A:5"),
        [] as [i64; 0],
        "they are skipped"
    );
    let traded = [
        (START, [1.0, 1.0, 1.0, 1.0, 1.0], true),
        (START + 600_000, [2.0, 2.0, 2.0, 2.0, 1.0], false),
    ];
    assert_eq!(bars(&again, "bars:A:5"), traded);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_comes_over_a_redis_channel_and_a_stream() {
    let server = RedisServer::start();
    let bus = RedisBus::new(&server.url()).unwrap();
    let key = "trades:stream".to_owned();
    for source in [
        Source::Channel(bus.clone(), "trades:*".to_owned()),
        Source::Stream(bus.clone(), key.clone(), "0".to_owned()),
    ] {
        let subscription = Subscription::start(bus.clone()).await;
        let stop = CancellationToken::new();
        let metrics = FeedMetrics::default();
        let is_stream = matches!(source, Source::Stream(..));
        let feed = tokio::spawn(run(
            config(source, Input::Trades),
            bus.publisher(),
            metrics.clone(),
            stop.clone(),
        ));
        let mut publisher = bus.publisher();
        publisher.ready().await;
        let lines: Vec<&str> = TRADES.trim().lines().collect();
        if is_stream {
            let client = redis::Client::open(server.url()).unwrap();
            let mut connection = client.get_connection().unwrap();
            for line in &lines {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                let fields: Vec<(String, String)> = row
                    .as_object()
                    .unwrap()
                    .iter()
                    .map(|(name, value)| {
                        let text = value.as_str().map_or(value.to_string(), str::to_owned);
                        (name.clone(), text)
                    })
                    .collect();
                redis::cmd("XADD")
                    .arg(&key)
                    .arg("*")
                    .arg(fields)
                    .exec(&mut connection)
                    .unwrap();
            }
        } else {
            // The first row again and again until it is heard: it changes nothing twice but the volume,
            // so it is of a symbol of its own.
            let hello = r#"{"symbol":"HELLO","time":1704067200000,"price":1,"size":0}"#;
            let message = |payload: &str| Outgoing {
                channel: "trades:x".to_owned(),
                payload: payload.into(),
            };
            let end = std::time::Instant::now() + common::DEADLINE;
            while metrics.taken.get() == 0 {
                assert!(std::time::Instant::now() < end, "the channel is heard");
                publisher.publish(&[message(hello)]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            publisher
                .publish(&[
                    message(&lines[..4].join("\n")),
                    message(&lines[4..].join("\n")),
                ])
                .await
                .unwrap();
        }
        let collector = &subscription.collector;
        eventually("all trades are in the bars", || {
            let messages = collector.decoded();
            let day = bars(&messages, "bars:A:D");
            let other = bars(&messages, "bars:B:5");
            day.first().is_some_and(|day| day.1[4] == 8.0)
                && other.first().is_some_and(|bar| bar.1[4] == 0.3)
        })
        .await;
        stop.cancel();
        let totals = feed.await.unwrap().unwrap();
        assert_eq!((totals.late, totals.bad), (0, 0));
    }
}

fn ingest(redis: &RedisServer, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_barcast"))
        .args(["ingest", "--redis-url", &redis.url()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// A row is handed on when it came, not when the next one comes, in either format.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_row_is_published_before_the_next_one_comes() {
    for (format, header, row) in [
        (
            "ndjson",
            "",
            r#"{"symbol":"A","time":1704067200000,"price":2.5,"size":1}"#,
        ),
        ("csv", "symbol,time,price,size\n", "A,1704067200000,2.5,1"),
    ] {
        let server = RedisServer::start();
        let subscription = Subscription::start(RedisBus::new(&server.url()).unwrap()).await;
        let mut child = Command::new(env!("CARGO_BIN_EXE_barcast"))
            .args(["ingest", "--redis-url", &server.url(), "--format", format])
            .args(["--resolutions", "1", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(format!("{header}{row}\n").as_bytes())
            .unwrap();
        eventually("the row, while the pipe stays open", || {
            !bars(&subscription.collector.decoded(), "bars:A:1").is_empty()
        })
        .await;
        drop(pipe);
        assert!(child.wait().unwrap().success(), "{format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_and_the_exit_code() {
    let server = RedisServer::start();
    let subscription = Subscription::start(RedisBus::new(&server.url()).unwrap()).await;
    let arguments = ["--resolutions", "1,5,D", "--late", "60"];
    let output = ingest(&server, &arguments, TRADES);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("taken: 6"), "{said}");
    let collector = &subscription.collector;
    eventually("the bars", || {
        bars(&collector.decoded(), "bars:B:5").len() == 1
    })
    .await;
    check_trades(&collector.decoded());

    let output = ingest(&server, &[], &format!("{TRADES}nothing\n"));
    assert_eq!(output.status.code(), Some(0), "some were of use");
    let output = ingest(&server, &[], "nothing\nof use\n");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("-, line 2"), "the place is told: {said}");
    for (arguments, told) in [
        (&["no such file"][..], "no such file"),
        (&["--session", "Mars"], "--session"),
        (&["--channel", "bars:*"], "--channel"),
        (
            &["--stream", "a", "--stream-from", "nonsense"],
            "--stream-from",
        ),
        (&["--stream", "a", "--stream-from", "1-x"], "--stream-from"),
        (
            &["--input", "bars", "--input-resolution", "3"],
            "--resolutions",
        ),
        (&["--channel", "a", "--stream", "b"], "--stream"),
    ] {
        let output = ingest(&server, arguments, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.lines().last().unwrap().contains(told), "{said}");
    }
}
