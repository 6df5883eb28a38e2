//! What a ramp found: everything for machines, a table for people.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::usl::Usl;
use crate::figures::{Latency, Spread, grouped, ms, per};
use crate::machine::Machine;
use crate::occupancy::Occupancy;
use crate::publisher::Lateness;
use crate::report::{CpuFigures, Scenario};
use crate::tally::Counts;

/// What is raised from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepBy {
    /// More clients, at the same rate
    Clients,
    /// More ticks per second, for the same clients
    Rate,
}

impl StepBy {
    /// What a load is counted in.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Rate => "ticks/s",
        }
    }

    /// A load in words.
    pub fn told(self, load: f64) -> String {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clients are whole and positive"
        )]
        match self {
            Self::Clients => format!("{} clients", grouped(load.round() as u64)),
            Self::Rate if load < 10.0 => format!("{load:.2} ticks/s"),
            Self::Rate => format!("{load:.1} ticks/s"),
        }
    }
}

/// Why a step was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// On the way up, until an objective broke.
    Climb,
    /// Above the first load that broke one: it shows how the server behaves there.
    Beyond,
    /// Between the last load that held and the first that did not.
    Bisection,
}

/// What ran out first, as far as it can be seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// The server's cores were busy: the knee is the server's.
    Server,
    /// The cores of clients, publisher and Redis were busy: the knee is the swarm's.
    Swarm,
    /// Both were.
    Both,
    /// Neither was: the bars of one tick queue behind each other, or something else held them up.
    Neither,
    /// Neither was, and the swarm worked longer on a tick's bars than the server: the latency is more
    /// the swarm's than the server's.
    SwarmBursts,
    /// The server's processor time is not known, and the swarm was not the limit.
    Unknown,
}

impl Limit {
    /// In words.
    pub fn told(self) -> &'static str {
        match self {
            Self::Server => "the server's cores were busy",
            Self::Swarm => {
                "the swarm's cores were busy: this is a limit of the swarm, not of the server"
            }
            Self::Both => "the server's cores were busy, and the swarm's too",
            Self::Neither => {
                "no core was busy all the time: what is due at one moment queues behind itself"
            }
            Self::SwarmBursts => {
                "no core was busy all the time, but the swarm worked longer on each tick than the server: this is a limit of the swarm"
            }
            Self::Unknown => "what the server's cores did is not known",
        }
    }

    /// Whether the swarm's own limit may have been measured.
    pub fn of_swarm(self) -> bool {
        matches!(self, Self::Swarm | Self::Both | Self::SwarmBursts)
    }
}

/// Bars per second for people.
pub fn bars(per_second: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and far below 2^53"
    )]
    grouped(per_second.round() as u64)
}

/// One load, held for a while.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RampStep {
    /// In the unit of [`RampReport::step`].
    pub load: f64,
    pub part: Part,
    /// Of a bisection: which one, from 0.
    pub repeat: u32,
    pub clients: u32,
    /// Ticks per second.
    pub rate: f64,
    /// Whether every objective held.
    pub holds: bool,
    /// The objectives that broke, in words.
    pub broken: Vec<String>,
    /// Bars per second that the clients should have got by the plan.
    pub offered_per_second: f64,
    /// Bars per second that they got while the plan ran: what came after its end is not in it.
    pub delivered_per_second: f64,
    pub expected: u64,
    /// What became of all that was expected, also of what came late.
    #[serde(flatten)]
    pub counts: Counts,
    /// Clients that were disconnected.
    pub gone: u64,
    pub gone_why: Vec<(String, u64)>,
    pub latency_us: Latency,
    pub cpu: Option<CpuFigures>,
    pub bytes_per_bar: f64,
    /// Resident memory of the server at the end, in bytes.
    pub server_resident: Option<u64>,
    pub occupancy: Occupancy,
    pub publisher: Lateness,
    pub limit: Limit,
}

