//! `loadtest run`: one experiment against one server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::cli::{Load, RunArgs};
use crate::clock::Clock;
use crate::figures::{Latency, curve, grouped, per};
use crate::machine::Machine;
use crate::market::Market;
use crate::occupancy::{Occupancy, Reading, Watch};
use crate::pins::Pins;
use crate::process::Cpu;
use crate::progress::Progress;
use crate::publisher::{Lateness, Publisher};
use crate::report::{Connect, CpuFigures, Memory, RunReport, Scenario, Second};
use crate::rig::{Rig, SETTLE, Watched, stop_on_signal};
use crate::strace::{Strace, SystemCalls};
use crate::swarm::{Interval, Swarm, Target};

/// Nothing more comes after so long without an update: the account is closed.
pub const DRAIN: Duration = Duration::from_secs(3);
/// Length of the pass under strace, in seconds.
pub const STRACE_SECONDS: f64 = 2.0;
/// How often it is looked how it goes.
const POLL: Duration = Duration::from_millis(50);
/// Time between two points of the series.
const SECOND: Duration = Duration::from_secs(1);

/// Runs the experiment.
///
/// # Errors
/// When something could not be started or broke off; a report with losses is no error.
pub fn run(args: &RunArgs) -> Result<RunReport> {
    let load = &args.load;
    load.check(1)?;
    let warmup = load.ticks("--warmup", args.warmup)?;
    let ticks = warmup + load.ticks("--duration", args.duration)?;
    let pins = Pins::choose(load.server_cpu.clone(), load.swarm_cpu.clone(), half())?;
    let stop = stop_on_signal()?;
    pins.swarm.pin()?;
    let clock = Clock::start();
    let mut progress = Progress::start();
    progress.phase("starting");
    let (market, mut rig) = set_up(args, &pins, clock)?;
    progress.phase("connecting");
    let target = rig.target(&market, warmup, load);
    let (swarm, connect, memory) = gather(load, &mut rig, target, clock, &stop, &mut progress)?;

    progress.phase("publishing");
    let watch = Watch::of([&rig], &pins);
    let stage = Stage {
        watch: &watch,
        process: rig.process,
        publisher: &mut rig.publisher,
        swarm: &swarm,
        clock,
        stop: &stop,
        warmup,
        ticks,
        rate: load.rate,
    };
    let mut course = measure(stage, &mut progress)?;
    let published = rig.publisher.published();
    progress.phase("waiting for the last updates");
    swarm.wait_received(0, published * load.per_tick(), DRAIN);
    let used = rig.process.cpu()?.zip(course.start.servers);
    let used = used.map(|(now, before)| now.since(before));
    course.sum.add(&swarm.collect(0)?)?;
    let counts = swarm.settle(0, published)?;
    let (gone, gone_why) = (swarm.gone(0), swarm.reasons());
    let system_calls = if load.strace && !stop.load(Ordering::Relaxed) {
        progress.phase("counting system calls");
        let size = (load.ticks("--strace", STRACE_SECONDS)?, load.per_tick());
        Some(traced_pass(&mut rig, &swarm, 0, size, load.rate, clock)?)
    } else {
        None
    };
    drop(progress);
    let measured = published.saturating_sub(warmup);
    Ok(RunReport {
        server: rig.name.clone(),
        started: rig.started.clone(),
        scenario: Scenario::of(load, warmup, measured),
        ended_early: stop.load(Ordering::Relaxed),
        connect,
        expected: measured * load.per_tick(),
        lost_topics: counts.lost_topics(&market),
        gone,
        gone_why,
        latency_us: Latency::from(&course.sum.latency),
        latency_curve_us: curve(&course.sum.latency),
        cpu: used.map(|used| CpuFigures::of(used, counts.delivered)),
        bytes_per_bar: per(course.sum.bytes, counts.delivered),
        memory,
        system_calls,
        occupancy: Occupancy::between(&course.start, &course.end, &pins),
        publisher: course.lateness,
        series: course.series,
        counts,
        machine: Machine::ask(&pins),
    })
}

