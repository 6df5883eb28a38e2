//! Random losses, jumps of `seq`, stores that know all, little or stop halfway, and clients that come and go
//! with `since`: each ends with all bars, or with gaps that cover what it lacks; and no gap covers a bar that
//! is proven. Some keep so little that most is let go before it is asked for.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use barcast::bar::Bar;
use barcast::bus::{Outgoing, Sink};
use barcast::gateway::Config;
use common::client::Client;
use common::gateway::{Candle, MINUTE, Running, START, candle, config};
use common::script::Scripted;
use serde_json::Value;

/// Steps of one run: few enough that the holes never reach their bound, where they become coarser.
const STEPS: usize = 60;
const RUNS: u64 = 100;

/// The producer, the bus and the store, and what the gateway can know.
struct World {
    random: fastrand::Rng,
    bus: Scripted,
    counts: bool,
    seq: u64,
    truth: BTreeMap<i64, Candle>,
    /// What the store has: closed bars, and the newest.
    stored: BTreeMap<i64, Candle>,
    /// Bars whose last state the gateway has and can prove.
    proven: BTreeSet<i64>,
    /// Newest bar that the gateway has.
    heard: i64,
}

impl World {
    fn new(seed: u64, bus: Scripted) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let counts = random.u8(..4) > 0;
        Self {
            random,
            bus,
            counts,
            seq: 0,
            truth: BTreeMap::from([(START, candle("A", 0, 1))]),
            stored: BTreeMap::new(),
            proven: BTreeSet::new(),
            heard: i64::MIN,
        }
    }

    fn newest(&self) -> i64 {
        *self.truth.keys().next_back().unwrap()
    }

    /// One message about this bar, which is stored first.
    fn publish(&mut self, time: i64, change: impl FnOnce(&mut Candle)) -> Candle {
        self.seq += 1;
        let (seq, counts) = (self.seq, self.counts);
        let bar = self.truth.entry(time).or_insert(Candle {
            time,
            ..candle("A", 0, 1)
        });
        change(bar);
        bar.price = seq;
        if counts {
            *bar = bar.seq(1, seq);
        }
        let bar = *bar;
        self.stored.insert(time, bar);
        self.proven.remove(&time);
        bar
    }

    /// The newest bar goes on, or closes and another opens.
    fn goes_on(&mut self) -> Vec<Candle> {
        let newest = self.newest();
        if self.random.bool() {
            return vec![self.publish(newest, |_| {})];
        }
        let next = newest + self.random.i64(1..=3) * MINUTE;
        let closed = self.publish(newest, |bar| bar.closed = true);
        vec![closed, self.publish(next, |_| {})]
    }

    /// An older bar changes.
    fn revises(&mut self) -> Vec<Candle> {
        let older: Vec<_> = self.truth.range(..self.newest()).map(|(t, _)| *t).collect();
        let Some(time) = self.random.choice(older.iter().rev().take(6)) else {
            return Vec::new();
        };
        vec![self.publish(*time, |bar| {
            bar.closed = true;
            bar.rev = Some(bar.rev.unwrap_or(0) + 1);
        })]
    }

    fn misses(&mut self, most: usize) {
        for _ in 0..self.random.usize(..=most) {
            self.goes_on();
        }
    }

    fn hears(&mut self, bars: &[Candle]) -> Vec<Outgoing> {
        for bar in bars {
            self.proven.insert(bar.time);
            self.heard = self.heard.max(bar.time);
        }
        bars.iter().map(Candle::outgoing).collect()
    }

    fn sends(&mut self, bars: &[Candle]) {
        let out = self.hears(bars);
        self.bus.call(move |sink| deliver(sink, &out));
    }

    /// The bus is lost and comes back, with or without a store.
    fn breaks(&mut self) {
        self.proven.remove(&self.heard);
        self.bus.call(|sink| sink.lost("a test says so"));
        self.misses(5);
        if self.random.bool() {
            self.loads();
        }
        self.bus.call(|sink| {
            sink.connected();
            sink.flush();
        });
    }

    fn loads(&mut self) {
        self.bus.call(|sink| sink.loading());
        let live_first = self.random.bool();
        let mut live = self.goes_on();
        if self.random.bool() {
            live.extend(self.goes_on());
        }
        if live_first {
            self.sends(&live);
        }
        let keeps = self.random.usize(..20);
        let newest = *self.stored.last_key_value().unwrap().1;
        let older = self.stored.range(..newest.time).map(|(_, bar)| *bar);
        let older: Vec<_> = older.filter(|bar| bar.closed).collect();
        // As Redis gives it: the newest message, then the closed bars.
        let mut read = vec![newest];
        read.extend_from_slice(&older[older.len().saturating_sub(keeps)..]);
        let is_whole = self.random.u8(..3) > 0;
        if !is_whole {
            read.truncate(self.random.usize(..=read.len()));
        }
        if is_whole {
            let oldest = read.iter().map(|bar| bar.time).min().unwrap();
            let covered = self.truth.range(oldest..=newest.time);
            self.proven.extend(covered.map(|(time, _)| *time));
        } else {
            let closed = read.iter().filter(|bar| bar.closed);
            self.proven.extend(closed.map(|bar| bar.time));
        }
        self.heard = read.iter().map(|bar| bar.time).fold(self.heard, i64::max);
        let out: Vec<_> = read.iter().map(Candle::outgoing).collect();
        self.bus.call(move |sink| {
            for out in out {
                sink.stored(&out.channel, &out.payload);
            }
            if !is_whole {
                sink.unloaded(barcast::bus::Doubt {
                    why: "a test says so",
                    flows: false,
                });
            }
        });
        if !live_first {
            self.sends(&live);
        }
    }

    fn step(&mut self) {
        match self.random.u8(..10) {
            0..5 => {
                let bars = self.goes_on();
                self.sends(&bars);
            }
            5..7 => {
                let bars = self.revises();
                self.sends(&bars);
            }
            // Without numbers nobody could know.
            7 if self.counts => {
                self.proven.remove(&self.heard);
                self.misses(4);
            }
            7 | 8 => self.bus.call(|sink| sink.flush()),
            _ => self.breaks(),
        }
    }
}

