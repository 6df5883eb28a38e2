//! Recording: closed bars get into a real PostgreSQL once each, whatever is away for a while.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::SocketAddr;
use std::path::Path;

use barcast::bar::{Field, Number};
use barcast::record::table::Table;
use common::client::get;
use common::gateway::{Candle, Feed, candle};
use common::postgres::{PostgresServer, Row};
use common::process::{Process, output};
use common::{RedisServer, Subscription, eventually_blocking};

/// `barcast record` as a process.
struct Recorder {
    process: Process,
    address: SocketAddr,
}

impl Recorder {
    /// Listens to the bus when this returns.
    fn start(redis: &RedisServer, arguments: &[&str]) -> Self {
        let url = redis.url();
        let mut all = vec!["record", "--redis-url", &url];
        all.extend(["--health-listen", "127.0.0.1:0"]);
        all.extend(arguments);
        let mut process = Process::start(&all);
        let mut address = None;
        eventually_blocking("the recorder tells its address", || {
            assert!(process.is_running(), "it ended");
            let log = process.log();
            let line = log.lines().find(|line| line.contains("health and metrics"));
            let told = line.and_then(|line| line.split("address=").nth(1)?.split(' ').next());
            address = told.and_then(|told| told.trim().parse().ok());
            address.is_some()
        });
        let recorder = Self {
            process,
            address: address.unwrap(),
        };
        recorder.until("barcast_bus_connected", 1);
        recorder
    }

    fn metric(&self, name: &str) -> u64 {
        let text = get(self.address, "/metrics").body;
        let line = text.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.strip_prefix(' ')
        });
        let value: f64 = line
            .unwrap_or_else(|| panic!("{name}: {text}"))
            .parse()
            .unwrap();
        value as u64
    }

    fn until(&self, name: &str, least: u64) {
        eventually_blocking(name, || self.metric(name) >= least);
    }

    /// Ends it in good order.
    fn end(mut self) -> Option<i32> {
        self.process.terminate();
        self.process.exit_code()
    }
}

/// A metric of the lane to PostgreSQL.
fn postgres(name: &str) -> String {
    format!("{name}{{output=\"postgres\"}}")
}

fn row(bar: &Candle) -> Row {
    let price = bar.price as f64;
    let numbers = [price, price, price, price, 1.0];
    let (symbol, resolution) = (bar.symbol.to_owned(), bar.resolution.to_owned());
    (symbol, resolution, bar.time, numbers)
}

fn closed(symbol: &'static str, minutes: std::ops::Range<i64>) -> Vec<Candle> {
    minutes
        .map(|m| candle(symbol, m, 10 + m.unsigned_abs()).closed())
        .collect()
}

fn until_rows(database: &PostgresServer, expected: &[Candle]) {
    let expected: Vec<_> = expected.iter().map(row).collect();
    let mut rows = Vec::new();
    eventually_blocking("the bars are in the database", || {
        rows = database.rows();
        rows.len() >= expected.len() && rows == expected
    });
}

fn spool_argument(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

#[test]
fn closed_bars_are_recorded_once() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let recorder = Recorder::start(&redis, &["--postgres-url", &database.url()]);
    let mut feed = Feed::new(&redis.bus());
    for bar in [
        candle("A", 0, 1),
        candle("A", 0, 2),
        // Closes the one before without a word.
        candle("A", 1, 3),
        candle("A", 1, 4).closed(),
        candle("A", 1, 4).closed(),
        candle("A", 2, 5).closed(),
        // Revisions, the second one of a bar whose close was not told.
        candle("A", 1, 6).closed(),
        candle("A", 0, 7),
        candle("A", 3, 8),
        candle("B", 0, 9).resolution("D"),
    ] {
        // Off the grid is not off the books.
        let time = if bar.resolution == "D" { 0 } else { bar.time };
        feed.bar(&Candle { time, ..bar });
    }
    feed.raw("bars:A:1", "nonsense");
    let expected = [candle("A", 0, 7), candle("A", 1, 6), candle("A", 2, 5)];
    // Four by their words, one of them twice, one by a newer bar, and a revision without a word.
    let written = postgres("barcast_recorded_bars_total");
    recorder.until(&written, 6);
    until_rows(&database, &expected);
    assert_eq!(
        recorder.metric("barcast_dropped_messages_total{reason=\"json\"}"),
        1
    );
    assert_eq!(recorder.metric(&postgres("barcast_refused_bars_total")), 0);
    let lag = postgres("barcast_record_write_lag_seconds_count");
    assert_eq!(recorder.metric(&lag), recorder.metric(&written));
    let health = get(recorder.address, "/healthz").body;
    for part in [
        r#""status":"ok""#,
        r#""bus":"connected""#,
        r#""postgres":{"state":"connected","waiting":0,"refused":0}"#,
    ] {
        assert!(health.contains(part), "{health}");
    }
    assert_eq!(recorder.end(), Some(0));
    // The forming ones are not in it, also at the end.
    until_rows(&database, &expected);
}

