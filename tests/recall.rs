//! The past of topics is left in the store until somebody asks for it, and joins what comes live.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use barcast::bus::RedisBus;
use barcast::gateway::past::PAST_WAIT;
use common::client::{Client, get};
use common::gateway::{Candle, Feed, MINUTE, Running, START, candle, config};
use common::{RedisServer, eventually_blocking};
use serde_json::Value;

const BARS: i64 = 20;

/// So many closed bars of A, and a forming one.
fn filled() -> (RedisServer, Vec<Candle>) {
    let server = RedisServer::start();
    let mut bars: Vec<_> = (0..BARS).map(|m| candle("A", m, 10).closed()).collect();
    bars.push(candle("A", BARS, 11));
    assert_eq!(Feed::new(&server.bus().keeping(1_000)).keep(&bars), None);
    (server, bars)
}

fn loading(server: &RedisServer) -> RedisBus {
    server.bus().loading(100, 1_000)
}

/// How often a command was called.
fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.command("INFO commandstats");
    let line = stats
        .lines()
        .find(|line| line.starts_with(&format!("cmdstat_{command}:calls=")));
    let calls = line.and_then(|line| line.split(['=', ',']).nth(1));
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// Lets Redis answer nobody for so long.
fn pause(server: &RedisServer, millis: u32) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    write!(stream, "CLIENT PAUSE {millis} ALL\r\n").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+OK\r\n");
}

