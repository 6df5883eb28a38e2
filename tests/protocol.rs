//! What clients say and hear: every form of every message, byte for byte.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use barcast::bus::Outgoing;
use common::client::{Client, PING, PONG, frame};
use common::gateway::{Candle, candle, config, in_process};

const PONGED: &str = r#"{"type":"pong"}"#;

fn subscribed(symbol: &str, topic: &str) -> String {
    format!(
        r#"{{"type":"bars.subscribe.response","payload":{{"status":"ok","symbol":"{symbol}","message":"Subscribed to {symbol}","topic":"{topic}"}}}}"#
    )
}

#[test]
fn every_form_of_subscribe_is_answered_in_its_own_words() {
    let (gateway, _feed) = in_process(config());
    let mut client = gateway.client();
    for (request, answer) in [
        (
            r#"{"type":"bars.subscribe","payload":{"symbol":"AAPL","params":{"resolution":"1"}}}"#,
            subscribed("AAPL", "bars:AAPL:1"),
        ),
        (
            r#"{"type":"bars.subscribe","payload":{"symbol":"AAPL","resolution":"1D"}}"#,
            subscribed("AAPL", "bars:AAPL:D"),
        ),
        (
            r#"{"type":"bars.subscribe","payload":{"symbol":"BRK.B"}}"#,
            subscribed("BRK.B", "bars:BRK.B:1"),
        ),
        (
            r#"{"type":"bars.subscribe","payload":{"symbol":"*","resolution":"5"}}"#,
            subscribed("*", "bars:*:5"),
        ),
        (
            r#"{"type":"bars.subscribe","payload":{"symbol":"EUR/USD","resolution":"*"}}"#,
            subscribed("EUR/USD", "bars:EUR/USD:*"),
        ),
        (
            r#"{"type":"bars.subscribe","id":7,"payload":{"topics":["bars:AAPL:1","bars:MSFT:*"]}}"#,
            r#"{"type":"bars.subscribe.response","id":7,"payload":{"status":"ok","message":"Subscribed to 2 topics","topics":["bars:AAPL:1","bars:MSFT:*"]}}"#.to_owned(),
        ),
        (
            r#"{"type":"bars.subscribe","id":"a\"b","payload":{"topics":["bars:AAPL:1"]}}"#,
            r#"{"type":"bars.subscribe.response","id":"a\"b","payload":{"status":"ok","message":"Subscribed to 1 topic","topics":["bars:AAPL:1"]}}"#.to_owned(),
        ),
        (
            r#"{"type":"bars.unsubscribe","id":8,"payload":{"symbol":"AAPL","params":{"resolution":"1"}}}"#,
            r#"{"type":"bars.unsubscribe.response","id":8,"payload":{"status":"ok","symbol":"AAPL","message":"Unsubscribed from AAPL","topic":"bars:AAPL:1"}}"#.to_owned(),
        ),
        (
            r#"{"type":"bars.unsubscribe","payload":{"topics":["bars:*:*"]}}"#,
            r#"{"type":"bars.unsubscribe.response","payload":{"status":"ok","message":"Unsubscribed from 1 topic","topics":["bars:*:*"]}}"#.to_owned(),
        ),
    ] {
        assert_eq!(client.ask(request), answer, "{request}");
    }
}

