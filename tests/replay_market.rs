//! Replay of trades: bars form, close and agree with each other, as of then or as of now.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use barcast::aggregate::Rules;
use barcast::bar::{Field, Message, Number, Resolution};
use barcast::bus::{Bus, MemoryBus};
use barcast::clock::now_ms;
use barcast::generator::pack::Form;
use barcast::replay::{Market, Speed, run};
use common::{RedisServer, Subscription, eventually};
use tokio_util::sync::CancellationToken;

use common::replay::{barcast, config};

/// 2024-01-01, 00:00 UTC, ms.
const START: i64 = 1_704_067_200_000;

/// Two files of trades: A by its file's name, B and C by their rows. One of B comes out of order, one of
/// C too late, one row is none.
fn trades(folder: &tempfile::TempDir) -> Vec<PathBuf> {
    let a = "time,price,size\n\
        2024-01-01 00:00:01,10,1\n\
        2024-01-01 00:00:20,12.5,2\n\
        2024-01-01 00:01:10,11,0.5\n\
        2024-01-01 00:06:00,9,1\n";
    let b = r#"{"symbol":"B","time":1704067230000,"price":5,"size":1}
        {"symbol":"B","time":1704067225000,"price":7,"size":1}
        {"symbol":"C","time":1704067290000,"price":1,"qty":3}
        {"symbol":"C","price":1,"qty":3}
        {"symbol":"C","time":1704067200000,"price":2,"qty":3}
        "#;
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    vec![file("A.csv", a), file("others.ndjson", b)]
}

fn market(resolutions: &[Resolution]) -> Option<Market> {
    let rules = Rules {
        late_ms: 10_000,
        ..Rules::default()
    };
    let resolutions = resolutions.to_vec();
    Some(Market { resolutions, rules })
}

/// The newest state of each bar of a topic: minutes behind the start, numbers, closed.
fn bars(messages: &[Message], topic: &str, start: i64) -> Vec<(i64, [f64; 5], bool)> {
    let mut bars = BTreeMap::new();
    for message in messages.iter().filter(|m| m.topic.to_string() == topic) {
        let numbers = message.bar.numbers().map(Number::value);
        bars.insert(message.bar.time(), (numbers, message.bar.closed));
    }
    let bars = bars.into_iter();
    bars.map(|(time, (numbers, closed))| ((time - start) / 60_000, numbers, closed))
        .collect()
}

fn check_minutes(messages: &[Message], start: i64) {
    let a = [
        (0, [10.0, 12.5, 10.0, 12.5, 3.0], true),
        (1, [11.0, 11.0, 11.0, 11.0, 0.5], true),
        (6, [9.0, 9.0, 9.0, 9.0, 1.0], false),
    ];
    assert_eq!(bars(messages, "bars:A:1", start), a);
    // Their bars close by the trades of A.
    let b = [(0, [7.0, 7.0, 5.0, 5.0, 2.0], true)];
    assert_eq!(bars(messages, "bars:B:1", start), b);
    let c = [(1, [1.0, 1.0, 1.0, 1.0, 3.0], true)];
    assert_eq!(bars(messages, "bars:C:1", start), c);
    for topic in ["bars:A:1", "bars:B:1"] {
        let of_topic = messages.iter().filter(|m| m.topic.to_string() == topic);
        let seqs: Vec<_> = of_topic.map(|m| m.seq).collect();
        let expected: Vec<_> = (1..=seqs.len() as u64).map(Some).collect();
        assert_eq!(seqs, expected, "{topic} is numbered without a hole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trades_stream_as_a_market() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    for (speed, form) in [
        (Speed::Max, Form::Single),
        (Speed::Max, Form::Batch { compress: true }),
        // Six minutes in 0.72 seconds, as they happened.
        (Speed::Times(500.0), Form::Single),
    ] {
        let subscription = Subscription::start(server.bus()).await;
        let mut config = config(trades(&folder), form);
        config.speed = speed;
        config.trades = market(&[Resolution::M1, Resolution::M5, Resolution::Month]);
        let stop = CancellationToken::new();
        let totals = run(config, server.bus().publisher(), stop).await.unwrap();
        assert_eq!((totals.bad_rows, totals.stopped), (1, false));
        let collector = &subscription.collector;
        eventually("bars", || {
            collector.decoded().len() as u64 >= totals.published
        })
        .await;
        let messages = collector.decoded();
        assert_eq!(messages.len() as u64, totals.published);
        check_minutes(&messages, START);
        let fives = [
            (0, [10.0, 12.5, 10.0, 11.0, 3.5], true),
            (5, [9.0, 9.0, 9.0, 9.0, 1.0], false),
        ];
        assert_eq!(bars(&messages, "bars:A:5", START), fives);
        let months = [(0, [10.0, 12.5, 9.0, 9.0, 4.5], false)];
        assert_eq!(bars(&messages, "bars:A:M", START), months);
        if speed != Speed::Max {
            // A bar is seen as it forms: with the first trade, then with more.
            let minute = messages.iter().find(|m| m.topic.to_string() == "bars:A:1");
            let minute = minute.unwrap().bar;
            assert!(!minute.closed && minute.get(Field::Volume) == Number::Unsigned(1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rebased_trades_end_now_and_make_the_same_minutes() {
    let server = RedisServer::start();
    let subscription = Subscription::start(server.bus()).await;
    let folder = tempfile::tempdir().unwrap();
    let files = trades(&folder);
    let mut arguments = vec!["--redis-url", "", "--input", "trades", "--speed", "max"];
    let url = server.url();
    arguments[1] = &url;
    arguments.extend(["--rebase", "--resolutions", "1,15"]);
    arguments.extend(files.iter().map(|file| file.to_str().unwrap()));
    let before = now_ms();
    let (code, said) = barcast(&arguments);
    let after = now_ms();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("bad_rows=1") && said.contains("late=1"),
        "{said}"
    );
    let collector = &subscription.collector;
    let published = said.rsplit_once("published=").unwrap().1;
    let published: usize = published.split_once(' ').unwrap().0.parse().unwrap();
    eventually("bars", || collector.decoded().len() >= published).await;
    let messages = collector.decoded();
    let minutes = messages
        .iter()
        .filter(|m| m.topic.resolution == Resolution::M1);
    let start = minutes.map(|m| m.bar.time()).min().unwrap();
    // The last trade, six minutes after it, is less than a minute ago: nothing is ahead of the clock.
    let now = before - 60_000..=after;
    assert!(now.contains(&(start + 360_000)), "{before} {start} {after}");
    assert!(said.contains("future=0"), "{said}");
    check_minutes(&messages, start);
    let volumes = bars(&messages, "bars:A:15", start);
    assert_eq!(volumes.iter().map(|bar| bar.1[4]).sum::<f64>(), 4.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_trades_stops_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(trades(&folder), Form::Single);
    config.speed = Speed::Times(0.001);
    config.trades = market(&[Resolution::M1]);
    let bus = MemoryBus::default();
    let subscription = Subscription::start(bus.clone()).await;
    let stop = CancellationToken::new();
    let replaying = tokio::spawn(run(config, bus.publisher(), stop.clone()));
    subscription.received(1).await;
    stop.cancel();
    let totals = replaying.await.unwrap().unwrap();
    assert_eq!((totals.published, totals.stopped), (1, true));
}