#[test]
fn a_restart_of_the_database_loses_nothing() {
    let (redis, mut database) = (RedisServer::start(), PostgresServer::start());
    let recorder = Recorder::start(&redis, &["--postgres-url", &database.url()]);
    let mut feed = Feed::new(&redis.bus());
    let bars = closed("A", 0..300);
    for bar in &bars[..100] {
        feed.bar(bar);
    }
    recorder.until(&postgres("barcast_recorded_bars_total"), 100);
    database.kill();
    for bar in &bars[100..200] {
        feed.bar(bar);
    }
    recorder.until(&postgres("barcast_record_failures_total"), 1);
    let health = get(recorder.address, "/healthz").body;
    for part in [
        r#""status":"degraded""#,
        r#""postgres":{"state":"disconnected""#,
    ] {
        assert!(health.contains(part), "{health}");
    }
    database.restart();
    for bar in &bars[200..] {
        feed.bar(bar);
    }
    until_rows(&database, &bars);
    assert_eq!(recorder.metric(&postgres("barcast_refused_bars_total")), 0);
}

#[test]
fn a_crash_of_the_recorder_loses_nothing_that_is_in_the_spool() {
    let (redis, mut database) = (RedisServer::start(), PostgresServer::absent());
    let folder = tempfile::tempdir().unwrap();
    let url = database.url();
    // Without the store, so that it is the spool that helps.
    let arguments = ["--postgres-url", &url, "--store", "none"];
    let spool = ["--spool", spool_argument(folder.path())];
    let arguments = [&arguments[..], &spool].concat();
    let mut bars = closed("A", 0..400);
    bars[3].price = 77;
    let mut feed = Feed::new(&redis.bus());
    // To be replaced by what comes later: the order must hold.
    let wrong = candle("A", 3, 1).closed();
    for (part, waiting) in [(0..200, 0), (200..400, 201)] {
        let mut recorder = Recorder::start(&redis, &arguments);
        let before = recorder.metric(&postgres("barcast_record_waiting_bars"));
        assert_eq!(before, waiting, "taken over from the run before");
        if before == 0 {
            feed.bar(&wrong);
        }
        for bar in &bars[part] {
            feed.bar(bar);
        }
        recorder.until(
            "barcast_record_closed_bars_total",
            if before == 0 { 201 } else { 200 },
        );
        eventually_blocking("all are on the disk", || {
            let waiting = recorder.metric(&postgres("barcast_record_waiting_bars"));
            waiting == if before == 0 { 201 } else { 401 } && is_logged(&recorder)
        });
        recorder.process.kill();
    }
    // The crash tore off a frame.
    let segment = folder.path().join("postgres/000000000001.spool");
    let mut torn = std::fs::read(&segment).unwrap();
    torn.extend([200, 0, 0, 0, 1, 2, 3, 4, 5]);
    std::fs::write(&segment, torn).unwrap();
    database.restart();
    let recorder = Recorder::start(&redis, &arguments);
    assert!(recorder.process.log().contains("torn end"));
    until_rows(&database, &bars);
    eventually_blocking("the spool is empty", || {
        recorder.metric(&postgres("barcast_record_spool_bytes")) == 0
    });
    assert_eq!(recorder.end(), Some(0));
}

/// Whether all that waits is on the disk.
fn is_logged(recorder: &Recorder) -> bool {
    let waiting = recorder.metric(&postgres("barcast_record_waiting_bars"));
    waiting == recorder.metric(&postgres("barcast_record_spool_bars"))
}

