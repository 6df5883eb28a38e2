//! `barcast tail` in a pipe: its lines are what was published, also over gateways that die, and it ends as it
//! should.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::client::metric;
use common::gateway::{Candle, Feed, MINUTE, START, candle};
use common::process::{Process, Serve, barcast, output};
use common::{RedisServer, eventually_blocking, free_port};
use serde_json::{Value, json};

/// A running tail and the lines it has written.
struct Tail {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Tail {
    fn start(address: SocketAddr, arguments: &[&str]) -> Self {
        let url = format!("ws://{address}/api/v1/ws");
        let mut child = barcast(&["tail", "--url", &url])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (from, to) = (child.stdout.take().unwrap(), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                to.lock().unwrap().push(line.unwrap());
            }
        });
        Self { child, lines }
    }

    /// Started and subscribed.
    fn on(address: SocketAddr, topic: &str, arguments: &[&str]) -> Self {
        let mut all = vec![topic];
        all.extend_from_slice(arguments);
        let tail = Self::start(address, &all);
        watched(address, topic);
        tail
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn values(&self) -> Vec<Value> {
        let lines = self.lines();
        let value = |line: &String| serde_json::from_str(line).expect(line);
        lines.iter().map(value).collect()
    }

    fn until(&self, lines: usize) {
        eventually_blocking("lines", || self.lines.lock().unwrap().len() >= lines);
    }

    fn exit_code(&mut self) -> Option<i32> {
        eventually_blocking("tail ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- lines of tail\n{}", self.lines().join("\n"));
        }
    }
}

fn watched(address: SocketAddr, topic: &str) {
    let name = format!("barcast_topic_subscribers{{topic=\"{topic}\"}}");
    // Before its first bar it is a name that somebody waits for.
    let waits = || metric(address, "barcast_placeholders") > 0;
    eventually_blocking("tail is subscribed", || {
        waits() || metric(address, &name) == 1
    });
}

/// The line of a bar as it is published.
fn line(bar: &Candle) -> String {
    let message = bar.message();
    format!(
        r#"{{"type":"bar","topic":"{}",{}"#,
        bar.topic(),
        &message[1..]
    )
}

fn gateway(redis: &RedisServer, arguments: &[&str]) -> Serve {
    let serve = Serve::start(&redis.url(), arguments);
    serve.until_ready();
    serve
}

#[test]
fn lines_are_what_was_published() {
    let redis = RedisServer::start();
    let serve = gateway(&redis, &[]);
    let tail = Tail::on(serve.address, "bars:A:1", &[]);
    let mut feed = Feed::new(&redis.bus());
    // A state that is published again is another message.
    let bars: Vec<_> = (1..=50)
        .map(|n| candle("A", i64::try_from(n / 5).unwrap(), n / 2).seq(7, n))
        .collect();
    for bar in &bars {
        feed.bar(bar);
    }
    tail.until(bars.len());
    let expected: Vec<_> = bars.iter().map(line).collect();
    assert_eq!(tail.lines(), expected);
}

#[test]
fn history_comes_first_and_a_count_ends_it() {
    let redis = RedisServer::start();
    let serve = gateway(&redis, &[]);
    let mut feed = Feed::new(&redis.bus());
    for minute in 0..5 {
        feed.bar(&candle("A", minute, 1).closed());
    }
    let received = || metric(serve.address, "barcast_received_bars_total") == 5;
    eventually_blocking("bars came", received);
    let arguments = ["A:1", "--history", "3", "--count", "4"];
    let mut tail = Tail::start(serve.address, &arguments);
    tail.until(3);
    feed.bar(&candle("A", 5, 2));
    assert_eq!(tail.exit_code(), Some(0));
    tail.until(4);
    let values = tail.values();
    let times: Vec<_> = values.iter().map(|value| &value["bar"]["time"]).collect();
    assert_eq!(
        times,
        [2, 3, 4, 5].map(|m| json!(START + m * MINUTE)).each_ref()
    );
    let history: Vec<_> = values
        .iter()
        .map(|value| value["history"] == true)
        .collect();
    assert_eq!(history, [true, true, true, false]);
}

