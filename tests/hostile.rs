//! Clients that mean harm: they cost a bounded amount, others do not feel them, and when they are gone
//! so is all that was kept for them. Storms of subscriptions are in `hostile_subscriptions.rs`, a limit's own
//! tests in `limits.rs`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use barcast::gateway::http::places::MAX_HTTP_CONNECTIONS;
use barcast::gateway::worker::REFUSED_HTTP;
use common::client::{
    BINARY, CLOSE, CONTINUATION, Client, PING, PONG, TEXT, Wire, frame, frame_with, get, handshake,
    metric,
};
use common::eventually_blocking;
use common::gateway::{candle, config, in_process};
use common::harm::{ESTABLISHED, any_rate, drain, given_back, push, unharmed};

/// Both ends of every connection are in this process.
fn allow_files(connections: usize) {
    let wanted = 2 * connections as u64 + 500;
    let files = rlimit::increase_nofile_limit(20_000).unwrap();
    assert!(
        files >= wanted,
        "{files} open files are too few for this test"
    );
}

#[test]
fn half_open_handshakes_are_ended_and_nobody_feels_them() {
    const HALF_OPEN: usize = 1_000;
    allow_files(HALF_OPEN);
    let mut config = config();
    config.limits.handshake_timeout = Duration::from_secs(1);
    let (gateway, mut feed) = in_process(config);
    unharmed(&gateway, &mut feed, |address| {
        let head = handshake();
        let parts = [0, 20, head.len() - 1];
        let mut wires: Vec<_> = (0..HALF_OPEN)
            .map(|n| {
                let mut wire = Wire::connect(address);
                wire.send(&head[..parts[n % parts.len()]]);
                wire
            })
            .collect();
        for wire in &mut wires {
            assert!(!drain(&mut wire.stream).starts_with(b"HTTP/1.1 101"));
        }
    });
    assert_eq!(
        metric(gateway.address, "barcast_accepted_clients_total"),
        ESTABLISHED as u64
    );
    given_back(&gateway, 1);
}

#[test]
fn senders_of_a_byte_at_a_time_are_served_and_nobody_feels_them() {
    const SENDERS: usize = 20;
    let mut config = config();
    // So that an answer to one client tells that the others' bytes were looked at.
    config.workers = 1;
    config.limits.handshake_timeout = Duration::from_secs(600);
    let (gateway, mut feed) = in_process(config);
    let request = r#"{"type":"bars.subscribe","payload":{"topics":["bars:SLOW:1"]}}"#;
    let bytes = [
        handshake().into_bytes(),
        frame(TEXT, request),
        frame(PING, "end"),
    ]
    .concat();
    let mut slow = unharmed(&gateway, &mut feed, |address| {
        let mut wires: Vec<_> = (0..SENDERS).map(|_| Wire::connect(address)).collect();
        // Without it the gateway would find many bytes at once.
        let mut fence = Client::connect(address);
        for byte in &bytes {
            for wire in &mut wires {
                wire.send([*byte]);
            }
            fence.until_pong();
        }
        for wire in &mut wires {
            assert_eq!(wire.head().status, 101);
            let answer = wire.frame().unwrap();
            assert!(
                answer.opcode == TEXT
                    && String::from_utf8_lossy(&answer.payload).contains("bars:SLOW:1")
            );
            let pong = wire.frame().unwrap();
            assert_eq!((pong.opcode, &*pong.payload), (PONG, &b"end"[..]));
        }
        wires
    });
    let bar = candle("SLOW", 0, 1);
    feed.bar(&bar);
    for wire in &mut slow {
        assert_eq!(wire.frame().unwrap().payload, bar.update().as_bytes());
    }
    drop(slow);
    given_back(&gateway, 2);
}

#[test]
fn ping_floods_are_closed_as_too_fast() {
    const FLOODS: usize = 10;
    let (gateway, mut feed) = in_process(config());
    unharmed(&gateway, &mut feed, |address| {
        let flood = frame(PING, "flood").repeat(3_000);
        for _ in 0..FLOODS {
            let mut client = Client::connect(address);
            push(&mut client.wire.stream, &flood);
            // What came before it is answered, unless a reset overtakes it.
            drain(&mut client.wire.stream);
        }
    });
    assert_eq!(gateway.node.metrics.closed(4429).get(), FLOODS as u64);
    given_back(&gateway, 1);
}

