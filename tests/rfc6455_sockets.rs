//! The rules of RFC 6455 over real sockets: closing, pings, and what a breach costs. Which section is
//! tested where stands in `rfc6455.rs`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::time::Duration;

use barcast::gateway::Config;
use common::client::{
    BINARY, CLOSE, CONTINUATION, Client, PING, PONG, TEXT, close, frame, frame_with, metric,
};
use common::gateway::{Running, candle, config, in_process};

/// Longest message, in bytes.
const MAX: usize = 4 << 10;
const FIN: u8 = 0x80;

/// Each breach on its own connection while another client is served; tells what each was closed with.
#[test]
fn a_breach_is_closed_with_its_code_and_others_notice_nothing() {
    let (gateway, mut feed) = in_process(config());
    let mut other = gateway.client();
    other.subscribe("bars:AAPL:1");
    let big = "x".repeat(MAX + 1);
    let half = vec![b'x'; MAX / 2 + 1];
    let breaches: [(Vec<u8>, u16); 14] = [
        (vec![0x81, 0x02, b'{', b'}'], 1002),
        (frame_with(FIN | TEXT | 0x40, b"{}"), 1002),
        (frame(0x3, ""), 1002),
        (frame(0xb, ""), 1002),
        (frame(PING, [0; 126]), 1002),
        (frame_with(PING, b""), 1002),
        (frame(CONTINUATION, "x"), 1002),
        (frame(CLOSE, "x"), 1002),
        (close(1005, ""), 1002),
        (frame(BINARY, "{}"), 1003),
        (frame(TEXT, b"\xff"), 1007),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, &big), 1009),
        (
            [frame_with(TEXT, &half), frame_with(FIN, &half)].concat(),
            1009,
        ),
    ];
    for (at, (bytes, code)) in (0_u64..).zip(&breaches) {
        let counter = format!(r#"barcast_closed_clients_total{{code="{code}"}}"#);
        let before = metric(gateway.address, &counter);
        let mut client = gateway.client();
        client.subscribe("bars:AAPL:1");
        client.wire.send(bytes);
        let (found, reason) = client.expect_close();
        assert_eq!(
            found,
            *code,
            "{:x?}: {reason}",
            &bytes[..4.min(bytes.len())]
        );
        assert!(!reason.is_empty());
        assert_eq!(metric(gateway.address, &counter), before + 1);
        let bar = candle("AAPL", 0, at);
        feed.bar(&bar);
        assert_eq!(other.text(), bar.update());
    }
    let last = candle("AAPL", 1, 99);
    feed.bar(&last);
    assert_eq!(other.text(), last.update());
}

#[test]
fn bytes_that_are_no_frames_at_all_are_closed() {
    let (gateway, _feed) = in_process(config());
    for garbage in [
        "GET / HTTP/1.1\r\n\r\n".as_bytes(),
        &[0xff; 64],
        b"\n",
        &[0x16, 3, 1],
    ] {
        let mut client = gateway.client();
        client.wire.send(garbage);
        assert_eq!(client.expect_close().0, 1002, "{garbage:x?}");
    }
}

#[test]
fn fragments_and_control_frames_between_them_are_understood() {
    let (gateway, _feed) = in_process(config());
    let mut client = gateway.client();
    let mut bytes = frame_with(TEXT, br#"{"type":"#);
    bytes.extend(frame(PING, "between"));
    client.wire.send(&bytes);
    let pong = client.wire.frame().unwrap();
    assert_eq!((pong.opcode, pong.payload), (PONG, b"between".to_vec()));
    client.wire.send(frame_with(CONTINUATION, b"\"pi"));
    for byte in frame_with(FIN | CONTINUATION, b"ng\"}") {
        client.wire.send([byte]);
    }
    assert_eq!(client.text(), r#"{"type":"pong"}"#);
}

/// Section 5.5.1: a close is answered with one that typically echoes its code.
#[test]
fn a_clients_close_is_answered_with_its_code() {
    let (gateway, _feed) = in_process(config());
    for code in [1000, 1001, 3000, 4999] {
        let mut client = gateway.client();
        client
            .wire
            .send([close(code, "bye"), frame(TEXT, "late")].concat());
        let answer = client.wire.frame().unwrap();
        assert_eq!(answer.opcode, CLOSE);
        assert_eq!(answer.payload[..2], code.to_be_bytes());
        assert_eq!(client.wire.frame(), None);
    }
    let mut client = gateway.client();
    client.wire.send(frame(CLOSE, ""));
    assert_eq!(client.wire.frame().unwrap().opcode, CLOSE);
    assert_eq!(client.wire.frame(), None);
    common::eventually_blocking("all have left", || gateway.node.clients() == 0);
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    let (gateway, mut feed) = in_process(config());
    for _ in 0..8 {
        let mut client = gateway.client();
        client.subscribe("bars:AAPL:1");
    }
    feed.bar(&candle("AAPL", 0, 1));
    // Until then the topic may be gone with its watchers.
    gateway.received(1);
    common::eventually_blocking("all have left", || gateway.node.clients() == 0);
    let registry = &gateway.node.registry;
    assert!(!registry.is_watched(&registry.all()[0]));
}

fn impatient() -> Config {
    let mut config = config();
    config.limits.ping_interval = Duration::from_secs(1);
    config
}

/// Section 5.5.2: pings, and what a client gets that does not answer them.
#[test]
fn silence_is_pinged_and_then_closed() {
    let (gateway, _feed) = in_process(impatient());
    let mut silent = gateway.client();
    let mut answering = gateway.client();
    let ping = silent.wire.any_frame().unwrap();
    assert_eq!(ping.opcode, PING);
    let answers = std::thread::spawn(move || {
        // Stays as long as the other does: it answers pings.
        let mut pings = 0;
        while pings < 5 {
            let ping = answering.wire.any_frame().expect("it answered every ping");
            assert_eq!(ping.opcode, PING);
            answering.wire.send(frame(PONG, ping.payload));
            pings += 1;
        }
        answering
    });
    let (code, _) = silent.expect_close();
    assert_eq!(code, 4408);
    let mut answering: Client = answers.join().unwrap();
    answering.until_pong();
}

#[test]
fn too_many_messages_are_closed() {
    let mut config = config();
    config.limits.max_messages_per_second = 1;
    let gateway = Running::start(config, barcast::bus::MemoryBus::default());
    // Ten seconds' worth may come at once; frames of control count.
    let mut within = gateway.client();
    within.wire.send(frame(PING, "").repeat(10));
    for _ in 0..10 {
        assert_eq!(within.wire.frame().unwrap().opcode, PONG);
    }
    let mut beyond = gateway.client();
    beyond.wire.send(frame(PING, "").repeat(60));
    assert_eq!(beyond.expect_close().0, 4429);
    let counter = r#"barcast_closed_clients_total{code="4429"}"#;
    assert_eq!(metric(gateway.address, counter), 1);
    assert_eq!(gateway.node.metrics.closed(4429).get(), 1);
}
