//! What the same load costs several servers: everything for machines, a table for people.

use serde::{Deserialize, Serialize};

use crate::figures::{Spread, grouped, ms, per};
use crate::pair_report::{Pulse, Side, Surroundings};
use crate::report::Scenario;

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompareReport {
    pub scenario: Scenario,
    pub ended_early: bool,
    /// In the order of their turns. The first is what the others are compared with.
    pub servers: Vec<Compared>,
    /// Servers that could not be measured, though they were asked for.
    pub failed: Vec<Absent>,
    /// Peers that are not installed, and that nobody asked for by name.
    pub skipped: Vec<Absent>,
    #[serde(flatten)]
    pub around: Surroundings,
}

/// A server without figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    pub server: String,
    pub why: String,
}

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: NOT MEASURED: {}", short(&self.server), self.why)
    }
}

/// One server among the others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Compared {
    #[serde(flatten)]
    pub side: Side,
    /// Of its CPU time per bar, the part in user space, ns: sampled by the kernel, true over seconds.
    pub user_ns_per_bar: f64,
    /// CPU time that this load takes it each second: 2.0 is two whole cores. One that needs more than
    /// it has falls behind within a pulse and catches up before the next turn.
    pub cores_needed: f64,
    /// Against the first server, round by round; all 1 for the first itself.
    pub ratios: Ratios,
}

/// Figures of one server divided by those of the first, one ratio a round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratios {
    /// CPU per delivered bar.
    pub cpu: Spread,
    pub p50: Spread,
    pub p99: Spread,
}

impl Ratios {
    /// Of these rounds by those of the first server.
    pub fn of(rounds: &[Pulse], first: &[Pulse]) -> Self {
        let ratio = |of: fn(&Pulse) -> f64| {
            let rounds = rounds.iter().zip(first);
            let ratios = rounds.map(|(this, first)| of(this) / of(first));
            // A pulse of which nothing came has cost and latency 0.
            Spread::of(ratios.filter(|ratio| ratio.is_finite() && *ratio > 0.0))
        };
        Self {
            cpu: ratio(|pulse| pulse.ns_per_bar),
            p50: ratio(|pulse| per(pulse.latency_us.p50, 1)),
            p99: ratio(|pulse| per(pulse.latency_us.p99, 1)),
        }
    }
}

impl CompareReport {
    /// Whether every update of every server came, was conflated, or was told of.
    pub fn is_clean(&self) -> bool {
        let mut servers = self.servers.iter();
        servers.all(|server| server.side.counts.is_clean())
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let head = [
            "server",
            "CPU µs/bar",
            "user",
            "ratio (95 %)",
            "cores",
            "p50",
            "p99",
            "p99 ratio (95 %)",
            "KiB/client",
            "bytes/bar",
            "delivered",
            "of",
            "lost",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.servers.iter().map(Compared::row));
        let mut text = format!("{}\n\n{}", self.scenario.line(), aligned(&rows));
        for line in self.notes() {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// What is to be said below the figures.
    fn notes(&self) -> Vec<String> {
        let mut notes = vec![String::new()];
        let absent = self.failed.iter().chain(&self.skipped);
        notes.extend(absent.map(Absent::to_string));
        for server in &self.servers {
            notes.extend(server.notes());
        }
        if self.ended_early {
            notes.push("ended early".into());
        }
        for (why, n) in &self.around.gone_why {
            notes.push(format!("clients gone: {n} × {why}"));
        }
        notes.extend(self.around.occupancy.lines());
        notes.extend(self.around.machine.lines());
        notes
    }
}

impl Compared {
    fn row(&self) -> [String; 13] {
        let Side {
            counts, latency_us, ..
        } = &self.side;
        let memory = self.side.memory.as_ref();
        [
            short(&self.side.server),
            format!("{:.3}", self.side.ns_per_bar.median / 1_000.0),
            format!("{:.3}", self.user_ns_per_bar / 1_000.0),
            told(&self.ratios.cpu),
            format!("{:.2}", self.cores_needed),
            ms(latency_us.p50),
            ms(latency_us.p99),
            told(&self.ratios.p99),
            memory.map_or("–".into(), |m| {
                format!("{:.2}", m.bytes_per_client / 1_024.0)
            }),
            format!("{:.1}", self.side.bytes_per_bar),
            grouped(counts.delivered),
            grouped(self.side.expected),
            grouped(counts.lost),
        ]
    }

    /// What does not fit into a row.
    fn notes(&self) -> Vec<String> {
        let counts = &self.side.counts;
        let server = short(&self.side.server);
        let mut notes = Vec::new();
        for (n, what) in [
            (counts.conflated, "conflated"),
            (counts.gapped, "gapped"),
            (counts.out_of_order, "out of order"),
            (counts.duplicates, "duplicates"),
            (counts.altered, "altered"),
            (self.side.gone, "clients gone"),
        ] {
            if n > 0 {
                notes.push(format!("{server}: {} {what}", grouped(n)));
            }
        }
        for (topic, lost) in &self.side.lost_topics {
            notes.push(format!("{server}: LOST on {topic}: {lost}"));
        }
        if let Some(calls) = &self.side.system_calls {
            notes.push(format!("{server}: system calls {}", calls.line()));
        }
        notes
    }
}

/// The name of a server, or the beginning of its command: all of it is in the command line below.
fn short(server: &str) -> String {
    /// Characters that a table has room for.
    const LONGEST: usize = 24;
    if server.chars().count() <= LONGEST {
        return server.to_owned();
    }
    let beginning: String = server.chars().take(LONGEST - 1).collect();
    beginning + "…"
}

/// A ratio with the interval that its median lies in.
fn told(ratio: &Spread) -> String {
    let interval = ratio.confidence();
    let interval = interval.map(|(from, to)| format!(" ({from:.3}–{to:.3})"));
    format!("{:.3}{}", ratio.median, interval.unwrap_or_default())
}

/// Rows with columns of equal width, the first to the left and the others to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        for (nth, (cell, width)) in row.iter().zip(widths).enumerate() {
            if nth == 0 {
                text.push_str(&format!("{cell:<width$}"));
            } else {
                text.push_str(&format!("  {cell:>width$}"));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Latency;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let pulse = |ns_per_bar, p99| Pulse {
            ns_per_bar,
            latency_us: Latency {
                p99,
                ..Latency::default()
            },
            ..Pulse::default()
        };
        let first = [pulse(10.0, 100), pulse(20.0, 100), pulse(10.0, 0)];
        let other = [pulse(20.0, 300), pulse(20.0, 100), pulse(30.0, 100)];
        let ratios = Ratios::of(&other, &first);
        let Spread { median, max, .. } = ratios.cpu;
        assert_eq!((median, max), (2.0, 3.0));
        // What has no ratio is left out.
        assert_eq!((ratios.p99.count, ratios.p99.median), (2, 2.0));
        assert_eq!(ratios.p50.count, 0);
        assert_eq!(Ratios::of(&[pulse(0.0, 0)], &first).cpu.count, 0);
        assert_eq!(Ratios::of(&first, &first).cpu.median, 1.0);
    }

    #[test]
    fn columns_stand_below_each_other() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let text = aligned(&[row(["server", "µs", "lost"]), row(["a", "1.000", "0"])]);
        assert_eq!(text, "server     µs  lost\na       1.000     0\n");
    }
}
