//! What was recorded: Parquet files by day, and a replay of them and of PostgreSQL gives the very bars.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::Path;

use barcast::bar::{Field, Number};
use barcast::record::table::Table;
use common::gateway::{Candle, Feed, candle};
use common::postgres::PostgresServer;
use common::process::output;
use common::recorder::{Recorder, closed};
use common::{RedisServer, Subscription, eventually_blocking};

/// Every bar of a file: topic, time, close.
fn in_file(path: &Path) -> Vec<(String, i64, f64)> {
    let mut table = Table::open(path).unwrap();
    let mut bars = Vec::new();
    while let Some(row) = table.read().unwrap() {
        let (topic, bar) = row.unwrap();
        assert!(bar.closed);
        bars.push((topic.to_string(), bar.time(), bar.value(Field::Close)));
    }
    bars
}

#[test]
fn parquet_files_hold_each_bar_of_a_day_once() {
    let (redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let path = folder.path().to_str().unwrap();
    let arguments = ["--parquet", path, "--parquet-interval", "0.1"];
    let day = folder.path().join("date=2023-10-12/bars.parquet");
    let mut feed = Feed::new(&redis.bus());
    let bars = closed("A", 0..1_000);
    let expected: Vec<_> = bars[..960]
        .iter()
        .map(|bar| (bar.topic(), bar.time, bar.price as f64))
        .collect();
    for part in [0..500, 500..1_000] {
        let recorder = Recorder::start(&redis, &arguments);
        for bar in &bars[part.clone()] {
            if bar.time % 600_000 == 0 {
                // Replaced at once, or in the file.
                feed.bar(&Candle { price: 1, ..*bar });
            }
            feed.bar(bar);
        }
        // Wrong until the second run revises it.
        let price = if part.start == 0 { 1 } else { bars[7].price };
        feed.bar(&Candle { price, ..bars[7] });
        if part.start > 0 {
            // Also before the end. How soon depends on how long a write takes.
            eventually_blocking("the file grows", || in_file(&day).len() > 500);
        }
        assert_eq!(recorder.end(), Some(0));
    }
    assert_eq!(in_file(&day), expected);
    let next = folder.path().join("date=2023-10-13/bars.parquet");
    assert_eq!(in_file(&next).len(), 40);
    let files = std::fs::read_dir(day.parent().unwrap()).unwrap();
    assert_eq!(files.count(), 1);
}

/// Topic, bar and what is said beside, of all that a replay publishes.
fn replayed(redis: &RedisServer, arguments: &[&str]) -> Vec<(String, i64, [f64; 5])> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let subscription = runtime.block_on(Subscription::start(redis.bus()));
    let url = redis.url();
    let mut all = vec!["replay", "--redis-url", &url, "--speed", "max"];
    all.extend(["--store", "none"]);
    all.extend(arguments);
    let ended = output(&all, &[]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(0), "{said}");
    let published = said.split("published=").last().unwrap();
    let published: usize = published.split(' ').next().unwrap().parse().unwrap();
    runtime.block_on(subscription.received(published));
    let messages = subscription.collector.decoded();
    assert!(messages.iter().all(|message| message.bar.closed));
    let bars = messages.iter().map(|message| {
        let numbers = message.bar.numbers().map(Number::value);
        (message.topic.to_string(), message.bar.time(), numbers)
    });
    bars.collect()
}

#[test]
fn a_replay_gives_the_recorded_bars() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let recorder = Recorder::start(
        &redis,
        &["--postgres-url", &database.url(), "--parquet", path],
    );
    let mut feed = Feed::new(&redis.bus());
    // Three days, and more than one part of what is read at once.
    let mut bars = [closed("A", 0..3_000), closed("B", 500..3_500)].concat();
    bars.push(Candle {
        time: -86_400_000,
        ..candle("OLD", 0, 7).resolution("D").closed()
    });
    for part in bars.chunks(500) {
        feed.all(part.iter().map(Candle::outgoing).collect());
    }
    // A number that only its own digits write.
    let (time, topic) = (bars[0].time, "bars:C:1S");
    feed.raw(
        topic,
        format!(
            r#"{{"symbol":"C","resolution":"1S","bar":{{"time":{time},"open":0.1,"high":1.7976931348623157e308,"low":-5e-324,"close":0.30000000000000004,"volume":123456789012,"closed":true}}}}"#
        ),
    );
    recorder.until("barcast_record_closed_bars_total", 6_002);
    assert_eq!(recorder.end(), Some(0));

    let mut expected: Vec<_> = bars
        .iter()
        .map(|bar| {
            let price = bar.price as f64;
            let numbers = [price, price, price, price, 1.0];
            (bar.topic(), bar.time, numbers)
        })
        .collect();
    let odd = [0.1, f64::MAX, -5e-324, 0.1 + 0.2, 123_456_789_012.0];
    expected.push((topic.to_owned(), time, odd));
    expected.sort_by_key(|(topic, time, _)| (*time, topic.clone()));
    let url = database.url();
    for source in [path, &url] {
        assert_eq!(replayed(&redis, &[source]), expected, "{source}");
        // A part of it, across midnight.
        let (from, to) = (time + 900 * 60_000, time + 1_000 * 60_000);
        let wanted = |(topic, time, _): &&(String, i64, [f64; 5])| {
            topic == "bars:B:1" && (from..to).contains(time)
        };
        let part: Vec<_> = expected.iter().filter(wanted).cloned().collect();
        assert_eq!(part.len(), 100);
        let (from, to) = (from.to_string(), to.to_string());
        let some = [
            "--topics",
            "bars:B:*,bars:X:1",
            "--from",
            &from,
            "--to",
            &to,
        ];
        let arguments = [&[source][..], &some].concat();
        assert_eq!(replayed(&redis, &arguments), part, "{source}");
        // As if it were of now: all by one shift, which keeps days.
        let rebased = replayed(
            &redis,
            &[source, "--rebase", "--topics", "bars:A:1,bars:OLD:D"],
        );
        let shift = rebased[0].1 - expected[0].1;
        assert!(shift > 0 && shift % 86_400_000 == 0);
        assert_eq!(rebased[1].1 - shift, expected[1].1);
        assert_eq!(rebased.len(), 3_001);
    }
    let day = folder.path().join("date=2023-10-12/bars.parquet");
    let day = replayed(&redis, &[day.to_str().unwrap()]);
    assert_eq!(day, expected[1..][..day.len()]);
}

#[test]
fn what_cannot_be_replayed_is_one_line_without_a_secret() {
    let (redis, secret, port) = (RedisServer::start(), "s3cr3t-pa55", common::free_port());
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("day.parquet");
    std::fs::write(&broken, "nonsense").unwrap();
    let absent = format!("postgres://u:{secret}@127.0.0.1:{port}/bars");
    let wrong = format!("postgres://u:{secret}@127.0.0.1:port/bars");
    for (source, code, told) in [
        (absent.as_str(), 1, format!("127.0.0.1:{port}/bars")),
        (&wrong, 2, "--postgres-url".to_owned()),
        (broken.to_str().unwrap(), 2, "day.parquet".to_owned()),
    ] {
        let ended = output(&["replay", source, "--redis-url", &redis.url()], &[]);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&told) && !said.contains(secret), "{said}");
    }
}
