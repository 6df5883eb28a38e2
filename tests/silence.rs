//! Who is silent: a client that takes bytes all the time is not, however slowly; one that takes none is.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use barcast::gateway::Config;
use common::client::{CLOSE, Client, PONG, frame, parse};
use common::eventually_blocking;
use common::gateway::{Running, candle, config, in_process};

/// Bars of one answer, some 130 kB: it takes a narrow client several ping intervals.
const BARS: i64 = 1_000;
/// Bytes that it takes each tenth of a second.
const PART: usize = 4 << 10;
const ASK: &str = r#"{"type":"bars.subscribe","payload":{"symbol":"A","snapshot":1000}}"#;

fn pinging_each_second() -> Config {
    let mut config = config();
    config.limits.ping_interval = Duration::from_secs(1);
    config.limits.slow_grace = Duration::from_secs(600);
    config
}

fn with_bars() -> (Running, common::gateway::Feed<impl barcast::bus::Publisher>) {
    let (gateway, mut feed) = in_process(pinging_each_second());
    let bars = (0..BARS).map(|minute| candle("A", minute, 1).outgoing());
    feed.all(bars.collect());
    gateway.received(BARS.unsigned_abs());
    (gateway, feed)
}

fn closed_as_silent(gateway: &Running) -> u64 {
    gateway.node.metrics.closed(4408).get()
}

/// Its pong stands behind its bars: before they are through it says nothing.
#[test]
fn a_slow_client_that_takes_bytes_all_the_time_is_not_silent() {
    let (gateway, mut feed) = with_bars();
    let mut client = Client::connect_narrow(gateway.address);
    let begun = Instant::now();
    client.send(ASK);
    let (mut bytes, mut part) = (Vec::new(), [0; PART]);
    let is_all = |bytes: &[u8]| {
        let mut rest = bytes;
        while let Some((frame, len)) = parse(rest) {
            let text = String::from_utf8_lossy(&frame.payload);
            assert_ne!(frame.opcode, CLOSE, "{text}");
            if text.starts_with(r#"{"type":"bars.snapshot""#) {
                return true;
            }
            rest = &rest[len..];
        }
        false
    };
    while !is_all(&bytes) {
        let n = client.wire.stream.read(&mut part).unwrap();
        assert!(n > 0, "ended after {} bytes", bytes.len());
        bytes.extend_from_slice(&part[..n]);
        thread::sleep(Duration::from_millis(100));
    }
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(4),
        "all after {took:?}: nothing is proved"
    );
    // The pings behind it are answered all together.
    client.wire.widen();
    client.wire.send(frame(PONG, ""));
    // From now on it answers as others do, and lives.
    feed.bar(&candle("A", BARS, 1));
    client.wire.widen();
    let mut pings = 0;
    while pings < 4 {
        // What came last was cut off in the middle.
        let n = client.wire.stream.read(&mut part).unwrap();
        assert!(n > 0, "closed though it answers");
        client.wire.send(frame(PONG, ""));
        pings += 1;
    }
    assert_eq!(closed_as_silent(&gateway), 0);
}

/// As when packets vanish: what was sent is never taken.
#[test]
fn a_client_that_takes_nothing_is_silent() {
    let (gateway, _feed) = with_bars();
    let mut client = Client::connect_narrow(gateway.address);
    client.send(ASK);
    eventually_blocking("it is found", || closed_as_silent(&gateway) == 1);
    drop(client);
}

/// Its TCP takes all, and its program never says anything.
#[test]
fn a_client_whose_pings_have_left_and_are_not_answered_is_silent() {
    let (gateway, mut feed) = with_bars();
    let mut client = gateway.client();
    client.subscribe("bars:A:1");
    let mut minute = BARS;
    eventually_blocking("it is found", || {
        minute += 1;
        feed.bar(&candle("A", minute, 1));
        thread::sleep(Duration::from_millis(5));
        closed_as_silent(&gateway) == 1
    });
}
