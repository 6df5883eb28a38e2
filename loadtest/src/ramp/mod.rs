//! `loadtest ramp`: how much one server carries.
//!
//! Load is raised step by step until an objective breaks, each step with clients of its own on the same
//! server. Then it is bisected between the last load that held and the first that did not, several
//! times: how far the answers lie apart says what the knee is worth. What was delivered in each step is
//! laid against the Universal Scalability Law ([`usl`] says what its N and X are here).

pub mod report;
pub mod search;
pub mod slo;
pub mod usl;

use anyhow::{Result, ensure};
use clap::Args;

use crate::figures::{Latency, Spread, per};
use crate::load::{FASTEST_RATE, Load};
use crate::machine::Machine;
use crate::occupancy::Occupancy;
use crate::report::{CpuFigures, Scenario};
use crate::site::Site;
use crate::stage::{Schedule, Stage};
use crate::swarm::crew::{OTHER_FILES, files_of_a_process};
use report::{Knee, Limit, Part, RampReport, RampStep, StepBy, bars};
use search::{Found, Growth, Search, Stopped};
use slo::{Judged, Slo};
use usl::Usl;

/// From this share of its cores on, the server had nothing left.
const BUSY: f64 = 0.9;

/// `loadtest ramp`.
#[derive(Debug, Clone, Args)]
pub struct RampArgs {
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub site: Site,
    /// What is raised
    #[arg(long, value_enum, default_value = "clients")]
    pub step: StepBy,
    /// The first step, in clients or ticks per second [default: --clients or --rate]
    #[arg(long)]
    pub start: Option<f64>,
    /// Each step is so many times the one before
    #[arg(long, default_value_t = 1.5)]
    pub factor: f64,
    /// Or so much more
    #[arg(long, conflicts_with = "factor")]
    pub increment: Option<f64>,
    /// The highest step [default: what one server process may open connections for, or 10,000 ticks/s]
    #[arg(long)]
    pub most: Option<f64>,
    /// What must hold: p50, p90, p99, p999, p9999, max with a time, and lost, gapped, conflated, gone
    /// with a number or a share
    #[arg(long, default_value = "p99=50ms,lost=0,gone=0,conflated=1%")]
    pub slo: Slo,
    /// Steps above the first that breaks: the scalability law needs them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=20))]
    pub beyond: u32,
    /// How often it is bisected
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeats: u32,
    /// A bisection ends when it is within so many percent
    #[arg(long, default_value_t = 5.0)]
    pub precision: f64,
    /// Measured seconds of a step
    #[arg(long, default_value_t = 5.0)]
    pub duration: f64,
    /// Seconds before them that are not measured
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
}

