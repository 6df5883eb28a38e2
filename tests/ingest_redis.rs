//! An ingest whose source is in Redis, or that is stopped: no row is lost without a word.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;

use common::client::get;
use common::process::{Process, barcast};
use common::proxy::Proxy;
use common::sentinel::Sentinel;
use common::{RedisServer, eventually_blocking, free_port};

/// A minute of 2023, ms.
const START: i64 = 1_700_000_040_000;

/// An ingest with its probes.
struct Ingest {
    process: Process,
    health: SocketAddr,
}

impl Ingest {
    fn start(url: &str, source: &[&str]) -> Self {
        let health = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = health.to_string();
        let mut arguments = vec!["ingest", "--redis-url", url, "--resolutions", "1"];
        arguments.extend(["--health-listen", &listen]);
        arguments.extend(source);
        let process = Process::spawn(barcast(&arguments));
        eventually_blocking("its probes answer", || TcpStream::connect(health).is_ok());
        Self { process, health }
    }

    fn of_stream(url: &str) -> Self {
        let ingest = Self::start(url, &["--stream", "s", "--stream-from", "0"]);
        ingest.until_ready();
        ingest
    }

    fn until_ready(&self) {
        eventually_blocking("it is ready", || get(self.health, "/readyz").status == 200);
    }

    fn until_unready(&self, why: &str) {
        eventually_blocking(why, || {
            let answer = get(self.health, "/readyz");
            answer.status == 503 && answer.body.contains(why)
        });
    }

    fn status(&self) -> String {
        get(self.health, "/healthz").body
    }

    fn metric(&self, name: &str) -> u64 {
        let text = get(self.health, "/metrics").body;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines.find(|(known, _)| *known == name).unwrap();
        value.parse().unwrap()
    }

    fn rows(&self) -> u64 {
        self.metric("barcast_feed_rows_total")
    }

    fn until_rows(&self, rows: u64) {
        eventually_blocking(&format!("{rows} rows"), || self.rows() == rows);
    }
}

fn row(minute: i64) -> String {
    let time = START + minute * 60_000;
    format!("{{\"symbol\":\"A\",\"time\":{time},\"price\":1,\"size\":1}}\n")
}

/// Adds a row to the stream `s`, with this id and what is before it.
fn add(redis: &RedisServer, id: &str, minute: i64) {
    let time = START + minute * 60_000;
    let added = redis.command(&format!("XADD s {id} symbol A time {time} price 1 size 1"));
    assert!(added.starts_with('$'), "{added}");
}

#[test]
fn a_demoted_master_is_left_for_the_one_that_the_address_leads_to() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let road = Proxy::start(old.port());
    let stream = Ingest::of_stream(&road.url());
    let channel = Ingest::start(&road.url(), &["--channel", "trades"]);
    channel.until_ready();
    add(&old, "*", 0);
    stream.until_rows(1);
    // Its new master cannot be reached, and the address leads there for a while.
    old.command("REPLICAOF 127.0.0.1 1");
    stream.until_unready("its link to its master is down");
    channel.until_unready("its link to its master is down");
    road.lead_to(new.port());
    for minute in 1..4 {
        add(&new, "*", minute);
    }
    stream.until_rows(4);
    stream.until_ready();
    channel.until_ready();
    assert_eq!(stream.metric("barcast_feed_missed_total"), 0);
}

#[test]
fn a_sentinel_is_named_and_left() {
    let redis = RedisServer::start();
    let sentinel = Sentinel::start(Some(redis.port()));
    let road = Proxy::start(redis.port());
    let ingest = Ingest::of_stream(&road.url());
    road.cut_to(sentinel.port);
    ingest.until_unready("stream s is lost: this is a Redis Sentinel");
    road.lead_to(redis.port());
    add(&redis, "*", 0);
    ingest.until_rows(1);
    ingest.until_ready();
}

#[test]
fn a_stream_that_is_begun_anew_is_read_from_its_beginning() {
    let redis = RedisServer::start();
    let ingest = Ingest::of_stream(&redis.url());
    (0..5).for_each(|n| add(&redis, &format!("1000-{}", n + 1), n));
    ingest.until_rows(5);
    redis.command("DEL s");
    (5..15).for_each(|n| add(&redis, &format!("5-{n}"), n));
    ingest.until_rows(15);
    ingest.process.until_logged("begun anew");
    // Without the right to ask it is told by the entries alone.
    redis.command("ACL SETUSER default -xinfo");
    redis.command("DEL s");
    (15..20).for_each(|n| add(&redis, &format!("4-{n}"), n));
    ingest.until_rows(20);
    ingest.until_ready();
}

