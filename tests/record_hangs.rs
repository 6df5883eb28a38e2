//! Recording when something hangs: a database that is stopped, a disk that takes for ever to open a file. A FIFO
//! that nobody reads stands for such a disk: to open it for writing waits.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use barcast::record::table::Table;
use common::client::get;
use common::gateway::{Candle, Feed};
use common::postgres::PostgresServer;
use common::recorder::{Recorder, closed, postgres, until_count, until_rows, while_it_grows};
use common::{RedisServer, eventually_blocking};

/// Longest end of a recorder whose output hangs; it says 10 s for the last writes, and 2 s more.
const LONGEST_END: Duration = Duration::from_secs(16);

fn parquet(name: &str) -> String {
    format!("{name}{{output=\"parquet\"}}")
}

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// So many closed bars, a thousand of a topic.
fn many(bars: i64) -> Vec<Candle> {
    let topics = (0..bars / 1_000).map(|n| &*format!("T{n:03}").leak());
    topics.flat_map(|symbol| closed(symbol, 0..1_000)).collect()
}

/// Publishes and stores.
fn keep(redis: &RedisServer, bars: &[Candle]) {
    let mut feed = Feed::new(&redis.bus().keeping(1_000));
    for part in bars.chunks(2_000) {
        assert_eq!(feed.keep(part), None);
    }
}

fn rows_of(folder: &Path) -> usize {
    let mut rows = 0;
    for day in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(table) = Table::open(&day.path().join("bars.parquet")) else {
            continue;
        };
        rows += usize::try_from(table.progress().0).unwrap();
    }
    rows
}

fn health(recorder: &Recorder) -> String {
    get(recorder.address, "/healthz").body
}

/// Ends it, which takes no longer than it says; what it logged.
fn end_in_time(mut recorder: Recorder, code: i32) -> String {
    let asked = Instant::now();
    recorder.process.terminate();
    assert_eq!(recorder.process.exit_code(), Some(code));
    let took = asked.elapsed();
    assert!(took < LONGEST_END, "{took:?}");
    recorder.process.log()
}

#[test]
fn a_spool_that_hangs_stops_neither_the_other_output_nor_health_nor_the_end() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let folder = tempfile::tempdir().unwrap();
    let (spool, days) = (folder.path().join("spool"), folder.path().join("days"));
    let recorder = Recorder::start(
        &redis,
        &[
            "--postgres-url",
            &database.url(),
            "--parquet",
            days.to_str().unwrap(),
            // So that the spool grows into its second file.
            "--parquet-interval",
            "3600",
            "--spool",
            spool.to_str().unwrap(),
            "--spool-bytes",
            "4194304",
            "--store",
            "none",
        ],
    );
    eventually_blocking("both outputs work", || {
        let connected = "barcast_record_output_connected";
        recorder.metric(&postgres(connected)) + recorder.metric(&parquet(connected)) == 2
    });
    fifo(&spool.join("parquet/000000000002.spool"));
    let bars = closed("A", 0..60_000);
    let mut feed = Feed::new(&redis.bus());
    for part in bars.chunks(1_000) {
        feed.all(part.iter().map(Candle::outgoing).collect());
    }
    until_rows(&database, &bars);
    let told = health(&recorder);
    assert!(told.contains("parquet: it takes no more bars"), "{told}");
    assert!(told.contains("degraded"), "{told}");
    assert_eq!(get(recorder.address, "/readyz").status, 503);
    let log = end_in_time(recorder, 1);
    assert!(log.contains("its disk hangs"), "{log}");
}

#[test]
fn a_database_that_hangs_stops_no_files_and_gets_all_later() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(
        &redis,
        &[
            "--postgres-url",
            &database.url(),
            "--parquet",
            folder.path().to_str().unwrap(),
            "--parquet-interval",
            "1",
        ],
    );
    eventually_blocking("the database works", || {
        recorder.metric(&postgres("barcast_record_output_connected")) == 1
    });
    database.signal("STOP");
    // More than may wait in memory.
    let bars = many(260_000);
    keep(&redis, &bars);
    while_it_grows(260_000, || rows_of(folder.path()));
    assert!(recorder.metric(&postgres("barcast_recorded_bars_total")) < 100_000);
    let told = health(&recorder);
    assert!(told.contains("degraded"), "{told}");
    database.signal("CONT");
    until_count(&database, 260_000);
    until_rows(&database, &bars);
    eventually_blocking("it is well again", || {
        health(&recorder).contains(r#""status":"ok""#)
    });
    database.signal("STOP");
    Feed::new(&redis.bus()).all(vec![closed("B", 0..1)[0].outgoing()]);
    recorder.until("barcast_record_closed_bars_total", 260_001);
    let log = end_in_time(recorder, 1);
    assert!(log.contains("not written before the end"), "{log}");
    database.signal("CONT");
}

#[test]
fn files_that_hang_stop_no_database_and_no_end() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let folder = tempfile::tempdir().unwrap();
    let bars = closed("A", 0..200);
    fifo(&folder.path().join(".probe"));
    let recorder = Recorder::start(
        &redis,
        &[
            "--postgres-url",
            &database.url(),
            "--parquet",
            folder.path().to_str().unwrap(),
        ],
    );
    keep(&redis, &bars);
    until_rows(&database, &bars);
    assert!(health(&recorder).contains("parquet: nothing was written yet"));
    let log = end_in_time(recorder, 1);
    assert!(log.contains("not written before the end"), "{log}");
}
