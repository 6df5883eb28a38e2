//! How long connections that stay HTTP live, and that they never end under a request.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use barcast::gateway::Config;
use common::client::{Answer, Wire};
use common::gateway::{config, in_process};
use common::process::{Process, Serve};

const PROBE: &str = "GET /healthz HTTP/1.1\r\nHost: barcast.test\r\n\r\n";
/// Seconds against tens of them, and no timing.
const SOON: Duration = Duration::from_secs(8);

fn ask(wire: &mut Wire) -> Answer {
    wire.send(PROBE);
    let answer = wire.answer();
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer
}

/// The end that comes without an error: a reset would lose an answer.
fn ends_well(wire: &mut Wire) {
    let mut rest = Vec::new();
    wire.stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}

fn idle_for(seconds: u64) -> Config {
    let mut config = config();
    config.limits.http_idle_timeout = Duration::from_secs(seconds);
    config
}

#[test]
fn a_proxy_is_told_how_long_its_connection_lives() {
    let (gateway, _feed) = in_process(config());
    let mut wire = Wire::connect(gateway.address);
    let answer = ask(&mut wire);
    assert_eq!(answer.header("keep-alive"), Some("timeout=70"));
    assert_eq!(answer.header("connection"), Some("keep-alive"));
    for (version, connection, told) in [
        ("1.1", "close", None),
        ("1.1", "Close, TE", None),
        ("1.0", "TE", None),
        ("1.0", "keep-alive", Some("timeout=70")),
    ] {
        let mut wire = Wire::connect(gateway.address);
        let request = PROBE.replace(
            "1.1\r\n",
            &format!("{version}\r\nConnection: {connection}\r\n"),
        );
        wire.send(request);
        let answer = wire.answer();
        assert_eq!(answer.header("keep-alive"), told, "{}", answer.head);
        if told.is_none() {
            assert_ne!(answer.header("connection"), Some("keep-alive"));
            ends_well(&mut wire);
        } else {
            ask(&mut wire);
        }
    }
}

/// The handshake's time-out is that of first requests: an idle connection lives on.
#[test]
fn an_idle_connection_outlives_the_handshakes_timeout_and_ends_well() {
    let mut config = idle_for(3);
    config.limits.handshake_timeout = Duration::from_millis(500);
    let (gateway, _feed) = in_process(config);
    let mut wire = Wire::connect(gateway.address);
    for _ in 0..2 {
        let answer = ask(&mut wire);
        assert_eq!(answer.header("keep-alive"), Some("timeout=1"));
        thread::sleep(Duration::from_millis(1_500));
    }
    ask(&mut wire);
    let begun = Instant::now();
    ends_well(&mut wire);
    assert!(begun.elapsed() < SOON);
}

/// Old clients send an empty line behind a request (RFC 9112, section 2.2): it begins no other.
#[test]
fn empty_lines_between_requests_are_no_request() {
    let mut config = idle_for(3);
    config.limits.handshake_timeout = Duration::from_millis(300);
    let (gateway, _feed) = in_process(config);
    let mut wire = Wire::connect(gateway.address);
    for blank in ["\r\n", "\n", "\r\n\r\n"] {
        ask(&mut wire);
        wire.send(blank);
        thread::sleep(Duration::from_millis(900));
    }
    ask(&mut wire);
    wire.send("\r\n");
    let begun = Instant::now();
    ends_well(&mut wire);
    assert!(begun.elapsed() < SOON);
}

