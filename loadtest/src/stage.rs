//! An experiment against one server, in the parts that the commands put together: start it, let clients
//! come, hold a load, close the account.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::clock::{Clock, micros};
use crate::figures::{Latency, grouped};
use crate::load::Load;
use crate::market::Market;
use crate::occupancy::{Occupancy, Reading, Watch};
use crate::pins::Pins;
use crate::process::Cpu;
use crate::progress::Progress;
use crate::publisher::{Lateness, Publisher};
use crate::report::{Connect, Memory, Second};
use crate::rig::{Rig, SETTLE, Watched, stop_on_signal};
use crate::site::Site;
use crate::strace::{Strace, SystemCalls};
use crate::swarm::{Interval, Swarm, Target};
use crate::tally::Counts;

/// Nothing more comes after so long without an update: the account is closed.
pub const DRAIN: Duration = Duration::from_secs(3);
/// How much later than its interval a turn of the gateway may be (`hub/pacing.rs`).
const LONGEST_GRID: Duration = Duration::from_secs(1);
/// How often it is looked how it goes.
const POLL: Duration = Duration::from_millis(10);
/// A plan that is not over by so much more than its time is late.
const LATE: Duration = Duration::from_millis(20);
/// Time between two points of the series.
const SECOND: Duration = Duration::from_secs(1);

/// A server with its Redis and publisher, and where and until when all that takes place.
pub struct Stage {
    pub rig: Rig,
    pub market: Arc<Market>,
    pub pins: Pins,
    pub clock: Clock,
    /// Turns true when the user asks for an early end.
    pub stop: Arc<AtomicBool>,
    pub progress: Progress,
}

/// Clients that are there.
pub struct Gathered {
    pub swarm: Swarm,
    pub connect: Connect,
    pub memory: Option<Memory>,
}

/// When to publish.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Ticks that are not counted.
    pub warmup: u64,
    /// With those.
    pub ticks: u64,
    /// Ticks per second.
    pub rate: f64,
}

impl Schedule {
    /// How long it takes.
    fn plan(self) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^53")]
        Duration::from_secs_f64(self.ticks as f64 / self.rate)
    }
}

/// What a load came to.
pub struct Held {
    /// Ticks that were published after the warm-up.
    pub measured: u64,
    pub sum: Interval,
    pub series: Vec<Second>,
    pub counts: Counts,
    /// Updates per second, by the plan and as they came until the plan ended.
    pub offered_per_second: f64,
    pub delivered_per_second: f64,
    /// The server's processor time, from the end of the warm-up until the last update came.
    pub cpu: Option<Cpu>,
    pub occupancy: Occupancy,
    pub publisher: Lateness,
}

/// While it was published.
pub struct Published {
    /// At the end of the warm-up.
    pub start: Reading,
    /// When the time of the last tick was over.
    pub end: Reading,
}

/// The server's share of the cores when none is asked for: half of them.
fn half() -> usize {
    (crate::process::cores() / 2).max(1)
}

impl Stage {
    /// Starts the server, or finds the one that runs, for up to `clients` clients.
    ///
    /// # Errors
    /// When something could not be started or reached.
    pub fn start(load: &Load, site: &Site, clients: u64) -> Result<Self> {
        let gateways = site.gateways(clients)?;
        let pins = Pins::choose(load.server_cpu.clone(), load.swarm_cpu.clone(), half())?;
        let stop = stop_on_signal()?;
        pins.swarm.pin()?;
        let clock = Clock::start();
        let mut progress = Progress::start();
        progress.phase("starting");
        let mut load = load.clone();
        let epoch = clock.now_us();
        if !site.spawn && load.prefix.is_none() {
            // A server that runs already may hold bars of the last run.
            load.prefix = Some(format!("T{:x}-", epoch / 1_000));
        }
        let market = Arc::new(load.market(epoch)?);
        let rig = if site.spawn {
            Rig::spawn_many(&site.server, gateways, &load, &pins, &market)?
        } else {
            Rig::running(site, &load, &market)?
        };
        Ok(Self {
            rig,
            market,
            pins,
            clock,
            stop,
            progress,
        })
    }

