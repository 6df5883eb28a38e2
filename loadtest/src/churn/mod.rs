//! `loadtest churn`: what clients that come and go do to those that stay.
//!
//! Established clients get bars all the time, and account is kept of every one. Beside them there are
//! guests, of which none is kept: churners, some of which leave and come back or change a topic at a
//! steady rate, and a crowd that leaves and comes back at once, a storm. They have threads of their own.
//! What the established clients feel is told phase by phase, beside the phase before anything moved.

mod course;
pub mod report;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::figures::{Latency, per};
use crate::load::Load;
use crate::machine::Machine;
use crate::market::Market;
use crate::occupancy::{Occupancy, Watch};
use crate::report::{Connect, CpuFigures, Scenario};
use crate::site::Site;
use crate::stage::{DRAIN, Schedule, Stage};
use crate::swarm::{Swarm, Target};
use crate::watchlist::Watchlists;
use course::{CHURNERS, Course, STORM};
use report::{Asked, ChurnReport, Coming};

/// How often it is looked what is due: rates up to some thousands a second stay smooth.
const PACE: Duration = Duration::from_millis(5);
/// Guests of one thread that connect at the same time: a crowd knocks all at once. A gateway's listen
/// queue holds 4,096.
const AT_ONCE: usize = 1_024;
/// Beginning of the symbols of those topics on which nothing is published.
const QUIET: &str = "QUIET-";
/// Without --churners: seconds that one stays until it leaves again.
const STAY_SECONDS: f64 = 2.0;

/// `loadtest churn`.
#[derive(Debug, Clone, Args)]
pub struct ChurnArgs {
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub site: Site,
    /// Clients per second that leave and come back
    #[arg(long, default_value_t = 0.0)]
    pub churn_rate: f64,
    /// Clients per second that give one topic up and take another
    #[arg(long, default_value_t = 0.0, conflicts_with = "subscribe")]
    pub resubscribe_rate: f64,
    /// Clients that do so, beside the established ones [default: two seconds' worth]
    #[arg(long)]
    pub churners: Option<u32>,
    /// Clients that all leave and come back at once, beside the others
    #[arg(long, default_value_t = 0)]
    pub storm: u32,
    /// When they do, in seconds since the coming and going began; several with commas [default: in the
    /// middle of --duration]
    #[arg(long, requires = "storm", value_delimiter = ',')]
    pub storm_at: Vec<f64>,
    /// Topics that each of those who come and go watches
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub guest_topics: u32,
    /// Those who come and go watch topics on which nothing is published: then the others feel their
    /// coming and going alone, and not their bars
    #[arg(long)]
    pub quiet_guests: bool,
    /// Seconds of bars that are not measured
    #[arg(long, default_value_t = 2.0)]
    pub warmup: f64,
    /// Measured seconds before anything moves
    #[arg(long, default_value_t = 5.0)]
    pub before: f64,
    /// Seconds of coming and going
    #[arg(long, default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds after it
    #[arg(long, default_value_t = 5.0)]
    pub after: f64,
}

impl ChurnArgs {
    /// The rules that one flag alone cannot check, and what they come to.
    fn check(&self) -> Result<Asked> {
        /// Faster than any listen queue, and than our pace.
        const FASTEST: f64 = 100_000.0;
        for (flag, rate) in [
            ("--churn-rate", self.churn_rate),
            ("--resubscribe-rate", self.resubscribe_rate),
        ] {
            ensure!(
                (0.0..=FASTEST).contains(&rate),
                "{flag} {rate}: allowed: from 0 to {FASTEST}"
            );
        }
        let fastest = self.churn_rate.max(self.resubscribe_rate);
        ensure!(
            fastest > 0.0 || self.storm > 0,
            "nothing comes or goes: give --churn-rate, --resubscribe-rate or --storm"
        );
        ensure!(
            self.guest_topics <= self.load.topics,
            "--guest-topics {}: allowed: up to --topics {}",
            self.guest_topics,
            self.load.topics
        );
        let mut storm_at = self.storm_at.clone();
        if storm_at.is_empty() && self.storm > 0 {
            storm_at.push(self.duration / 2.0);
        }
        storm_at.sort_by(f64::total_cmp);
        for at in &storm_at {
            ensure!(
                (0.0..=self.duration).contains(at),
                "--storm-at {at}: allowed: from 0 to --duration {}",
                self.duration
            );
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and at most two seconds' worth of the fastest rate"
        )]
        let needed = (fastest * STAY_SECONDS).ceil() as u32;
        Ok(Asked {
            churn_rate: self.churn_rate,
            resubscribe_rate: self.resubscribe_rate,
            churners: match self.churners {
                _ if fastest == 0.0 => 0,
                Some(churners) => churners.max(1),
                None => needed.max(1),
            },
            storm: self.storm,
            storm_at,
            guest_topics: self.guest_topics,
            quiet_guests: self.quiet_guests,
        })
    }

    fn schedule(&self) -> Result<Schedule> {
        let load = &self.load;
        let warmup = load.ticks("--warmup", self.warmup)?;
        Ok(Schedule {
            warmup,
            ticks: warmup
                + load.ticks("--before", self.before)?
                + load.ticks("--duration", self.duration)?
                + load.ticks("--after", self.after)?,
            rate: load.rate,
        })
    }
}

