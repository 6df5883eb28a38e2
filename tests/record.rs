//! Recording: closed bars get into a real PostgreSQL once each, whatever is away for a while.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::Path;

use common::client::get;
use common::gateway::{Candle, Feed, candle};
use common::postgres::PostgresServer;
use common::process::output;
use common::recorder::{Recorder, closed, postgres, row, until_rows};
use common::{RedisServer, eventually_blocking};

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
        r#""status":"degraded: "#,
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
    recorder.process.until_logged("torn end");
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
    recorder.process.until_logged("bars are refused");
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
    let address = format!("127.0.0.1:{port}/bars");
    recorder.process.until_logged(&address);
    let log = recorder.process.log();
    assert!(!log.contains(secret), "{log}");
}
