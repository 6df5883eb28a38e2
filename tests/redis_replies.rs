//! What Redis answers, and what a gateway makes of it: a reply is no death, who serves is known, the store is read
//! until it is read, and nothing is green that does not work.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use common::client::{get, metric};
use common::gateway::{Candle, Feed, candle};
use common::process::Serve;
use common::sentinel::Sentinel;
use common::{RedisServer, eventually_blocking};

/// An age that a subscription reaches only if it outlives a question to Redis, in seconds.
const ASKED: u64 = 8;

fn publish(redis: &RedisServer, bar: &Candle) {
    let message = bar.message().replace('"', "\\\"");
    let answer = redis.command(&format!("PUBLISH {} \"{message}\"", bar.topic()));
    assert!(answer.starts_with(':'), "{answer}");
}

/// The age of the oldest subscription, in seconds.
fn age(redis: &RedisServer) -> Option<u64> {
    let clients = redis.command("CLIENT LIST TYPE pubsub");
    let words = clients.split_whitespace();
    let ages = words.filter_map(|word| word.strip_prefix("age=")?.parse().ok());
    ages.max()
}

fn reason(serve: &Serve) -> String {
    get(serve.address, "/readyz").body
}

/// Not ready, for a reason that holds these words; alive all the same, and degraded for the same reason.
fn until_unready(serve: &Serve, words: &str) {
    eventually_blocking(&format!("not ready: {words}"), || {
        let ready = get(serve.address, "/readyz");
        ready.status == 503 && ready.body.contains(words)
    });
    let health = get(serve.address, "/healthz");
    assert_eq!(health.status, 200);
    assert!(health.body.contains("degraded: "), "{}", health.body);
}

fn is_whole(serve: &Serve) {
    let body = get(serve.address, "/readyz").body;
    assert_eq!(
        body,
        r#"{"ready":true,"bus_connected":true,"draining":false}"#
    );
    assert_eq!(metric(serve.address, "barcast_bus_reconnects_total"), 0);
    assert_eq!(metric(serve.address, "barcast_upstream_gaps_total"), 0);
}

struct Trouble {
    name: &'static str,
    make: fn(&RedisServer),
    /// What PING answers then.
    ping: &'static str,
}

fn all_right(redis: &RedisServer, commands: &[&str]) {
    for command in commands {
        let answer = redis.command(command);
        assert!(answer.starts_with("+OK"), "{command}: {answer}");
    }
}

const TROUBLES: [Trouble; 5] = [
    Trouble {
        name: "the disk is full",
        make: |redis| {
            std::fs::create_dir(redis.folder().join("dump.rdb")).unwrap();
            all_right(redis, &["CONFIG SET save \"3600 1000\""]);
            redis.command("BGSAVE");
        },
        ping: "-MISCONF",
    },
    Trouble {
        name: "no right to ask",
        make: |redis| all_right(redis, &["ACL SETUSER default -ping -role -hello -info"]),
        ping: "-NOPERM",
    },
    Trouble {
        name: "HELLO alone is left",
        make: |redis| all_right(redis, &["ACL SETUSER default -role -info"]),
        ping: "+PONG",
    },
    Trouble {
        name: "no replica",
        make: |redis| all_right(redis, &["CONFIG SET min-replicas-to-write 1"]),
        ping: "+PONG",
    },
    Trouble {
        name: "no memory",
        make: |redis| all_right(redis, &["CONFIG SET maxmemory 1"]),
        ping: "+PONG",
    },
];

#[test]
fn a_reply_is_a_sign_of_life() {
    thread::scope(|scope| {
        for trouble in &TROUBLES {
            scope.spawn(|| {
                let redis = RedisServer::start();
                let serve = Serve::start(&redis.url(), &["--workers", "1"]);
                serve.until_ready();
                let mut client = serve.client();
                client.subscribe("bars:AAPL:1");
                (trouble.make)(&redis);
                let pinged = || redis.command("PING").starts_with(trouble.ping);
                eventually_blocking(trouble.name, pinged);
                let from = age(&redis).unwrap();
                for minute in 0..5 {
                    let bar = candle("AAPL", minute, 1);
                    publish(&redis, &bar);
                    assert_eq!(client.text(), bar.update(), "{}", trouble.name);
                    let to = from + ASKED * (minute as u64 + 1) / 5;
                    eventually_blocking(trouble.name, || age(&redis) >= Some(to));
                }
                is_whole(&serve);
            });
        }
    });
}

/// Redis does not answer for longer than one reply may take, and then says for a while that it is busy.
#[test]
fn a_script_that_holds_redis_costs_no_subscription() {
    let redis = RedisServer::start();
    let serve = Serve::start(&redis.url(), &["--workers", "1"]);
    serve.until_ready();
    let mut client = serve.client();
    client.subscribe("bars:AAPL:1");
    let script = "EVAL \"local t = redis.call('TIME')[1] + 7; while redis.call('TIME')[1] + 0 < t do end; return 1\" 0";
    assert!(redis.command(script).starts_with(":1"));
    let bar = candle("AAPL", 0, 1);
    publish(&redis, &bar);
    assert_eq!(client.text(), bar.update());
    let to = age(&redis).unwrap() + ASKED;
    eventually_blocking("it stands", || age(&redis) >= Some(to));
    is_whole(&serve);
}