#[test]
fn a_ping_is_answered_in_both_ways() {
    let (gateway, _feed) = in_process(config());
    let mut client = gateway.client();
    assert_eq!(client.ask(r#"{"type":"ping"}"#), PONGED);
    let answer = client.ask(r#"{"type":"ping","id":12.5,"payload":{}}"#);
    assert_eq!(answer, r#"{"type":"pong","id":12.5}"#);
    client.wire.send(frame(PING, "ball"));
    let pong = client.wire.frame().unwrap();
    assert_eq!((pong.opcode, pong.payload), (PONG, b"ball".to_vec()));
}

#[test]
fn errors_name_the_fault_echo_the_id_and_keep_the_connection() {
    let (gateway, mut feed) = in_process(config());
    let mut client = gateway.client();
    client.subscribe("bars:AAPL:1");
    for (request, part) in [
        ("", "not a message"),
        ("{", "not a message"),
        ("7", "not a message"),
        ("[]", "not a message"),
        ("{}", "type"),
        (r#"{"type":7}"#, "type"),
        (r#"{"type":"bars.dance","id":3}"#, "bars.dance"),
        (r#"{"type":"bars.subscribe","id":3}"#, "symbol"),
        (r#"{"type":"bars.subscribe","id":3,"payload":7}"#, "payload"),
        (
            r#"{"type":"bars.subscribe","id":3,"payload":{"symbol":""}}"#,
            "symbol",
        ),
        (
            r#"{"type":"bars.subscribe","id":3,"payload":{"symbol":"A B"}}"#,
            "' '",
        ),
        (
            r#"{"type":"bars.subscribe","id":3,"payload":{"symbol":"A","resolution":"7"}}"#,
            "\"7\"",
        ),
        (
            r#"{"type":"bars.subscribe","id":3,"payload":{"symbol":"A","resolution":1}}"#,
            "payload",
        ),
        (
            r#"{"type":"bars.subscribe","id":3,"payload":{"symbol":"A","topics":["bars:A:1"]}}"#,
            "either",
        ),
        (
            r#"{"type":"bars.subscribe","id":3,"payload":{"topics":[]}}"#,
            "topics",
        ),
        (
            r#"{"type":"bars.subscribe","id":3,"payload":{"topics":["bars:A"]}}"#,
            "bars:A",
        ),
        (
            r#"{"type":"bars.subscribe","id":3,"payload":{"symbol":"A","snapshot":-1}}"#,
            "payload",
        ),
        (
            r#"{"type":"bars.subscribe","id":3,"payload":{"symbol":"A","snapshot":1,"since":1}}"#,
            "not both",
        ),
        (
            r#"{"type":"bars.subscribe","id":3,"payload":{"symbol":"A","max_rate":0}}"#,
            "max_rate",
        ),
        (
            r#"{"type":"bars.subscribe","id":3,"payload":{"symbol":"A","max_rate":1e9}}"#,
            "max_rate",
        ),
        (
            r#"{"type":"bars.unsubscribe","id":3,"payload":{"topics":["x"]}}"#,
            "\"x\"",
        ),
        (r#"{"type":"ping","id":[3]}"#, "id must be"),
    ] {
        client.send(request);
        let error = client.json();
        assert_eq!(error["type"], "error", "{request}: {error}");
        assert_eq!(error["payload"]["code"], "bad_request");
        let message = error["payload"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{request}: {message}");
        let id = if request.contains(r#""id":3"#) {
            3.into()
        } else {
            serde_json::Value::Null
        };
        assert_eq!(error["id"], id, "{request}: {error}");
    }
    // Deep nesting is refused, too, and costs no stack.
    client.send("[".repeat(4_000));
    assert_eq!(client.json()["type"], "error");

    let bar = candle("AAPL", 0, 150);
    feed.bar(&bar);
    assert_eq!(client.text(), bar.update());
}

#[test]
fn the_bar_is_passed_on_byte_for_byte() {
    let (gateway, mut feed) = in_process(config());
    let mut client = gateway.client();
    client.subscribe("bars:AAPL:1");
    let bars = [
        r#"{"time":1697097600000,"open":150.0,"high":151.0,"low":149.5,"close":150.5,"volume":1000000}"#,
        r#"{"time":1697097600000,"open":150,"high":151,"low":149,"close":150,"volume":0}"#,
        r#"{"time":1697097600000,"open":0.1,"high":0.30000000000000004,"low":0.1,"close":0.2,"volume":0.5}"#,
        r#"{"time":1697097600000,"open":-37.63,"high":1.5,"low":-40,"close":-1,"volume":18446744073709551615}"#,
        r#"{"time":1697097600000,"open":1e300,"high":1e300,"low":1e-7,"close":1.0,"volume":1,"closed":true}"#,
    ];
    for bar in bars {
        let message = format!(r#"{{"symbol":"AAPL","resolution":"1","bar":{bar}}}"#);
        feed.raw("bars:AAPL:1", message);
        let update = client.text();
        let start = r#"{"type":"bars.update","topic":"bars:AAPL:1","payload":"#;
        let payload = update.strip_prefix(start).expect(&update);
        let payload = payload.strip_suffix('}').unwrap();
        // Exponents may be written in another way, all else may not.
        if bar.contains("1e300") {
            let (got, sent): (serde_json::Value, serde_json::Value) = (
                serde_json::from_str(payload).unwrap(),
                serde_json::from_str(bar).unwrap(),
            );
            assert_eq!(got, sent);
            assert!(
                payload.ends_with(r#","volume":1,"closed":true}"#),
                "{payload}"
            );
        } else {
            assert_eq!(payload, bar);
        }
    }
}

#[test]
fn fields_come_in_their_order_and_extras_only_when_sent() {
    let (gateway, mut feed) = in_process(config());
    let mut client = gateway.client();
    client.subscribe("bars:AAPL:1");
    let bar = r#"{"volume":1,"close":2,"low":2,"high":2,"open":2,"time":1697097600000,"vwap":3,"closed":false}"#;
    let plain = r#"{"time":1697097600000,"open":2,"high":2,"low":2,"close":2,"volume":1}"#;
    for (extras, written) in [
        ("", ""),
        (r#","note":"hello","seq":1"#, r#","seq":1"#),
        (r#","epoch":9"#, r#","epoch":9"#),
        (r#","ts":1697097600000123"#, r#","ts":1697097600000123"#),
        (
            r#","rev":2,"ts":3,"epoch":9,"seq":2"#,
            r#","seq":2,"epoch":9,"ts":3,"rev":2"#,
        ),
    ] {
        let message = format!(r#"{{"bar":{bar},"resolution":"1","symbol":"AAPL"{extras}}}"#);
        feed.raw("bars:AAPL:1", message);
        let expected =
            format!(r#"{{"type":"bars.update","topic":"bars:AAPL:1"{written},"payload":{plain}}}"#);
        assert_eq!(client.text(), expected);
    }
}

#[test]
fn unsubscribing_a_pattern_ends_narrower_ones() {
    let (gateway, mut feed) = in_process(config());
    let mut client = gateway.client();
    client.subscribe("bars:*:1");
    client.subscribe("bars:*:5");
    client.ask(r#"{"type":"bars.unsubscribe","payload":{"topics":["bars:*:1"]}}"#);
    feed.bar(&candle("AAPL", 0, 1));
    gateway.received(1);
    assert!(client.until_pong().is_empty());
    client.ask(r#"{"type":"bars.unsubscribe","payload":{"topics":["bars:*:*"]}}"#);
    feed.bar(&Candle {
        resolution: "5",
        ..candle("MSFT", 0, 1)
    });
    gateway.received(2);
    assert!(client.until_pong().is_empty());
}

#[test]
fn patterns_get_what_is_there_and_what_opens_later() {
    let (gateway, mut feed) = in_process(config());
    let early = candle("AAPL", 0, 1);
    feed.bar(&early);
    gateway.received(1);
    let mut by_symbol = gateway.client();
    by_symbol.subscribe("bars:AAPL:*");
    assert_eq!(by_symbol.text(), early.update());
    let mut by_resolution = gateway.client();
    by_resolution.subscribe("bars:*:5");
    let mut all = gateway.client();
    all.subscribe("bars:*:*");
    assert_eq!(all.text(), early.update());
    // What two patterns match is still sent once.
    all.subscribe("bars:AAPL:*");

    let later = [
        candle("AAPL", 0, 2).resolution("5"),
        candle("MSFT", 0, 3).resolution("5"),
        candle("MSFT", 0, 4),
        candle("AAPL", 0, 5),
        candle("AAPL", 0, 6).resolution("5"),
    ];
    feed.all(later.iter().map(Candle::outgoing).collect());
    gateway.received(6);
    let updates =
        |which: &[usize]| -> Vec<_> { which.iter().map(|at| later[*at].update()).collect() };
    let take =
        |client: &mut Client, count| -> Vec<_> { (0..count).map(|_| client.text()).collect() };
    assert_eq!(take(&mut by_symbol, 3), updates(&[0, 3, 4]));
    assert_eq!(take(&mut by_resolution, 3), updates(&[0, 1, 4]));
    assert_eq!(take(&mut all, 5), updates(&[0, 1, 2, 3, 4]));

    // Without the pattern a topic that opens is no longer sent, and those it brought have ended.
    by_symbol.ask(r#"{"type":"bars.unsubscribe","payload":{"topics":["bars:AAPL:*"]}}"#);
    feed.all(vec![
        candle("AAPL", 0, 7).resolution("15").outgoing(),
        candle("AAPL", 0, 8).outgoing(),
    ]);
    assert!(take(&mut all, 2)[1].contains("\"close\":8"));
    assert!(by_symbol.until_pong().is_empty());
}

#[test]
fn unsubscribing_stops_the_stream_and_only_that_one() {
    let (gateway, mut feed) = in_process(config());
    let mut client = gateway.client();
    let mut other = gateway.client();
    for topic in ["bars:AAPL:1", "bars:MSFT:1"] {
        client.subscribe(topic);
        other.subscribe(topic);
    }
    client.ask(r#"{"type":"bars.unsubscribe","payload":{"symbol":"AAPL"}}"#);
    // What was never subscribed is no error.
    let answer = client.ask(r#"{"type":"bars.unsubscribe","payload":{"symbol":"NEVER"}}"#);
    assert!(answer.contains("Unsubscribed from NEVER"), "{answer}");
    let bars = [candle("AAPL", 0, 1), candle("MSFT", 0, 2)];
    feed.all(bars.iter().map(Candle::outgoing).collect());
    assert_eq!(client.text(), bars[1].update());
    assert_eq!(other.text(), bars[0].update());
    assert_eq!(other.text(), bars[1].update());

    // And it can begin again: with the current bar.
    client.subscribe("bars:AAPL:1");
    assert_eq!(client.text(), bars[0].update());
    let next = candle("AAPL", 0, 3);
    feed.bar(&next);
    assert_eq!(client.text(), next.update());
}

#[test]
fn subscribing_again_gives_no_second_stream_and_no_second_current_bar() {
    let (gateway, mut feed) = in_process(config());
    let first = candle("AAPL", 0, 1);
    feed.bar(&first);
    gateway.received(1);
    let mut client = gateway.client();
    client.subscribe("bars:AAPL:1");
    assert_eq!(client.text(), first.update());
    client.subscribe("bars:AAPL:1");
    client.subscribe("bars:*:1");
    assert!(client.until_pong().is_empty());
    let next = candle("AAPL", 0, 2);
    feed.bar(&next);
    assert_eq!(client.text(), next.update());
    assert!(client.until_pong().is_empty());
}

/// A batch is nothing to clients: they get its bars one by one, and only those they asked for.
#[test]
fn the_bars_of_a_batch_reach_their_subscribers() {
    let (gateway, mut feed) = in_process(config());
    let mut client = gateway.client();
    client.subscribe("bars:AAPL:1");
    let bars: Vec<_> = (0..100_u64)
        .map(|n| candle(if n % 2 == 0 { "AAPL" } else { "MSFT" }, 0, n))
        .collect();
    let messages: Vec<_> = bars.iter().map(Candle::message).collect();
    let json = format!("[{}]", messages.join(","));
    let payload = zstd::bulk::compress(json.as_bytes(), 1).unwrap();
    for payload in [json.into_bytes(), payload] {
        feed.all(vec![Outgoing {
            channel: "bars:@batch".to_owned(),
            payload,
        }]);
        for bar in bars.iter().step_by(2) {
            assert_eq!(client.text(), bar.update());
        }
    }
    assert!(client.until_pong().is_empty());
}