fn request(wish: &str) -> String {
    format!(r#"{{"type":"bars.subscribe","payload":{{"topics":["bars:A:1"],{wish}}}}}"#)
}

fn snapshot_of(bars: &[Candle]) -> String {
    let json: Vec<_> = bars.iter().map(Candle::json).collect();
    format!(
        r#"{{"type":"bars.snapshot","topic":"bars:A:1","payload":{{"bars":[{}]}}}}"#,
        json.join(",")
    )
}

fn history(gateway: &Running) -> Value {
    let (from, to) = (START / 1_000, (START + 9_999 * MINUTE) / 1_000);
    let path = format!("/udf/history?symbol=A&resolution=1&from={from}&to={to}");
    serde_json::from_str(&get(gateway.address, &path).body).unwrap()
}

#[test]
fn at_readiness_only_the_newest_is_read_and_the_past_when_it_is_asked_for() {
    let (server, bars) = filled();
    for ask in ["snapshot", "since", "udf"] {
        server.command("CONFIG RESETSTAT");
        let gateway = Running::start(config(), loading(&server));
        assert_eq!(gateway.node.metrics.stored.get(), 1);
        // Who wants no past gets none.
        let mut client = gateway.client();
        client.subscribe("bars:A:1");
        assert_eq!(client.text(), bars[20].update());
        assert_eq!(calls(&server, "zrange"), 0);
        for _ in 0..2 {
            let mut client = gateway.client();
            match ask {
                "udf" => {
                    let answer = history(&gateway);
                    assert_eq!(answer["t"].as_array().unwrap().len(), 21, "{answer}");
                    assert_eq!(answer["gaps"], Value::Null);
                }
                _ => {
                    let wish = match ask {
                        "since" => format!(r#""since":{START}"#),
                        _ => r#""snapshot":100"#.to_owned(),
                    };
                    client.ask(&request(&wish));
                    assert_eq!(client.text(), snapshot_of(&bars));
                }
            }
        }
        assert_eq!(calls(&server, "zrange"), 1, "{ask}: read once");
        // Nobody who watches lacks what lies before all that was known.
        assert_eq!(client.until_pong(), [""; 0]);
    }
}

/// Takes the bars of a client's messages; fails on a gap and on a bar that is the same as the one before.
fn take(bars: &mut BTreeMap<i64, u64>, message: &Value) {
    let snapshot = std::slice::from_ref(&message["payload"]);
    let told = match message["type"].as_str().unwrap() {
        "bars.snapshot" => message["payload"]["bars"].as_array().unwrap(),
        "bars.update" => snapshot,
        other => panic!("{other}: {message}"),
    };
    for bar in told {
        let (time, price) = (
            bar["time"].as_i64().unwrap(),
            bar["close"].as_u64().unwrap(),
        );
        assert_ne!(bars.insert(time, price), Some(price), "twice: {message}");
    }
}

#[test]
fn the_past_joins_what_is_published_meanwhile() {
    let (server, bars) = filled();
    // What only ever formed is not stored.
    let closed = bars[20].closed();
    Feed::new(&server.bus().keeping(1_000)).keep(&[closed]);
    for round in 0..20 {
        let gateway = Running::start(config(), loading(&server));
        let first = BARS + 1 + round * 30;
        let live: Vec<_> = (first..first + 30)
            .map(|minute| candle("A", minute, 20).closed())
            .collect();
        let last = live[29];
        let mut feed = Feed::new(&server.bus().keeping(1_000));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for bar in live {
                    feed.keep(&[bar]);
                }
            });
            std::thread::sleep(Duration::from_millis(u64::try_from(round).unwrap() / 2));
            let mut bars = BTreeMap::new();
            let mut client = gateway.client();
            client.ask(&request(&format!(r#""since":{START}"#)));
            while !bars.contains_key(&last.time) {
                take(&mut bars, &client.json());
            }
            let minutes = (last.time - START) / MINUTE + 1;
            assert_eq!(bars.len() as i64, minutes, "round {round}");
        });
    }
}

#[test]
fn two_at_once_have_it_read_once() {
    let (server, bars) = filled();
    let gateway = Running::start(config(), loading(&server));
    server.command("CONFIG RESETSTAT");
    let mut clients = [gateway.client(), gateway.client(), gateway.client()];
    // Held, so that all of them wait.
    pause(&server, 500);
    for client in &mut clients {
        client.send(request(r#""snapshot":100"#));
    }
    for client in &mut clients {
        assert_eq!(client.json()["type"], "bars.subscribe.response");
        assert_eq!(client.text(), snapshot_of(&bars));
    }
    assert_eq!(calls(&server, "zrange"), 1);
}

#[test]
fn a_store_that_is_gone_or_silent_is_a_gap_within_the_bound() {
    let (mut server, bars) = filled();
    let gateway = Running::start(config(), loading(&server));
    let answered = |gateway: &Running| {
        let begin = Instant::now();
        let mut client = gateway.client();
        client.ask(&request(r#""snapshot":3"#));
        let gap = client.json();
        assert_eq!(gap["type"], "bars.gap", "{gap}");
        assert_eq!(gap["payload"]["from"], bars[18].time);
        assert_eq!(gap["payload"]["to"], bars[19].time);
        assert_eq!(client.text(), snapshot_of(&bars[20..]));
        begin.elapsed()
    };
    pause(&server, 7000);
    let waited = answered(&gateway);
    assert!(waited >= PAST_WAIT, "{waited:?}");
    assert!(waited < PAST_WAIT + Duration::from_secs(2), "{waited:?}");
    server.kill();
    let waited = answered(&gateway);
    assert!(waited < PAST_WAIT + Duration::from_secs(2), "{waited:?}");
    let answer = history(&gateway);
    assert_eq!(answer["t"].as_array().unwrap().len(), 1);
    let gap = &answer["gaps"][0];
    assert_eq!(gap["from"], START / 1_000, "{answer}");
    assert_eq!(gap["to"], bars[19].time / 1_000);
}

#[test]
fn requests_keep_their_order_and_others_do_not_wait() {
    let (server, bars) = filled();
    let gateway = Running::start(config(), loading(&server));
    let mut client = gateway.client();
    pause(&server, 1000);
    for id in 0..20 {
        client.send(
            r#"{"type":"bars.subscribe","id":ID,"payload":{"topics":["bars:A:1"],"snapshot":2}}"#
                .replace("ID", &id.to_string()),
        );
        client.send(format!(r#"{{"type":"ping","id":{id}}}"#));
    }
    let begin = Instant::now();
    let mut others: Vec<Client> = (0..8).map(|_| gateway.client()).collect();
    for other in &mut others {
        other.until_pong();
    }
    assert!(begin.elapsed() < Duration::from_millis(800));
    for id in 0..20 {
        let answer = client.json();
        assert_eq!(answer["type"], "bars.subscribe.response");
        assert_eq!(answer["id"], id);
        assert_eq!(client.text(), snapshot_of(&bars[19..]));
        let pong = client.json();
        assert_eq!((&pong["type"], &pong["id"]), (&"pong".into(), &id.into()));
    }
}

/// What was revised and what closed while the bus was away is in the store, and told when it is asked for.
#[test]
fn after_a_loss_the_past_is_read_anew() {
    let (server, mut bars) = filled();
    let gateway = Running::start(config(), loading(&server));
    let mut client = gateway.client();
    client.ask(&request(&format!(r#""since":{START}"#)));
    assert_eq!(client.text(), snapshot_of(&bars));
    server.command("CLIENT KILL TYPE pubsub");
    bars[7].price = 99;
    bars[20] = candle("A", BARS, 12).closed();
    bars.push(candle("A", BARS + 1, 13));
    let changed = [bars[7], bars[20], bars[21]];
    assert_eq!(Feed::new(&server.bus().keeping(1_000)).keep(&changed), None);
    eventually_blocking("told", || client.json()["type"] == "bars.gap");
    let mut other = gateway.client();
    other.send(request(r#""snapshot":100"#));
    let told = other.until_pong();
    assert_eq!(told.last().unwrap(), &snapshot_of(&bars));
    // Nothing is doubted before what came last: the store has proven it.
    let gaps = &told[1..told.len() - 1];
    let last = format!(r#""from":{}"#, bars[21].time);
    assert!(gaps.iter().all(|gap| gap.contains(&last)), "{gaps:?}");
    assert_eq!(calls(&server, "zrange"), 2);
}

#[test]
fn without_a_store_nothing_is_asked() {
    let (server, _) = filled();
    server.command("CONFIG RESETSTAT");
    let gateway = Running::start(config(), server.bus());
    let bar = candle("A", BARS + 1, 5);
    Feed::new(&server.bus()).bar(&bar);
    gateway.received(1);
    let mut client = gateway.client();
    client.ask(&request(r#""snapshot":100"#));
    assert_eq!(client.text(), snapshot_of(&[bar]));
    assert_eq!(calls(&server, "zrange"), 0);
}