/// Closed bars in the store.
fn stored(redis: &RedisServer) -> Vec<Candle> {
    let bars: Vec<_> = (0..4)
        .map(|m| candle("A", m, 10 + m as u64).closed())
        .collect();
    assert_eq!(Feed::new(&redis.bus().keeping(100)).keep(&bars), None);
    bars
}

/// What a client is shown that asks for all of the topic.
fn snapshot(serve: &Serve) -> String {
    let mut client = serve.client();
    client.ask(r#"{"type":"bars.subscribe","payload":{"topics":["bars:A:1"],"snapshot":100}}"#);
    client.until_pong().concat()
}

fn has_all(shown: &str, bars: &[Candle]) -> bool {
    bars.iter().all(|bar| shown.contains(&bar.json()))
}

#[test]
fn the_store_is_read_when_redis_has_read_it() {
    let mut redis = RedisServer::start_with(|_| {
        let slow = "--key-load-delay 500 --loading-process-events-interval-bytes 1024";
        slow.split(' ').map(str::to_owned).collect()
    });
    let bars = stored(&redis);
    redis.command("EVAL \"for i = 1, 6000 do redis.call('SET', 'k' .. i, 'x') end\" 0");
    redis.command("SAVE");
    redis.restart();
    let serve = Serve::start(&redis.url(), &[]);
    until_unready(&serve, "LOADING Redis is loading");
    assert!(!serve.process.log().contains("bus connected"));
    serve.until_ready();
    assert!(!redis.command("PING").starts_with("-LOADING"));
    assert!(has_all(&snapshot(&serve), &bars));
    serve.process.until_logged("bus connected");
    let log = serve.process.log();
    assert!(
        log.contains("LOADING Redis is loading") && log.contains("bus connected"),
        "{log}"
    );
    is_whole(&serve);
}

#[test]
fn the_store_is_read_again_until_it_is_read() {
    let broken = [
        ("-hscan", "+hscan", "NOPERM"),
        ("resetkeys ~nothing", "allkeys", "NOPERM"),
    ];
    for (take, give, words) in broken {
        let redis = RedisServer::start();
        let bars = stored(&redis);
        all_right(&redis, &[&format!("ACL SETUSER default {take}")]);
        let serve = Serve::start(&redis.url(), &["--workers", "1"]);
        until_unready(&serve, words);
        until_unready(&serve, "--store none");
        // Live bars flow.
        let mut client = serve.client();
        client.subscribe("bars:AAPL:1");
        let bar = candle("AAPL", 0, 1);
        publish(&redis, &bar);
        while client.text() != bar.update() {}
        all_right(&redis, &[&format!("ACL SETUSER default {give}")]);
        serve.until_ready();
        assert!(has_all(&snapshot(&serve), &bars));
        assert_eq!(get(serve.address, "/healthz").body, r#"{"status":"ok"}"#);
        assert_eq!(metric(serve.address, "barcast_bus_reconnects_total"), 0);
    }
}

#[test]
fn a_past_that_could_not_be_read_is_read_after_all() {
    let redis = RedisServer::start();
    let bars = stored(&redis);
    let serve = Serve::start(&redis.url(), &["--workers", "1"]);
    serve.until_ready();
    all_right(&redis, &["ACL SETUSER default -zrange"]);
    let mut client = serve.client();
    client.ask(r#"{"type":"bars.subscribe","payload":{"topics":["bars:A:1"],"snapshot":100}}"#);
    let shown = client.until_pong().concat();
    assert!(
        shown.contains("bars.gap") && !has_all(&shown, &bars),
        "{shown}"
    );
    until_unready(&serve, "NOPERM");
    all_right(&redis, &["ACL SETUSER default +zrange"]);
    serve.until_ready();
    // Who was told that it is missing is told that there is more.
    let told = client.json();
    assert_eq!(told["type"], "bars.gap", "{told}");
    assert_eq!(told["payload"]["from"], bars[0].time, "{told}");
    assert!(has_all(&snapshot(&serve), &bars));
}

#[test]
fn what_redis_says_while_it_refuses_is_told() {
    let redis = RedisServer::start();
    let mut held = TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
    held.write_all(b"CONFIG SET maxclients 1\r\n").unwrap();
    held.read_exact(&mut [0; 5]).unwrap();
    let serve = Serve::start(&redis.url(), &["--workers", "1"]);
    until_unready(&serve, "ERR max number of clients reached");
    // Room for the subscription, and none for the store.
    held.write_all(b"CONFIG SET maxclients 2\r\n").unwrap();
    eventually_blocking("it is subscribed", || {
        reason(&serve).contains("\"bus_connected\":true")
    });
    until_unready(&serve, "ERR max number of clients reached");
    held.write_all(b"CONFIG SET maxclients 100\r\n").unwrap();
    serve.until_ready();
    assert!(
        serve
            .process
            .log()
            .contains("ERR max number of clients reached")
    );

    // A password that is changed, and changed back.
    all_right(&redis, &["CONFIG SET requirepass secret"]);
    held.write_all(b"CLIENT KILL TYPE pubsub\r\n").unwrap();
    until_unready(&serve, "NOAUTH");
    held.write_all(b"CONFIG SET requirepass \"\"\r\n").unwrap();
    serve.until_ready();
    serve.process.until_logged("NOAUTH");
}

#[test]
fn a_sentinel_is_named() {
    let redis = RedisServer::start();
    let sentinel = Sentinel::start(Some(redis.port()));
    let serve = Serve::start(&sentinel.url(), &[]);
    until_unready(&serve, "this is a Redis Sentinel");
    serve.process.until_logged("this is a Redis Sentinel");
    assert!(!serve.process.log().contains("bus connected"));
}

#[test]
fn a_cluster_is_named_where_it_does_not_do() {
    let redis =
        RedisServer::start_with(|_| ["--cluster-enabled", "yes"].map(str::to_owned).to_vec());
    let serve = Serve::start(&redis.url(), &[]);
    until_unready(&serve, "this is a node of a Redis Cluster");
    assert!(reason(&serve).contains("--store none"));
    // Pub/Sub goes through a cluster, too.
    let serve = Serve::start(&redis.url(), &["--store", "none"]);
    serve.until_ready();
}

/// Answers every connection with this.
fn stand_in(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1_024]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

/// There is no older Redis to be had, so one is played.
#[test]
fn a_redis_without_resp3_is_named() {
    for answer in [
        "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n",
        "-ERR unknown command 'HELLO'\r\n",
        "-NOPROTO unsupported protocol version\r\n",
    ] {
        let serve = Serve::start(
            &format!("redis://{}", stand_in(answer)),
            &["--workers", "1"],
        );
        until_unready(&serve, "Redis 6.0 or newer is needed");
        let words: String = answer[1..].chars().take(16).collect();
        assert!(
            serve.process.log().contains(&words),
            "{}",
            serve.process.log()
        );
    }
}

/// A server that feeds a new replica at once.
fn quick_master() -> RedisServer {
    RedisServer::start_with(|_| {
        let quick = ["--repl-diskless-sync-delay", "0"];
        quick.map(str::to_owned).to_vec()
    })
}

/// A replica of another server, fed.
fn replica(master: &RedisServer) -> RedisServer {
    let replica = RedisServer::start();
    follow(&replica, master);
    replica
}

fn follow(replica: &RedisServer, master: &RedisServer) {
    all_right(
        replica,
        &[&format!("REPLICAOF 127.0.0.1 {}", master.port())],
    );
    eventually_blocking("the replica is fed", || {
        redis_info(replica).contains("master_link_status:up")
    });
}

fn redis_info(redis: &RedisServer) -> String {
    redis.command("INFO replication")
}

#[test]
fn a_gateway_that_stays_at_a_replica_is_ready_while_that_is_fed() {
    let mut master = quick_master();
    let replica = replica(&master);
    let serve = Serve::start(&replica.url(), &["--workers", "1"]);
    serve.until_ready();
    let health = get(serve.address, "/healthz").body;
    assert!(
        health.contains("degraded") && health.contains("a replica serves here"),
        "{health}"
    );
    let mut client = serve.client();
    client.subscribe("bars:AAPL:1");
    let bar = candle("AAPL", 0, 1);
    publish(&master, &bar);
    assert_eq!(client.text(), bar.update());

    master.kill();
    until_unready(&serve, "its link to its master is down");
    master.restart();
    let bars = stored(&master);
    serve.until_ready();
    // Bars may have been missed, and a full resynchronisation brings another store.
    assert_eq!(client.json()["type"], "bars.gap");
    assert!(has_all(&snapshot(&serve), &bars));
    let bar = candle("AAPL", 1, 1);
    publish(&master, &bar);
    assert_eq!(client.text(), bar.update());
}

#[test]
fn a_gateway_whose_server_is_demoted_connects_once_more() {
    let (demoted, master) = (RedisServer::start(), quick_master());
    let serve = Serve::start(&demoted.url(), &["--workers", "1"]);
    serve.until_ready();
    follow(&demoted, &master);
    let reconnects = || metric(serve.address, "barcast_bus_reconnects_total");
    eventually_blocking("it connects once more", || reconnects() == 1);
    serve.until_ready();
    let from = age(&demoted).unwrap();
    eventually_blocking("it stays", || age(&demoted) >= Some(from + ASKED));
    assert_eq!(reconnects(), 1);
    let log = serve.process.log();
    assert_eq!(
        log.matches("who serves the bus is in doubt").count(),
        1,
        "{log}"
    );
    // It becomes the master again.
    all_right(&demoted, &["REPLICAOF NO ONE"]);
    let is_well = || get(serve.address, "/healthz").body == r#"{"status":"ok"}"#;
    eventually_blocking("all is well again", is_well);
    assert_eq!(reconnects(), 1);
}
