//! A client whose connections break ends with exactly the bars of one whose connection does not: by
//! `since`, by the store, and by asking again where it is told of a gap.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use barcast::gateway::Config;
use common::client::Client;
use common::gateway::{Candle, Feed, Running, START, candle, config, in_process};
use common::{RedisServer, eventually_blocking};
use serde_json::Value;

type Bars = BTreeMap<i64, Value>;

/// Revisions go back so many bars: further than a client that comes back asks for.
const REVISED: usize = 20;

fn settings() -> Config {
    let mut config = config();
    config.limits.max_messages_per_second = 100_000;
    config.drain_grace = Duration::from_millis(50);
    config.history_bars = 5_000;
    config
}

/// A market of one topic, and how it stands.
struct Market {
    random: fastrand::Rng,
    seq: u64,
    truth: Vec<Candle>,
}

impl Market {
    fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            seq: 0,
            truth: vec![candle("A", 0, 1)],
        }
    }

    /// The forming bar goes on, or closes and another opens, or an older one is revised.
    fn step(&mut self) -> Vec<Candle> {
        let newest = self.truth.len() - 1;
        let at = match self.random.u32(..10) {
            0..5 => vec![newest],
            5..8 => {
                let minute = i64::try_from(newest).unwrap() + 1;
                self.truth[newest].closed = true;
                self.truth.push(candle("A", minute, 1));
                vec![newest, newest + 1]
            }
            _ => vec![newest.saturating_sub(self.random.usize(..=REVISED))],
        };
        if let [at] = at[..]
            && self.truth[at].closed
        {
            // Which a gateway that starts later can know it by.
            let revisions = &mut self.truth[at].rev;
            *revisions = Some(revisions.unwrap_or(0) + 1);
        }
        at.into_iter()
            .map(|at| {
                self.seq += 1;
                let bar = &mut self.truth[at];
                bar.price = self.seq;
                *bar = bar.seq(7, self.seq);
                *bar
            })
            .collect()
    }

    fn steps(&mut self, most: usize) -> Vec<Candle> {
        (0..self.random.usize(..=most))
            .flat_map(|_| self.step())
            .collect()
    }

    fn bars(&self) -> Bars {
        let json = |bar: &Candle| serde_json::from_str(&bar.json()).unwrap();
        self.truth.iter().map(|bar| (bar.time, json(bar))).collect()
    }
}

/// A client as docs/protocol.md wants it: keeps bars by their times, and asks again after a gap.
struct Watcher {
    client: Client,
    bars: Bars,
}

impl Watcher {
    fn new(address: SocketAddr) -> Self {
        Self::resume(address, Bars::new())
    }

    /// Comes (back) with what it has; reads nothing yet.
    fn resume(address: SocketAddr, bars: Bars) -> Self {
        let mut client = Client::connect(address);
        let since = bars.keys().next_back().copied().unwrap_or(START);
        ask(&mut client, since);
        Self { client, bars }
    }

    fn breaks(self, address: SocketAddr) -> Self {
        // Whatever was not read is lost with the connection.
        drop(self.client);
        Self::resume(address, self.bars)
    }

    /// Takes whatever came, until nothing more is under way.
    fn catch_up(&mut self) {
        // A gap may be told again in the answer, when nobody has its bars; then the test fails later.
        for _ in 0..10 {
            let mut asked = false;
            for text in self.client.until_pong() {
                asked |= self.take(&text);
            }
            if !asked {
                return;
            }
        }
    }

    fn take(&mut self, text: &str) -> bool {
        let told: Value = serde_json::from_str(text).unwrap();
        let payload = &told["payload"];
        match told["type"].as_str().unwrap() {
            "bars.update" => self.keep(payload),
            "bars.snapshot" => {
                let bars = payload["bars"].as_array().unwrap();
                bars.iter().for_each(|bar| self.keep(bar));
            }
            "bars.gap" => {
                ask(&mut self.client, payload["from"].as_i64().unwrap());
                return true;
            }
            "bars.subscribe.response" => {}
            other => panic!("{other}: {text}"),
        }
        false
    }

