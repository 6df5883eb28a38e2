//! What coming and going did: everything for machines, a table for people.

use serde::{Deserialize, Serialize};

use crate::figures::{Latency, grouped, ms};
use crate::machine::Machine;
use crate::occupancy::Occupancy;
use crate::publisher::Lateness;
use crate::report::{Connect, CpuFigures, Memory, Scenario, Second};
use crate::tally::Counts;

/// What was asked for beside the established clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// Clients per second that leave and are replaced.
    pub churn_rate: f64,
    /// Clients per second that give up one topic and take another.
    pub resubscribe_rate: f64,
    /// Clients that come and go, beside the established ones and those of the storm.
    pub churners: u32,
    /// Clients that all leave and come back at once.
    pub storm: u32,
    /// When they do, in seconds since the coming and going began.
    pub storm_at: Vec<f64>,
    /// Topics that each of them watches.
    pub guest_topics: u32,
    /// Whether nothing is published on those.
    pub quiet_guests: bool,
}

/// A part of the run, seen by the established clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Phase {
    /// `before`, `churn`, `storm 1` …, `after`.
    pub name: String,
    /// Seconds since the end of the warm-up.
    pub from: f64,
    pub to: f64,
    pub delivered: u64,
    pub latency_us: Latency,
    pub latency_curve_us: Vec<(f64, u64)>,
    /// p99 here by that of `before`.
    pub p99_ratio: f64,
    /// Cores that the server used, when its process is known.
    pub server_cores: Option<f64>,
    /// Cores that clients and publisher used.
    pub swarm_cores: f64,
}

/// Clients that came during the run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Coming {
    /// That left, or were to.
    pub left: u64,
    /// That came back, up to a standing subscription.
    pub back: u64,
    pub failed: u64,
    /// By text, with how many.
    pub failures: Vec<(String, u64)>,
    /// From the beginning of the TCP connection to the standing subscription, in µs.
    pub took_us: Latency,
    /// Resubscriptions that were asked for, and that were answered.
    pub resubscribed: u64,
    pub answered: u64,
    /// From the message to its answer, in µs.
    pub resubscribe_us: Latency,
}

/// One storm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Storm {
    /// Seconds since the end of the warm-up.
    pub at: f64,
    pub clients: u64,
    /// Until all were back; nothing when they were not within the patience.
    pub seconds: Option<f64>,
    pub back: u64,
    pub clients_per_second: f64,
    /// p99 of the established clients until all were back, by that of `before`.
    pub p99_ratio: f64,
    /// Server's processor time for each client that left and came back, beyond what delivering took
    /// before, in µs.
    pub server_us_per_client: Option<f64>,
    /// The same as clients per second of one core's time.
    pub clients_per_core_second: Option<f64>,
}

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChurnReport {
    pub server: String,
    /// How the server was started.
    pub started: Option<String>,
    /// Of the established clients.
    pub scenario: Scenario,
    pub asked: Asked,
    pub ended_early: bool,
    /// The established clients coming at the start, while nothing was published.
    pub connect: Connect,
    /// Those who come and go coming for the first time, after them.
    pub guests_connect: Option<Connect>,
    /// Updates that the established clients should have got.
    pub expected: u64,
    /// Of the established clients.
    #[serde(flatten)]
    pub counts: Counts,
    pub lost_topics: Vec<(String, u64)>,
    /// Established clients that were disconnected.
    pub gone: u64,
    pub gone_why: Vec<(String, u64)>,
    pub phases: Vec<Phase>,
    pub storms: Vec<Storm>,
    pub coming: Coming,
    /// Server's processor time for each client of the steady churn, beyond what delivering took before,
    /// in µs.
    pub server_us_per_change: Option<f64>,
    /// Over the whole run.
    pub cpu: Option<CpuFigures>,
    pub bytes_per_bar: f64,
    pub memory: Option<Memory>,
    pub occupancy: Occupancy,
    pub publisher: Lateness,
    pub series: Vec<Second>,
    pub machine: Machine,
}

