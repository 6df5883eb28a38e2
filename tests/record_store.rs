//! What the store in Redis has is recorded to the last bar, however slow or away the outputs are meanwhile, and
//! once.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;

use common::client::get;
use common::gateway::{Candle, Feed, candle};
use common::postgres::PostgresServer;
use common::recorder::{Recorder, closed, postgres, until_count, until_rows};
use common::{RedisServer, eventually_blocking};

/// More than may wait in memory.
const BARS: usize = 260_000;

/// Closed bars, a thousand of a topic.
fn many() -> Vec<Candle> {
    let topics = (0..BARS / 1_000).map(|n| &*format!("T{n:03}").leak());
    topics.flat_map(|symbol| closed(symbol, 0..1_000)).collect()
}

/// Publishes and stores.
fn keep(redis: &RedisServer, bars: &[Candle]) {
    let mut feed = Feed::new(&redis.bus().keeping(1_000));
    for part in bars.chunks(2_000) {
        assert_eq!(feed.keep(part), None);
    }
}

fn health(recorder: &Recorder) -> String {
    get(recorder.address, "/healthz").body
}

fn until_well(recorder: &Recorder) {
    eventually_blocking("it is well", || {
        health(recorder).contains(r#""status":"ok""#)
    });
}

#[test]
fn the_store_waits_for_a_database_that_is_away_at_the_start() {
    let (redis, mut database) = (RedisServer::start(), PostgresServer::absent());
    let bars = many();
    keep(&redis, &bars);
    let url = database.url();
    let recorder = Recorder::start(&redis, &["--postgres-url", &url]);
    recorder.until(&postgres("barcast_record_failures_total"), 2);
    let told = health(&recorder);
    assert!(told.contains("topics of the store"), "{told}");
    database.restart();
    until_count(&database, BARS);
    until_rows(&database, &bars);
    until_well(&recorder);
    assert_eq!(recorder.metric(&postgres("barcast_refused_bars_total")), 0);
    // Each topic by its newest message, and by its past.
    let read = (BARS + BARS / 1_000) as u64;
    assert_eq!(recorder.metric("barcast_record_stored_bars_total"), read);
    assert_eq!(recorder.end(), Some(0));
}

#[test]
fn what_is_refused_while_the_database_is_away_is_read_from_the_store() {
    let (redis, mut database) = (RedisServer::start(), PostgresServer::absent());
    let url = database.url();
    let recorder = Recorder::start(&redis, &["--postgres-url", &url]);
    recorder.until(&postgres("barcast_record_failures_total"), 1);
    let bars = many();
    keep(&redis, &bars);
    recorder.until(&postgres("barcast_refused_bars_total"), 1);
    let told = health(&recorder);
    assert!(told.contains("topics of the store"), "{told}");
    database.restart();
    until_count(&database, BARS);
    until_rows(&database, &bars);
    until_well(&recorder);
}

#[test]
fn a_slow_database_holds_up_the_store_and_not_what_comes_live() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let recorder = Recorder::start(&redis, &["--postgres-url", &database.url()]);
    let connected = postgres("barcast_record_output_connected");
    recorder.until(&connected, 1);
    assert_eq!(recorder.end(), Some(0));
    database.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
         CREATE TRIGGER slow AFTER INSERT ON barcast_bars EXECUTE FUNCTION slow()",
    );
    let mut bars = many();
    keep(&redis, &bars);
    let recorder = Recorder::start(&redis, &["--postgres-url", &database.url()]);
    recorder.until(&postgres("barcast_record_waiting_bars"), 50_000);
    // Meanwhile, live: what is taken goes before the rest of the store.
    bars.push(candle("Z", 0, 5).closed());
    keep(&redis, &bars[BARS..]);
    recorder.until("barcast_record_closed_bars_total", 1);
    assert!(recorder.metric("barcast_record_stored_bars_total") < BARS as u64);
    assert!(health(&recorder).contains("topics of the store"));
    database.execute("DROP TRIGGER slow ON barcast_bars");
    until_count(&database, BARS + 1);
    until_rows(&database, &bars);
    until_well(&recorder);
    assert_eq!(recorder.metric(&postgres("barcast_refused_bars_total")), 0);
}

