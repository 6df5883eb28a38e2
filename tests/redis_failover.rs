//! Who serves changes, or misses something, behind an address: what is read and heard comes from where it is whole.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::client::{get, metric};
use common::gateway::{Candle, Feed, candle};
use common::process::Serve;
use common::proxy::Proxy;
use common::{RedisServer, Subscription, eventually_blocking};

/// An age that a subscription reaches only if it outlives a question to Redis, in seconds.
const ASKED: u64 = 8;

fn bars(symbol: &'static str, count: i64) -> Vec<Candle> {
    let bars = (0..count).map(|minute| candle(symbol, minute, 10).closed());
    bars.collect()
}

fn keep(redis: &RedisServer, bars: &[Candle]) {
    assert_eq!(Feed::new(&redis.bus().keeping(100)).keep(bars), None);
}

fn has_all(shown: &str, bars: &[Candle]) -> bool {
    bars.iter().all(|bar| shown.contains(&bar.json()))
}

/// What a client is shown that asks for all of the topic.
fn snapshot(serve: &Serve, topic: &str) -> String {
    let mut client = serve.client();
    client.ask(&format!(
        r#"{{"type":"bars.subscribe","payload":{{"topics":["{topic}"],"snapshot":100}}}}"#
    ));
    client.until_pong().concat()
}

fn answers(redis: &RedisServer, command: &str, expected: &str) {
    let answer = redis.command(command);
    assert!(answer.starts_with(expected), "{command}: {answer}");
}

fn publish(redis: &RedisServer, bar: &Candle) {
    let message = bar.message().replace('"', "\\\"");
    answers(
        redis,
        &format!("PUBLISH {} \"{message}\"", bar.topic()),
        ":",
    );
}

/// The age of the oldest subscription, in seconds.
fn age(redis: &RedisServer) -> Option<u64> {
    let clients = redis.command("CLIENT LIST TYPE pubsub");
    let words = clients.split_whitespace();
    let ages = words.filter_map(|word| word.strip_prefix("age=")?.parse().ok());
    ages.max()
}

fn reconnects(serve: &Serve) -> u64 {
    metric(serve.address, "barcast_bus_reconnects_total")
}

/// A server that holds little of its stream, if so told, and a replica of it.
fn pair(backlog: &'static str, of_replica: &'static [&'static str]) -> (RedisServer, RedisServer) {
    let master = RedisServer::start_with(|_| {
        let arguments = ["--repl-diskless-sync-delay", "0", "--repl-backlog-size"];
        let arguments = arguments.into_iter().chain([backlog]);
        arguments.map(str::to_owned).collect()
    });
    let replica =
        RedisServer::start_with(|_| of_replica.iter().map(|word| (*word).to_owned()).collect());
    answers(
        &replica,
        &format!("REPLICAOF 127.0.0.1 {}", master.port()),
        "+OK",
    );
    until_fed(&replica);
    (master, replica)
}

fn until_fed(replica: &RedisServer) {
    eventually_blocking("the replica is fed", || {
        let info = replica.command("INFO replication");
        info.contains("master_link_status:up")
    });
}

/// How often the server fed a replica from the beginning.
fn resynchronised(master: &RedisServer) -> bool {
    master.command("INFO stats").contains("sync_full:2")
}

#[test]
fn pasts_are_read_where_bars_come_from() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    for symbol in ["A", "B"] {
        keep(&old, &bars(symbol, 4));
        keep(&new, &bars(symbol, 9));
    }
    let proxy = Proxy::start(old.port());
    let serve = Serve::start(&proxy.url(), &["--workers", "1"]);
    serve.until_ready();
    assert!(has_all(&snapshot(&serve, "bars:A:1"), &bars("A", 4)));
    // A failover: the old master can follow nobody, and goes on answering who is connected.
    proxy.lead_to(new.port());
    answers(&old, "REPLICAOF 127.0.0.1 1", "+OK");
    eventually_blocking("it came away", || reconnects(&serve) == 1);
    serve.until_ready();
    for symbol in ["A", "B"] {
        let topic = format!("bars:{symbol}:1");
        eventually_blocking("all of the past", || {
            has_all(&snapshot(&serve, &topic), &bars(symbol, 9))
        });
    }
}

