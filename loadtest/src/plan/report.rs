//! A capacity plan as it is written down: every number with where it comes from.

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// A capacity plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanReport {
    /// What is planned for, in one line.
    pub title: String,
    pub answer: Answer,
    /// The same for every year up to the horizon, this year (0) first.
    pub years: Vec<Year>,
    /// What a gateway and Redis run out of, the scarcest first: that is what breaks first.
    pub limits: Vec<Limit>,
    /// What could be changed, and what it would save.
    pub savings: Vec<Saving>,
    /// What went in: stated or measured.
    pub inputs: Vec<Figure>,
    /// What was computed from it, in the order of computing.
    pub figures: Vec<Figure>,
    /// How well the costs explain the runs that they were fitted to.
    pub calibration: Vec<Explained>,
    /// The plan of one load beside a run of it.
    pub check: Option<Check>,
    /// Likewise for clients that ask for `max_rate`, where that is less than all.
    #[serde(default)]
    pub check_with_max_rate: Option<Check>,
    /// What the plan does not know.
    pub unknowns: Vec<String>,
    /// Where the plan was made, which is where a calibration ran.
    pub machine: Machine,
}

/// What has to be there at the horizon, at the busiest moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Gateways, with those that may fail.
    pub gateways: u64,
    /// Of them, there for when others fail.
    pub spare_gateways: u64,
    /// Clients of one gateway when as many as planned have failed.
    pub clients_per_gateway: f64,
    /// Cores of all gateways.
    pub cores: u64,
    /// Cores that are busy at the busiest moment, of all gateways together.
    pub busy_cores: f64,
    /// Memory in use, of all gateways together, in GiB.
    pub memory_gib: f64,
    /// Sent to clients, by all gateways together, in Gbit/s on the wire.
    pub egress_gbit_s: f64,
    /// Redis servers, replicas among them, of all shards together.
    pub redis_instances: u64,
    /// Parts that the topics are split into, each with its own Redis and gateways; 1 is no splitting.
    pub shards: u64,
}

/// A plan for the load after so many years of growth.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Year {
    /// Years from now.
    pub year: u32,
    /// Users connected at once.
    pub users: f64,
    #[serde(flatten)]
    pub answer: Answer,
}

/// Something that there is only so much of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limit {
    /// `worker CPU`, `ingest thread`, `memory`, `egress`, `clients`, `open files`, `Redis CPU`,
    /// `Redis egress`.
    pub name: String,
    /// Used at the busiest moment with the planned failures, on one node.
    pub used: f64,
    /// There, on one node, before headroom is taken off.
    pub there: f64,
    pub unit: String,
    /// `used` by `there`, 0 to 1.
    pub share: f64,
    /// Gateways that this limit alone asks for, without spare ones; none where more gateways do not
    /// help.
    pub gateways: Option<u64>,
    /// What to do about it.
    pub remedy: String,
}

/// The plan if one thing were different.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saving {
    /// `max_rate 1/s`.
    pub name: String,
    pub what: String,
    pub answer: Answer,
}

/// One number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// As formulas name it: `write_us`.
    pub name: String,
    pub value: f64,
    pub unit: String,
    /// What it is, in words.
    pub what: String,
    pub source: Source,
}

/// Where a number comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", content = "from", rename_all = "lowercase")]
pub enum Source {
    /// The command or file of the measurement.
    Measured(String),
    /// The flag, or why the default is what it is.
    Stated(String),
    /// The formula, over the names of other figures.
    Computed(String),
}

/// A measured run beside what the costs make of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explained {
    /// The file or the command.
    pub from: String,
    /// The load in one line.
    pub load: String,
    /// Server cores that were busy.
    pub measured_cores: f64,
    /// The same from the costs.
    pub fitted_cores: f64,
}

/// A load that was planned and then run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Check {
    pub load: String,
    /// The command that ran it.
    pub command: String,
    pub compared: Vec<Compared>,
    /// Largest difference allowed, 0 to 1.
    pub tolerance: f64,
    /// Whether every difference is within it and no update was lost.
    pub agrees: bool,
}

/// One number as planned and as measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Compared {
    pub name: String,
    pub unit: String,
    pub planned: f64,
    pub measured: f64,
    /// Planned by measured, less 1: +0.1 is planned 10 % too high.
    pub difference: f64,
}
