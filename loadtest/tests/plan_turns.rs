//! What plans say of `max_rate`, beside the gateway's own hub on a clock of the test's own.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barcast::gateway::batch::{Batch, Head, Kind};
use barcast::gateway::hub::{Hub, Socket};
use barcast::gateway::registry::{Entry, Registry};
use clap::Parser;
use loadtest::cli::{Cli, Command};
use loadtest::plan::model::Plan;

const TOPICS: usize = 100;
const CLIENTS: usize = 20;
/// Before the counting.
const WARMUP_SECONDS: u64 = 20;
const SECONDS: u64 = 60;
/// Turns meet at points in time, bars come beside them: plans know no more of that than this.
const TOLERANCE: f64 = 0.15;

/// A client that counts what it is written: calls and bars.
#[derive(Debug, Clone, Default)]
struct End {
    writes: Rc<Cell<u64>>,
    bars: Rc<Cell<u64>>,
}

impl Socket for End {
    type Handle<'a> = &'a Self;

    fn handle(&self) -> &Self {
        self
    }

    fn send(end: &Self, bytes: &[u8]) -> io::Result<usize> {
        end.try_write(bytes)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let bars = bytes.iter().filter(|byte| **byte == b'<').count() as u64;
        self.writes.set(self.writes.get() + 1);
        self.bars.set(self.bars.get() + bars);
        Ok(bytes.len())
    }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    per_client: usize,
    rate: u64,
    /// A multiple of the rate.
    bursts: u64,
    bar_ticks: u64,
    max_rate: f64,
}

impl Case {
    /// Writes and bars a second, by the plan.
    fn planned(self) -> [f64; 2] {
        let line = format!(
            "loadtest plan --users {CLIENTS} --topics {TOPICS} --per-client {} --rate {} --bursts {} \
             --bar-ticks {} --peak 1",
            self.per_client, self.rate, self.bursts, self.bar_ticks
        );
        let Command::Plan(args) = Cli::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        else {
            panic!("{line}");
        };
        args.check_values().unwrap();
        let book = args.book((196, 180));
        let plan = Plan::of(&book.with("max_rate", self.max_rate, "clients ask for it")).unwrap();
        ["writes", "deliveries"].map(|name| plan.get(name))
    }

    /// The same as the hub does it.
    #[expect(clippy::cast_precision_loss, reason = "small")]
    fn counted(self) -> [f64; 2] {
        let mut node = Node::new(self);
        let groups = self.bursts / self.rate;
        let mut before = [0, 0];
        for burst in 0..(WARMUP_SECONDS + SECONDS) * self.bursts {
            if burst == WARMUP_SECONDS * self.bursts {
                before = node.sent();
            }
            // Aside of the points in time at which turns fall.
            node.until(Duration::from_millis(37 + burst * 1_000 / self.bursts));
            node.burst(burst % groups, groups, burst / groups, self.bar_ticks);
        }
        let after = node.sent();
        [0, 1].map(|at| (after[at] - before[at]) as f64 / SECONDS as f64)
    }
}

struct Node {
    hub: Hub<End>,
    topics: Vec<Arc<Entry>>,
    clients: Vec<End>,
    start: Instant,
    now: Instant,
}

impl Node {
    fn new(case: Case) -> Self {
        let registry = Registry::new(TOPICS, 0);
        let topic = |n: usize| {
            let topic = format!("bars:T{n}:1").parse().unwrap();
            registry.watch(&topic, 0).unwrap()
        };
        let topics: Vec<_> = (0..TOPICS).map(topic).collect();
        let mut hub = Hub::new(1 << 20);
        // Of ever the same topics: what they hold is drawn once.
        let mut random = fastrand::Rng::with_seed(7);
        let clients = (0..CLIENTS).map(|_| {
            let end = End::default();
            let session = hub.add(end.clone());
            for at in random.choose_multiple(0..TOPICS, case.per_client) {
                hub.subscribe(session, &topics[at], 0, Some(case.max_rate));
            }
            end
        });
        let clients = clients.collect();
        let start = Instant::now();
        Self {
            hub,
            topics,
            clients,
            start,
            now: start,
        }
    }

    fn sent(&self) -> [u64; 2] {
        let sum = |of: fn(&End) -> u64| self.clients.iter().map(of).sum();
        [sum(|end| end.writes.get()), sum(|end| end.bars.get())]
    }

    fn until(&mut self, since: Duration) {
        let until = self.start + since;
        while let Some(next) = self.hub.next_turn().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.hub.take_turns(self.now);
        }
        self.now = until;
    }

    /// The update `tick` (from 0) of every topic of a group.
    fn burst(&mut self, group: u64, groups: u64, tick: u64, bar_ticks: u64) {
        let mut batch = Batch::default();
        for (at, entry) in self.topics.iter().enumerate() {
            if at as u64 % groups != group {
                continue;
            }
            let closes = (tick + 1).is_multiple_of(bar_ticks);
            let time = (tick / bar_ticks * 60_000).cast_signed();
            let head = Head {
                topic: entry.id,
                version: tick + 1,
                time,
                from: time,
                kind: if closes { Kind::Closed } else { Kind::Forming },
                ts: None,
            };
            batch.push(head, |out| out.push(b'<'));
        }
        self.hub.fan_out(&batch, self.now);
    }
}

/// As [`Case`] has them.
fn case(per_client: usize, rate: u64, bursts: u64, bar_ticks: u64, max_rate: f64) -> Case {
    Case {
        per_client,
        rate,
        bursts,
        bar_ticks,
        max_rate,
    }
}

#[test]
fn plans_write_as_often_as_the_hub() {
    const NEVER: u64 = 100_000;
    let mut wrong = Vec::new();
    for case in [
        // All topics together: one write a turn, and one when the bars close.
        case(10, 10, 10, NEVER, 2.0),
        case(10, 10, 10, 23, 2.0),
        case(1, 10, 10, 23, 2.0),
        case(10, 10, 10, 11, 4.0),
        // Apart: turns gather what came in ten bursts, closed bars they do not.
        case(10, 10, 100, NEVER, 2.0),
        case(10, 10, 100, 97, 2.0),
        case(3, 5, 100, 53, 1.0),
        // Turns that are seconds apart meet where the first updates came within a second.
        case(10, 2, 2, NEVER, 0.25),
        case(10, 2, 20, NEVER, 0.25),
        case(2, 2, 20, 61, 0.5),
        // Nothing is held back.
        case(10, 2, 20, 60, 8.0),
    ] {
        let (planned, counted) = (case.planned(), case.counted());
        for (planned, counted) in planned.into_iter().zip(counted) {
            let off = planned / counted - 1.0;
            if off.abs() > TOLERANCE {
                wrong.push(format!("{case:?}: planned {planned}, counted {counted}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
