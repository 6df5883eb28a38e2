//! HTTP beside the WebSockets: served by a thread of its own, whatever else goes on, and within bounds.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use barcast::bus::Publisher;
use barcast::gateway::Config;
use barcast::gateway::http::places::MAX_HTTP_CONNECTIONS;
use common::client::{Client, Wire, get, handshake, metric};
use common::gateway::{Feed, Running, START, candle, config, in_process};
use common::process::Serve;
use common::{RedisServer, eventually_blocking};
use socket2::{Domain, Socket, Type};

const TOPICS: usize = 20_000;
/// What grows with the topics.
const HEAVY: [&str; 2] = ["/api/v1/topics", "/udf/search?query=s9&limit=30"];
/// A probe's patience here: seconds against milliseconds, and no timing.
const PROBE: Duration = Duration::from_millis(500);

fn allow_files(connections: usize) {
    let wanted = 2 * connections as u64 + 500;
    let files = rlimit::increase_nofile_limit(20_000).unwrap();
    assert!(files >= wanted, "{files} open files are too few");
}

/// Batches of one bar for each of many topics.
fn fill(feed: &mut Feed<impl Publisher>, topics: usize) {
    let numbers: Vec<_> = (0..topics).collect();
    for part in numbers.chunks(1_000) {
        let bars = part.iter().map(|n| {
            format!(
                r#"{{"symbol":"S{n}","resolution":"1","bar":{{"time":{START},"open":1,"high":1,"low":1,"close":1,"volume":1}}}}"#
            )
        });
        let bars: Vec<_> = bars.collect();
        feed.raw("bars:@batch", format!("[{}]", bars.join(",")));
    }
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: barcast.test\r\n\r\n")
}

/// A connection from another address of this machine.
fn from_elsewhere(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let other: SocketAddr = "127.0.0.2:0".parse().unwrap();
    socket.bind(&other.into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(common::DEADLINE)).unwrap();
    stream
}

/// The first bytes of what that answers.
fn elsewhere(address: SocketAddr, request: &str) -> String {
    let mut stream = from_elsewhere(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    String::from_utf8_lossy(&start).into_owned()
}

fn impatient() -> Config {
    let mut config = config();
    config.limits.handshake_timeout = Duration::from_secs(1);
    config
}

#[test]
fn probes_answer_at_once_while_others_pipeline_and_do_not_read() {
    const PIPELINES: usize = 50;
    let (gateway, mut feed) = in_process(config());
    fill(&mut feed, TOPICS);
    gateway.received(TOPICS as u64);
    let address = gateway.address;
    let done = AtomicBool::new(false);
    let worst = thread::scope(|scope| {
        let mut unread = Vec::new();
        for n in 0..PIPELINES {
            let mut wire = Wire::connect(address);
            wire.send(request(HEAVY[n % 2]).repeat(50));
            if n % 4 < 2 {
                unread.push(wire);
                continue;
            }
            let done = &done;
            scope.spawn(move || {
                let patience = Some(Duration::from_millis(100));
                wire.stream.set_read_timeout(patience).unwrap();
                let mut bytes = [0; 64 << 10];
                while !done.load(Ordering::Relaxed) {
                    let _ = wire.stream.read(&mut bytes);
                }
            });
        }
        let mut worst = Duration::ZERO;
        for _ in 0..50 {
            let asked = Instant::now();
            assert_eq!(get(address, "/healthz").status, 200);
            assert_eq!(get(address, "/readyz").status, 200);
            worst = worst.max(asked.elapsed() / 2);
            thread::sleep(Duration::from_millis(20));
        }
        done.store(true, Ordering::Relaxed);
        worst
    });
    assert!(worst < PROBE, "a probe waited {worst:?}");
}

#[test]
fn a_websocket_may_follow_other_requests_on_its_connection() {
    let (gateway, mut feed) = in_process(config());
    for n in 0..8 {
        let mut wire = Wire::connect(gateway.address);
        for path in ["/healthz", "/api/v1/topics", "/nothing"] {
            wire.send(request(path));
            wire.answer();
        }
        // What comes right behind the handshake is not lost on the way.
        let mut bytes = handshake().into_bytes();
        let subscribe = r#"{"type":"bars.subscribe","payload":{"symbol":"AAPL"}}"#;
        bytes.extend(common::client::frame(common::client::TEXT, subscribe));
        wire.send(bytes);
        assert_eq!(wire.head().status, 101);
        let mut client = Client { wire };
        assert!(client.text().contains("Subscribed"));
        if n > 0 {
            client.text();
        }
        let bar = candle("AAPL", n, 1).closed();
        feed.bar(&bar);
        assert_eq!(client.text(), bar.update());
    }
    eventually_blocking("all have left", || gateway.node.clients() == 0);
}

#[test]
fn handshakes_are_recognised_in_every_form() {
    let (gateway, _feed) = in_process(config());
    for (from, to) in [
        ("GET /ws", "GET http://barcast.test/ws"),
        ("GET /ws", "GET http://barcast.test/api/v1/ws?a=b"),
        ("GET /ws", "\r\nGET /ws"),
        ("Host: barcast.test", "hOST: barcast.test"),
    ] {
        let mut wire = Wire::connect(gateway.address);
        wire.send(handshake().replacen(from, to, 1));
        assert_eq!(wire.head().status, 101, "{to:?}");
        let mut client = Client { wire };
        assert_eq!(client.ask(r#"{"type":"ping"}"#), r#"{"type":"pong"}"#);
    }
}

/// On a worker nothing else is served.
#[test]
fn a_refused_handshake_ends_its_connection() {
    let (gateway, _feed) = in_process(config());
    let mut wire = Wire::connect(gateway.address);
    wire.send(request("/ws"));
    let answer = wire.answer();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (426, Some("close"))
    );
    wire.expect_end();
}

fn byte_by_byte(gateway: &Running, bytes: &str) -> Wire {
    let mut wire = Wire::connect(gateway.address);
    for byte in bytes.bytes() {
        wire.send([byte]);
        thread::sleep(Duration::from_millis(1));
    }
    wire
}

#[test]
fn a_request_may_come_slowly_and_not_for_ever() {
    let (gateway, _feed) = in_process(config());
    assert_eq!(
        byte_by_byte(&gateway, &request("/healthz")).answer().status,
        200
    );
    assert_eq!(byte_by_byte(&gateway, &handshake()).head().status, 101);

    let (gateway, _feed) = in_process(impatient());
    for start in [
        "",
        "G",
        "GET /ws",
        "GET /ws HTTP/1.1\r\nA: ",
        "GET /healthz",
    ] {
        let mut wire = Wire::connect(gateway.address);
        wire.send(start);
        let begun = Instant::now();
        let mut feeder = wire.stream.try_clone().unwrap();
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let ended = &ended;
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) && !start.is_empty() {
                    let _ = feeder.write_all(b"x");
                    thread::sleep(Duration::from_millis(50));
                }
            });
            wire.expect_end();
            ended.store(true, Ordering::Relaxed);
        });
        let lasted = begun.elapsed();
        assert!(lasted < Duration::from_secs(5), "{start:?}: {lasted:?}");
    }
}

