//! What a subscriber is shown first, and how the stream joins it: the current bar, snapshots, `since`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use barcast::gateway::Config;
use common::client::Client;
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
