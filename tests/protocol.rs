//! What clients say and hear: every form of every message, byte for byte.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use barcast::bus::Outgoing;
use barcast::gateway::Config;
use common::client::{Client, PING, PONG, frame, get};
use common::gateway::{Candle, MINUTE, START, candle, config, in_process};

const PONGED: &str = r#"{"type":"pong"}"#;

fn subscribed(symbol: &str, topic: &str) -> String {
    format!(
        r#"{{"type":"bars.subscribe.response","payload":{{"status":"ok","symbol":"{symbol}","message":"Subscribed to {symbol}","topic":"{topic}"}}}}"#
    )
}

fn snapshot(topic: &str, bars: &[Candle]) -> String {
    let bars: Vec<_> = bars.iter().map(Candle::json).collect();
    let bars = bars.join(",");
    format!(r#"{{"type":"bars.snapshot","topic":"{topic}","payload":{{"bars":[{bars}]}}}}"#)
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
fn a_new_subscriber_gets_the_current_bar_at_once() {
    let (gateway, mut feed) = in_process(config());
    feed.bar(&candle("AAPL", 0, 1).closed());
    let current = candle("AAPL", 1, 2).seq(9, 2);
    feed.bar(&current);
    gateway.received(2);
    let mut client = gateway.client();
    assert_eq!(
        client.ask(r#"{"type":"bars.subscribe","payload":{"symbol":"AAPL"}}"#),
        subscribed("AAPL", "bars:AAPL:1")
    );
    assert_eq!(client.text(), current.update());
    // A topic without a bar has nothing to show.
    client.subscribe("bars:MSFT:1");
    assert!(client.until_pong().is_empty());
}

#[test]
fn a_snapshot_is_the_newest_bars_and_then_the_stream() {
    let (gateway, mut feed) = in_process(config());
    let bars: Vec<_> = (0..5_u8)
        .map(|n| candle("AAPL", n.into(), n.into()))
        .collect();
    for bar in &bars {
        feed.bar(bar);
    }
    gateway.received(5);
    let mut client = gateway.client();
    let subscribe = |client: &mut Client, wish: &str| {
        client.ask(&format!(
            r#"{{"type":"bars.subscribe","payload":{{"symbol":"AAPL",{wish}}}}}"#
        ));
        client.until_pong()
    };
    let topic = "bars:AAPL:1";
    assert_eq!(
        subscribe(&mut client, r#""snapshot":3"#),
        [snapshot(topic, &bars[2..])]
    );
    assert_eq!(
        subscribe(&mut client, r#""snapshot":99"#),
        [snapshot(topic, &bars)]
    );
    assert_eq!(
        subscribe(&mut client, r#""snapshot":0"#),
        [snapshot(topic, &[])]
    );
    let since = format!(r#""since":{}"#, START + 3 * MINUTE);
    assert_eq!(
        subscribe(&mut client, &since),
        [snapshot(topic, &bars[3..])]
    );
    // Within a bar: that bar is older than the time asked for.
    let since = format!(r#""since":{}"#, START + 3 * MINUTE + 1);
    assert_eq!(
        subscribe(&mut client, &since),
        [snapshot(topic, &bars[4..])]
    );

    let next = candle("AAPL", 5, 5);
    feed.bar(&next);
    assert_eq!(client.text(), next.update());
    assert!(client.until_pong().is_empty(), "one subscription, one bar");
}

#[test]
fn since_before_what_is_kept_tells_the_gap() {
    let (gateway, mut feed) = in_process(Config {
        history_bars: 2,
        ..config()
    });
    for minute in 0..5_u8 {
        feed.bar(&candle("AAPL", minute.into(), 1));
    }
    gateway.received(5);
    let mut client = gateway.client();
    client.send(format!(
        r#"{{"type":"bars.subscribe","payload":{{"symbol":"AAPL","since":{START}}}}}"#
    ));
    client.text();
    let gap = client.json();
    assert_eq!(gap["type"], "bars.gap");
    assert_eq!(gap["topic"], "bars:AAPL:1");
    assert_eq!(gap["payload"]["from"], START);
    assert_eq!(gap["payload"]["to"], START + MINUTE);
    let bars = client.json();
    assert_eq!(bars["payload"]["bars"].as_array().unwrap().len(), 3);
}

/// What a client is told first that comes back with this minute of AAPL as its newest.
fn resume(client: &mut Client, minute: i64) -> String {
    let since = START + minute * MINUTE;
    client.ask(&format!(
        r#"{{"type":"bars.subscribe","payload":{{"symbol":"AAPL","since":{since}}}}}"#
    ));
    client.text()
}

#[test]
fn since_brings_what_was_revised_meanwhile() {
    let (gateway, mut feed) = in_process(Config {
        history_bars: 4,
        ..config()
    });
    let minutes: Vec<_> = (0..4).map(|minute| candle("AAPL", minute, 1)).collect();
    let revised = minutes[1].closed();
    for bar in minutes.iter().chain([&revised]) {
        feed.bar(bar);
    }
    gateway.received(5);
    let mut client = gateway.client();
    let expected = [revised, minutes[3]];
    assert_eq!(
        resume(&mut client, 3),
        snapshot("bars:AAPL:1", &expected),
        "in one list"
    );
    let expected = [revised, minutes[2], minutes[3]];
    assert_eq!(
        resume(&mut client, 2),
        snapshot("bars:AAPL:1", &expected),
        "once"
    );
    // It leaves the history, and so does what can be told of it but for the gap.
    let later: Vec<_> = (4..7).map(|minute| candle("AAPL", minute, 1)).collect();
    for bar in &later {
        feed.bar(bar);
        assert_eq!(client.text(), bar.update());
    }
    let gap: serde_json::Value = serde_json::from_str(&resume(&mut client, 3)).unwrap();
    assert_eq!(gap["type"], "bars.gap", "{gap}");
    assert_eq!(gap["payload"]["from"], START + MINUTE);
    assert_eq!(gap["payload"]["to"], START + MINUTE);
    assert_eq!(
        client.text(),
        snapshot("bars:AAPL:1", &[&minutes[3..], &later].concat())
    );
    assert_eq!(
        resume(&mut client, 4),
        snapshot("bars:AAPL:1", &later),
        "it had the revision"
    );
}

/// An interval without trades travels like any closed bar; charts of the UDF protocol do not know such.
#[test]
fn a_bar_without_prices_is_kept_and_delivered() {
    let (gateway, mut feed) = in_process(config());
    let mut client = gateway.client();
    client.subscribe("bars:AAPL:1");
    let json = |minute: i64| {
        let time = START + minute * MINUTE;
        format!(
            r#"{{"time":{time},"open":null,"high":null,"low":null,"close":null,"volume":0,"closed":true}}"#
        )
    };
    let (first, last) = (candle("AAPL", 0, 7).closed(), candle("AAPL", 3, 8));
    feed.bar(&first);
    assert_eq!(client.text(), first.update());
    for minute in [1, 2] {
        let bar = json(minute);
        let message = format!(r#"{{"symbol":"AAPL","resolution":"1","bar":{bar}}}"#);
        feed.raw("bars:AAPL:1", message);
        let update = format!(r#"{{"type":"bars.update","topic":"bars:AAPL:1","payload":{bar}}}"#);
        assert_eq!(client.text(), update);
    }
    // It is what the topic stands at.
    let mut other = gateway.client();
    other.subscribe("bars:AAPL:1");
    assert!(other.text().contains(&json(2)));
    feed.bar(&last);
    assert_eq!(client.text(), last.update());
    let of = |bars: &[String]| {
        let bars = bars.join(",");
        format!(r#"{{"type":"bars.snapshot","topic":"bars:AAPL:1","payload":{{"bars":[{bars}]}}}}"#)
    };
    let all = [first.json(), json(1), json(2), last.json()];
    assert_eq!(resume(&mut other, 0), of(&all));
    assert_eq!(resume(&mut other, 2), of(&all[2..]));
    let (from, to) = (START / 1_000, (START + 9 * MINUTE) / 1_000);
    let path = format!("/udf/history?symbol=AAPL&resolution=1&from={from}&to={to}");
    let history = get(gateway.address, &path).body;
    assert!(history.contains(r#""c":[7,8],"v":[1,1]"#), "{history}");
    let info = get(gateway.address, "/udf/symbols?symbol=AAPL").body;
    assert!(
        info.contains(r#""pricescale":100"#) || info.contains(r#""pricescale":1,"#),
        "{info}"
    );
}

/// Whoever has the answer is subscribed to all it names: no bar after it is missed, however soon it
/// comes, also where a long snapshot of another topic is to be sent before.
#[test]
fn the_answer_says_that_the_streams_have_begun() {
    let (gateway, mut feed) = in_process(Config {
        history_bars: 9_000,
        ..config()
    });
    let long: Vec<_> = (0..9_000).map(|minute| candle("A", minute, 1)).collect();
    for bars in long.chunks(1_000) {
        feed.all(bars.iter().map(Candle::outgoing).collect());
    }
    gateway.received(9_000);
    for symbol in ["Z1", "Z2", "Z3", "Z4", "Z5"] {
        let mut client = gateway.client();
        let answer = client.ask(&format!(
            r#"{{"type":"bars.subscribe","payload":{{"topics":["bars:A:1","bars:{symbol}:1"],"snapshot":9000}}}}"#
        ));
        assert!(answer.contains("ok"), "{answer}");
        let bars = [candle(symbol, 0, 1).closed(), candle(symbol, 1, 2)];
        feed.all(bars.iter().map(Candle::outgoing).collect());
        assert_eq!(client.text(), snapshot("bars:A:1", &long));
        assert_eq!(client.text(), snapshot(&bars[0].topic(), &[]));
        for bar in bars {
            assert_eq!(client.text(), bar.update());
        }
    }
}

/// Many join while bars stream: whoever joins, whenever, must see every bar from its snapshot's last
/// one on, none twice and none in the wrong order.
#[test]
fn snapshot_and_stream_join_without_a_hole_or_a_step_back() {
    let (gateway, mut feed) = in_process(config());
    feed.bar(&candle("AAPL", 0, 0));
    gateway.received(1);
    let done = Arc::new(AtomicBool::new(false));
    let feeder = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            for n in 1_u64.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                // Several updates a bar, the price counts them all.
                feed.bar(&candle("AAPL", i64::try_from(n / 3).unwrap(), n));
            }
        }
    });
    let price = |bar: &serde_json::Value| bar["close"].as_u64().unwrap();
    for round in 0..24 {
        let mut client = gateway.client();
        let wish = ["", r#","snapshot":5"#, r#","since":0"#][round % 3];
        client.send(format!(
            r#"{{"type":"bars.subscribe","payload":{{"symbol":"AAPL"{wish}}}}}"#
        ));
        client.text();
        let mut first = client.json();
        if first["type"] == "bars.gap" {
            // The kept history no longer reaches back to 0.
            first = client.json();
        }
        let last = match first["type"].as_str().unwrap() {
            "bars.snapshot" => {
                let bars = first["payload"]["bars"].as_array().unwrap();
                price(bars.last().unwrap())
            }
            _ => price(&first["payload"]),
        };
        for next in last + 1..=last + 20 {
            let update = client.json();
            assert_eq!(update["type"], "bars.update", "{update}");
            assert_eq!(price(&update["payload"]), next, "{wish}");
        }
    }
    done.store(true, Ordering::Relaxed);
    feeder.join().unwrap();
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
