//! Recording when something is wrong: a folder that another recorder holds, a spool that is damaged or cannot
//! be written, a bar that the database refuses.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::path::Path;

use common::client::get;
use common::gateway::{Candle, Feed, candle};
use common::postgres::{Pooler, PostgresServer};
use common::process::output;
use common::recorder::{Recorder, closed, postgres, until_rows};
use common::{RedisServer, eventually_blocking};

fn health(recorder: &Recorder) -> String {
    get(recorder.address, "/healthz").body
}

#[test]
fn a_folder_belongs_to_one_recorder() {
    let (redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (spool, days) = (path("spool"), path("days"));
    let recorder = Recorder::start(&redis, &["--parquet", &days, "--spool", &spool]);
    let url = redis.url();
    let other = path("other");
    for (flag, held, rest) in [
        ("--parquet", &days, ["--spool", &other]),
        ("--spool", &spool, ["--parquet", &other]),
    ] {
        let second = ["record", "--redis-url", &url, flag, held];
        let ended = output(&[&second[..], &rest].concat(), &[]);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.contains(flag) && said.contains(held.as_str()),
            "{said}"
        );
    }
    // The lock ends with its holder, also one that was killed.
    let Recorder { mut process, .. } = recorder;
    process.kill();
    let again = Recorder::start(&redis, &["--parquet", &days, "--spool", &spool]);
    assert_eq!(again.end(), Some(0));
}

fn segment(folder: &Path, number: u64) -> std::path::PathBuf {
    folder.join(format!("postgres/{number:012}.spool"))
}

