//! What a pair of servers cost in terms of each other: everything for machines, a table for people.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::figures::{Latency, Spread, grouped, ms, per};
use crate::machine::Machine;
use crate::occupancy::Occupancy;
use crate::report::{Memory, Scenario};
use crate::strace::SystemCalls;
use crate::tally::Counts;

/// One pulse of one server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Pulse {
    pub delivered: u64,
    pub cpu_ns: u64,
    pub ns_per_bar: f64,
    pub latency_us: Latency,
}

/// One server of the pair.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Side {
    pub server: String,
    pub started: Option<String>,
    pub expected: u64,
    #[serde(flatten)]
    pub counts: Counts,
    pub lost_topics: Vec<(String, u64)>,
    /// Clients that were disconnected.
    pub gone: u64,
    /// Of all pulses, in ns.
    pub ns_per_bar: Spread,
    /// Of all pulses together.
    pub latency_us: Latency,
    pub bytes_per_bar: f64,
    pub memory: Option<Memory>,
    pub system_calls: Option<SystemCalls>,
    pub pulses: Vec<Pulse>,
}

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PairReport {
    pub scenario: Scenario,
    pub ended_early: bool,
    pub a: Side,
    pub b: Side,
    /// CPU per delivered bar of A by that of B, pulse by pulse.
    pub cpu_ratio: Spread,
    /// 99th percentile of the latency of A by that of B, pulse by pulse.
    pub p99_ratio: Spread,
    #[serde(flatten)]
    pub around: Surroundings,
}

/// What surrounded the pulses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Surroundings {
    /// Of all pulses, the warm-up's too.
    pub occupancy: Occupancy,
    pub gone_why: Vec<(String, u64)>,
    pub machine: Machine,
}

impl PairReport {
    /// Puts the two sides, A and B, against each other.
    ///
    /// # Errors
    /// When there are not two.
    pub fn of(
        scenario: Scenario,
        ended_early: bool,
        around: Surroundings,
        sides: Vec<Side>,
    ) -> Result<Self> {
        let [a, b]: [Side; 2] = sides.try_into().ok().context("a pair has two sides")?;
        let ratio = |of: fn(&Pulse) -> f64| {
            let pulses = a.pulses.iter().zip(&b.pulses);
            Spread::of(
                pulses
                    .map(|(a, b)| of(a) / of(b))
                    .filter(|ratio| ratio.is_finite()),
            )
        };
        Ok(Self {
            scenario,
            ended_early,
            cpu_ratio: ratio(|pulse| pulse.ns_per_bar),
            p99_ratio: ratio(|pulse| per(pulse.latency_us.p99, 1)),
            around,
            a,
            b,
        })
    }

    /// Whether every update of both servers came, was conflated, or was told of.
    pub fn is_clean(&self) -> bool {
        self.a.counts.is_clean() && self.b.counts.is_clean()
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |words: String| {
            text.push_str(&words);
            text.push('\n');
        };
        line(format!("A  {}", self.a.server));
        line(format!("B  {}", self.b.server));
        line(self.scenario.line());
        line(String::new());
        line("pulse   A ns/bar   B ns/bar     A/B        A p99        B p99     A/B".into());
        for (nth, (a, b)) in self.a.pulses.iter().zip(&self.b.pulses).enumerate() {
            let (p99_a, p99_b) = (a.latency_us.p99, b.latency_us.p99);
            line(format!(
                "{:>5} {:>10.1} {:>10.1} {:>7.3} {:>12} {:>12} {:>7.3}",
                nth + 1,
                a.ns_per_bar,
                b.ns_per_bar,
                a.ns_per_bar / b.ns_per_bar,
                ms(p99_a),
                ms(p99_b),
                per(p99_a, p99_b)
            ));
        }
        line(String::new());
        line(format!("CPU per bar, A/B: {}", told(&self.cpu_ratio)));
        line(format!("p99 latency, A/B: {}", told(&self.p99_ratio)));
        if self.ended_early {
            line("ended early".into());
        }
        for (name, side) in [("A", &self.a), ("B", &self.b)] {
            side.lines(name).into_iter().for_each(&mut line);
        }
        for (why, n) in &self.around.gone_why {
            line(format!("clients gone: {n} × {why}"));
        }
        self.around
            .occupancy
            .lines()
            .into_iter()
            .for_each(&mut line);
        self.around.machine.lines().into_iter().for_each(&mut line);
        text
    }
}

fn told(spread: &Spread) -> String {
    let mut text = format!("median {:.3} (", spread.median);
    if let Some((from, to)) = spread.confidence() {
        text.push_str(&format!("95 % between {from:.3} and {to:.3}; "));
    }
    text.push_str(&format!("all {:.3} to {:.3})", spread.min, spread.max));
    text
}

impl Side {
    fn lines(&self, name: &str) -> Vec<String> {
        let c = &self.counts;
        let mut lines = vec![
            format!(
                "{name}: {} of {} delivered, {} conflated, {} gapped, {} lost, {} out of order, {} duplicates, {} altered",
                grouped(c.delivered),
                grouped(self.expected),
                c.conflated,
                c.gapped,
                c.lost,
                c.out_of_order,
                c.duplicates,
                c.altered
            ),
            format!(
                "{name}: {:.1} ns/bar (median), p50 {}, p99 {}, max {}, {:.1} bytes per bar",
                self.ns_per_bar.median,
                ms(self.latency_us.p50),
                ms(self.latency_us.p99),
                ms(self.latency_us.max),
                self.bytes_per_bar
            ),
        ];
        if let Some(memory) = &self.memory {
            let kib = memory.bytes_per_client / 1024.0;
            lines.push(format!("{name}: {kib:.2} KiB resident per client"));
        }
        if let Some(calls) = &self.system_calls {
            lines.push(format!("{name}: system calls {}", calls.line()));
        }
        for (topic, lost) in &self.lost_topics {
            lines.push(format!("{name}: LOST on {topic}: {lost}"));
        }
        lines
    }
}