/// What a failover to a replica that lagged leaves: nothing is counted twice.
#[test]
fn a_stream_that_lost_its_end_is_not_read_twice() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let road = Proxy::start(old.port());
    let ingest = Ingest::of_stream(&road.url());
    (0..5).for_each(|n| add(&old, &format!("1000-{}", n + 1), n));
    (0..3).for_each(|n| add(&new, &format!("1000-{}", n + 1), n));
    ingest.until_rows(5);
    road.cut_to(new.port());
    eventually_blocking("it is told", || {
        ingest.process.log().contains("has lost its newest entries")
    });
    (5..7).for_each(|n| add(&new, &format!("1000-{}", n - 1), n));
    ingest.until_rows(7);
}

#[test]
fn entries_that_were_trimmed_unread_are_counted() {
    let redis = RedisServer::start();
    let ingest = Ingest::of_stream(&redis.url());
    add(&redis, "*", 0);
    ingest.until_rows(1);
    redis.command("ACL SETUSER default -xread");
    ingest.until_unready("NOPERM");
    (1..41).for_each(|n| add(&redis, "MAXLEN 10 *", n));
    redis.command("ACL SETUSER default +xread");
    ingest.until_rows(11);
    ingest.until_ready();
    assert_eq!(ingest.metric("barcast_feed_missed_total"), 30);
    let status = ingest.status();
    assert!(
        status.contains("degraded: stream s: 30 entries between"),
        "{status}"
    );
    ingest.process.until_logged("were trimmed or deleted");
    let log = ingest.process.log();
    assert_eq!(log.matches("were trimmed or deleted").count(), 1, "{log}");
}

#[test]
fn a_channel_at_a_replica_without_its_master_is_not_ready() {
    let redis = RedisServer::start();
    redis.command("REPLICAOF 127.0.0.1 1");
    let ingest = Ingest::start(&redis.url(), &["--channel", "trades"]);
    ingest
        .until_unready("channel trades: a replica serves here, and its link to its master is down");
    redis.command("REPLICAOF NO ONE");
    ingest.until_ready();
    assert!(ingest.status().contains("\"ok\""), "{}", ingest.status());
}

#[test]
fn a_channel_whose_redis_is_silent_is_not_ready() {
    let redis = RedisServer::start();
    let ingest = Ingest::start(&redis.url(), &["--channel", "trades"]);
    ingest.until_ready();
    thread::scope(|scope| {
        // Longer than a question waits for its answer.
        scope.spawn(|| redis.command("CLIENT PAUSE 14000 ALL"));
        ingest.until_unready("channel trades: Redis is silent");
    });
    ingest.until_ready();
}

#[test]
fn what_stays_the_same_is_logged_once_in_a_while() {
    let redis = RedisServer::absent();
    let ingest = Ingest::start(&redis.url(), &["--stream", "s"]);
    // More attempts than lines.
    thread::sleep(std::time::Duration::from_secs(8));
    let log = ingest.process.log();
    for words in ["publisher cannot connect", "the stream is lost"] {
        assert_eq!(log.matches(words).count(), 1, "{log}");
    }
}

/// Rows that were written to an ingest before it was stopped.
fn stopped(is_refused: bool) -> (u64, u64, Option<i32>, String) {
    const ROWS: i64 = 800;
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("rows");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    // Hardly anything is published before the end.
    let name = fifo.display().to_string();
    let mut ingest = Ingest::start(&redis.url(), &[&name, "--flush", "60"]);
    let mut rows = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&fifo)
        .unwrap();
    ingest.until_ready();
    if is_refused {
        redis.command("ACL SETUSER default -publish");
    }
    for minute in 0..ROWS {
        rows.write_all(row(minute).as_bytes()).unwrap();
    }
    ingest.until_rows(ROWS as u64);
    ingest.process.terminate();
    let code = ingest.process.exit_code();
    let stored = redis.command("ZCARD barcast:history:bars:A:1");
    let stored = stored.lines().next().unwrap()[1..].parse().unwrap();
    (ROWS as u64, stored, code, ingest.process.log())
}

#[test]
fn what_was_read_is_published_at_the_end() {
    let (rows, stored, code, log) = stopped(false);
    // The newest one is still forming.
    assert_eq!((stored, code), (rows - 1, Some(0)), "{log}");
    assert!(log.contains("given_up: 0"), "{log}");
}

#[test]
fn what_could_not_be_published_at_the_end_is_told() {
    let (rows, _, code, log) = stopped(true);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(&format!("given_up: {rows}")), "{log}");
    assert!(log.contains(&format!("unpublished={rows}")), "{log}");
}