#[test]
fn a_later_request_may_not_come_for_ever() {
    let mut config = idle_for(600);
    config.limits.handshake_timeout = Duration::from_secs(1);
    let (gateway, _feed) = in_process(config);
    let mut wire = Wire::connect(gateway.address);
    ask(&mut wire);
    wire.send("GET /healthz HTTP/1.1\r\nHost: ");
    let begun = Instant::now();
    match wire.stream.read(&mut [0]) {
        Ok(0) => {}
        Err(why) if why.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
    assert!(begun.elapsed() < SOON);
}

/// The end of its life is said in an answer, however busy it is.
#[test]
fn an_old_connection_ends_behind_an_answer_that_says_so() {
    let (gateway, _feed) = in_process(Config {
        http_lifetime: Duration::from_millis(300),
        ..config()
    });
    let mut wire = Wire::connect(gateway.address);
    let begun = Instant::now();
    while ask(&mut wire).header("connection") != Some("close") {
        assert!(begun.elapsed() < SOON, "it is told that it ends");
    }
    ends_well(&mut wire);
}

#[test]
fn a_gateway_that_drains_lets_its_connections_go() {
    let gateway = Serve::start("redis://127.0.0.1:1", &["--drain-grace", "20"]);
    let mut wire = Wire::connect(gateway.address);
    ask(&mut wire);
    let client = common::client::Client::connect(gateway.address);
    gateway.process.terminate();
    let begun = Instant::now();
    while ask(&mut wire).header("connection") != Some("close") {
        assert!(begun.elapsed() < SOON, "it is told that it ends");
    }
    ends_well(&mut wire);
    drop(client);
}

/// Whatever moment it chooses, a request is answered or finds a connection that ended well: no reset, which a
/// proxy would have to show as 502.
#[test]
fn a_request_at_the_end_of_an_idle_life_is_answered_or_finds_a_clean_end() {
    let (gateway, _feed) = in_process(idle_for(1));
    let asked = |wait: Duration| {
        let mut wire = Wire::connect(gateway.address);
        ask(&mut wire);
        thread::sleep(wait);
        wire.stream.write_all(PROBE.as_bytes()).unwrap();
        let mut bytes = [0; 4_096];
        match wire.stream.read(&mut bytes).unwrap() {
            0 => false,
            read => {
                assert!(bytes[..read].starts_with(b"HTTP/1.1 200"));
                true
            }
        }
    };
    let answered: Vec<_> = thread::scope(|scope| {
        let asked = &asked;
        let threads = (0..120_u64).map(|n| {
            let wait = Duration::from_millis(900) + Duration::from_micros(2_000 * n);
            scope.spawn(move || asked(wait))
        });
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .map(|asks| asks.join().unwrap())
            .collect()
    });
    assert!(
        answered.contains(&true) && answered.contains(&false),
        "{answered:?}"
    );
}

fn health(process: &Process) -> Option<SocketAddr> {
    let log = process.log();
    let (_, after) = log.split_once("health and metrics address=")?;
    after.split_whitespace().next()?.parse().ok()
}

#[test]
fn the_other_commands_tell_it_too() {
    let process = Process::start(&["generate", "--health-listen", "127.0.0.1:0"]);
    common::eventually_blocking("it listens", || health(&process).is_some());
    let mut wire = Wire::connect(health(&process).unwrap());
    for _ in 0..2 {
        let answer = ask(&mut wire);
        assert_eq!(answer.header("keep-alive"), Some("timeout=70"));
    }
}

/// What load balancers ask that were told little, without a `Host` and with HTTP/1.0.
#[test]
fn plain_probes_are_answered() {
    let (gateway, _feed) = in_process(config());
    for request in [
        "OPTIONS / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /readyz HTTP/1.0\r\n\r\n",
        "HEAD /readyz HTTP/1.0\r\n\r\n",
        "GET /healthz HTTP/1.0\r\n\r\n",
        "GET /metrics HTTP/1.0\r\n\r\n",
    ] {
        let mut wire = Wire::connect(gateway.address);
        wire.send(request);
        assert_eq!(wire.head().status, 200, "{request}");
    }
    let unready = Serve::start("redis://127.0.0.1:1", &[]);
    let mut wire = Wire::connect(unready.address);
    wire.send("OPTIONS / HTTP/1.0\r\n\r\n");
    let answer = wire.answer();
    assert_eq!(answer.status, 503, "no new clients");
    assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
}