#[test]
fn threads_are_named() {
    let gateway = Serve::start("redis://127.0.0.1:1", &["--workers", "2"]);
    assert_eq!(get(gateway.address, "/healthz").status, 200);
    let folder = format!("/proc/{}/task", gateway.process.id());
    let names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap())
        .collect();
    for name in [
        "worker-0\n",
        "worker-1\n",
        "ingest\n",
        "http\n",
        "http-bodies\n",
    ] {
        assert!(names.iter().any(|n| n == name), "{name:?} of {names:?}");
    }
}

#[test]
fn an_address_that_holds_all_places_keeps_no_other_out() {
    allow_files(MAX_HTTP_CONNECTIONS);
    let mut config = config();
    config.workers = 1;
    config.limits.handshake_timeout = Duration::from_secs(600);
    let (gateway, _feed) = in_process(config);
    let mut held: Vec<_> = (0..MAX_HTTP_CONNECTIONS)
        .map(|_| {
            let mut wire = Wire::connect(gateway.address);
            wire.send(request("/healthz"));
            wire
        })
        .collect();
    for wire in &mut held {
        assert_eq!(wire.answer().status, 200);
    }
    for _ in 0..10 {
        let ok = "HTTP/1.1 200";
        assert_eq!(elsewhere(gateway.address, &request("/healthz")), ok);
        let switching = "HTTP/1.1 101";
        assert_eq!(elsewhere(gateway.address, &handshake()), switching);
    }
}

#[test]
fn the_builder_is_shared_by_turns_and_refuses_beyond_its_bound() {
    const ASKED: usize = 2_000;
    allow_files(ASKED);
    let (gateway, mut feed) = in_process(config());
    fill(&mut feed, TOPICS);
    gateway.received(TOPICS as u64);
    let mut wires: Vec<_> = (0..ASKED).map(|_| Wire::connect(gateway.address)).collect();
    for (n, wire) in wires.iter_mut().enumerate() {
        wire.send(request(&format!("/udf/search?query=s{n}&limit=30")));
    }
    // A thousand are before it, of another address.
    let done = gateway.node.metrics.udf_request("search", "ok");
    let before = done.get();
    let answer = elsewhere(gateway.address, &request("/udf/search?query=s9"));
    assert_eq!(answer, "HTTP/1.1 200");
    let between = done.get() - before;
    assert!(between < 500, "{between} of another address went before");
    let busy = wires.iter_mut().rev().take(ASKED / 4).find_map(|wire| {
        let answer = wire.answer();
        (answer.status == 503).then_some(answer)
    });
    let busy = busy.expect("some are refused");
    assert_eq!(busy.header("retry-after"), Some("1"));
}

const MIB: u64 = 1 << 20;

fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib << 10
}

/// Each asks for another body, of 900 kB, and reads none of it.
#[test]
fn bodies_that_nobody_reads_are_shed_beyond_the_bound() {
    const STRANGERS: usize = 400;
    allow_files(STRANGERS);
    let redis = RedisServer::start();
    let bound = (32 * MIB).to_string();
    let gateway = Serve::start(
        &redis.url(),
        &[
            "--waiting-bytes",
            &bound,
            "--slow-grace",
            "600",
            "--store",
            "none",
        ],
    );
    gateway.until_ready();
    fill(&mut Feed::new(&redis.bus()), TOPICS);
    eventually_blocking("received", || {
        metric(gateway.address, "barcast_received_bars_total") == TOPICS as u64
    });
    get(gateway.address, "/api/v1/topics");
    let process = gateway.process.id();
    let before = resident(process);
    let strangers: Vec<_> = (0..STRANGERS)
        .map(|n| {
            let mut wire = Wire::connect_narrow(gateway.address);
            wire.send(request(&format!("/api/v1/topics?limit={}", 5_000 - n)));
            wire
        })
        .collect();
    let shed = || metric(gateway.address, "barcast_shed_clients_total");
    let mut most = 0;
    // Some 35 have room.
    eventually_blocking("most of them are shed", || {
        most = most.max(resident(process));
        shed() >= STRANGERS as u64 * 3 / 4
    });
    let grown = most.saturating_sub(before);
    assert!(grown < 112 * MIB, "{} MiB", grown / MIB);
    assert_eq!(get(gateway.address, "/healthz").status, 200);
    drop(strangers);
}
