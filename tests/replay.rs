//! Replay: every good row of every file arrives, in order; every bad row is told and counted.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::PathBuf;

use barcast::bar::{Field, Message, Number, Resolution};
use barcast::bus::Bus;
use barcast::generator::pack::Form;
use barcast::replay::{ReplayError, run};
use common::{RedisServer, Subscription, eventually};
use tokio_util::sync::CancellationToken;

use common::replay::{barcast, config, replayed};
const HEADER: &str = "Volume,CLOSE,low,High,open,DateTime\n";

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// The file's rows, read in the plainest way: time as text, the five numbers as text.
fn rows(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(data(name)).unwrap();
    let rows = text.lines().skip(1);
    rows.map(|row| row.split(',').map(String::from).collect())
        .collect()
}

fn check(messages: &[Message], topic: &str, name: &str) {
    let of_topic: Vec<&Message> = messages
        .iter()
        .filter(|m| m.topic.to_string() == topic)
        .collect();
    let rows = rows(name);
    assert_eq!(of_topic.len(), rows.len());
    for (at, (message, row)) in of_topic.iter().zip(&rows).enumerate() {
        assert!(message.bar.closed);
        assert_eq!(message.seq, Some(at as u64 + 1));
        let date = row[0].replace(' ', "T");
        let date = if date.contains('T') {
            date
        } else {
            date + "T00:00:00"
        };
        let time: jiff::Timestamp = format!("{date}Z").parse().unwrap();
        assert_eq!(message.bar.time(), time.as_millisecond());
        for (number, text) in message.bar.numbers().iter().zip(&row[1..]) {
            assert_eq!(*number, Number::Float(text.parse().unwrap()));
            let integral = !text.contains('.');
            assert_eq!(!matches!(number, Number::Float(_)), integral, "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_history_arrives_whole_and_in_order_over_redis() {
    let server = RedisServer::start();
    let forms = [
        Form::Single,
        Form::Batch { compress: false },
        Form::Batch { compress: true },
    ];
    for form in forms {
        let subscription = Subscription::start(server.bus()).await;
        let files = vec![data("GOOG_D.csv"), data("EURUSD_60.csv")];
        let publisher = server.bus().publisher();
        let totals = run(config(files, form), publisher, CancellationToken::new());
        let totals = totals.await.unwrap();
        assert_eq!(
            (totals.published, totals.bad_rows, totals.stopped),
            (800, 0, false)
        );
        let collector = &subscription.collector;
        eventually("bars", || collector.decoded().len() >= 800).await;
        let messages = collector.decoded();
        assert_eq!(messages.len(), 800);
        assert!(
            messages.is_sorted_by_key(|m| m.bar.time()),
            "merged by time"
        );
        check(&messages, "bars:GOOG:D", "GOOG_D.csv");
        check(&messages, "bars:EURUSD:60", "EURUSD_60.csv");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_counted_and_cost_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("X, 1.csv");
    let good = [
        "10,1.5,1,2,1.0,2024-01-01 00:00\n",
        "10,1.5,1,2,1.0,1704067260\n",
        "10,1.5,1,2,1.0,1704067320000\n",
        "10,1.5,1,2,1.0,2024-01-01T01:03:00+01:00\n",
        "18446744073709551615,-5,-1e1,1e-7,-5.50,\"2024-01-01T00:04Z\",ignored\n",
    ];
    let bad = [
        "10,1.5,1,2,1.0,soon\n",
        "10,1.5,1,2,1.0\n",
        "10,,1,2,1.0,2024-01-01 00:05\n",
        "10,1.5,1,2,one,2024-01-01 00:05\n",
        "10,1.5,1,NaN,1.0,2024-01-01 00:05\n",
        "10,1.5,1,inf,1.0,2024-01-01 00:05\n",
        "10,1.5,1,1.2,1.0,2024-01-01 00:05\n",
        "10,1.5,1.2,2,1.0,2024-01-01 00:05\n",
        "-1,1.5,1,2,1.0,2024-01-01 00:05\n",
        "10,1.5,1,2,1.0,2024-01-01 00:05:30\n",
        "10,1.5,1,2,1.0,2024-01-01 00:04\n",
        "10,1.5,1,2,1.0,1999-01-01 00:04\n",
        "\n",
    ];
    let mut content = HEADER.as_bytes().to_vec();
    for row in good {
        content.extend_from_slice(row.as_bytes());
    }
    for row in bad {
        content.extend_from_slice(row.as_bytes());
    }
    content.extend_from_slice(b"10,1.5,1,2,\xff\xfe,2024-01-01 00:05\n");
    content.extend_from_slice(b"7,1.5,1,2,1.0,2024-01-01 00:05\n");
    std::fs::write(&file, content).unwrap();
    let (totals, messages) = replayed(config(vec![file], Form::Single)).await;
    let totals = totals.unwrap();
    assert_eq!((totals.published, totals.bad_rows), (6, 13));
    let minutes: Vec<i64> = messages
        .iter()
        .map(|m| m.bar.time() / 60_000 % 60)
        .collect();
    assert_eq!(minutes, [0, 1, 2, 3, 4, 5]);
    let forms = messages[4].bar.numbers().map(|n| n.to_string());
    assert_eq!(
        forms,
        ["-5.5", "1e-7", "-10.0", "-5", "18446744073709551615"]
    );
    assert_eq!(messages[5].bar.get(Field::Volume), Number::Unsigned(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_replayed_are_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let nameless = folder.path().join("GOOG.csv");
    std::fs::write(&nameless, "time,open,high,low,close,volume\n").unwrap();
    let headless = folder.path().join("GOOG_D.csv");
    std::fs::write(&headless, "2024-01-01,1,1,1,1,1\n").unwrap();
    let empty = folder.path().join("E_D.csv");
    std::fs::write(&empty, "").unwrap();
    for (file, said) in [
        (nameless.clone(), "--resolution"),
        (headless, "no column open"),
        (empty, "no column"),
        (folder.path().join("no_D.csv"), "No such file"),
        (folder.path().to_owned(), "--resolution"),
    ] {
        let (ended, _) = replayed(config(vec![file.clone()], Form::Single)).await;
        let Err(ReplayError::Files(line)) = ended else {
            panic!("{ended:?}")
        };
        assert!(
            line.contains(said) && line.contains(&file.display().to_string()),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    let mut told = config(vec![nameless], Form::Single);
    told.resolution = Some(Resolution::Day);
    let (totals, _) = replayed(told).await;
    assert_eq!(totals.unwrap().published, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_redis_costs_time_but_no_bar() {
    const BARS: i64 = 60_000;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("X_1S.csv");
    let mut content = "time,open,high,low,close,volume\n".to_owned();
    for n in 0..BARS {
        content.push_str(&format!("{},1,1,1,1,{n}\n", 1_700_000_000 + n));
    }
    std::fs::write(&file, content).unwrap();
    let mut server = RedisServer::start();
    let subscription = Subscription::start(server.bus()).await;
    let bus = server.bus();
    let replaying = tokio::spawn(async move {
        let publisher = bus.publisher();
        run(
            config(vec![file], Form::Single),
            publisher,
            CancellationToken::new(),
        )
        .await
    });
    subscription.received(1).await;
    server.kill();
    assert!(
        !replaying.is_finished(),
        "the file is too short for this test"
    );
    server.restart();
    subscription.connected(2).await;
    let totals = replaying.await.unwrap().unwrap();
    assert_eq!(totals.published, BARS as u64);
    let last = |messages: &[Message]| messages.last().and_then(|m| m.seq);
    eventually("the last bar", || {
        last(&subscription.collector.decoded()) == Some(BARS as u64)
    })
    .await;
    // What the subscriber missed itself while it was away is the bus's nature; what the publisher
    // sent around the break came at least once, in order from there.
    let messages = subscription.collector.decoded();
    let before = subscription.collector.seen(|seen| seen.at_connected);
    let after: Vec<u64> = messages[before..].iter().filter_map(|m| m.seq).collect();
    assert!(
        after.windows(2).all(|pair| pair[1] <= pair[0] + 1),
        "a hole after the break"
    );
}

#[test]
fn the_exit_code_tells() {
    let server = RedisServer::start();
    let url = server.url();
    let run = |arguments: &[&str]| {
        let mut all = vec!["--redis-url", &url, "--speed", "max"];
        all.extend(arguments);
        barcast(&all)
    };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (code, said) = run(&[&data("GOOG_D.csv").display().to_string()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("published=400") && said.contains("bad_rows=0"),
        "{said}"
    );

    let mixed = file(
        "M_D.csv",
        "date,open,high,low,close,volume\n2024-01-01,1,1,1,1,1\nx,1,1,1,1,1\n",
    );
    let (code, said) = run(&[&mixed]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("bad_rows=1"), "{said}");
    assert!(
        said.contains("WARN") && said.contains("M_D.csv") && said.contains("line=3"),
        "{said}"
    );

    let nothing = file("N_D.csv", "date,open,high,low,close,volume\nx,1,1,1,1,1\n");
    assert_eq!(run(&[&nothing]).0, Some(1));
    for arguments in [
        &["/nowhere/GOOG_D.csv"][..],
        &[&mixed, "--speed", "fast"],
        &[&mixed, "--compress", "zstd"],
        &[&mixed, "--resolution", "7"],
        &[&mixed, "--resolutions", "5"],
        &[&mixed, "--input", "trades", "--resolution", "5"],
        &["/nowhere/trades.csv", "--input", "trades"],
        &[],
    ] {
        let (code, said) = barcast(arguments);
        assert_eq!(code, Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
