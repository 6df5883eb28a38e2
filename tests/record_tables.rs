//! The tables of `barcast record` in a real PostgreSQL: what a new one holds and costs, one that is older, and
//! one that its owner partitioned.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::gateway::{Candle, Feed};
use common::postgres::PostgresServer;
use common::recorder::{Recorder, closed, postgres};
use common::{RedisServer, eventually_blocking};

/// A bar of the first minute, with what its producer sends with it.
fn message(price: u32, extras: &str) -> String {
    format!(
        r#"{{"symbol":"A","resolution":"1",{extras}"bar":{{"time":0,"open":{price},"high":{price},"low":{price},"close":{price},"volume":1,"closed":true}}}}"#
    )
}

fn recorded(recorder: &Recorder, bars: u64) {
    recorder.until(&postgres("barcast_recorded_bars_total"), bars);
}

const EXTRAS: &str = "SELECT concat_ws(' ', close, rev, epoch, seq, recorded_at IS NOT NULL)
    FROM barcast_bars ORDER BY symbol, resolution, time";

#[test]
fn a_new_table_keeps_what_came_with_a_bar() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let recorder = Recorder::start(&redis, &["--postgres-url", &database.url()]);
    let mut feed = Feed::new(&redis.bus());
    let mut bars = 0;
    let mut say = |price, extras: &str| {
        feed.raw("bars:A:1", message(price, extras));
        bars += 1;
        recorded(&recorder, bars);
        let time = "SELECT recorded_at::text FROM barcast_bars";
        (
            database.texts(EXTRAS).concat(),
            database.texts(time).concat(),
        )
    };
    let (epoch, most) = (u64::MAX, u64::MAX);
    let (first, since) = say(1, &format!(r#""epoch":{epoch},"seq":5,"#));
    assert_eq!(first, format!("1 {epoch} 5 t"));
    // The same bar of another run, or with less beside it, is no news.
    for again in [r#""epoch":3,"seq":1,"#, ""] {
        assert_eq!(say(1, again), (first.clone(), since.clone()));
    }
    let (revised, later) = say(1, r#""epoch":3,"seq":2,"rev":1,"#);
    assert_eq!(revised, "1 1 3 2 t");
    assert!(later > since, "{later} {since}");
    let (changed, _) = say(2, r#""epoch":3,"seq":3,"rev":2,"#);
    assert_eq!(changed, "2 2 3 3 t");
    // A counter beyond those of the table costs no bar.
    let (beyond, _) = say(3, &format!(r#""seq":{most},"rev":{most},"#));
    assert_eq!(beyond, "3 t");
    assert_eq!(recorder.end(), Some(0));
}

#[test]
fn a_table_without_the_further_columns_is_written_and_can_get_them() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    database.execute(
        "CREATE TABLE barcast_bars (symbol text NOT NULL, resolution text NOT NULL,
            time timestamptz NOT NULL, open float8, high float8, low float8, close float8,
            volume float8 NOT NULL, seq text, PRIMARY KEY (symbol, resolution, time))",
    );
    let arguments = ["--postgres-url", &database.url()];
    let recorder = Recorder::start(&redis, &arguments);
    let mut feed = Feed::new(&redis.bus());
    // A column of that name that takes no counter is its owner's.
    feed.raw("bars:A:1", message(1, r#""epoch":3,"seq":2,"rev":1,"#));
    recorded(&recorder, 1);
    let close = "SELECT concat_ws(' ', close, seq) FROM barcast_bars";
    assert_eq!(database.texts(close), ["1"]);
    assert_eq!(recorder.end(), Some(0));
    database.execute(
        "ALTER TABLE barcast_bars DROP COLUMN seq;
         ALTER TABLE barcast_bars ADD COLUMN rev bigint, ADD COLUMN recorded_at timestamptz,
            ADD COLUMN epoch numeric(20), ADD COLUMN seq bigint",
    );
    let recorder = Recorder::start(&redis, &arguments);
    feed.raw("bars:A:1", message(2, r#""epoch":3,"seq":2,"rev":1,"#));
    recorded(&recorder, 1);
    assert_eq!(database.texts(EXTRAS), ["2 1 3 2 t"]);
    assert_eq!(recorder.end(), Some(0));
}

#[test]
fn a_partitioned_table_is_written_and_asked_for_the_newest_bars() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    // Made with all there is, and then by its owner anew.
    let recorder = Recorder::start(&redis, &["--postgres-url", &database.url()]);
    eventually_blocking("there is a table", || {
        recorder.metric(&postgres("barcast_record_output_connected")) == 1
    });
    assert_eq!(recorder.end(), Some(0));
    database.execute(
        "ALTER TABLE barcast_bars RENAME TO old;
         CREATE TABLE barcast_bars (LIKE old, PRIMARY KEY (symbol, resolution, time))
            PARTITION BY RANGE (time);
         CREATE TABLE p1 PARTITION OF barcast_bars FOR VALUES FROM (MINVALUE) TO ('2023-10-12 12:00Z');
         CREATE TABLE p2 PARTITION OF barcast_bars FOR VALUES FROM ('2023-10-12 12:00Z') TO (MAXVALUE);
         DROP TABLE old",
    );
    let recorder = Recorder::start(&redis, &["--postgres-url", &database.url()]);
    let mut feed = Feed::new(&redis.bus());
    let bars = [closed("A", 0..300), closed("B", 0..100)].concat();
    feed.all(bars.iter().map(Candle::outgoing).collect());
    recorded(&recorder, 400);
    let newest = "SELECT concat_ws(' ', symbol, resolution, close) FROM barcast_newest()";
    assert_eq!(database.texts(newest), ["A 1 309", "B 1 109"]);
    let both = "SELECT ((SELECT count(*) > 0 FROM p1) AND (SELECT count(*) > 0 FROM p2))::text";
    assert_eq!(database.texts(both), ["true"]);
    assert_eq!(recorder.end(), Some(0));
}

#[test]
fn indexes_are_small_and_the_newest_bars_are_found_by_the_key() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let recorder = Recorder::start(&redis, &["--postgres-url", &database.url()]);
    eventually_blocking("there is a table", || {
        recorder.metric(&postgres("barcast_record_output_connected")) == 1
    });
    assert_eq!(recorder.end(), Some(0));
    // In the order in which a recorder writes them.
    database.execute(
        "INSERT INTO barcast_bars
            SELECT 'S' || lpad(s::text, 4, '0'), '1', timestamptz '2026-11-20' + m * interval '1 minute',
                1, 2, 0.5, m, s, NULL, now(), 1764000000000000, m
            FROM generate_series(1, 400) AS m, generate_series(1, 250) AS s ORDER BY m, s;
         ANALYZE barcast_bars",
    );
    let share =
        "SELECT (2 * pg_indexes_size('barcast_bars') <= pg_table_size('barcast_bars'))::text";
    let sizes = "SELECT concat_ws(' ', relname, pg_relation_size(oid)) FROM pg_class
        WHERE relname LIKE 'barcast_bars%'";
    assert_eq!(
        database.texts(share),
        ["true"],
        "{:?}",
        database.texts(sizes)
    );
    let plan = database
        .texts("EXPLAIN SELECT * FROM barcast_newest()")
        .join("\n");
    assert!(plan.contains("using barcast_bars_pkey"), "{plan}");
    assert!(!plan.contains("Seq Scan"), "{plan}");
    let differs = "SELECT n::text FROM (
        SELECT symbol, resolution, time, close FROM barcast_newest() EXCEPT
        (SELECT DISTINCT ON (symbol, resolution) symbol, resolution, time, close FROM barcast_bars
            ORDER BY symbol, resolution, time DESC)) AS n";
    assert!(database.texts(differs).is_empty());
    let count = "SELECT count(*)::text FROM barcast_newest()";
    assert_eq!(database.texts(count), ["250"]);
    // A replay goes by the index of times.
    let plan = database.texts(
        "EXPLAIN SELECT * FROM barcast_bars AS b
            WHERE (b.time, b.symbol, b.resolution) > ('2026-11-20 01:00', 'S0100', '1')
            ORDER BY b.time, b.symbol, b.resolution LIMIT 5000",
    );
    let plan = plan.join("\n");
    assert!(plan.contains("using barcast_bars_time"), "{plan}");
}