/// `barcast serve` on a port that it can be started on again.
fn on_port(port: u16, redis: &RedisServer, arguments: &[&str]) -> Process {
    let listen = format!("127.0.0.1:{port}");
    let url = redis.url();
    let mut all = vec!["serve", "--listen", &listen, "--redis-url", &url];
    all.extend_from_slice(arguments);
    let process = Process::start(&all);
    eventually_blocking("the gateway is ready", || {
        let connected = std::net::TcpStream::connect(&listen).is_ok();
        connected && common::client::get(listen.parse().unwrap(), "/readyz").status == 200
    });
    process
}

#[test]
fn a_gateway_that_dies_costs_no_closed_bar_and_doubles_none() {
    let redis = RedisServer::start();
    let port = free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut feed = Feed::new(&redis.bus().keeping(1_000));
    let mut serve = on_port(port, &redis, &[]);
    let tail = Tail::on(address, "bars:A:1", &[]);
    let mut minute = 0;
    let mut closed = Vec::new();
    let mut step = |bars: usize| {
        for _ in 0..bars {
            feed.keep(&[candle("A", minute, 1)]);
            let bar = candle("A", minute, 2).closed();
            feed.keep(&[bar]);
            closed.push(bar.time);
            minute += 1;
        }
        // And one that goes on in the next round.
        feed.keep(&[candle("A", minute, 1)]);
        closed.clone()
    };
    let closed_lines = || -> Vec<i64> {
        let values = tail.values();
        let bars = values.iter().map(|value| &value["bar"]);
        let closed = bars.filter(|bar| bar["closed"] == true);
        closed.map(|bar| bar["time"].as_i64().unwrap()).collect()
    };
    let mut expected = step(3);
    for _ in 0..2 {
        eventually_blocking("all is told", || closed_lines().len() >= expected.len());
        serve.kill();
        step(3);
        serve = on_port(port, &redis, &[]);
        watched(address, "bars:A:1");
        expected = step(2);
    }
    eventually_blocking("all is told", || closed_lines().len() >= expected.len());
    assert_eq!(closed_lines(), expected);
    drop(serve);
}

#[test]
fn what_no_gateway_has_any_more_is_told_as_a_gap() {
    let redis = RedisServer::start();
    let port = free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut feed = Feed::new(&redis.bus());
    let mut serve = on_port(port, &redis, &["--store", "none"]);
    let tail = Tail::on(address, "bars:A:1", &[]);
    feed.bar(&candle("A", 0, 1));
    tail.until(1);
    serve.kill();
    let serve = on_port(port, &redis, &["--store", "none"]);
    watched(address, "bars:A:1");
    feed.bar(&candle("A", 9, 1));
    tail.until(3);
    // The new gateway says itself that it knows nothing until now.
    let told = &tail.values()[1];
    assert_eq!(
        (&told["type"], &told["from"]),
        (&json!("gap"), &json!(START))
    );
    assert_eq!(told["reason"], "upstream");
    assert!(told["to"].as_i64().unwrap() > START + 9 * MINUTE, "{told}");
    assert_eq!(tail.values()[2]["bar"]["time"], START + 9 * MINUTE);
    drop(serve);
}

#[test]
fn a_gap_from_upstream_is_told_once_and_repeats_no_bar() {
    let redis = RedisServer::start();
    let serve = gateway(&redis, &[]);
    let tail = Tail::on(serve.address, "bars:A:1", &[]);
    let mut feed = Feed::new(&redis.bus());
    let bars =
        [(0, 1), (1, 2), (4, 5), (5, 6)].map(|(minute, seq)| candle("A", minute, 1).seq(7, seq));
    for bar in &bars {
        feed.bar(bar);
    }
    tail.until(5);
    // Whatever the repair brought has come by then.
    feed.bar(&candle("A", 6, 1).seq(7, 7));
    tail.until(6);
    let values = tail.values();
    let types: Vec<_> = values
        .iter()
        .map(|value| value["type"].as_str().unwrap())
        .collect();
    assert_eq!(types, ["bar", "bar", "gap", "bar", "bar", "bar"]);
    assert_eq!(values[2]["reason"], "upstream");
}

