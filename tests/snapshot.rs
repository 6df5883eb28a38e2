//! What a subscriber is shown first, and how the stream joins it: the current bar, snapshots, `since`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use barcast::gateway::Config;
use common::client::{Client, get};
use common::gateway::{Candle, MINUTE, START, candle, config, in_process};

fn snapshot(topic: &str, bars: &[Candle]) -> String {
    let bars: Vec<_> = bars.iter().map(Candle::json).collect();
    let bars = bars.join(",");
    format!(r#"{{"type":"bars.snapshot","topic":"{topic}","payload":{{"bars":[{bars}]}}}}"#)
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
        r#"{"type":"bars.subscribe.response","payload":{"status":"ok","symbol":"AAPL","message":"Subscribed to AAPL","topic":"bars:AAPL:1"}}"#
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
    assert_eq!(other.text(), last.update());
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
    assert!(info.contains(r#""pricescale":100,"#), "{info}");
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