/// Where the objectives begin to break.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Knee {
    /// The highest load that held: the median of the bisections, in the unit of [`RampReport::step`].
    pub load: f64,
    /// The lowest load that did not hold in the climb.
    pub first_broken: f64,
    /// What each bisection found.
    pub repeats: Vec<f64>,
    pub spread: Spread,
    /// Bars per second offered at `load`.
    pub bars_per_second: f64,
    /// Where the objectives broke: what ran out there, and which they were.
    pub limit: Limit,
    pub broken: Vec<String>,
}

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RampReport {
    pub server: String,
    /// How the server was started.
    pub started: Option<String>,
    /// The first step's.
    pub scenario: Scenario,
    pub step: StepBy,
    /// The objectives, as `--slo` takes them.
    pub slo: String,
    pub ended_early: bool,
    /// In the order in which they were made.
    pub steps: Vec<RampStep>,
    /// Nothing when no objective broke, or already the first step broke one.
    pub knee: Option<Knee>,
    /// Of the delivered bars per second over the load; nothing with fewer than four loads.
    pub usl: Option<Usl>,
    /// What this node carries, in one sentence.
    pub carries: String,
    pub machine: Machine,
}

impl RampReport {
    /// Whether the ramp found that the server carries anything: its objectives are judged, not its
    /// losses, which beyond the knee are expected.
    pub fn is_clean(&self) -> bool {
        self.steps.iter().any(|step| step.holds)
    }

    /// Steps by load, lowest first: for a curve.
    pub fn by_load(&self) -> Vec<&RampStep> {
        let mut steps: Vec<&RampStep> = self.steps.iter().collect();
        steps.sort_by(|a, b| a.load.total_cmp(&b.load));
        steps
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |words: &str| {
            text.push_str(words);
            text.push('\n');
        };
        line(&format!("server  {}", self.server));
        line(&format!("load    {}", self.scenario.line()));
        line(&format!(
            "step    {}, until {} breaks",
            self.step.unit(),
            self.slo
        ));
        line("");
        line(&format!(
            "{:>10} {:>12} {:>12} {:>12} {:>12} {:>8} {:>7} {:>7}",
            self.step.unit(),
            "offered/s",
            "delivered/s",
            "p50",
            "p99",
            "µs/bar",
            "server",
            "swarm"
        ));
        for step in &self.steps {
            line(&step.line(self.step));
        }
        line("");
        self.knee_lines().iter().for_each(|words| line(words));
        if let Some(usl) = &self.usl {
            usl.lines(self.step).iter().for_each(|words| line(words));
        }
        if self.ended_early {
            line("ended early");
        }
        self.machine.lines().iter().for_each(|words| line(words));
        line("");
        line(&self.carries);
        text
    }

    fn knee_lines(&self) -> Vec<String> {
        let Some(knee) = &self.knee else {
            return Vec::new();
        };
        let repeats: Vec<String> = knee.repeats.iter().map(|at| self.step.told(*at)).collect();
        let mut lines = vec![format!(
            "knee    {} ({} bars/s); bisected: {}",
            self.step.told(knee.load),
            bars(knee.bars_per_second),
            repeats.join(", ")
        )];
        lines.push(format!(
            "        beyond it: {}; {}",
            knee.broken.join(", "),
            knee.limit.told()
        ));
        lines
    }
}

impl RampStep {
    /// In one line, for while it runs.
    pub fn told(&self, step: StepBy) -> String {
        format!(
            "{}: {} of {} bars/s, p99 {}: {}",
            step.told(self.load),
            bars(self.delivered_per_second),
            bars(self.offered_per_second),
            ms(self.latency_us.p99),
            self.verdict()
        )
    }

    fn verdict(&self) -> String {
        if self.holds {
            "holds".to_owned()
        } else {
            self.broken.join(", ")
        }
    }

    fn line(&self, step: StepBy) -> String {
        let percent = |cores: Option<f64>| match cores {
            Some(cores) => format!("{:.0} %", cores * 100.0),
            None => "?".to_owned(),
        };
        let load = match step {
            StepBy::Clients => grouped(self.clients.into()),
            StepBy::Rate => format!("{:.2}", self.rate),
        };
        let swarm = self.occupancy.swarm + self.occupancy.redis;
        let cost = self.cpu.as_ref().map(|cpu| cpu.us_per_bar);
        format!(
            "{load:>10} {:>12} {:>12} {:>12} {:>12} {:>8} {:>7} {:>7}  {}",
            bars(self.offered_per_second),
            bars(self.delivered_per_second),
            ms(self.latency_us.p50),
            ms(self.latency_us.p99),
            cost.map_or("?".to_owned(), |us| format!("{us:.3}")),
            percent(self.occupancy.servers),
            percent(Some(swarm)),
            self.verdict(),
        )
    }

    /// Share of what was expected that came, 0 to 1.
    pub fn delivered_share(&self) -> f64 {
        per(self.counts.delivered, self.expected)
    }
}