/// A message that never ends, in fragments without a byte: it holds no memory, but it is work.
#[test]
fn fragment_floods_are_closed_as_too_fast() {
    const FLOODS: usize = 4;
    let (gateway, mut feed) = in_process(config());
    unharmed(&gateway, &mut feed, |address| {
        let flood = frame_with(CONTINUATION, b"").repeat(5_000);
        for _ in 0..FLOODS {
            let mut client = Client::connect(address);
            push(&mut client.wire.stream, &frame_with(TEXT, b""));
            push(&mut client.wire.stream, &flood);
            drain(&mut client.wire.stream);
        }
    });
    assert_eq!(gateway.node.metrics.closed(4429).get(), FLOODS as u64);
    given_back(&gateway, 1);
}

#[test]
fn pings_are_answered_in_order_where_no_rate_forbids_them() {
    const PINGS: u32 = 10_000;
    let (gateway, mut feed) = in_process(any_rate());
    unharmed(&gateway, &mut feed, |address| {
        let mut client = Client::connect(address);
        let pings: Vec<u8> = (0..PINGS)
            .flat_map(|n| frame(PING, n.to_be_bytes()))
            .collect();
        let mut sender = client.wire.stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || sender.write_all(&pings).unwrap());
            for n in 0..PINGS {
                let pong = client.wire.frame().unwrap();
                assert_eq!((pong.opcode, &*pong.payload), (PONG, &n.to_be_bytes()[..]));
            }
        });
    });
    given_back(&gateway, 1);
}

#[test]
fn garbage_after_the_handshake_ends_the_connection() {
    let (gateway, mut feed) = in_process(config());
    unharmed(&gateway, &mut feed, |address| {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let garbage: Vec<u8> = (0..random.usize(1..3_000)).map(|_| random.u8(..)).collect();
            let mut client = Client::connect(address);
            push(&mut client.wire.stream, &garbage);
            let _ = client.wire.stream.shutdown(Shutdown::Write);
            drain(&mut client.wire.stream);
            // And in place of it.
            let mut wire = Wire::connect(address);
            push(&mut wire.stream, &garbage);
            let _ = wire.stream.shutdown(Shutdown::Write);
            assert!(!drain(&mut wire.stream).starts_with(b"HTTP/1.1 2"));
        }
    });
    given_back(&gateway, 1);
}

/// A frame's head that declares `length` bytes, and nothing behind it.
fn declaring(first: u8, length: u64) -> Vec<u8> {
    let mut head = vec![first, 0xff];
    head.extend_from_slice(&length.to_be_bytes());
    head
}

#[test]
fn lengths_are_judged_when_they_are_declared() {
    const FIN: u8 = 0x80;
    let (gateway, mut feed) = in_process(config());
    let most = config().limits.max_message_bytes;
    let half = vec![b'x'; most / 2 + 1];
    let cases = [
        (declaring(FIN | TEXT, 1 << 62), 1009),
        (declaring(FIN | TEXT, u64::MAX), 1002),
        (declaring(FIN | BINARY, 1 << 32), 1009),
        (declaring(TEXT, 1 << 40), 1009),
        (declaring(FIN | PING, 1 << 20), 1002),
        (declaring(FIN | CLOSE, 126), 1002),
        (
            [frame_with(TEXT, b"x"), declaring(CONTINUATION, 1 << 62)].concat(),
            1009,
        ),
        (
            [frame_with(TEXT, &half), frame_with(FIN, &half)].concat(),
            1009,
        ),
        (frame_with(FIN | CONTINUATION, b"x"), 1002),
    ];
    unharmed(&gateway, &mut feed, |address| {
        for (bytes, code) in &cases {
            let mut client = Client::connect(address);
            client.wire.send(bytes);
            assert_eq!(client.expect_close().0, *code, "{:x?}", &bytes[..10]);
        }
    });
    given_back(&gateway, 1);
}

/// Whoever takes all places for connections without a session keeps nobody out: neither clients nor probes.
#[test]
fn idle_connections_give_way_to_clients_and_probes() {
    const BEYOND: usize = 16;
    allow_files(MAX_HTTP_CONNECTIONS + BEYOND);
    let mut config = config();
    config.workers = 1;
    config.limits.handshake_timeout = Duration::from_secs(600);
    let (gateway, mut feed) = in_process(config);
    let refused = gateway.node.metrics.refused(REFUSED_HTTP);
    let silent = unharmed(&gateway, &mut feed, |address| {
        let silent: Vec<_> = (0..MAX_HTTP_CONNECTIONS + BEYOND)
            .map(|_| Wire::connect(address))
            .collect();
        eventually_blocking("as many as there are places beyond", || {
            refused.get() == BEYOND as u64
        });
        for _ in 0..BEYOND {
            let mut client = Client::connect(address);
            assert!(client.until_pong().is_empty());
            assert_eq!(get(address, "/healthz").status, 200);
        }
        silent
    });
    drop(silent);
    given_back(&gateway, 1);
}
