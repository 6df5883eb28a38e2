//! A chart that fetches `/udf/history` and then subscribes from its last bar on.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;

use barcast::bus::Publisher;
use common::RedisServer;
use common::client::{Client, get};
use common::gateway::{Feed, MINUTE, Running, START, candle, config, in_process};
use serde_json::Value;

/// A chart's bars: what it was told last of each time.
#[derive(Default)]
struct Chart {
    prices: BTreeMap<i64, u64>,
    newest: Option<i64>,
    last_price: u64,
}

impl Chart {
    fn history(&mut self, answer: &Value) {
        let empty = Vec::new();
        let times = answer["t"].as_array().unwrap_or(&empty);
        for (time, close) in times.iter().zip(answer["c"].as_array().unwrap_or(&empty)) {
            let time = time.as_i64().unwrap() * 1_000;
            assert!(self.newest.is_none_or(|newest| newest < time), "{answer}");
            self.take(time, close.as_u64().unwrap());
        }
    }

    fn take(&mut self, time: i64, price: u64) {
        self.newest = Some(time);
        self.last_price = price;
        self.prices.insert(time, price);
    }

    fn live(&mut self, message: &Value) {
        match message["type"].as_str().unwrap() {
            "bars.subscribe.response" => {}
            "bars.snapshot" => {
                // Begins with the bar that history ended with, in its newest state, and goes on.
                let before = self.newest;
                let bars = message["payload"]["bars"].as_array().unwrap();
                for (at, bar) in bars.iter().enumerate() {
                    let (time, price) = (
                        bar["time"].as_i64().unwrap(),
                        bar["close"].as_u64().unwrap(),
                    );
                    let newest = self.newest.filter(|_| at > 0 || before != Some(time));
                    assert!(newest.is_none_or(|newest| newest < time), "{message}");
                    assert!(price >= self.last_price, "a step back: {message}");
                    self.take(time, price);
                }
            }
            "bars.update" => {
                let bar = &message["payload"];
                let (time, price) = (
                    bar["time"].as_i64().unwrap(),
                    bar["close"].as_u64().unwrap(),
                );
                assert!(
                    self.newest.is_none_or(|newest| newest <= time),
                    "a step back: {message}"
                );
                // Every state has a price of its own, each higher than the one before.
                assert!(price > self.last_price, "a double: {message}");
                self.take(time, price);
            }
            // Whoever asks before the first bar is told that nothing is known of the time before.
            "bars.gap" if self.newest.is_none() => {}
            _ => panic!("{message}"),
        }
    }
}

/// Lets the other thread go on for a while.
fn dawdle(random: &mut fastrand::Rng) {
    for _ in 0..random.u32(0..30) {
        std::thread::yield_now();
    }
}

/// Publishes minutes of bars while a client fetches history and subscribes from its last bar on; in the
/// end the client must have exactly what was published.
fn join<P: Publisher>(gateway: &Running, feed: &mut Feed<P>, rounds: u64) {
    let mut published: BTreeMap<i64, u64> = BTreeMap::new();
    let (mut minute, mut price) = (0, 0);
    for round in 0..rounds {
        let mut random = fastrand::Rng::with_seed(round);
        let mut bars = Vec::new();
        for _ in 0..random.u32(1..4) {
            let updates = random.u32(1..4);
            for update in 1..=updates {
                price += 1;
                let bar = candle("AAPL", minute, price);
                // Some producers say that a bar is closed, others just open the next.
                let closes = update == updates && random.bool();
                bars.push(if closes { bar.closed() } else { bar });
            }
            minute += 1;
        }
        let last = *bars.last().unwrap();
        published.extend(bars.iter().map(|bar| (bar.time, bar.price)));
        let mut chart = Chart::default();
        let feed = &mut *feed;
        std::thread::scope(|scope| {
            let mut pace = random.fork();
            scope.spawn(move || {
                for bar in bars {
                    dawdle(&mut pace);
                    feed.bar(&bar);
                }
            });
            let mut client = Client::connect(gateway.address);
            dawdle(&mut random);
            // The symbol is unknown until its first bar is there.
            let count = random.u32(1..6);
            let query = format!("symbol=AAPL&resolution=1&to=9999999999&countback={count}");
            let answer = get(gateway.address, &format!("/udf/history?{query}")).body;
            chart.history(&serde_json::from_str(&answer).unwrap());
            dawdle(&mut random);
            let since = chart.newest.unwrap_or(START);
            client.send(format!(
                r#"{{"type":"bars.subscribe","payload":{{"symbol":"AAPL","resolution":"1","since":{since}}}}}"#
            ));
            while chart.prices.get(&last.time) != Some(&last.price) {
                chart.live(&client.json());
            }
            for message in client.until_pong() {
                chart.live(&serde_json::from_str(&message).unwrap());
            }
        });
        let first = *chart.prices.keys().next().unwrap();
        let expected: BTreeMap<i64, u64> =
            published.range(first..).map(|(t, p)| (*t, *p)).collect();
        assert_eq!(chart.prices, expected, "round {round}");
        let minutes = (last.time - first) / MINUTE + 1;
        assert_eq!(chart.prices.len() as i64, minutes, "round {round}: a hole");
    }
}

#[test]
fn history_and_live_join_without_hole_or_double() {
    let (gateway, mut feed) = in_process(config());
    join(&gateway, &mut feed, 300);
}

#[test]
fn history_and_live_join_over_redis() {
    let redis = RedisServer::start();
    let gateway = Running::start(config(), redis.bus());
    let mut feed = Feed::new(&redis.bus());
    join(&gateway, &mut feed, 60);
}
