//! `max_rate`: forming updates are conflated to it, closed bars and final states always come.
//!
//! No test waits for a turn: at `NEVER` only the first forming update comes by itself, at `PLENTY` all
//! that are sent one after the other do.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::HashMap;

use barcast::bus::{Bus, MemoryBus};
use barcast::metrics::GAPPED_LEFT;
use common::client::Client;
use common::eventually_blocking;
use common::gateway::{Candle, Feed, Running, candle, config, in_process};
use serde_json::Value;

/// Updates a second: the next one in a quarter of an hour.
const NEVER: &str = "0.001";
const PLENTY: &str = "1000";

/// A client of a gateway, and what it was sent.
struct Watch {
    // The first to go: a drain would wait for it.
    client: Client,
    gateway: Running,
    feed: Feed<<MemoryBus as Bus>::Publisher>,
    /// Deliveries due so far.
    due: u64,
}

fn request(topic: &str, wishes: &str) -> String {
    format!(r#"{{"type":"bars.subscribe","payload":{{"topics":["{topic}"]{wishes}}}}}"#)
}

fn rate(max_rate: &str) -> String {
    format!(r#","max_rate":{max_rate}"#)
}

impl Watch {
    fn new() -> Self {
        let (gateway, feed) = in_process(config());
        let client = gateway.client();
        Self {
            gateway,
            feed,
            client,
            due: 0,
        }
    }

    /// Subscribes (again); tells what came beside the answer.
    fn subscribe(&mut self, topic: &str, wishes: &str) -> Vec<String> {
        self.client.send(request(topic, wishes));
        let mut came = self.client.until_pong();
        let before = came.len();
        came.retain(|text| !text.contains(r#""status":"ok""#));
        assert_eq!(before, came.len() + 1, "one answer: {came:?}");
        came
    }

    /// Publishes bars that are each due to the client once; tells what it got of them.
    fn publish(&mut self, bars: &[Candle]) -> Vec<String> {
        self.feed.all(bars.iter().map(Candle::outgoing).collect());
        self.due += bars.len() as u64;
        let due = &self.gateway.node.metrics.due;
        eventually_blocking("fanned out", || due.get() == self.due);
        self.client.until_pong()
    }

    /// Fails unless this many were delivered, conflated, and not wanted any more when their
    /// subscription ended; and none was lost.
    fn counted(&self, delivered: u64, conflated: u64, unsubscribed: u64) {
        let metrics = &self.gateway.node.metrics;
        // A worker adds up once it has answered.
        eventually_blocking("accounted for", || {
            let ended = metrics.unsubscribed.get();
            metrics.delivered.get() + metrics.conflated.get() + ended
                >= delivered + conflated + unsubscribed
        });
        let counts = (
            metrics.delivered.get(),
            metrics.conflated.get(),
            metrics.unsubscribed.get(),
        );
        assert_eq!(counts, (delivered, conflated, unsubscribed));
        assert_eq!(metrics.gapped(GAPPED_LEFT).get(), 0);
    }
}

fn updates(bars: &[Candle]) -> Vec<String> {
    bars.iter().map(Candle::update).collect()
}

#[test]
fn forming_updates_are_conflated_and_closed_bars_always_come() {
    let mut watch = Watch::new();
    watch.subscribe("bars:A:1", &rate(NEVER));
    let [first, second, third] = [1, 2, 3].map(|price| candle("A", 0, price));
    let closed = candle("A", 0, 4).closed();
    assert_eq!(
        watch.publish(&[first, second, third, closed]),
        updates(&[first, closed])
    );
    watch.counted(2, 2, 0);
    // Closed bars one after the other, in one batch and in several.
    let closed = [1, 2, 3].map(|minute| candle("A", minute, 5).closed());
    assert_eq!(watch.publish(&closed), updates(&closed));
    for minute in 4..8 {
        let closed = candle("A", minute, 6).closed();
        assert_eq!(watch.publish(&[closed]), updates(&[closed]));
    }
    watch.counted(9, 2, 0);
}

/// Also where no producer says `closed`: what waits when the next bar opens was the final state.
#[test]
fn the_final_state_comes_before_the_next_bar() {
    let mut watch = Watch::new();
    watch.subscribe("bars:A:1", &rate(NEVER));
    let bar = |minute, price| candle("A", minute, price);
    // In one batch.
    assert_eq!(
        watch.publish(&[bar(0, 1), bar(0, 2), bar(0, 3), bar(1, 4), bar(1, 5)]),
        updates(&[bar(0, 1), bar(0, 3)])
    );
    // In batches of their own, and before a closed bar as well.
    assert_eq!(watch.publish(&[bar(1, 6)]), [""; 0]);
    assert_eq!(watch.publish(&[bar(2, 7)]), updates(&[bar(1, 6)]));
    let closed = bar(3, 8).closed();
    assert_eq!(
        watch.publish(&[closed, bar(4, 9)]),
        updates(&[bar(2, 7), closed])
    );
    watch.counted(5, 3, 0);
}

#[test]
fn the_rate_is_changed_and_lifted_by_subscribing_again() {
    let mut watch = Watch::new();
    watch.subscribe("bars:A:1", &rate(NEVER));
    let bar = |price| candle("A", 0, price);
    assert_eq!(watch.publish(&[bar(1), bar(2)]), updates(&[bar(1)]));
    // What waits comes at once, whatever the new rate.
    assert_eq!(
        watch.subscribe("bars:A:1", &rate(PLENTY)),
        updates(&[bar(2)])
    );
    for price in 3..6 {
        watch.feed.bar(&bar(price));
        watch.due += 1;
        assert_eq!(watch.client.text(), bar(price).update());
    }
    watch.subscribe("bars:A:1", &rate(NEVER));
    assert_eq!(watch.publish(&[bar(6), bar(7)]), updates(&[bar(6)]));
    assert_eq!(watch.subscribe("bars:A:1", ""), updates(&[bar(7)]));
    let many: Vec<_> = (8..58).map(bar).collect();
    assert_eq!(watch.publish(&many), updates(&many));
    watch.counted(57, 0, 0);
    // And back again, from the next update on.
    watch.subscribe("bars:A:1", &rate(NEVER));
    assert_eq!(
        watch.publish(&[bar(58), bar(59), bar(60)]),
        updates(&[bar(58)])
    );
    assert_eq!(watch.subscribe("bars:A:1", ""), updates(&[bar(60)]));
    watch.counted(59, 1, 0);
}

#[test]
fn a_pattern_has_its_rate_for_topics_known_and_to_come() {
    let mut watch = Watch::new();
    watch.feed.bar(&candle("A", 0, 1));
    watch.gateway.received(1);
    let known = watch.subscribe("bars:*:1", &rate(NEVER));
    assert_eq!(known, updates(&[candle("A", 0, 1)]));
    let round = |price| ["A", "B"].map(|symbol| candle(symbol, 0, price));
    assert_eq!(watch.publish(&round(2)), updates(&round(2)));
    assert_eq!(watch.publish(&round(3)), [""; 0]);
    assert_eq!(watch.publish(&round(4)), [""; 0]);
    let closed = round(5).map(Candle::closed);
    assert_eq!(watch.publish(&closed), updates(&closed));
    watch.counted(4, 4, 0);

    // Lifted for all of them, and for what opens later.
    watch.subscribe("bars:*:1", "");
    let many: Vec<_> = (0..5)
        .flat_map(|price| ["A", "B", "C"].map(|symbol| candle(symbol, 1, price)))
        .collect();
    assert_eq!(watch.publish(&many), updates(&many));
    // A topic of its own may have a rate of its own.
    watch.subscribe("bars:B:1", &rate(NEVER));
    let again = [5, 6].map(|price| ["A", "B"].map(|symbol| candle(symbol, 1, price)));
    assert_eq!(
        watch.publish(again.as_flattened()),
        updates(&[again[0][0], again[0][1], again[1][0]])
    );
    // The pattern's wins when it is asked for again.
    assert_eq!(watch.subscribe("bars:*:1", ""), updates(&[again[1][1]]));
    watch.counted(23, 4, 0);
}

/// A refused request changes nothing.
#[test]
fn a_refused_pattern_keeps_the_rate_it_had() {
    let mut config = config();
    config.limits.max_topics_per_client = 2;
    let (gateway, feed) = in_process(config);
    let client = gateway.client();
    let mut watch = Watch {
        gateway,
        feed,
        client,
        due: 0,
    };
    watch.subscribe("bars:*:1", &rate(NEVER));
    watch.client.send(
        r#"{"type":"bars.subscribe","payload":{"topics":["bars:*:1","bars:X:5","bars:Y:5","bars:Z:5"]}}"#,
    );
    let refused = watch.client.until_pong();
    assert!(
        refused.len() == 1 && refused[0].contains(r#""code":"limit""#),
        "{refused:?}"
    );
    let bars = [1, 2, 3].map(|price| candle("A", 0, price));
    assert_eq!(watch.publish(&bars), updates(&bars[..1]));
}

#[test]
fn a_snapshot_takes_the_place_of_what_waits() {
    let mut watch = Watch::new();
    watch.subscribe("bars:A:1", &rate(NEVER));
    let bar = |price| candle("A", 0, price);
    watch.publish(&[bar(1), bar(2)]);
    let wishes = format!(r#","snapshot":10{}"#, rate(NEVER));
    let came = watch.subscribe("bars:A:1", &wishes);
    let [snapshot] = came.as_slice() else {
        panic!("{came:?}")
    };
    assert!(snapshot.contains(&bar(2).json()), "{snapshot}");
    assert_eq!(watch.publish(&[bar(3), bar(4)]), updates(&[bar(3)]));
    watch.counted(2, 0, 1);
    // What waits when the subscription ends does not come any more.
    watch
        .client
        .send(r#"{"type":"bars.unsubscribe","payload":{"symbol":"A"}}"#);
    assert_eq!(watch.client.until_pong().len(), 1);
    watch.counted(2, 0, 2);
}

/// Who leaves with an update waiting did want it: that one is lost.
#[test]
fn what_waits_for_a_client_that_leaves_is_lost() {
    let mut watch = Watch::new();
    watch.subscribe("bars:A:1", &rate(NEVER));
    watch.publish(&[1, 2].map(|price| candle("A", 0, price)));
    drop(watch.client);
    let metrics = &watch.gateway.node.metrics;
    eventually_blocking("lost", || metrics.gapped(GAPPED_LEFT).get() == 1);
    assert_eq!(metrics.unsubscribed.get(), 0);
}

/// Checks one topic's messages: never a step back, and every final state there is.
fn check(topic: &str, got: &[Value], published: &[Candle]) {
    let number = |message: &Value, name: &str| message["payload"][name].as_i64().unwrap();
    let prices: Vec<_> = got.iter().map(|m| number(m, "close")).collect();
    assert!(prices.is_sorted_by(|a, b| a < b), "{topic}: {prices:?}");
    let mut finals: HashMap<i64, u64> = HashMap::new();
    for bar in published {
        finals.insert(bar.time, bar.price);
    }
    let mut last: HashMap<i64, u64> = HashMap::new();
    for message in got {
        let price = u64::try_from(number(message, "close")).unwrap();
        last.insert(number(message, "time"), price);
    }
    assert_eq!(last, finals, "{topic}");
}

/// Bars and changes of rate in any order: nothing older after newer, every bar's final state, and all
/// is accounted for.
#[test]
fn whatever_the_rates_final_states_come_in_order() {
    const SYMBOLS: [&str; 3] = ["A", "B", "C"];
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut watch = Watch::new();
        watch.subscribe("bars:*:1", &rate(NEVER));
        let mut minutes = [0_i64; 3];
        let mut published: Vec<Candle> = Vec::new();
        let mut unsent = Vec::new();
        let mut got = Vec::new();
        for price in 1..120 {
            let at = random.usize(0..SYMBOLS.len());
            let topic = format!("bars:{}:1", SYMBOLS[at]);
            let roll = random.u8(0..20);
            if roll < 4 {
                // Now and then several in one batch.
                got.extend(watch.publish(&std::mem::take(&mut unsent)));
            }
            match roll {
                0 => got.extend(watch.subscribe(&topic, "")),
                1 => got.extend(watch.subscribe(&topic, &rate(NEVER))),
                2 => got.extend(watch.subscribe(&topic, &rate(PLENTY))),
                3 => {}
                _ => {
                    let mut bar = candle(SYMBOLS[at], minutes[at], price);
                    if roll < 6 {
                        bar = bar.closed();
                    }
                    if roll < 10 {
                        minutes[at] += 1;
                    }
                    unsent.push(bar);
                    published.push(bar);
                }
            }
        }
        got.extend(watch.publish(&unsent));
        got.extend(watch.subscribe("bars:*:1", ""));
        let got: Vec<Value> = got
            .iter()
            .map(|text| serde_json::from_str(text).unwrap())
            .collect();
        for symbol in SYMBOLS {
            let topic = format!("bars:{symbol}:1");
            let of_topic: Vec<_> = got
                .iter()
                .filter(|m| m["topic"] == topic.as_str())
                .cloned()
                .collect();
            let bars = published.iter().filter(|b| b.symbol == symbol);
            let bars: Vec<_> = bars.copied().collect();
            check(&topic, &of_topic, &bars);
        }
        let delivered = got.len() as u64;
        watch.counted(delivered, watch.due - delivered, 0);
    }
}