    /// Whether the user asked for an early end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What clients connect to when `warmup` more ticks are not to be counted.
    pub fn target(&self, load: &Load, warmup: u64) -> Target {
        let after = self.rig.publisher.published() + warmup;
        self.rig.target(&self.market, after, load)
    }

    /// Lets the clients connect and subscribe, and tells what that took.
    ///
    /// # Errors
    /// When one cannot.
    pub fn gather(&mut self, load: &Load, warmup: u64) -> Result<Gathered> {
        self.progress.phase("connecting");
        let before = self.rig.process.resident();
        let busy = self.rig.process.cpu()?;
        let clients = u64::from(load.clients);
        let watchlists = load.watchlists().map(|topics| (0, topics));
        let target = self.target(load, warmup);
        let crew = load.crew(clients)?;
        let swarm = Swarm::crewed(vec![target], watchlists, crew, 0, self.clock)?;
        let took = self.come(&swarm, 0, clients)?;
        let used = self.rig.process.cpu()?.zip(busy);
        let came = swarm.collect(0)?.came;
        let used = used.map(|(now, before)| now.since(before));
        self.rig.publisher.wait_for_subscriber()?;
        std::thread::sleep(SETTLE);
        let memory = Memory::of(before, self.rig.process.resident(), clients);
        Ok(Gathered {
            swarm,
            connect: Connect::of(clients, took, &came, used),
            memory: memory.filter(|_| !self.stopped()),
        })
    }

    /// Waits until all clients of a target are there.
    ///
    /// # Errors
    /// When one cannot come.
    pub fn come(&mut self, swarm: &Swarm, target: usize, clients: u64) -> Result<Duration> {
        let Self { progress, stop, .. } = self;
        swarm.wait_ready(
            target,
            clients,
            |ready| progress.now(|| format!("{} of {} clients", grouped(ready), grouped(clients))),
            || stop.load(Ordering::Relaxed),
        )
    }

    /// Publishes in a thread of its own and calls `meanwhile` again and again, `pause` apart, until the
    /// last tick's time is over.
    ///
    /// # Errors
    /// When Redis is lost, the server has ended, or `meanwhile` fails.
    pub fn publish(
        &mut self,
        watch: &Watch,
        schedule: Schedule,
        pause: Duration,
        mut meanwhile: impl FnMut(&mut Progress) -> Result<()>,
    ) -> Result<Published> {
        let Self {
            rig,
            clock,
            stop,
            progress,
            ..
        } = self;
        let (clock, stop) = (*clock, &**stop);
        let publisher: &mut Publisher = &mut rig.publisher;
        publisher.lateness = Lateness::default();
        progress.phase("publishing");
        std::thread::scope(|scope| {
            let publishing = scope.spawn(move || {
                let began = clock.now_us();
                let mut start = None;
                let done = publisher.run(schedule.ticks, schedule.rate, clock, stop, |tick| {
                    if tick == schedule.warmup {
                        start = Some(Reading::take(watch));
                    }
                })?;
                if done == schedule.ticks {
                    clock.sleep_until(began + micros(schedule.plan()));
                }
                let end = Reading::take(watch)?;
                let start = start.transpose()?.unwrap_or(end);
                anyhow::Ok(Published { start, end })
            });
            while !publishing.is_finished() {
                std::thread::sleep(pause);
                meanwhile(progress)?;
            }
            let joined = publishing.join();
            joined.map_err(|_| anyhow!("the publisher panicked"))?
        })
    }