#[test]
fn a_pattern_brings_topics_that_open_later() {
    let redis = RedisServer::start();
    let serve = gateway(&redis, &[]);
    let _other = Tail::on(serve.address, "bars:B:1", &[]);
    let tail = Tail::start(serve.address, &["bars:*:1"]);
    let clients = || {
        metric(
            serve.address,
            "barcast_topic_subscribers{topic=\"bars:B:1\"}",
        )
    };
    let mut feed = Feed::new(&redis.bus());
    feed.bar(&candle("B", 0, 1));
    eventually_blocking("both are subscribed", || clients() == 2);
    feed.bar(&candle("A", 0, 1));
    feed.bar(&candle("A", 0, 1).resolution("5"));
    feed.bar(&candle("A", 1, 1));
    tail.until(3);
    let topics: Vec<_> = tail.values().iter().map(|v| v["topic"].clone()).collect();
    assert_eq!(topics, ["bars:B:1", "bars:A:1", "bars:A:1"]);
}

#[test]
fn a_pipe_that_is_closed_ends_it_well_without_another_bar() {
    let redis = RedisServer::start();
    let serve = gateway(&redis, &[]);
    let mut feed = Feed::new(&redis.bus());
    feed.bar(&candle("A", 0, 1));
    let url = format!("ws://{}", serve.address);
    let mut child = barcast(&["tail", "A", "--url", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    drop(reader);
    eventually_blocking("tail ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut told = String::new();
    child.stderr.unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told, "");
}

#[test]
fn ctrl_c_is_an_end_as_asked() {
    let redis = RedisServer::start();
    let serve = gateway(&redis, &[]);
    let mut tail = Tail::on(serve.address, "bars:A:1", &[]);
    let id = tail.child.id().to_string();
    let status = Command::new("kill").args(["-INT", &id]).status();
    assert!(status.unwrap().success());
    assert_eq!(tail.exit_code(), Some(0));
}

fn refused(arguments: &[&str], code: i32) -> String {
    let output = output(arguments, &[]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    assert!(output.stdout.is_empty());
    let last = told.lines().last().unwrap();
    assert!(last.starts_with("error: "), "{told}");
    last.to_owned()
}

#[test]
fn bad_arguments_end_with_2() {
    for (arguments, part) in [
        (&["tail"][..], "TOPIC"),
        (&["tail", "A B"], "A-Z"),
        (&["tail", "AAPL:7"], "240"),
        (&["tail", "trades:AAPL:1"], "AAPL:1"),
        (&["tail", "A", "--max-rate", "0"], "BARCAST_TAIL_MAX_RATE"),
        (&["tail", "A", "--count", "0"], "BARCAST_TAIL_COUNT"),
        (&["tail", "A", "--url", "http://s3cr3t/"], "BARCAST_URL"),
    ] {
        let told = refused(arguments, 2);
        assert!(told.contains(part), "{part}: {told}");
        assert!(!told.contains("s3cr3t"), "{told}");
    }
}

#[test]
fn a_gateway_that_cannot_be_reached_or_refuses_ends_with_1() {
    let nobody = format!("ws://127.0.0.1:{}", free_port());
    let tail = ["tail", "A", "--connect-timeout", "0.3", "--url"];
    let told = refused(&[&tail[..], &[nobody.as_str()]].concat(), 1);
    assert!(told.contains("cannot be reached"), "{told}");

    let redis = RedisServer::start();
    let serve = gateway(&redis, &["--max-topics-per-client", "1"]);
    let address = serve.address;
    let elsewhere = format!("ws://{address}/elsewhere");
    let told = refused(&["tail", "A", "--url", &elsewhere], 1);
    assert!(told.contains("404"), "{told}");
    let url = format!("ws://{address}");
    let told = refused(&["tail", "A", "B", "--url", &url], 1);
    assert!(told.contains("2 topics or more"), "{told}");
}
