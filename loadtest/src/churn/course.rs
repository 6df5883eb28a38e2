//! How it goes: what is due is done, and time is cut into phases.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::report::{Asked, Phase, Storm};
use super::{ChurnArgs, PACE};
use crate::figures::{Latency, curve, per};
use crate::occupancy::{Occupancy, Reading, Watch};
use crate::pins::Pins;
use crate::process::Cpu;
use crate::progress::Progress;
use crate::rig::Watched;
use crate::stage::{Series, Stage};
use crate::swarm::{Interval, Move, Swarm};

/// The guests' targets.
pub const CHURNERS: usize = 0;
pub const STORM: usize = 1;

/// A storm's phase lasts at least so long, that there are some ticks in it.
const LEAST_STORM: Duration = Duration::from_secs(1);
/// Who is not back by then does not come back.
const STORM_PATIENCE: Duration = Duration::from_secs(60);
/// The phase that the others are compared with, and the one of the steady churn.
const BEFORE: &str = "before";
const CHURN: &str = "churn";

/// What runs, and what was seen of it so far.
pub struct Course<'a> {
    established: &'a Swarm,
    guests: &'a Swarm,
    watch: &'a Watch,
    process: Watched,
    pins: Pins,
    /// The end of the warm-up; times are seconds since then.
    began: Instant,
    started: bool,
    /// When the coming and going begins and ends.
    from: f64,
    to: f64,
    /// What is done steadily: how often a second, and how often so far.
    steady: [(Move, f64, u64); 2],
    storm_clients: u64,
    storms_to_come: VecDeque<f64>,
    raging: Option<Raging>,
    over: Vec<Over>,
    cut: Cut,
    closed: Vec<Closed>,
    /// Of the guests, over all.
    pub came: Interval,
    /// Clients that came back, and answers to resubscriptions, in the phases of the steady churn.
    changes: u64,
    pub series: Series,
    second: Interval,
}

/// A storm that not all are back from.
struct Raging {
    /// From 1.
    nth: usize,
    at: f64,
    began: Instant,
    came: u64,
    cpu: Option<Cpu>,
    over: bool,
}

/// A storm that all are back from, or never will be.
struct Over {
    at: f64,
    seconds: f64,
    back: u64,
    cpu_ns: Option<u64>,
    /// Index of its phase.
    phase: usize,
}

/// The phase that is on.
struct Cut {
    name: String,
    from: f64,
    reading: Reading,
    interval: Interval,
}

struct Closed {
    name: String,
    from: f64,
    to: f64,
    interval: Interval,
    occupancy: Occupancy,
}