#[test]
fn a_flipped_bit_of_the_spool_costs_one_frame_and_is_told() {
    let (redis, mut database) = (RedisServer::start(), PostgresServer::absent());
    let folder = tempfile::tempdir().unwrap();
    let url = database.url();
    let spool = folder.path().to_str().unwrap();
    let arguments = ["--postgres-url", &url, "--store", "none", "--spool", spool];
    let bars = closed("A", 0..3_000);
    let mut recorder = Recorder::start(&redis, &arguments);
    let mut feed = Feed::new(&redis.bus());
    for part in bars.chunks(1_000) {
        feed.all(part.iter().map(Candle::outgoing).collect());
    }
    eventually_blocking("all are on the disk", || {
        recorder.metric(&postgres("barcast_record_spool_bars")) == 3_000
    });
    recorder.process.kill();
    let first = segment(folder.path(), 1);
    let whole = fs::read(&first).unwrap();
    let mut damaged = whole.clone();
    damaged[100] ^= 1;
    fs::write(&first, &damaged).unwrap();
    database.restart();
    let recorder = Recorder::start(&redis, &arguments);
    eventually_blocking("the rest is written", || {
        recorder.metric(&postgres("barcast_record_waiting_bars")) == 0
    });
    // What is gathered for one frame ends with the batch that makes 1,000, and a batch has 500.
    let lost = 3_000 - database.rows().len();
    assert!((1..=1_500).contains(&lost), "{lost} lost");
    assert_eq!(
        recorder.metric(&postgres("barcast_record_spool_damaged_total")),
        1
    );
    let health = health(&recorder);
    assert!(health.contains(r#""status":"degraded: "#), "{health}");
    assert!(health.contains(r#""spool_damaged":1"#), "{health}");
    eventually_blocking("the log says so", || {
        recorder.process.log().contains("damaged")
    });
    let aside = folder.path().join("postgres/000000000001-0.damaged");
    assert_eq!(fs::read(aside).unwrap(), damaged);
}

#[test]
fn a_spool_that_cannot_be_written_is_seen_and_used_again() {
    let (redis, mut database) = (RedisServer::start(), PostgresServer::absent());
    let folder = tempfile::tempdir().unwrap();
    let url = database.url();
    let spool = folder.path().to_str().unwrap();
    let arguments = ["--postgres-url", &url, "--store", "none", "--spool", spool];
    let small = ["--spool-bytes", "4194304"];
    let recorder = Recorder::start(&redis, &[&arguments[..], &small].concat());
    // The next segment cannot be made, as on a full disk.
    let in_the_way = segment(folder.path(), 2);
    fs::create_dir(&in_the_way).unwrap();
    let mut feed = Feed::new(&redis.bus());
    let bars = closed("A", 0..30_000);
    for part in bars.chunks(1_000) {
        feed.all(part.iter().map(Candle::outgoing).collect());
    }
    recorder.until(&postgres("barcast_record_spool_failures_total"), 1);
    let told = health(&recorder);
    assert!(told.contains(r#""status":"degraded: "#), "{told}");
    assert!(told.contains(r#""spool":"failing""#), "{told}");
    eventually_blocking("the log says so", || {
        recorder
            .process
            .log()
            .contains("the spool cannot be written")
    });
    fs::remove_dir(&in_the_way).unwrap();
    database.restart();
    eventually_blocking("all are written", || database.rows().len() == 30_000);
    feed.bar(&candle("B", 0, 5).closed());
    eventually_blocking("it is well again", || {
        let told = health(&recorder);
        told.contains(r#""status":"ok""#) && !told.contains("failing")
    });
    assert_eq!(recorder.metric(&postgres("barcast_refused_bars_total")), 0);
}

#[test]
fn a_bar_that_the_database_refuses_stops_no_other() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let arguments = ["--postgres-url", &database.url()];
    let recorder = Recorder::start(&redis, &arguments);
    eventually_blocking("there is a table", || {
        recorder.metric(&postgres("barcast_record_output_connected")) == 1
    });
    database.execute("ALTER TABLE barcast_bars ADD CONSTRAINT no_b CHECK (symbol <> 'B')");
    let mut feed = Feed::new(&redis.bus());
    let bars = closed("A", 0..500);
    let bad = closed("B", 100..103);
    let all = bars.iter().chain(&bad).map(Candle::outgoing);
    feed.all(all.collect());
    until_rows(&database, &bars);
    recorder.until(&postgres("barcast_record_set_aside_bars_total"), 3);
    let waiting = postgres("barcast_record_waiting_bars");
    eventually_blocking("nothing waits", || recorder.metric(&waiting) == 0);
    assert_eq!(
        recorder.metric(&postgres("barcast_record_failures_total")),
        0
    );
    assert_eq!(
        recorder.metric(&postgres("barcast_recorded_bars_total")),
        500
    );
    eventually_blocking("the log says which and why", || {
        let log = recorder.process.log();
        log.contains("no_b") && log.contains("bars:B:1")
    });
    let told = health(&recorder);
    assert!(told.contains(r#""set_aside":3"#), "{told}");
    // From where they go back once their cause is gone.
    database.execute(
        "ALTER TABLE barcast_bars DROP CONSTRAINT no_b;
         DO $$ BEGIN ASSERT (SELECT count(*) = 3 AND bool_and(reason LIKE '%no_b%')
            FROM barcast_refused_bars); END $$;
         WITH moved AS (DELETE FROM barcast_refused_bars RETURNING *)
         INSERT INTO barcast_bars SELECT symbol, resolution, time, open, high, low, close, volume
            FROM moved ON CONFLICT DO NOTHING",
    );
    until_rows(&database, &[bars, bad].concat());
}

#[test]
fn a_table_with_numeric_columns_is_replayed() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    database.execute(
        "CREATE TABLE barcast_bars (symbol varchar(20), resolution varchar(8), time timestamptz,
            open numeric, high numeric(12, 4), low real, close bigint, volume numeric);
         INSERT INTO barcast_bars VALUES ('A', '1', '2024-01-02 03:04Z', 1.5, 2.25, 1, 2, 1000)",
    );
    let (bus, source) = (redis.url(), database.url());
    let replay = ["replay", "--redis-url", &bus, "--speed", "max", &source];
    let ended = output(&replay, &[]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert!(said.contains("published=1 "), "{said}");
    // A time that is none is one line.
    database.execute("ALTER TABLE barcast_bars ALTER time TYPE text");
    let ended = output(&replay, &[]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(ended.status.code(), Some(1), "{said}");
}

/// Whose connections to the database are shared between transactions: names of statements and settings would
/// be the others'.
#[test]
fn a_pooler_in_transaction_mode_may_stand_between() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let pooler = Pooler::start(&database);
    let arguments = ["--postgres-url", &pooler.url()];
    let recorders = [(); 2].map(|()| Recorder::start(&redis, &arguments));
    let mut feed = Feed::new(&redis.bus());
    let bars = closed("A", 0..12_000);
    for part in bars.chunks(500) {
        feed.all(part.iter().map(Candle::outgoing).collect());
    }
    until_rows(&database, &bars);
    let count = postgres("barcast_recorded_bars_total");
    for recorder in &recorders {
        recorder.until(&count, 12_000);
        let failures = postgres("barcast_record_failures_total");
        assert_eq!(recorder.metric(&failures), 0, "{}", recorder.process.log());
    }
    pooler.execute("DO $$ BEGIN ASSERT current_setting('statement_timeout') = '0'; END $$");
    let (bus, source) = (redis.url(), pooler.url());
    let replay = ["replay", "--redis-url", &bus, "--speed", "max", &source];
    for _ in 0..2 {
        let ended = output(&replay, &[]);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(0), "{said}");
        assert!(said.contains("published=12000 "), "{said}");
    }
}

#[test]
fn a_table_without_the_key_ends_the_start_with_what_would_make_it() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let table = "CREATE TABLE barcast_bars (symbol text, resolution text, time timestamptz,
        open float8, high float8, low float8, close float8, volume float8)";
    database.execute(table);
    let (bus, url) = (redis.url(), database.url());
    let arguments = ["record", "--redis-url", &bus, "--postgres-url", &url];
    let ended = output(&arguments, &[]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    let remedy = "ALTER TABLE barcast_bars ADD PRIMARY KEY (symbol, resolution, time)";
    assert!(said.contains(remedy), "{said}");
    database.execute(remedy);
    let recorder = Recorder::start(&redis, &arguments[3..]);
    let bars = closed("A", 0..10);
    let mut feed = Feed::new(&redis.bus());
    feed.all(bars.iter().map(Candle::outgoing).collect());
    until_rows(&database, &bars);
    // One that can be reached, but takes nothing, is not connected.
    let connected = postgres("barcast_record_output_connected");
    database.execute("ALTER TABLE barcast_bars RENAME TO elsewhere");
    eventually_blocking("it is seen without a bar", || {
        recorder.metric(&connected) == 0
    });
    database.execute("ALTER TABLE elsewhere RENAME TO barcast_bars");
    eventually_blocking("and that it is there again", || {
        recorder.metric(&connected) == 1
    });
}
