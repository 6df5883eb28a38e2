//! `loadtest run`: one experiment against one server.

use anyhow::Result;
use clap::Args;

use crate::figures::{Latency, curve, per};
use crate::load::Load;
use crate::machine::Machine;
use crate::report::{CpuFigures, RunReport, Scenario};
use crate::site::Site;
pub use crate::stage::{DRAIN, traced_pass};
use crate::stage::{Schedule, Stage};

/// `loadtest run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub site: Site,
    /// Measured seconds
    #[arg(long, default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds before them that are not measured
    #[arg(long, default_value_t = 2.0)]
    pub warmup: f64,
    /// Subscribe with this max_rate: clients get at most so many updates a second of a forming bar, and
    /// every closed bar; what is held back counts as conflated
    #[arg(long, conflicts_with_all = ["subscribe", "strace"])]
    pub max_rate: Option<f64>,
}

/// Length of the pass under strace, in seconds.
pub const STRACE_SECONDS: f64 = 2.0;

/// Runs the experiment.
///
/// # Errors
/// When something could not be started or broke off; a report with losses is no error.
pub fn run(args: &RunArgs) -> Result<RunReport> {
    let load = &Load {
        max_rate: args.max_rate,
        ..args.load.clone()
    };
    load.check(1)?;
    let warmup = load.ticks("--warmup", args.warmup)?;
    let schedule = Schedule {
        warmup,
        ticks: warmup + load.ticks("--duration", args.duration)?,
        rate: load.rate,
    };
    let mut stage = Stage::start(load, &args.site, load.clients.into())?;
    let clients = stage.gather(load, warmup)?;
    let swarm = clients.swarm;
    let held = stage.hold(load, &swarm, schedule)?;
    let (gone, gone_why) = (swarm.gone(0), swarm.reasons());
    let ended_early = stage.stopped();
    let system_calls = if load.strace && !ended_early {
        stage.progress.phase("counting system calls");
        let size = (load.ticks("--strace", STRACE_SECONDS)?, load.per_tick());
        let calls = traced_pass(&mut stage.rig, &swarm, 0, size, load.rate, stage.clock)?;
        Some(calls)
    } else {
        None
    };
    let Stage {
        rig, market, pins, ..
    } = stage;
    Ok(RunReport {
        server: rig.name.clone(),
        started: rig.started.clone(),
        scenario: Scenario::of(load, warmup, held.measured),
        ended_early,
        connect: clients.connect,
        expected: held.measured * load.per_tick(),
        lost_topics: held.counts.lost_topics(&market),
        gone,
        gone_why,
        latency_us: Latency::from(&held.sum.latency),
        latency_curve_us: curve(&held.sum.latency),
        cpu: held
            .cpu
            .map(|used| CpuFigures::of(used, held.counts.delivered)),
        bytes_per_bar: per(held.sum.bytes, held.counts.delivered),
        memory: clients.memory,
        system_calls,
        occupancy: held.occupancy,
        publisher: held.publisher,
        series: held.series,
        counts: held.counts,
        machine: Machine::ask(&pins),
    })
}