#[test]
fn a_full_resynchronisation_between_two_questions_is_told() {
    let (master, replica) = pair("16kb", &[]);
    let serve = Serve::start(&replica.url(), &["--workers", "1"]);
    serve.until_ready();
    let mut client = serve.client();
    client.subscribe("bars:A:1");
    publish(&master, &candle("A", 0, 1));
    client.text();
    let before = reconnects(&serve);
    // The link breaks, and more goes by than the master holds for who comes again.
    let lost = "EVAL \"for i = 1, 3000 do redis.call('PUBLISH', 'x', string.rep('x', 100)) end\" 0";
    answers(
        &master,
        &format!("CLIENT KILL TYPE replica\r\n{lost}"),
        ":1",
    );
    keep(&master, &bars("A", 4));
    eventually_blocking("a full resynchronisation", || resynchronised(&master));
    until_fed(&replica);
    eventually_blocking("it is subscribed anew", || reconnects(&serve) == before + 1);
    serve.until_ready();
    assert!(has_all(&snapshot(&serve, "bars:A:1"), &bars("A", 4)));
    assert!(
        serve
            .process
            .log()
            .contains("the replica missed part of its master's stream")
    );
}

#[test]
fn a_link_that_goes_on_where_it_broke_costs_nothing() {
    let (master, replica) = pair("1mb", &[]);
    let serve = Serve::start(&replica.url(), &["--workers", "1"]);
    serve.until_ready();
    let mut client = serve.client();
    client.subscribe("bars:A:1");
    let (before, from) = (reconnects(&serve), age(&replica).unwrap());
    answers(&master, "CLIENT KILL TYPE replica", ":1");
    for minute in 0..5 {
        let bar = candle("A", minute, 1);
        publish(&master, &bar);
        assert_eq!(client.text(), bar.update());
    }
    eventually_blocking("it stands", || age(&replica) >= Some(from + ASKED));
    assert_eq!(reconnects(&serve), before);
    assert!(!resynchronised(&master));
}

#[test]
fn a_script_that_holds_a_replica_costs_no_subscription() {
    let (_master, replica) = pair("1mb", &["--busy-reply-threshold", "300"]);
    let serve = Serve::start(&replica.url(), &["--workers", "1"]);
    serve.until_ready();
    let (before, from) = (reconnects(&serve), age(&replica).unwrap());
    let script = "EVAL \"local t = redis.call('TIME')[1] + 8; while redis.call('TIME')[1] + 0 < t do end; return 1\" 0";
    answers(&replica, script, ":1");
    let to = from + 2 * ASKED;
    eventually_blocking("it stands", || age(&replica) >= Some(to));
    assert_eq!(reconnects(&serve), before);
    serve.until_ready();
}

#[test]
fn a_doubt_that_stays_is_logged_once() {
    let (_master, replica) = pair("1mb", &[]);
    let serve = Serve::start(&replica.url(), &["--workers", "1"]);
    serve.until_ready();
    for _ in 0..3 {
        let before = reconnects(&serve);
        answers(&replica, "CLIENT KILL TYPE pubsub", ":1");
        eventually_blocking("it connects once more", || reconnects(&serve) > before);
        serve.until_ready();
    }
    let log = serve.process.log();
    let said = log.matches("who serves the bus is in doubt").count();
    assert_eq!(said, 1, "{log}");
    let health = get(serve.address, "/healthz").body;
    assert!(health.contains("a replica serves here"), "{health}");
}

/// One topic can never be read, and another not at first.
#[test]
fn a_topic_behind_the_end_of_a_reading_is_read_in_the_next() {
    let redis = RedisServer::start();
    for symbol in ["A", "B"] {
        keep(&redis, &bars(symbol, 4));
    }
    answers(&redis, "DEL barcast:history:bars:A:1", ":1");
    answers(&redis, "SET barcast:history:bars:A:1 x", "+OK");
    let some = "resetkeys ~barcast:last ~barcast:history:bars:A:1";
    answers(&redis, &format!("ACL SETUSER default {some}"), "+OK");
    let subscription = Subscription::begin(redis.bus().loading(100, 100));
    eventually_blocking("B was refused", || {
        redis
            .command("ACL LOG")
            .contains("barcast:history:bars:B:1")
    });
    answers(&redis, "ACL SETUSER default allkeys", "+OK");
    let read = |seen: &common::Seen| {
        seen.stored
            .iter()
            .filter(|topic| *topic == "bars:B:1")
            .count()
    };
    // Its newest bar, which was read before, and its past.
    eventually_blocking("B is read", || subscription.collector.seen(read) > 4);
}
