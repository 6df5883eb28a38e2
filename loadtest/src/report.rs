//! What one experiment found: everything for machines, a table for people.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::figures::{Latency, grouped, ms, per};
use crate::load::Load;
use crate::machine::Machine;
use crate::occupancy::Occupancy;
use crate::process::Cpu;
use crate::publisher::{Burst, Lateness, Publish};
use crate::strace::SystemCalls;
use crate::tally::Counts;
use crate::watchlist::Shape;

fn one() -> u32 {
    1
}

/// What was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scenario {
    pub clients: u32,
    pub topics: u32,
    pub per_client: u32,
    /// Ticks a second; each updates every topic.
    pub rate: f64,
    pub shape: Shape,
    pub publish: Publish,
    #[serde(default)]
    pub burst: Burst,
    pub bar_ticks: u64,
    /// Updates a second of a topic that the clients ask for.
    #[serde(default)]
    pub max_rate: Option<f64>,
    pub seed: u64,
    pub client_threads: u32,
    /// Processes of the clients.
    #[serde(default = "one")]
    pub client_processes: u32,
    pub warmup_ticks: u64,
    /// Ticks that were measured.
    pub measured_ticks: u64,
}

impl Scenario {
    pub fn of(load: &Load, warmup_ticks: u64, measured_ticks: u64) -> Self {
        Self {
            clients: load.clients,
            topics: load.topics,
            per_client: load.per_client,
            rate: load.rate,
            shape: load.shape,
            publish: load.publish,
            burst: load.burst,
            bar_ticks: load.bar_ticks,
            max_rate: load.max_rate,
            seed: load.seed,
            client_threads: load.client_threads,
            client_processes: load
                .crew(load.clients.into())
                .ok()
                .and_then(|crew| u32::try_from(crew.processes).ok())
                .unwrap_or(1),
            warmup_ticks,
            measured_ticks,
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        format!(
            "{} clients × {} of {} topics ({}), {} ticks/s {}, {} messages{}",
            grouped(self.clients.into()),
            self.per_client,
            self.topics,
            format!("{:?}", self.shape).to_lowercase(),
            self.rate,
            format!("{:?}", self.burst).to_lowercase(),
            format!("{:?}", self.publish).to_lowercase(),
            self.max_rate
                .map_or(String::new(), |rate| format!(", max_rate {rate}/s")),
        )
    }
}

/// How long it took until every client was subscribed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Connect {
    pub seconds: f64,
    pub clients_per_second: f64,
    /// From the beginning of the TCP connection to the standing subscription, in µs.
    #[serde(default)]
    pub took_us: Latency,
    /// Server's processor time for each client, in µs, when its process is known.
    #[serde(default)]
    pub server_us_per_client: Option<f64>,
}

impl Connect {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
    pub fn of(clients: u64, took: Duration, each: &Histogram<u64>, used: Option<Cpu>) -> Self {
        let seconds = took.as_secs_f64();
        Self {
            seconds,
            clients_per_second: clients as f64 / seconds.max(1e-9),
            took_us: Latency::from(each),
            server_us_per_client: used.map(|used| per(used.total_ns, clients) / 1_000.0),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let cost = self.server_us_per_client.map_or(String::new(), |us| {
            format!(", {us:.1} µs of the server's time each")
        });
        format!(
            "{:.2} s, {:.0} clients/s; p50 {}, p99 {}{cost}",
            self.seconds,
            self.clients_per_second,
            ms(self.took_us.p50),
            ms(self.took_us.p99)
        )
    }
}

/// CPU time of the server between the end of the warm-up and the last update.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CpuFigures {
    #[serde(flatten)]
    pub used: Cpu,
    pub us_per_bar: f64,
    pub user_us_per_bar: f64,
    pub system_us_per_bar: f64,
}

impl CpuFigures {
    pub fn of(used: Cpu, delivered: u64) -> Self {
        Self {
            used,
            us_per_bar: per(used.total_ns, delivered) / 1_000.0,
            user_us_per_bar: per(used.user_ns, delivered) / 1_000.0,
            system_us_per_bar: per(used.system_ns, delivered) / 1_000.0,
        }
    }
}

/// Resident memory of the server before and after the clients came.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memory {
    pub before_bytes: u64,
    pub after_bytes: u64,
    pub bytes_per_client: f64,
}

impl Memory {
    pub fn of(before: Option<u64>, after: Option<u64>, clients: u64) -> Option<Self> {
        let (before_bytes, after_bytes) = (before?, after?);
        Some(Self {
            before_bytes,
            after_bytes,
            bytes_per_client: per(after_bytes.saturating_sub(before_bytes), clients),
        })
    }
}

/// One second of the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since the first tick.
    pub at: f64,
    pub delivered: u64,
    pub latency_us: Latency,
    pub server_cores: Option<f64>,
    pub server_resident: Option<u64>,
}