    fn keep(&mut self, bar: &Value) {
        self.bars.insert(bar["time"].as_i64().unwrap(), bar.clone());
    }

    fn ends_with(&mut self, who: &str, bars: &Bars) {
        eventually_blocking(who, || {
            self.catch_up();
            self.bars.len() >= bars.len() && self.bars == *bars
        });
    }
}

fn ask(client: &mut Client, since: i64) {
    client.send(format!(
        r#"{{"type":"bars.subscribe","payload":{{"topics":["bars:A:1"],"since":{since}}}}}"#
    ));
}

#[test]
fn a_thousand_breaks_of_the_clients_connection_cost_no_bar() {
    let (gateway, mut feed) = in_process(settings());
    let mut market = Market::new(5);
    feed.bar(&market.truth[0]);
    let mut steady = Watcher::new(gateway.address);
    let mut broken = Watcher::new(gateway.address);
    for round in 0..1_000 {
        for bar in market.steps(3) {
            feed.bar(&bar);
        }
        if market.random.bool() {
            broken.catch_up();
        }
        broken = broken.breaks(gateway.address);
        if round % 50 == 0 {
            steady.catch_up();
        }
    }
    let bars = market.bars();
    assert!(bars.len() > 200, "{}", bars.len());
    steady.ends_with("the steady client has all", &bars);
    broken.ends_with("so has the one that broke", &bars);
}

/// The connections of subscribers, the oldest first.
fn subscribers(server: &RedisServer) -> Vec<u64> {
    let list = server.command("CLIENT LIST TYPE pubsub");
    let ids = list.split_whitespace().filter_map(|word| {
        let id = word.rsplit("\r\n").next()?.strip_prefix("id=")?;
        id.parse().ok()
    });
    let mut ids: Vec<u64> = ids.collect();
    ids.sort_unstable();
    ids
}

#[test]
fn breaks_of_redis_and_of_gateways_cost_no_bar() {
    let server = RedisServer::start();
    let stored = || server.bus().loading(10, 5_000);
    let mut market = Market::new(11);
    let mut feed = Feed::new(&server.bus().keeping(5_000));
    feed.keep(&market.truth);
    // Its connection to Redis is the oldest and stays.
    let steady_gateway = Running::start(settings(), stored());
    let mut steady = Watcher::new(steady_gateway.address);
    let mut gateway = Running::start(settings(), stored());
    let mut broken = Watcher::new(gateway.address);
    let (mut breaks, mut killed) = ([0; 3], 0);
    for _ in 0..120 {
        feed.keep(&market.steps(3));
        if market.random.bool() {
            broken.catch_up();
        }
        let which = [0, 0, 0, 1, 1, 2][market.random.usize(..6)];
        breaks[which] += 1;
        match which {
            0 => broken = broken.breaks(gateway.address),
            1 => {
                for id in subscribers(&server).split_first().map_or(&[][..], |s| s.1) {
                    killed += u32::from(
                        server.command(&format!("CLIENT KILL ID {id}")) == ":1\r\n+OK\r\n",
                    );
                }
                feed.keep(&market.steps(3));
            }
            _ => {
                gateway.stop();
                feed.keep(&market.steps(3));
                // Before it has read what is stored, or after.
                gateway = Running::begin(settings(), stored());
                if market.random.bool() {
                    feed.keep(&market.steps(3));
                }
                broken = broken.breaks(gateway.address);
            }
        }
        steady.catch_up();
    }
    assert!(breaks.iter().all(|count| *count > 10), "{breaks:?}");
    assert!(killed > 5, "{killed} connections to Redis were cut");
    let bars = market.bars();
    assert!(bars.len() > 80, "{}", bars.len());
    steady.ends_with("the steady client has all", &bars);
    broken.ends_with("so has the one that broke", &bars);
    assert_eq!(steady_gateway.node.metrics.gaps_upstream.get(), 0);
}
