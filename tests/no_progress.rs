//! Clients that take nothing: each ends within its grace, whatever else it does, and one that takes
//! something stays. What all of them have waiting on a node is bounded.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use barcast::gateway::Config;
use barcast::metrics::GAPPED_SLOW;
use common::client::{CLOSE, Client, PING, TEXT, frame, metric, parse};
use common::eventually_blocking;
use common::gateway::{Candle, Running, candle, config, in_process};

/// Bars of one answer, some 130 kB.
const BARS: i64 = 1_000;
const ASK: &str = r#"{"type":"bars.subscribe","payload":{"symbol":"A","snapshot":1000}}"#;

fn slow_after(grace: Duration) -> Config {
    let mut config = config();
    config.limits.slow_grace = grace;
    config.limits.max_messages_per_second = 1_000_000;
    config
}

/// A gateway that has the bars for large answers.
fn with_bars(config: Config) -> (Running, common::gateway::Feed<impl barcast::bus::Publisher>) {
    let (gateway, mut feed) = in_process(config);
    let bars = (0..BARS).map(|minute| candle("A", minute, 1).outgoing());
    feed.all(bars.collect());
    gateway.received(BARS.unsigned_abs());
    (gateway, feed)
}

/// Memory that the gateway counts as waiting, as it last told.
fn waiting(gateway: &Running) -> usize {
    gateway.node.budget.waiting()
}

/// A client that reads nothing, with so many bytes of answers waiting for it at least.
fn laggard(gateway: &Running, bytes: usize) -> Client {
    let mut client = Client::connect_narrow(gateway.address);
    let before = waiting(gateway);
    for _ in 0..60 {
        client.send(ASK);
        thread::sleep(Duration::from_millis(20));
        if waiting(gateway) >= before + bytes {
            return client;
        }
    }
    panic!("the socket never became full");
}

/// Whether the bytes of a connection that ended have a close frame of this code.
fn has_close(bytes: &[u8], code: u16) -> bool {
    let mut rest = bytes;
    while let Some((frame, len)) = parse(rest) {
        if frame.opcode == CLOSE {
            return frame.payload[..2] == code.to_be_bytes();
        }
        rest = &rest[len..];
    }
    false
}

#[test]
fn a_client_that_half_closes_and_takes_nothing_is_let_go() {
    let (gateway, _feed) = with_bars(slow_after(Duration::from_secs(1)));
    let clients: Vec<_> = (0..3).map(|_| laggard(&gateway, 1 << 20)).collect();
    for client in &clients {
        client.wire.stream.shutdown(Shutdown::Write).unwrap();
    }
    // The ends here stay open, and their windows closed.
    eventually_blocking("all are let go", || gateway.node.clients() == 0);
    assert_eq!(metric(gateway.address, "barcast_clients"), 0);
    assert_eq!(gateway.node.metrics.closed(4503).get(), 3);
    eventually_blocking("nothing waits", || waiting(&gateway) == 0);
    drop(clients);
}

#[test]
fn a_drain_does_not_wait_for_half_closed_clients() {
    let mut config = slow_after(Duration::from_secs(600));
    config.drain_grace = Duration::from_secs(20);
    let (gateway, _feed) = with_bars(config);
    let client = laggard(&gateway, 1 << 20);
    client.wire.stream.shutdown(Shutdown::Write).unwrap();
    thread::sleep(Duration::from_millis(100));
    gateway.stop();
    assert_eq!(gateway.ended().cut, 0);
    drop(client);
}

