//! What a handshake must be (RFC 6455, section 4.2), and what is refused.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::time::Duration;

use barcast::bus::MemoryBus;
use barcast::gateway::Config;
use common::client::{ACCEPT, Answer, Client, KEY, PING, PONG, TEXT, Wire, frame, get, handshake};
use common::gateway::{Running, config, in_process};

fn gateway() -> Running {
    Running::start(config(), MemoryBus::default())
}

/// What a handshake is answered with in which one part was replaced.
fn refused(gateway: &Running, from: &str, to: &str) -> Answer {
    let good = handshake();
    assert!(good.contains(from), "{from}");
    let mut wire = Wire::connect(gateway.address);
    wire.send(good.replacen(from, to, 1));
    // The head alone: an answer to HEAD has no body.
    wire.head()
}

#[test]
fn the_rfcs_own_example_is_accepted() {
    let gateway = gateway();
    for path in ["/ws", "/api/v1/ws", "/ws?token=1"] {
        let mut wire = Wire::connect(gateway.address);
        wire.send(handshake().replacen("/ws", path, 1));
        let answer = wire.head();
        assert_eq!(answer.status, 101, "{}", answer.head);
        assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
        let upgrade = answer.header("upgrade").unwrap();
        assert!(upgrade.eq_ignore_ascii_case("websocket"));
        let connection = answer.header("connection").unwrap();
        assert!(connection.eq_ignore_ascii_case("upgrade"));
        // Nothing was offered, so nothing may be chosen (section 4.2.2).
        assert_eq!(answer.header("sec-websocket-extensions"), None);
        assert_eq!(answer.header("sec-websocket-protocol"), None);
    }
}

#[test]
fn headers_are_read_in_any_case_and_as_lists() {
    let gateway = gateway();
    for (from, to) in [
        ("Upgrade: websocket", "uPGRADE: WebSocket"),
        ("Connection: Upgrade", "connection: keep-alive, upgrade"),
        ("Connection: Upgrade", "CONNECTION: UPGRADE , keep-alive"),
        ("Upgrade: websocket", "Upgrade: h2c, websocket"),
        (
            "Connection: Upgrade",
            "Connection: keep-alive\r\nConnection: Upgrade",
        ),
    ] {
        let answer = {
            let mut wire = Wire::connect(gateway.address);
            wire.send(handshake().replacen(from, to, 1));
            wire.head()
        };
        assert_eq!(answer.status, 101, "{to}: {}", answer.head);
    }
}

/// A browser that offers a subprotocol needs one chosen; ours is `barcast`.
#[test]
fn our_subprotocol_is_chosen_where_it_is_offered() {
    let gateway = gateway();
    for (offers, status, chosen) in [
        (&["barcast"][..], 101, Some("barcast")),
        (&["bearer, abc.def,barcast"], 101, Some("barcast")),
        (&["bearer", "barcast"], 101, Some("barcast")),
        (&[" , barcast,"], 101, Some("barcast")),
        (&["bearer, abc.def"], 101, None),
        (&["Barcast"], 101, None),
        (&["barcast2"], 101, None),
        (&[""], 400, None),
        (&[","], 400, None),
        (&["bar cast"], 400, None),
        (&["bar/cast"], 400, None),
        (&["\"barcast\""], 400, None),
        (&["barcast, barcast"], 400, None),
        (&["barcast", "a", "barcast"], 400, None),
        (&["barcast", ""], 400, None),
    ] {
        for first in ["", "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let mut wire = Wire::connect(gateway.address);
            if !first.is_empty() {
                wire.send(first);
                wire.answer();
            }
            let lines = offers
                .iter()
                .map(|offer| format!("Sec-WebSocket-Protocol: {offer}\r\n"));
            let lines: String = lines.collect();
            wire.send(handshake().replacen("Host", &format!("{lines}Host"), 1));
            let answer = wire.head();
            assert_eq!(answer.status, status, "{offers:?}");
            assert_eq!(
                answer.header("sec-websocket-protocol"),
                chosen,
                "{offers:?}"
            );
        }
    }
}

#[test]
fn what_is_offered_but_not_spoken_is_not_chosen() {
    let gateway = gateway();
    let offers = "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: chat\r\nUpgrade: websocket";
    let mut wire = Wire::connect(gateway.address);
    wire.send(handshake().replacen("Upgrade: websocket", offers, 1));
    let answer = wire.head();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-extensions"), None);
    assert_eq!(answer.header("sec-websocket-protocol"), None);
}