fn deliver(sink: &mut dyn Sink, out: &[Outgoing]) {
    for out in out {
        sink.message(&out.channel, &out.payload);
    }
    sink.flush();
}

/// A client that keeps bars, and what it was told that it may lack.
struct Watcher {
    client: Client,
    bars: BTreeMap<i64, Value>,
    doubts: BTreeSet<i64>,
    /// Gaps of the last answer.
    told: Vec<(i64, i64)>,
    asked: VecDeque<i64>,
    is_answered: bool,
    repairs: bool,
}

impl Watcher {
    fn new(address: SocketAddr, repairs: bool) -> Self {
        let mut made = Self {
            client: Client::connect(address),
            bars: BTreeMap::new(),
            doubts: BTreeSet::new(),
            told: Vec::new(),
            asked: VecDeque::new(),
            is_answered: false,
            repairs,
        };
        made.ask(START);
        made
    }

    fn comes_back(&mut self, address: SocketAddr) {
        self.client = Client::connect(address);
        self.asked.clear();
        self.is_answered = false;
        let since = self.bars.keys().next_back().copied().unwrap_or(START);
        self.ask(since);
    }

    fn ask(&mut self, since: i64) {
        self.asked.push_back(since);
        self.client.send(format!(
            r#"{{"type":"bars.subscribe","payload":{{"topics":["bars:A:1"],"since":{since}}}}}"#
        ));
    }

    fn catch_up(&mut self) {
        for text in self.client.until_pong() {
            self.take(&text);
        }
    }

    fn keep(&mut self, bar: &Value) {
        self.bars.insert(bar["time"].as_i64().unwrap(), bar.clone());
    }

    fn take(&mut self, text: &str) {
        let told: Value = serde_json::from_str(text).unwrap();
        let payload = &told["payload"];
        let time = |name: &str| payload[name].as_i64().unwrap();
        match told["type"].as_str().unwrap() {
            "bars.update" => {
                self.keep(payload);
                self.doubts.remove(&time("time"));
            }
            "bars.subscribe.response" => {
                self.is_answered = true;
                self.told.clear();
                // All from there on comes anew, and what is not there is told anew.
                let since = self.asked.pop_front().unwrap();
                self.doubts.retain(|time| *time < since);
            }
            "bars.snapshot" => {
                let bars = payload["bars"].as_array().unwrap();
                bars.iter().for_each(|bar| self.keep(bar));
                self.is_answered = false;
            }
            "bars.gap" => {
                let (from, to) = (time("from"), time("to"));
                let end = to.min(START + 1_000 * MINUTE);
                let doubtful = (from.max(START)..=end).step_by(MINUTE as usize);
                self.doubts.extend(doubtful);
                if self.is_answered {
                    self.told.push((from, to));
                } else if self.repairs {
                    self.ask(from);
                }
            }
            other => panic!("{other}: {text}"),
        }
    }