#[test]
fn a_client_that_half_closes_and_reads_gets_all_that_waits() {
    let (gateway, _feed) = with_bars(slow_after(Duration::from_secs(600)));
    let mut client = laggard(&gateway, 1 << 20);
    client.wire.stream.shutdown(Shutdown::Write).unwrap();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(gateway.node.clients(), 1);
    client.wire.widen();
    let mut bytes = Vec::new();
    client.wire.stream.read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.as_slice();
    let mut snapshots = 0;
    while let Some((frame, len)) = parse(rest) {
        snapshots += usize::from(frame.payload.starts_with(br#"{"type":"bars.snapshot""#));
        rest = &rest[len..];
    }
    assert!(rest.is_empty() && snapshots > 8, "{snapshots} snapshots");
    eventually_blocking("it has left", || gateway.node.clients() == 0);
}

#[test]
fn a_client_that_pings_and_reads_nothing_is_closed_as_slow() {
    let (gateway, _feed) = with_bars(slow_after(Duration::from_secs(2)));
    // Beyond the outbox's bound and far below what closes at once.
    let mut client = laggard(&gateway, 300 << 10);
    let closed = gateway.node.metrics.closed(4503);
    let end = Instant::now() + common::DEADLINE;
    while closed.get() == 0 {
        assert!(Instant::now() < end, "it is never found");
        let _ = client.wire.stream.write_all(&frame(PING, "alive"));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_client_that_touched_its_bound_and_works_on_stays() {
    let mut config = slow_after(Duration::from_secs(2));
    // More than one gathering, so that it does not become empty.
    config.limits.outbox_bytes = 128 << 10;
    let (gateway, mut feed) = in_process(config);
    let mut client = Client::connect_narrow(gateway.address);
    client.subscribe("bars:A:1");
    let gapped = gateway.node.metrics.gapped(GAPPED_SLOW);
    let mut minute = 0;
    // Its outbox is never empty and often at its bound, and each time it takes some of it.
    let end = Instant::now() + Duration::from_secs(6);
    let mut bytes = vec![0; 8 << 10];
    while Instant::now() < end {
        let bars = (minute..minute + 500).map(|minute| candle("A", minute, 1).closed());
        feed.all(bars.map(|bar| Candle::outgoing(&bar)).collect());
        minute += 500;
        gateway.received(minute.unsigned_abs());
        if gapped.get() > 0 {
            assert!(client.wire.stream.read(&mut bytes).unwrap() > 0);
            thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(gapped.get() > 500, "it was at its bound");
    assert_eq!(gateway.node.metrics.closed(4503).get(), 0);
    assert_eq!(gateway.node.clients(), 1);
}

#[test]
fn the_largest_of_all_that_waits_is_shed_first() {
    const LIMIT: usize = 4 << 20;
    let mut config = slow_after(Duration::from_secs(600));
    config.limits.waiting_bytes = LIMIT;
    let (gateway, _feed) = with_bars(config);
    let shed = &gateway.node.metrics.shed;
    let mut small = laggard(&gateway, 100 << 10);
    // None of them is at a bound of its own.
    let mut large = Vec::new();
    while shed.get() < 3 {
        assert!(large.len() < 60, "{} bytes wait", waiting(&gateway));
        let mut client = Client::connect_narrow(gateway.address);
        for _ in 0..40 {
            let _ = client.wire.stream.write_all(&frame(TEXT, ASK));
            thread::sleep(Duration::from_millis(5));
        }
        large.push(client);
    }
    eventually_blocking("below the bound", || waiting(&gateway) <= LIMIT);
    let closed = gateway.node.metrics.closed(4503).get();
    assert_eq!(shed.get(), closed);
    assert_eq!(
        metric(gateway.address, "barcast_shed_clients_total"),
        shed.get()
    );
    // The one with little waiting has lost nothing.
    small.wire.widen();
    small.send(r#"{"type":"ping","id":"x"}"#);
    while small.text() != r#"{"type":"pong","id":"x"}"# {}
}

/// What the gateway reads of a client after it closed it is bounded, and the client learns why.
#[test]
fn a_flood_after_the_close_is_not_decoded_and_the_close_frame_arrives() {
    let mut config = config();
    config.workers = 1;
    let (gateway, _feed) = in_process(config);
    for _ in 0..5 {
        let mut client = gateway.client();
        let flood = frame(PING, [b'x'; 100]).repeat(10_000);
        client
            .wire
            .stream
            .set_write_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let begun = Instant::now();
        let mut reading = client.wire.stream.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = reading.read_to_end(&mut bytes);
            bytes
        });
        // Without an end: only a cut stops it.
        let mut sent = 0;
        while let Ok(written) = client.wire.stream.write(&flood) {
            sent += written;
            assert!(sent < 200 << 20, "{sent} bytes are still read");
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(has_close(&reader.join().unwrap(), 4429));
    }
    eventually_blocking("all are gone", || gateway.node.clients() == 0);
    assert_eq!(gateway.node.metrics.closed(4429).get(), 5);
}

/// One that is closed and goes on at leisure is cut within a second or so, and not only by the sweep.
#[test]
fn a_trickle_after_the_close_is_cut_too() {
    let (gateway, _feed) = in_process(config());
    let mut client = gateway.client();
    client.wire.send([0xff, 0xff]);
    let frame_of_close = client.wire.frame().unwrap();
    assert_eq!(frame_of_close.opcode, CLOSE);
    let begun = Instant::now();
    while gateway.node.clients() > 0 {
        let _ = client.wire.stream.write_all(b"x");
        thread::sleep(Duration::from_millis(20));
        assert!(begun.elapsed() < Duration::from_secs(4), "it is never cut");
    }
}