impl Second {
    /// In one line, with `gone` clients disconnected so far.
    pub fn line(&self, clients: u64, gone: u64) -> String {
        let cores = self.server_cores.map_or(String::new(), |cores| {
            format!(", server at {:.0} %", cores * 100.0)
        });
        let gone = if gone > 0 {
            format!(", {gone} clients GONE")
        } else {
            String::new()
        };
        format!(
            "{:5.1} s: {} clients, {} bars/s, p50 {}, p99 {}{cores}{gone}",
            self.at,
            grouped(clients),
            grouped(self.delivered),
            ms(self.latency_us.p50),
            ms(self.latency_us.p99),
        )
    }
}

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunReport {
    pub server: String,
    /// How the server was started.
    pub started: Option<String>,
    pub scenario: Scenario,
    pub ended_early: bool,
    pub connect: Connect,
    /// Updates that should have come: measured ticks × clients × topics of each.
    pub expected: u64,
    #[serde(flatten)]
    pub counts: Counts,
    pub lost_topics: Vec<(String, u64)>,
    /// Clients that were disconnected.
    pub gone: u64,
    pub gone_why: Vec<(String, u64)>,
    pub latency_us: Latency,
    pub latency_curve_us: Vec<(f64, u64)>,
    pub cpu: Option<CpuFigures>,
    pub bytes_per_bar: f64,
    pub memory: Option<Memory>,
    pub system_calls: Option<SystemCalls>,
    pub occupancy: Occupancy,
    pub publisher: Lateness,
    pub series: Vec<Second>,
    pub machine: Machine,
}

impl RunReport {
    /// Whether every update came, was conflated, or was told of.
    pub fn is_clean(&self) -> bool {
        self.counts.is_clean()
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut rows: Vec<(&str, String)> = vec![
            ("server", self.server.clone()),
            ("load", self.scenario.line()),
            ("measured", self.measured()),
            ("connect", self.connect.line()),
        ];
        self.delivery(&mut rows);
        let l = &self.latency_us;
        for (name, us) in [
            ("latency p50", l.p50),
            ("p90", l.p90),
            ("p99", l.p99),
            ("p99.9", l.p999),
            ("p99.99", l.p9999),
            ("max", l.max),
        ] {
            rows.push((name, ms(us)));
        }
        self.cost(&mut rows);
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in rows {
            text.push_str(&format!("{name:>width$}  {value}\n"));
        }
        for line in self.machine.lines() {
            text.push_str(&format!("{:>width$}  {line}\n", ""));
        }
        text
    }

    fn measured(&self) -> String {
        let early = if self.ended_early {
            ", ended early"
        } else {
            ""
        };
        format!(
            "{} ticks after {} of warm-up{early}",
            grouped(self.scenario.measured_ticks),
            grouped(self.scenario.warmup_ticks)
        )
    }

    fn delivery(&self, rows: &mut Vec<(&str, String)>) {
        let c = &self.counts;
        rows.push(("expected", grouped(self.expected)));
        for (name, n) in [
            ("delivered", c.delivered),
            ("conflated", c.conflated),
            ("gapped", c.gapped),
            ("lost", c.lost),
        ] {
            let share = 100.0 * per(n, self.expected);
            rows.push((name, format!("{} ({share:.2} %)", grouped(n))));
        }
        for (topic, lost) in &self.lost_topics {
            rows.push(("", format!("LOST on {topic}: {lost}")));
        }
        rows.push(("out of order", grouped(c.out_of_order)));
        rows.push(("duplicates", grouped(c.duplicates)));
        rows.push(("altered", grouped(c.altered)));
        if self.gone > 0 {
            rows.push(("clients gone", grouped(self.gone)));
            for (why, n) in &self.gone_why {
                rows.push(("", format!("{n} × {why}")));
            }
        }
    }

    fn cost(&self, rows: &mut Vec<(&str, String)>) {
        if let Some(cpu) = &self.cpu {
            rows.push((
                "server CPU",
                format!(
                    "{:.3} µs/bar (user {:.3}, system {:.3})",
                    cpu.us_per_bar, cpu.user_us_per_bar, cpu.system_us_per_bar
                ),
            ));
        }
        rows.push(("bytes", format!("{:.1} per bar", self.bytes_per_bar)));
        if let Some(memory) = &self.memory {
            rows.push((
                "memory",
                format!(
                    "{:.2} KiB per client ({:.1} → {:.1} MiB)",
                    memory.bytes_per_client / 1024.0,
                    per(memory.before_bytes, 1 << 20),
                    per(memory.after_bytes, 1 << 20)
                ),
            ));
        }
        if let Some(calls) = &self.system_calls {
            rows.push(("system calls", calls.line()));
        }
        for (nth, line) in self.occupancy.lines().into_iter().enumerate() {
            rows.push((if nth == 0 { "swarm" } else { "" }, line));
        }
        rows.push((
            "publisher",
            format!(
                "started ticks at most {} late, took at most {}",
                ms(self.publisher.start_max_us),
                ms(self.publisher.publish_max_us)
            ),
        ));
    }
}