/// Lets the clients connect and subscribe, and tells what that took.
fn gather(
    load: &Load,
    rig: &mut Rig,
    target: Target,
    clock: Clock,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Result<(Swarm, Connect, Option<Memory>)> {
    let before = rig.process.resident();
    let watchlists = load.watchlists().map(|topics| (0, topics));
    let swarm = Swarm::start(
        vec![target],
        watchlists,
        load.client_threads as usize,
        clock,
    )?;
    let clients = u64::from(load.clients);
    let took = swarm.wait_ready(
        0,
        clients,
        |ready| progress.now(|| format!("{} of {} clients", grouped(ready), grouped(clients))),
        || stop.load(Ordering::Relaxed),
    )?;
    rig.publisher.wait_for_subscriber()?;
    std::thread::sleep(SETTLE);
    let memory = Memory::of(before, rig.process.resident(), clients);
    Ok((swarm, Connect::of(clients, took), memory))
}

/// The server's share of the cores when none is asked for: half of them.
fn half() -> usize {
    (crate::process::cores() / 2).max(1)
}

/// What is published, and the server under test.
fn set_up(args: &RunArgs, pins: &Pins, clock: Clock) -> Result<(Arc<Market>, Rig)> {
    let mut load = args.load.clone();
    let epoch = clock.now_us();
    if !args.spawn && load.prefix.is_none() {
        // A server that runs already may hold bars of the last run.
        load.prefix = Some(format!("T{:x}-", epoch / 1_000));
    }
    let market = Arc::new(load.market(epoch)?);
    let rig = if args.spawn {
        Rig::spawn(&args.server, &load, pins, &market)?
    } else {
        Rig::running(args, &market)?
    };
    Ok((market, rig))
}

/// What was seen while it ran.
struct Course {
    start: Reading,
    /// When the last tick was published.
    end: Reading,
    sum: Interval,
    series: Vec<Second>,
    lateness: Lateness,
}

/// Everything that takes part while it runs.
struct Stage<'a> {
    watch: &'a Watch,
    process: Watched,
    publisher: &'a mut Publisher,
    swarm: &'a Swarm,
    clock: Clock,
    stop: &'a AtomicBool,
    /// Ticks of the warm-up, and of all.
    warmup: u64,
    ticks: u64,
    rate: f64,
}

/// Publishes in a thread of its own, and looks once a second what comes of it.
fn measure(stage: Stage<'_>, progress: &mut Progress) -> Result<Course> {
    let Stage {
        watch,
        process,
        publisher,
        swarm,
        clock,
        stop,
        warmup,
        ticks,
        rate,
    } = stage;
    let mut series = Series::new(process)?;
    let mut sum = Interval::default();
    let (start, end, lateness) = std::thread::scope(|scope| {
        let publishing = scope.spawn(move || {
            let mut start = None;
            publisher.run(ticks, rate, clock, stop, |tick| {
                if tick == warmup {
                    start = Some(Reading::take(watch));
                }
            })?;
            let end = Reading::take(watch)?;
            anyhow::Ok((start.transpose()?.unwrap_or(end), end, publisher.lateness))
        });
        while !publishing.is_finished() {
            std::thread::sleep(POLL);
            if series.is_due() {
                let interval = swarm.collect(0)?;
                let second = series.add(process, &interval)?;
                progress.now(|| second.line(swarm.gone(0)));
                sum.add(&interval)?;
            }
        }
        let joined = publishing.join();
        joined.map_err(|_| anyhow!("the publisher panicked"))?
    })?;
    Ok(Course {
        start,
        end,
        sum,
        series: series.seconds,
        lateness,
    })
}

/// How it went, second by second.
struct Series {
    began: Instant,
    last: Instant,
    cpu: Option<Cpu>,
    seconds: Vec<Second>,
}

impl Series {
    fn new(process: Watched) -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            began: now,
            last: now,
            cpu: process.cpu()?,
            seconds: Vec::new(),
        })
    }

    fn is_due(&self) -> bool {
        self.last.elapsed() >= SECOND
    }

    fn add(&mut self, process: Watched, interval: &Interval) -> Result<&Second> {
        let elapsed = self.last.elapsed().as_secs_f64();
        let cpu = process.cpu()?;
        let used = cpu.zip(self.cpu).map(|(now, before)| now.since(before));
        self.last = Instant::now();
        self.cpu = cpu;
        self.seconds.push(Second {
            at: self.began.elapsed().as_secs_f64(),
            delivered: interval.latency.len(),
            latency_us: Latency::from(&interval.latency),
            server_cores: used.map(|used| nanos(used.total_ns) / elapsed),
            server_resident: process.resident(),
        });
        self.seconds.last().context("just added")
    }
}

fn nanos(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
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