#[test]
fn what_an_output_has_is_not_written_again_after_a_break() {
    let (mut redis, database) = (RedisServer::start(), PostgresServer::start());
    let mut bars = closed("A", 0..900);
    keep(&redis, &bars);
    let recorder = Recorder::start(&redis, &["--postgres-url", &database.url()]);
    until_rows(&database, &bars);
    let recorded = postgres("barcast_recorded_bars_total");
    recorder.until(&recorded, 900);
    // The same come back, with one that was revised and one that is new.
    redis.restart();
    bars[3].price = 77;
    bars.push(candle("A", 900, 5).closed());
    let store = redis.bus().keeping(1_000);
    recorder.until("barcast_bus_connected", 1);
    redis.command("CLIENT KILL TYPE pubsub");
    Feed::new(&store).keep(&bars);
    until_rows(&database, &bars);
    redis.command("CLIENT KILL TYPE pubsub");
    let known = postgres("barcast_record_known_bars_total");
    recorder.until(&known, 899);
    // Some of them may have been heard live.
    let before = recorder.metric(&recorded);
    redis.command("CLIENT KILL TYPE pubsub");
    let again = recorder.metric(&known) + 901;
    recorder.until(&known, again);
    assert_eq!(recorder.metric(&recorded), before);
}

#[test]
fn a_spool_that_cannot_be_written_holds_up_the_store() {
    let (redis, mut database) = (RedisServer::start(), PostgresServer::absent());
    let folder = tempfile::tempdir().unwrap();
    let bars = many();
    keep(&redis, &bars);
    redis.command("RENAME barcast:last elsewhere");
    let (url, spool) = (database.url(), folder.path().to_str().unwrap());
    let arguments = ["--postgres-url", &url, "--spool", spool];
    let recorder = Recorder::start(&redis, &arguments);
    // The second file cannot be made, as on a full disk.
    let in_the_way = folder.path().join("postgres/000000000002.spool");
    fs::create_dir(&in_the_way).unwrap();
    redis.command("RENAME elsewhere barcast:last");
    redis.command("CLIENT KILL TYPE pubsub");
    recorder.until(&postgres("barcast_record_spool_failures_total"), 1);
    let told = health(&recorder);
    assert!(told.contains("the spool's disk refuses bars"), "{told}");
    database.restart();
    until_count(&database, BARS);
    until_rows(&database, &bars);
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(recorder.metric(&postgres("barcast_refused_bars_total")), 0);
}

#[test]
fn topics_that_cannot_be_read_hold_up_no_others() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let symbols = (0..12).map(|n| &*format!("T{n:02}").leak());
    let bars: Vec<_> = symbols.flat_map(|symbol| closed(symbol, 0..100)).collect();
    keep(&redis, &bars);
    // Keys of another type; the newest message of each topic is read all the same.
    let wrong: Vec<String> = (0..8)
        .map(|n| format!("barcast:history:bars:T{n:02}:1"))
        .collect();
    for key in &wrong {
        redis.command(&format!("RENAME {key} kept:{key}"));
        redis.command(&format!("SET {key} 1"));
    }
    let recorder = Recorder::start(&redis, &["--postgres-url", &database.url()]);
    until_count(&database, 400 + 8);
    eventually_blocking("what is missing is told", || {
        let told = health(&recorder);
        told.contains("8 topics of the store") && told.contains("WRONGTYPE")
    });
    for key in &wrong {
        redis.command(&format!("RENAME kept:{key} {key}"));
    }
    until_rows(&database, &bars);
    until_well(&recorder);
}

/// Price 1 is what was published and not stored, 2 what the store has, by the symbols.
#[test]
fn the_store_undoes_no_correction_that_was_only_published() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let rev = |bar, rev| Candle { rev, ..bar };
    let heard = |symbol| candle(symbol, 0, 1).closed();
    let stored = |symbol| candle(symbol, 0, 2).closed();
    let table = [
        (heard("A"), stored("A"), 1),
        (rev(heard("B"), Some(1)), stored("B"), 1),
        (rev(heard("C"), Some(2)), rev(stored("C"), Some(1)), 1),
        (rev(heard("D"), Some(1)), rev(stored("D"), Some(2)), 2),
        (heard("E").seq(7, 5), stored("E").seq(7, 4), 1),
        (heard("F").seq(7, 5), stored("F").seq(7, 6), 2),
        // Not its end: that may have come while nobody heard.
        (candle("G", 0, 1), stored("G"), 2),
    ];
    let all: Vec<_> = table.iter().map(|(_, stored, _)| *stored).collect();
    keep(&redis, &all);
    let recorder = Recorder::start(&redis, &["--postgres-url", &database.url()]);
    until_rows(&database, &all);
    let heard: Vec<_> = table.iter().map(|(heard, ..)| *heard).collect();
    let mut feed = Feed::new(&redis.bus());
    heard.iter().for_each(|bar| feed.bar(bar));
    feed.bar(&candle("G", 1, 1));
    until_rows(&database, &heard);
    let expected = table.map(|(_, stored, price)| Candle { price, ..stored });
    for _ in 0..2 {
        let read = "barcast_record_stored_bars_total";
        let before = recorder.metric(read);
        redis.command("CLIENT KILL TYPE pubsub");
        // The newest of each topic, and its past.
        recorder.until(read, before + 2 * all.len() as u64);
        until_well(&recorder);
        until_rows(&database, &expected);
    }
}