impl ChurnReport {
    /// Whether the established clients lost nothing and stayed, and everybody came back.
    pub fn is_clean(&self) -> bool {
        self.counts.is_clean() && self.gone == 0 && self.coming.failed == 0
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |words: &str| {
            text.push_str(words);
            text.push('\n');
        };
        line(&format!("server       {}", self.server));
        line(&format!("established  {}", self.scenario.line()));
        line(&format!("connect      {}", self.connect.line()));
        if let Some(connect) = &self.guests_connect {
            line(&format!("guests       {}", connect.line()));
        }
        line("");
        line(&format!(
            "{:<12} {:>7} {:>12} {:>12} {:>12} {:>12} {:>8} {:>7} {:>6}",
            "phase", "seconds", "bars", "p50", "p99", "p99.9", "× before", "server", "swarm"
        ));
        self.phases.iter().for_each(|phase| line(&phase.line()));
        line("");
        self.storms.iter().for_each(|storm| line(&storm.line()));
        self.coming.lines().iter().for_each(|words| line(words));
        if let Some(us) = self.server_us_per_change {
            line(&format!("each change  {us:.1} µs of the server's time"));
        }
        let c = &self.counts;
        line(&format!(
            "established  {} of {} delivered, {} conflated, {} gapped, {} lost, {} out of order, {} altered, {} gone",
            grouped(c.delivered),
            grouped(self.expected),
            c.conflated,
            c.gapped,
            c.lost,
            c.out_of_order,
            c.altered,
            self.gone
        ));
        for (why, n) in &self.gone_why {
            line(&format!("             gone: {n} × {why}"));
        }
        for (topic, lost) in &self.lost_topics {
            line(&format!("             LOST on {topic}: {lost}"));
        }
        if self.ended_early {
            line("ended early");
        }
        self.occupancy.lines().iter().for_each(|words| line(words));
        self.machine.lines().iter().for_each(|words| line(words));
        text
    }
}

impl Phase {
    fn line(&self) -> String {
        let percent = |cores: f64| format!("{:.0} %", cores * 100.0);
        let l = &self.latency_us;
        format!(
            "{:<12} {:>7.2} {:>12} {:>12} {:>12} {:>12} {:>8.2} {:>7} {:>6}",
            self.name,
            self.to - self.from,
            grouped(self.delivered),
            ms(l.p50),
            ms(l.p99),
            ms(l.p999),
            self.p99_ratio,
            self.server_cores.map_or("?".to_owned(), percent),
            percent(self.swarm_cores),
        )
    }
}

impl Storm {
    fn line(&self) -> String {
        let back = match self.seconds {
            Some(seconds) => format!(
                "all {} back after {seconds:.2} s, {:.0} clients/s",
                grouped(self.clients),
                self.clients_per_second
            ),
            None => format!(
                "only {} of {} came back",
                grouped(self.back),
                grouped(self.clients)
            ),
        };
        let cost = match (self.server_us_per_client, self.clients_per_core_second) {
            (Some(us), Some(rate)) => format!(
                "; {us:.1} µs of the server's time each, {rate:.0} clients per second and core"
            ),
            _ => String::new(),
        };
        format!(
            "storm        at {:.1} s: {back}; p99 of the others × {:.2}{cost}",
            self.at, self.p99_ratio
        )
    }
}

impl Coming {
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.left > 0 {
            lines.push(format!(
                "came back    {} of {}, p50 {}, p99 {}, max {}",
                grouped(self.back),
                grouped(self.left),
                ms(self.took_us.p50),
                ms(self.took_us.p99),
                ms(self.took_us.max)
            ));
        }
        if self.resubscribed > 0 {
            lines.push(format!(
                "resubscribed {} of {}, p50 {}, p99 {}",
                grouped(self.answered),
                grouped(self.resubscribed),
                ms(self.resubscribe_us.p50),
                ms(self.resubscribe_us.p99)
            ));
        }
        for (why, n) in &self.failures {
            lines.push(format!("failed       {n} × {why}"));
        }
        lines
    }
}