#[test]
fn beyond_its_bound_the_spool_refuses_and_counts() {
    let (redis, mut database) = (RedisServer::start(), PostgresServer::absent());
    let folder = tempfile::tempdir().unwrap();
    let url = database.url();
    let bound = "4194304";
    let recorder = Recorder::start(
        &redis,
        &[
            "--postgres-url",
            &url,
            "--spool",
            spool_argument(folder.path()),
            "--spool-bytes",
            bound,
        ],
    );
    let mut feed = Feed::new(&redis.bus());
    let bars = closed("A", 0..50_000);
    for part in bars.chunks(1_000) {
        feed.all(part.iter().map(Candle::outgoing).collect());
    }
    recorder.until("barcast_record_closed_bars_total", 50_000);
    let refused = postgres("barcast_refused_bars_total");
    let waiting = postgres("barcast_record_waiting_bars");
    eventually_blocking("all are logged or refused", || {
        recorder.metric(&refused) + recorder.metric(&waiting) == 50_000 && is_logged(&recorder)
    });
    let lost = recorder.metric(&refused);
    assert!(lost > 0);
    assert!(recorder.metric(&postgres("barcast_record_spool_bytes")) <= bound.parse().unwrap());
    assert!(recorder.process.log().contains("bars are refused"));
    database.restart();
    eventually_blocking("what waited is written", || recorder.metric(&waiting) == 0);
    let rows = database.rows();
    assert_eq!(rows.len() as u64, 50_000 - lost);
    // What came first is kept.
    assert_eq!(rows[0], row(&bars[0]));
    // And there is room again.
    let next = candle("B", 0, 5).closed();
    feed.bar(&next);
    eventually_blocking("the next bar", || {
        database.rows().last() == Some(&row(&next))
    });
}

#[test]
fn what_was_missed_comes_from_the_store() {
    let (mut redis, database) = (RedisServer::start(), PostgresServer::start());
    let bars = closed("A", 0..60);
    let bus = redis.bus().keeping(1_000);
    // Before there is a recorder.
    Feed::new(&bus).keep(&bars[..20]);
    let arguments = ["--postgres-url", &database.url()];
    let recorder = Recorder::start(&redis, &arguments);
    until_rows(&database, &bars[..20]);
    // While there is none.
    assert_eq!(recorder.end(), Some(0));
    Feed::new(&bus).keep(&bars[20..40]);
    let recorder = Recorder::start(&redis, &arguments);
    until_rows(&database, &bars[..40]);
    // While Redis is away from it: as if another had restored its data.
    redis.restart();
    Feed::new(&bus).keep(&bars);
    recorder.until("barcast_bus_connected", 1);
    until_rows(&database, &bars);
    assert!(recorder.metric("barcast_record_stored_bars_total") >= 20);
}

#[test]
fn where_bars_go_must_be_said_and_no_password_is_shown() {
    let secret = "s3cr3t-pa55";
    let none = output(&["record"], &[]);
    assert_eq!(none.status.code(), Some(2));
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert_eq!(said.lines().count(), 1);
    assert!(
        said.contains("--postgres-url") && said.contains("--parquet"),
        "{said}"
    );
    for url in [
        secret.to_owned(),
        format!("http://u:{secret}@127.0.0.1/bars"),
        format!("postgres://u:{secret}@127.0.0.1:port/bars"),
    ] {
        for output in [
            output(&["record", "--postgres-url", &url], &[]),
            output(&["record"], &[("BARCAST_RECORD_POSTGRES_URL", &url)]),
        ] {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(
                !said.contains(secret) && said.contains("postgres://"),
                "{said}"
            );
        }
    }
    let url = format!("postgres://u:{secret}@127.0.0.1/bars");
    let help = output(
        &["record", "--help"],
        &[("BARCAST_RECORD_POSTGRES_URL", &url)],
    );
    assert!(!String::from_utf8_lossy(&help.stdout).contains(secret));

    // Wrong passwords and absent servers are told without them.
    let (redis, port) = (RedisServer::start(), common::free_port());
    let url = format!("postgres://u:{secret}@127.0.0.1:{port}/bars");
    let trace = ["--postgres-url", &url, "--log-level", "trace"];
    let recorder = Recorder::start(&redis, &trace);
    Feed::new(&redis.bus()).bar(&candle("A", 0, 1).closed());
    recorder.until(&postgres("barcast_record_failures_total"), 2);
    let log = recorder.process.log();
    assert!(log.contains(&format!("127.0.0.1:{port}/bars")), "{log}");
    assert!(!log.contains(secret), "{log}");
}

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