impl RampArgs {
    /// The way to the knee.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    fn search(&self) -> Result<Search> {
        let whole = self.step == StepBy::Clients;
        let (start, most) = match self.step {
            StepBy::Clients => (f64::from(self.load.clients), most_clients()?),
            StepBy::Rate => (self.load.rate, FASTEST_RATE),
        };
        let (start, most) = (self.start.unwrap_or(start), self.most.unwrap_or(most));
        let (start, most) = if whole {
            (start.round(), most.round())
        } else {
            (start, most)
        };
        ensure!(
            start > 0.0 && (!whole || start >= 1.0),
            "--start {start}: allowed: above 0"
        );
        let highest = if whole {
            f64::from(u32::MAX)
        } else {
            FASTEST_RATE
        };
        ensure!(
            most >= start && most <= highest,
            "--most {most}: allowed: from the start, {start}, to {highest}"
        );
        ensure!(
            self.precision > 0.0 && self.precision <= 50.0,
            "--precision {}: allowed: above 0 %, up to 50 %",
            self.precision
        );
        let growth = match self.increment {
            Some(increment) => Growth::Increment(increment),
            None => Growth::Factor(self.factor),
        };
        match growth {
            Growth::Factor(factor) => ensure!(
                factor > 1.0 && factor.is_finite(),
                "--factor {factor}: allowed: above 1"
            ),
            Growth::Increment(increment) => ensure!(
                increment > 0.0 && increment.is_finite(),
                "--increment {increment}: allowed: above 0"
            ),
        }
        Ok(Search {
            start,
            most,
            growth,
            beyond: self.beyond,
            precision: self.precision / 100.0,
            repeats: self.repeats,
            whole,
        })
    }

    /// The load of a step.
    fn at(&self, load: f64) -> Load {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be from 1 to u32::MAX, and whole"
        )]
        match self.step {
            StepBy::Clients => Load {
                clients: load as u32,
                ..self.load.clone()
            },
            StepBy::Rate => Load {
                rate: load,
                ..self.load.clone()
            },
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn most_clients() -> Result<f64> {
    Ok(files_of_a_process()?.saturating_sub(OTHER_FILES).max(1) as f64)
}

/// The law is fitted to loads up to so many times the knee. Far beyond it a queue that never empties
/// decides how much arrives within the plan, not what the server can do, and least squares would follow
/// that one point.
const FITTED_BEYOND: f64 = 2.0;

/// Runs the ramp.
///
/// # Errors
/// When something could not be started or broke off; a load that does not hold is no error.
pub fn ramp(args: &RampArgs) -> Result<RampReport> {
    let search = args.search()?;
    args.at(search.start).check(1)?;
    let most = args.at(search.most);
    most.check(1)?;
    let mut stage = Stage::start(&args.at(search.start), &args.site, most.clients.into())?;
    let mut steps: Vec<RampStep> = Vec::new();
    let found = search.run(|load, part, repeat| {
        let step = hold(args, &mut stage, load, part, repeat)?;
        if stage.stopped() {
            return Ok(Err(Stopped));
        }
        stage.progress.line(&step.told(args.step));
        let holds = step.holds;
        steps.push(step);
        Ok(Ok(holds))
    })?;
    let first = args.at(search.start);
    let warmup = first.ticks("--warmup", args.warmup)?;
    let measured = first.ticks("--duration", args.duration)?;
    let knee = knee(args, &found, &steps);
    let scenario = Scenario::of(&first, warmup, measured);
    Ok(RampReport {
        server: stage.rig.name.clone(),
        started: stage.rig.started.clone(),
        step: args.step,
        slo: args.slo.to_string(),
        ended_early: stage.stopped(),
        usl: Usl::fit(&points(&steps, knee.as_ref())),
        carries: carries(args, &stage, &found, knee.as_ref(), &steps),
        knee,
        scenario,
        steps,
        machine: Machine::ask(&stage.pins),
    })
}

/// What the law is fitted to: the load, and what was delivered while the plan ran, as far as
/// [`FITTED_BEYOND`].
fn points(steps: &[RampStep], knee: Option<&Knee>) -> Vec<(f64, f64)> {
    let furthest = knee.map_or(f64::INFINITY, |knee| knee.load * FITTED_BEYOND);
    steps
        .iter()
        .filter(|step| step.load <= furthest)
        .map(|step| (step.load, step.delivered_per_second))
        .collect()
}

/// One step: clients come, the load is held, they go.
fn hold(args: &RampArgs, stage: &mut Stage, at: f64, part: Part, repeat: u32) -> Result<RampStep> {
    let load = args.at(at);
    let warmup = load.ticks("--warmup", args.warmup)?;
    let schedule = Schedule {
        warmup,
        ticks: warmup + load.ticks("--duration", args.duration)?,
        rate: load.rate,
    };
    let swarm = match stage.gather(&load, warmup) {
        Ok(clients) => clients.swarm,
        // A server that cannot take so many clients does not carry them; one that has ended is an error.
        Err(why) => {
            stage.rig.process.cpu()?;
            return Ok(refused(&load, at, part, repeat, &format!("{why:#}")));
        }
    };
    let held = stage.hold(&load, &swarm, schedule)?;
    let expected = held.measured * load.per_tick();
    let gone = swarm.gone(0);
    let broken = args.slo.broken(&Judged {
        latency: &held.sum.latency,
        counts: &held.counts,
        expected,
        gone,
        clients: load.clients.into(),
    });
    let cpu = held.cpu;
    Ok(RampStep {
        load: at,
        part,
        repeat,
        clients: load.clients,
        rate: load.rate,
        holds: broken.is_empty(),
        broken,
        offered_per_second: held.offered_per_second,
        delivered_per_second: held.delivered_per_second,
        expected,
        gone,
        gone_why: swarm.reasons(),
        latency_us: Latency::from(&held.sum.latency),
        cpu: cpu.map(|used| CpuFigures::of(used, held.counts.delivered)),
        bytes_per_bar: per(held.sum.bytes, held.counts.delivered),
        server_resident: stage.rig.process.resident(),
        limit: limit(&held.occupancy, stage.pins.server.list().len()),
        occupancy: held.occupancy,
        publisher: held.publisher,
        counts: held.counts,
    })
}

/// A step for which not all clients could come.
fn refused(load: &Load, at: f64, part: Part, repeat: u32, why: &str) -> RampStep {
    RampStep {
        load: at,
        part,
        repeat,
        clients: load.clients,
        rate: load.rate,
        holds: false,
        broken: vec![why.to_owned()],
        offered_per_second: 0.0,
        delivered_per_second: 0.0,
        expected: 0,
        counts: crate::tally::Counts::default(),
        gone: 0,
        gone_why: Vec::new(),
        latency_us: Latency::default(),
        cpu: None,
        bytes_per_bar: 0.0,
        server_resident: None,
        occupancy: Occupancy::default(),
        publisher: crate::publisher::Lateness::default(),
        limit: Limit::Unknown,
    }
}

/// Who had nothing left. Where nobody had, a tick's bars took long at whoever worked longer on them.
#[expect(clippy::cast_precision_loss, reason = "a handful of cores")]
fn limit(occupancy: &Occupancy, server_cores: usize) -> Limit {
    let swarm = (occupancy.swarm + occupancy.redis) / (occupancy.swarm_cores as f64).max(1.0);
    let server = occupancy
        .servers
        .map(|used| used / (server_cores as f64).max(1.0));
    match (server, occupancy.saturated) {
        (Some(server), true) if server >= BUSY => Limit::Both,
        (_, true) => Limit::Swarm,
        (None, false) => Limit::Unknown,
        (Some(server), false) if server >= BUSY => Limit::Server,
        (Some(server), false) if swarm > server => Limit::SwarmBursts,
        (Some(_), false) => Limit::Neither,
    }
}

/// The knee by the median of the bisections, and what broke just beyond it.
fn knee(args: &RampArgs, found: &Found, steps: &[RampStep]) -> Option<Knee> {
    let (held, broken) = found.held.zip(found.broken)?;
    // An early end may leave no bisection: then the climb is all that is known.
    let repeats = if found.repeats.is_empty() {
        vec![held]
    } else {
        found.repeats.clone()
    };
    let spread = Spread::of(repeats.iter().copied());
    let load = if args.step == StepBy::Clients {
        spread.median.floor()
    } else {
        spread.median
    };
    let beyond = steps
        .iter()
        .filter(|step| !step.holds && step.load > load)
        .min_by(|a, b| a.load.total_cmp(&b.load))?;
    let at = args.at(load);
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
    Some(Knee {
        load,
        first_broken: broken,
        repeats,
        spread,
        bars_per_second: at.per_tick() as f64 * at.rate,
        limit: beyond.limit,
        broken: beyond.broken.clone(),
    })
}

/// What this node carries, in one sentence.
fn carries(
    args: &RampArgs,
    stage: &Stage,
    found: &Found,
    knee: Option<&Knee>,
    steps: &[RampStep],
) -> String {
    let server = format!("{} on core {}", stage.rig.name, stage.pins.server);
    let per_client = args.load.per_client;
    let in_words = |load: f64| match args.step {
        StepBy::Clients => format!(
            "{} with {per_client} topics each at {} ticks/s",
            args.step.told(load),
            args.load.rate
        ),
        StepBy::Rate => format!(
            "{} for {} clients with {per_client} topics each",
            args.step.told(load),
            args.load.clients
        ),
    };
    if let Some(knee) = knee {
        let at_least = if knee.limit.of_swarm() {
            "at least "
        } else {
            ""
        };
        return format!(
            "{server} carries {at_least}{}, {} bars/s, while {} holds; beyond, {} ({}).",
            in_words(knee.load),
            bars(knee.bars_per_second),
            args.slo,
            knee.broken.join(" and "),
            knee.limit.told()
        );
    }
    match (found.held, steps.first()) {
        (Some(held), _) => format!(
            "{server} carries at least {}: no objective of {} broke up to there.",
            in_words(held),
            args.slo
        ),
        (None, Some(first)) => format!(
            "{server} does not carry {}: {}. Try a lower --start.",
            in_words(first.load),
            first.broken.join(" and ")
        ),
        (None, None) => "Nothing was measured.".to_owned(),
    }
}