    /// Holds a load, waits for the last updates and closes the account of target 0.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn hold(&mut self, load: &Load, swarm: &Swarm, schedule: Schedule) -> Result<Held> {
        let before = self.rig.publisher.published();
        // A server that was used before sends new clients its current bars.
        let received = swarm.received(0);
        let watch = Watch::of([&self.rig], &self.pins).with(swarm);
        let process = self.rig.process.clone();
        let mut series = Series::new(&process)?;
        let mut sum = Interval::default();
        let plan = schedule.plan();
        let began = Instant::now();
        // What comes later is not in it, be it the server or the publisher that is late.
        let mut in_time = None;
        let published = self.publish(&watch, schedule, POLL, |progress| {
            if in_time.is_none() && began.elapsed() > plan + LATE {
                sum.add(&swarm.collect(0)?)?;
                in_time = Some((sum.latency.len(), began.elapsed()));
            }
            if series.is_due() {
                let interval = swarm.collect(0)?;
                let second = series.add(&process, &interval)?;
                progress.now(|| second.line(swarm.ready(0), swarm.gone(0)));
                sum.add(&interval)?;
            }
            Ok(())
        })?;
        sum.add(&swarm.collect(0)?)?;
        let (in_time, elapsed) = in_time.unwrap_or((sum.latency.len(), plan));
        let seq = self.rig.publisher.published();
        self.progress.phase("waiting for the last updates");
        let due = received + (seq - before) * load.per_tick();
        // With max_rate it is not known how many will come: the last turn is waited for.
        let turn = load.max_rate.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(rate.recip()) + LONGEST_GRID
        });
        swarm.wait_received(0, due, DRAIN.max(turn));
        let used = process.cpu()?.zip(published.start.servers);
        sum.add(&swarm.collect(0)?)?;
        let measured = (seq - before).saturating_sub(schedule.warmup);
        #[expect(clippy::cast_precision_loss, reason = "rates need no more")]
        let per_second = |bars: u64, elapsed: Duration| {
            let warmup = schedule.warmup as f64 / schedule.rate;
            bars as f64 / (elapsed.as_secs_f64() - warmup).max(1e-9)
        };
        let planned = (schedule.ticks - schedule.warmup) * load.per_tick();
        Ok(Held {
            measured,
            offered_per_second: per_second(planned, plan),
            delivered_per_second: per_second(in_time, elapsed),
            sum,
            series: series.seconds,
            counts: swarm.settle(0, seq)?,
            cpu: used.map(|(now, before)| now.since(before)),
            occupancy: Occupancy::between(&published.start, &published.end, &self.pins),
            publisher: self.rig.publisher.lateness,
        })
    }
}

/// How it went, second by second.
pub struct Series {
    began: Instant,
    last: Instant,
    cpu: Option<Cpu>,
    pub seconds: Vec<Second>,
}

impl Series {
    /// From now on.
    ///
    /// # Errors
    /// When the server has ended.
    pub fn new(process: &Watched) -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            began: now,
            last: now,
            cpu: process.cpu()?,
            seconds: Vec::new(),
        })
    }

    /// Whether a second is over.
    pub fn is_due(&self) -> bool {
        self.last.elapsed() >= SECOND
    }

    /// Adds what came in it.
    ///
    /// # Errors
    /// When the server has ended.
    pub fn add(&mut self, process: &Watched, interval: &Interval) -> Result<&Second> {
        let elapsed = self.last.elapsed().as_secs_f64();
        let cpu = process.cpu()?;
        let used = cpu.zip(self.cpu).map(|(now, before)| now.since(before));
        self.last = Instant::now();
        self.cpu = cpu;
        self.seconds.push(Second {
            at: self.began.elapsed().as_secs_f64(),
            delivered: interval.latency.len(),
            latency_us: Latency::from(&interval.latency),
            server_cores: used.map(|used| used.seconds() / elapsed),
            server_resident: process.resident(),
        });
        self.seconds.last().context("just added")
    }
}

/// Publishes `ticks` ticks, of `per_tick` updates to all clients each, while strace counts the server's system calls.
///
/// # Errors
/// When strace cannot attach or Redis is lost.
pub fn traced_pass(
    rig: &mut Rig,
    swarm: &Swarm,
    target: usize,
    (ticks, per_tick): (u64, u64),
    rate: f64,
    clock: Clock,
) -> Result<SystemCalls> {
    let strace = Strace::attach(&rig.process.family())?;
    let before = swarm.received(target);
    let ticks = rig
        .publisher
        .run(ticks, rate, clock, &AtomicBool::new(false), |_| {})?;
    swarm.wait_received(target, before + ticks * per_tick, DRAIN);
    strace.finish(swarm.received(target) - before)
}