    /// Reads on until it has the newest bar, which is the last that was sent.
    fn must_know(&mut self, truth: &BTreeMap<i64, Candle>, who: &str) {
        let json = |bar: &Candle| serde_json::from_str::<Value>(&bar.json()).unwrap();
        let (newest, bar) = truth.last_key_value().unwrap();
        while self.bars.get(newest) != Some(&json(bar))
            || !self.asked.is_empty()
            || self.is_answered
        {
            let text = self.client.text();
            self.take(&text);
        }
        self.catch_up();
        for (time, bar) in truth {
            let is_known = self.bars.get(time) == Some(&json(bar)) || self.doubts.contains(time);
            let minute = (time - START) / MINUTE;
            assert!(
                is_known,
                "{who} lacks bar {minute}, and was not told: {:?}",
                self.bars.get(time)
            );
        }
    }
}

/// What a gateway keeps of the past.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// All that a run has.
    All,
    /// So many closed bars of a topic.
    Bars(usize),
    /// So many bytes.
    Bytes(usize),
}

fn run(seed: u64, kept: Kept) {
    let bus = Scripted::new();
    let mut world = World::new(seed, bus.clone());
    let mut settings = Config {
        history_bars: match kept {
            Kept::Bars(bars) => bars,
            Kept::All | Kept::Bytes(_) => 1_000,
        },
        proof_wait: if world.random.bool() {
            Duration::ZERO
        } else {
            Duration::from_secs(3_600)
        },
        drain_grace: Duration::from_millis(50),
        ..config()
    };
    if let Kept::Bytes(bytes) = kept {
        settings.history_bytes = bytes;
    }
    settings.limits.max_messages_per_second = 100_000;
    let gateway = Running::start(settings, bus);
    let mut watchers: Vec<_> = [false, true, true]
        .map(|repairs| Watcher::new(gateway.address, repairs))
        .into();
    for _ in 0..STEPS {
        world.step();
        let who = world.random.usize(..watchers.len());
        match world.random.u8(..6) {
            0 => {
                if world.random.bool() {
                    watchers[who].catch_up();
                }
                watchers[who].comes_back(gateway.address);
            }
            1 if watchers.len() < 8 => {
                let repairs = world.random.bool();
                watchers.push(Watcher::new(gateway.address, repairs));
            }
            2 => watchers[who].catch_up(),
            _ => {}
        }
    }
    // Nothing is lost without a word when another message comes in the end.
    let newest = world.newest();
    let end = [
        world.publish(newest, |bar| bar.closed = true),
        world.publish(newest + MINUTE, |_| {}),
    ];
    world.sends(&end);
    for (at, watcher) in watchers.iter_mut().enumerate() {
        watcher.must_know(&world.truth, &format!("seed {seed}: client {at}"));
    }
    let mut last = Watcher::new(gateway.address, false);
    last.must_know(&world.truth, &format!("seed {seed}: a new client"));
    if kept != Kept::All {
        // What was let go is missing, proven or not.
        return;
    }
    for (from, to) in last.told {
        let wrong = world.proven.range(from + 1..).next();
        let minutes = |time: i64| (time - START) / MINUTE;
        assert!(
            wrong.is_none_or(|time| *time >= to),
            "seed {seed}: bar {:?} is proven, and told as missing from {} to {}",
            wrong.map(|time| minutes(*time)),
            minutes(from),
            minutes(to)
        );
    }
}

#[test]
fn every_client_has_all_bars_or_knows_what_it_lacks() {
    (0..RUNS).for_each(|seed| run(seed, Kept::All));
}

/// Seeds 362 and 196 are among those that once failed.
#[test]
fn also_where_few_bars_are_kept() {
    (0..RUNS)
        .chain([196, 362])
        .for_each(|seed| run(seed, Kept::Bars(12)));
    (0..RUNS).for_each(|seed| run(seed, Kept::Bars(0)));
}

#[test]
fn also_where_few_bytes_are_kept() {
    (0..RUNS).for_each(|seed| run(seed, Kept::Bytes(12 * size_of::<Bar>())));
}