#[test]
fn what_breaks_the_rules_is_refused_with_the_right_status() {
    let gateway = gateway();
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let two_keys = key.repeat(2);
    for (from, to, status) in [
        ("GET", "POST", 405),
        ("GET", "HEAD", 405),
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("Host: barcast.test\r\n", "", 400),
        ("Host: barcast.test", "Host: a.test\r\nHost: b.test", 400),
        ("Upgrade: websocket\r\n", "", 426),
        ("Upgrade: websocket", "Upgrade: h2c", 426),
        ("Connection: Upgrade\r\n", "", 426),
        ("Connection: Upgrade", "Connection: keep-alive", 426),
        ("Version: 13", "Version: 8", 426),
        ("Version: 13", "Version: 13, 8", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        (key.as_str(), "", 400),
        (key.as_str(), two_keys.as_str(), 400),
        (KEY, "", 400),
        (KEY, "dGhlIHNhbXBsZSBub25jZQ", 400),   // no padding
        (KEY, "dGhlIHNhbXBsZSBub25jZR==", 400), // bits set that stand for nothing
        (KEY, "dGhlIHNhbXBsZSBub25j", 400),     // 15 bytes
        (KEY, "dGhlIHNhbXBsZSBub25jZWFh", 400), // 18 bytes
        (KEY, "dGhlIHNhbXBsZSBub25jZ-==", 400), // not the alphabet
        ("/ws", "/nowhere", 404),
        ("/ws", "/ws/", 404),
    ] {
        let answer = refused(&gateway, from, to);
        assert_eq!(answer.status, status, "{from:?} -> {to:?}: {}", answer.head);
        // Told with 426 only: which version is spoken (section 4.4).
        let version = answer.header("sec-websocket-version");
        assert_eq!(version, (status == 426).then_some("13"), "{to:?}");
        assert_eq!(answer.header("sec-websocket-accept"), None);
    }
    assert_eq!(gateway.node.clients(), 0);
}

#[test]
fn a_plain_get_is_told_that_this_is_a_websocket() {
    let gateway = gateway();
    let answer = get(gateway.address, "/ws");
    assert_eq!(answer.status, 426);
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
    let lower = answer.body.to_lowercase();
    assert!(lower.contains("websocket"), "{}", answer.body);
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let gateway = gateway();
    let mut wire = Wire::connect(gateway.address);
    let good = handshake();
    let start = good.strip_suffix("\r\n").unwrap();
    wire.send(format!("{start}X-Long: {}\r\n\r\n", "x".repeat(32 << 10)));
    assert_eq!(wire.head().status, 431);
}

#[test]
fn a_client_that_does_not_finish_its_handshake_is_closed() {
    let mut config: Config = config();
    config.limits.handshake_timeout = Duration::from_millis(200);
    let gateway = Running::start(config, MemoryBus::default());
    for start in ["", "GET /ws HTTP/1.1\r\nHost: barcast.test\r\nConnec"] {
        let mut wire = Wire::connect(gateway.address);
        wire.send(start);
        wire.expect_end();
    }
    // Who did finish may be silent for longer than that.
    let mut client = gateway.client();
    let mut silent = Wire::connect(gateway.address);
    silent.expect_end();
    assert_eq!(client.ask(r#"{"type":"ping"}"#), r#"{"type":"pong"}"#);
}

#[test]
fn frames_in_the_same_segment_as_the_handshake_are_answered() {
    let (gateway, mut feed) = in_process(config());
    let bar = common::gateway::candle("AAPL", 0, 150);
    feed.bar(&bar);
    gateway.received(1);

    let mut wire = Wire::connect(gateway.address);
    let mut bytes = handshake().into_bytes();
    bytes.extend(frame(PING, "early"));
    let subscribe = r#"{"type":"bars.subscribe","payload":{"symbol":"AAPL"}}"#;
    bytes.extend(frame(TEXT, subscribe));
    // And the beginning of one more, whose end comes later.
    let ping = frame(TEXT, r#"{"type":"ping"}"#);
    let (now, later) = ping.split_at(7);
    bytes.extend(now);
    wire.send(&bytes);
    assert_eq!(wire.head().status, 101);
    let pong = wire.frame().unwrap();
    assert_eq!((pong.opcode, pong.payload), (PONG, b"early".to_vec()));
    let mut client = Client { wire };
    assert!(client.text().contains("Subscribed to AAPL"));
    assert_eq!(client.text(), bar.update());
    client.wire.send(later);
    assert_eq!(client.text(), r#"{"type":"pong"}"#);
}