/// Runs the experiment.
///
/// # Errors
/// When something could not be started or broke off; a report with losses is no error.
pub fn churn(args: &ChurnArgs) -> Result<ChurnReport> {
    let asked = args.check()?;
    let load = &args.load;
    load.check(1)?;
    let schedule = args.schedule()?;
    let guests = u64::from(asked.churners) + u64::from(asked.storm);
    let everybody = u64::from(load.clients) + guests;
    let mut stage = Stage::start(load, &args.site, everybody)?;
    let clients = stage.gather(load, schedule.warmup)?;
    let established = clients.swarm;
    let (guests, guests_connect) = invite(args, &asked, &mut stage)?;

    let watch = Watch::of([&stage.rig], &stage.pins)
        .with(&established)
        .with(&guests);
    let mut course = Course::new(args, &asked, (&established, &guests), &stage, &watch)?;
    let published = stage.publish(&watch, schedule, PACE, |progress| course.step(progress))?;
    course.finish()?;
    let seq = stage.rig.publisher.published();
    stage.progress.phase("waiting for the last updates");
    established.wait_received(0, seq * load.per_tick(), DRAIN);
    let used = stage.rig.process.cpu()?.zip(published.start.servers);
    course.late()?;
    let counts = established.settle(0, seq)?;
    let measured = seq.saturating_sub(schedule.warmup);
    let delivered = counts.delivered;
    let coming = Coming {
        left: course.came.left,
        back: course.came.came.len(),
        failed: course.came.failed,
        failures: guests.reasons(),
        took_us: Latency::from(&course.came.came),
        resubscribed: course.came.asked,
        answered: course.came.answered.len(),
        resubscribe_us: Latency::from(&course.came.answered),
    };
    Ok(ChurnReport {
        server: stage.rig.name.clone(),
        started: stage.rig.started.clone(),
        scenario: Scenario::of(load, schedule.warmup, measured),
        ended_early: stage.stopped(),
        connect: clients.connect,
        guests_connect,
        expected: measured * load.per_tick(),
        lost_topics: counts.lost_topics(&stage.market),
        gone: established.gone(0),
        gone_why: established.reasons(),
        counts,
        server_us_per_change: course.us_per_change(),
        phases: course.phases(),
        storms: course.storms(),
        coming,
        asked,
        cpu: used.map(|(now, before)| CpuFigures::of(now.since(before), delivered)),
        bytes_per_bar: per(course.bytes(), delivered),
        memory: clients.memory,
        occupancy: Occupancy::between(&published.start, &published.end, &stage.pins),
        publisher: stage.rig.publisher.lateness,
        series: course.series.seconds,
        machine: Machine::ask(&stage.pins),
    })
}

/// Lets those come who will come and go.
fn invite(args: &ChurnArgs, asked: &Asked, stage: &mut Stage) -> Result<(Swarm, Option<Connect>)> {
    let load = &args.load;
    let mut market = Arc::clone(&stage.market);
    if args.quiet_guests {
        let quiet = Market::new(QUIET, load.topics, load.bar_ticks, 0)?;
        market = Arc::new(quiet);
    }
    let target = Target {
        audited: false,
        market,
        at_once: AT_ONCE,
        ..stage.target(load, 0)
    };
    let lists = Watchlists::new(
        load.shape,
        load.topics,
        args.guest_topics,
        // Others than the established clients' lists, and the same in each run.
        load.seed.wrapping_add(1),
    );
    let (churners, storm) = (asked.churners as usize, asked.storm as usize);
    let groups = std::iter::repeat_n(CHURNERS, churners).chain(std::iter::repeat_n(STORM, storm));
    let count = u64::from(asked.churners) + u64::from(asked.storm);
    let (crew, first) = (load.crew(count)?, load.clients as usize);
    let before = stage.rig.process.cpu()?;
    let targets = vec![target.clone(), target];
    let guests = Swarm::crewed(targets, groups.zip(lists), crew, first, stage.clock)?;
    let mut took = stage.come(&guests, CHURNERS, asked.churners.into())?;
    took += stage.come(&guests, STORM, asked.storm.into())?;
    let used = stage.rig.process.cpu()?.zip(before);
    let used = used.map(|(now, before)| now.since(before));
    let mut came = guests.collect(CHURNERS)?;
    came.add(&guests.collect(STORM)?)?;
    Ok((guests, Some(Connect::of(count, took, &came.came, used))))
}