impl<'a> Course<'a> {
    /// # Errors
    /// When the server has ended.
    pub fn new(
        args: &ChurnArgs,
        asked: &Asked,
        (established, guests): (&'a Swarm, &'a Swarm),
        stage: &Stage,
        watch: &'a Watch,
    ) -> Result<Self> {
        let process = stage.rig.process.clone();
        Ok(Self {
            established,
            guests,
            watch,
            pins: stage.pins.clone(),
            began: Instant::now() + Duration::from_secs_f64(args.warmup),
            started: false,
            from: args.before,
            to: args.before + args.duration,
            steady: [
                (Move::Reconnect, asked.churn_rate, 0),
                (Move::Resubscribe, asked.resubscribe_rate, 0),
            ],
            storm_clients: asked.storm.into(),
            storms_to_come: asked.storm_at.iter().map(|at| args.before + at).collect(),
            raging: None,
            over: Vec::new(),
            cut: Cut {
                name: BEFORE.to_owned(),
                from: 0.0,
                reading: Reading::take(watch)?,
                interval: Interval::default(),
            },
            closed: Vec::new(),
            came: Interval::default(),
            changes: 0,
            series: Series::new(&process)?,
            second: Interval::default(),
            process,
        })
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Does what is due now.
    ///
    /// # Errors
    /// When clients or the server have ended.
    pub fn step(&mut self, progress: &mut Progress) -> Result<()> {
        if Instant::now() < self.began {
            return Ok(());
        }
        if !self.started {
            self.started = true;
            self.cut.reading = Reading::take(self.watch)?;
            self.series = Series::new(&self.process)?;
        }
        let now = self.now();
        self.watch_storm()?;
        let due = self.storms_to_come.front().is_some_and(|at| *at <= now);
        if due && self.raging.is_none() {
            self.storms_to_come.pop_front();
            self.break_loose(now)?;
        }
        if (self.from..self.to).contains(&now) {
            self.shift(now - self.from)?;
        }
        let name = self.name(now);
        if name != self.cut.name {
            self.next_phase(name)?;
        }
        if self.series.is_due() {
            self.take()?;
            let second = std::mem::take(&mut self.second);
            let second = self.series.add(&self.process, &second)?;
            let (name, established) = (&self.cut.name, self.established);
            progress.now(|| {
                let line = second.line(established.ready(0), established.gone(0));
                format!("{name}, {line}")
            });
        }
        Ok(())
    }

    fn name(&self, now: f64) -> String {
        let steady = self.steady.iter().any(|(_, rate, _)| *rate > 0.0);
        if let Some(raging) = &self.raging {
            return format!("storm {}", raging.nth);
        }
        match () {
            () if now < self.from => BEFORE.to_owned(),
            () if now < self.to && steady => CHURN.to_owned(),
            () if now < self.to && self.over.is_empty() => BEFORE.to_owned(),
            () if now < self.to && !self.storms_to_come.is_empty() => "between".to_owned(),
            () => "after".to_owned(),
        }
    }

    /// Lets as many move as are due after `since` seconds of coming and going.
    fn shift(&mut self, since: f64) -> Result<()> {
        for (what, rate, done) in &mut self.steady {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "positive and small"
            )]
            let due = (since * *rate) as u64;
            if due > *done {
                self.guests.shift(CHURNERS, *what, due - *done)?;
                *done = due;
            }
        }
        Ok(())
    }

    fn break_loose(&mut self, now: f64) -> Result<()> {
        self.raging = Some(Raging {
            nth: self.over.len() + 1,
            at: now,
            began: Instant::now(),
            came: self.guests.came(STORM),
            cpu: self.process.cpu()?,
            over: false,
        });
        self.next_phase(self.name(now))?;
        self.guests.shift_all(STORM, Move::Reconnect)
    }

    /// Notes when all are back, and ends the phase when it was long enough.
    fn watch_storm(&mut self) -> Result<()> {
        let Some(raging) = &mut self.raging else {
            return Ok(());
        };
        let elapsed = raging.began.elapsed();
        let back = self.guests.came(STORM) - raging.came;
        let all = back + self.guests.gone(STORM) >= self.storm_clients;
        if !raging.over && (all || elapsed > STORM_PATIENCE) {
            raging.over = true;
            let used = self.process.cpu()?.zip(raging.cpu);
            self.over.push(Over {
                at: raging.at,
                seconds: elapsed.as_secs_f64(),
                back,
                cpu_ns: used.map(|(now, before)| now.since(before).total_ns),
                phase: self.closed.len(),
            });
        }
        if raging.over && elapsed >= LEAST_STORM {
            self.raging = None;
        }
        Ok(())
    }

    /// Takes over what came to the established clients.
    fn take(&mut self) -> Result<()> {
        let interval = self.established.collect(0)?;
        self.cut.interval.add(&interval)?;
        self.second.add(&interval)
    }

    fn next_phase(&mut self, name: String) -> Result<()> {
        self.take()?;
        let churned = self.guests.collect(CHURNERS)?;
        if self.cut.name == CHURN {
            self.changes += churned.came.len() + churned.answered.len();
        }
        self.came.add(&churned)?;
        self.came.add(&self.guests.collect(STORM)?)?;
        let now = self.now();
        let next = Cut {
            name,
            from: now,
            reading: Reading::take(self.watch)?,
            interval: Interval::default(),
        };
        let cut = std::mem::replace(&mut self.cut, next);
        self.closed.push(Closed {
            name: cut.name,
            from: cut.from,
            to: now,
            interval: cut.interval,
            occupancy: Occupancy::between(&cut.reading, &self.cut.reading, &self.pins),
        });
        Ok(())
    }

    /// Waits for the end of a storm that rages, and closes the last phase.
    ///
    /// # Errors
    /// When clients or the server have ended.
    pub fn finish(&mut self) -> Result<()> {
        while self.raging.as_ref().is_some_and(|raging| !raging.over) {
            std::thread::sleep(PACE);
            self.watch_storm()?;
        }
        self.next_phase(String::new())
    }

    /// What came after the end belongs to the last phase.
    ///
    /// # Errors
    /// When clients have ended.
    pub fn late(&mut self) -> Result<()> {
        let interval = self.established.collect(0)?;
        if let Some(last) = self.closed.last_mut() {
            last.interval.add(&interval)?;
        }
        self.came.add(&self.guests.collect(CHURNERS)?)?;
        self.came.add(&self.guests.collect(STORM)?)
    }

    /// Bytes that the established clients got.
    pub fn bytes(&self) -> u64 {
        self.closed.iter().map(|phase| phase.interval.bytes).sum()
    }

    fn p99(&self, phase: usize) -> u64 {
        let phase = self.closed.get(phase);
        phase.map_or(0, |phase| phase.interval.latency.value_at_quantile(0.99))
    }

    fn ratio(&self, phase: usize) -> f64 {
        per(self.p99(phase), self.p99(0))
    }

    /// The phases, with what they were like beside the first.
    pub fn phases(&self) -> Vec<Phase> {
        let phase = |(nth, closed): (usize, &Closed)| Phase {
            name: closed.name.clone(),
            from: closed.from,
            to: closed.to,
            delivered: closed.interval.latency.len(),
            latency_us: Latency::from(&closed.interval.latency),
            latency_curve_us: curve(&closed.interval.latency),
            p99_ratio: self.ratio(nth),
            server_cores: closed.occupancy.servers,
            swarm_cores: closed.occupancy.swarm,
        };
        self.closed.iter().enumerate().map(phase).collect()
    }

    /// Cores that delivering alone took.
    fn delivering(&self) -> Option<f64> {
        self.closed.first()?.occupancy.servers
    }

    /// The storms, with what they cost.
    #[expect(clippy::cast_precision_loss, reason = "rates need no more")]
    pub fn storms(&self) -> Vec<Storm> {
        let storm = |over: &Over| {
            let spent = over.cpu_ns.zip(self.delivering()).map(|(ns, cores)| {
                (ns as f64 / 1e3 - cores * over.seconds * 1e6) / over.back.max(1) as f64
            });
            let spent = spent.filter(|us| *us > 0.0 && over.back > 0);
            Storm {
                at: over.at,
                clients: self.storm_clients,
                seconds: (over.back >= self.storm_clients).then_some(over.seconds),
                back: over.back,
                clients_per_second: over.back as f64 / over.seconds.max(1e-9),
                p99_ratio: self.ratio(over.phase),
                server_us_per_client: spent,
                clients_per_core_second: spent.map(|us| 1e6 / us),
            }
        };
        self.over.iter().map(storm).collect()
    }

    /// Server's processor time for each change of the steady churn, beyond delivering, µs.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
    pub fn us_per_change(&self) -> Option<f64> {
        let delivering = self.delivering()?;
        let churned = self.closed.iter().filter(|phase| phase.name == CHURN);
        let spent: f64 = churned
            .map(|phase| {
                let cores = phase.occupancy.servers.unwrap_or(delivering);
                (cores - delivering) * phase.occupancy.seconds * 1e6
            })
            .sum();
        (self.changes > 0).then(|| spent / self.changes as f64)
    }
}
