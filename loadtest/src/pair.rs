//! `loadtest pair`: what one server costs in terms of another.
//!
//! Runs one after the other differ by a fifth by themselves on a shared machine. So both servers are
//! alive at once with the same clients, and get pulses in turn, A B A B …; what disturbs one disturbs
//! its neighbour, and the ratio pulse by pulse stays. The median of a dozen is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};

use crate::cli::PairArgs;
use crate::clock::Clock;
use crate::figures::{Latency, Spread, per};
use crate::machine::Machine;
use crate::market::Market;
use crate::occupancy::{Occupancy, Reading, Watch};
use crate::pair_report::{PairReport, Pulse, Side, Surroundings};
use crate::pins::Pins;
use crate::process::cpu;
use crate::progress::Progress;
use crate::report::{Memory, Scenario};
use crate::rig::{Rig, SETTLE, stop_on_signal};
use crate::run::{DRAIN, STRACE_SECONDS, traced_pass};
use crate::strace::SystemCalls;
use crate::swarm::{Interval, Swarm};

/// Sides of a pair, by index.
const SIDES: [usize; 2] = [0, 1];

/// A pulse with its histogram.
type Measured = (Pulse, Interval);

struct Stage {
    // The clients go before their servers do.
    swarm: Swarm,
    rigs: [Rig; 2],
    clock: Clock,
    stop: Arc<AtomicBool>,
    ticks: u64,
    rate: f64,
    per_tick: u64,
}

impl Stage {
    /// One pulse of one side. The CPU time is read when all of it has arrived.
    fn pulse(&mut self, side: usize) -> Result<Measured> {
        let rig = &mut self.rigs[side];
        let family = rig.process.family();
        let before = cpu(&family)?;
        let delivered = self.swarm.received(side);
        let ticks = rig
            .publisher
            .run(self.ticks, self.rate, self.clock, &self.stop, |_| {})?;
        self.swarm
            .wait_received(side, delivered + ticks * self.per_tick, DRAIN);
        let cpu_ns = cpu(&family)?.since(before).total_ns;
        let interval = self.swarm.collect(side)?;
        let delivered = self.swarm.received(side) - delivered;
        let pulse = Pulse {
            delivered,
            cpu_ns,
            ns_per_bar: per(cpu_ns, delivered),
            latency_us: Latency::from(&interval.latency),
        };
        Ok((pulse, interval))
    }

    /// Waits for the clients of both sides, and tells what memory they cost.
    fn ready(&mut self, clients: u64, before: [Option<u64>; 2]) -> Result<[Option<Memory>; 2]> {
        for side in SIDES {
            self.swarm
                .wait_ready(side, clients, |_| {}, || self.stopped())?;
            self.rigs[side].publisher.wait_for_subscriber()?;
        }
        std::thread::sleep(SETTLE);
        Ok(SIDES.map(|side| Memory::of(before[side], self.rigs[side].process.resident(), clients)))
    }

    /// All pulses of both sides, in turn; without those of the warm-up.
    fn pulses(&mut self, args: &PairArgs, progress: &mut Progress) -> Result<[Vec<Measured>; 2]> {
        let mut measured = [Vec::new(), Vec::new()];
        for nth in 0..args.warmup_pulses + args.pulses {
            let mut both = Vec::new();
            for side in SIDES {
                both.push(self.pulse(side)?);
            }
            if self.stopped() {
                break; // This pulse is not whole.
            }
            let [(a, _), (b, _)] = both.as_slice() else {
                continue;
            };
            progress.now(|| {
                let ratio = a.ns_per_bar / b.ns_per_bar;
                format!(
                    "pulse {} of {}: {:.0} and {:.0} ns/bar, {ratio:.3}",
                    nth + 1,
                    args.warmup_pulses + args.pulses,
                    a.ns_per_bar,
                    b.ns_per_bar
                )
            });
            if nth >= args.warmup_pulses {
                for (side, pulse) in both.into_iter().enumerate() {
                    measured[side].push(pulse);
                }
            }
        }
        Ok(measured)
    }

    /// Closes the account of one side.
    fn side(
        &mut self,
        side: usize,
        measured: Vec<Measured>,
        memory: Option<Memory>,
        warmup: u64,
        market: &Market,
    ) -> Result<Side> {
        let published = self.rigs[side].publisher.published();
        let counts = self.swarm.settle(side, published)?;
        let mut sum = Interval::default();
        for (_, interval) in &measured {
            sum.add(interval)?;
        }
        let pulses: Vec<Pulse> = measured.into_iter().map(|(pulse, _)| pulse).collect();
        Ok(Side {
            server: self.rigs[side].name.clone(),
            started: self.rigs[side].started.clone(),
            expected: published.saturating_sub(warmup) * self.per_tick,
            lost_topics: counts.lost_topics(market),
            gone: self.swarm.gone(side),
            counts,
            ns_per_bar: Spread::of(pulses.iter().map(|pulse| pulse.ns_per_bar)),
            latency_us: Latency::from(&sum.latency),
            bytes_per_bar: per(sum.bytes, sum.latency.len()),
            memory,
            system_calls: None,
            pulses,
        })
    }

    fn traced(&mut self, side: usize, ticks: u64) -> Result<SystemCalls> {
        let size = (ticks, self.per_tick);
        traced_pass(
            &mut self.rigs[side],
            &self.swarm,
            side,
            size,
            self.rate,
            self.clock,
        )
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Runs the pulses, and says what came of them.
///
/// # Errors
/// When something could not be started or broke off; a report with losses is no error.
pub fn pair(args: &PairArgs) -> Result<PairReport> {
    let load = &args.load;
    load.check(2)?;
    let ticks = load.ticks("--pulse", args.pulse)?;
    ensure!(ticks > 0, "--pulse 0: allowed: more than 0 seconds");
    let pins = Pins::choose(load.server_cpu.clone(), load.swarm_cpu.clone(), 1)?;
    let stop = stop_on_signal()?;
    pins.swarm.pin()?;
    let clock = Clock::start();
    let market = Arc::new(load.market(clock.now_us())?);
    let mut progress = Progress::start();
    progress.phase("starting");
    let rigs = [
        Rig::spawn(&args.a, load, &pins, &market)?,
        Rig::spawn(&args.b, load, &pins, &market)?,
    ];
    let warmup = ticks * u64::from(args.warmup_pulses);
    let before = SIDES.map(|side| rigs[side].process.resident());
    let targets = rigs
        .iter()
        .map(|rig| rig.target(&market, warmup, !load.no_answer));
    // The same lists for both, and both at once: neither side's clients are the older ones.
    let clients = load
        .watchlists()
        .flat_map(|topics| SIDES.map(|side| (side, topics.clone())));
    progress.phase("connecting");
    let targets = targets.map(|target| load.target(target)).collect();
    let crew = load.crew(2 * u64::from(load.clients))?;
    let swarm = Swarm::crewed(targets, clients, crew, 0, clock)?;
    let mut stage = Stage {
        swarm,
        rigs,
        clock,
        stop,
        ticks,
        rate: load.rate,
        per_tick: load.per_tick(),
    };
    let memory = stage.ready(load.clients.into(), before)?;
    let watch = Watch::of(&stage.rigs, &pins).with(&stage.swarm);
    let start = Reading::take(&watch)?;
    let mut pulses = stage.pulses(args, &mut progress)?;
    let end = Reading::take(&watch)?;
    let mut sides = Vec::new();
    for side in SIDES {
        let pulses = std::mem::take(&mut pulses[side]);
        sides.push(stage.side(side, pulses, memory[side].clone(), warmup, &market)?);
    }
    if load.strace && !stage.stopped() {
        progress.phase("counting system calls");
        let ticks = load.ticks("--strace", STRACE_SECONDS)?;
        for (index, side) in sides.iter_mut().enumerate() {
            side.system_calls = Some(stage.traced(index, ticks)?);
        }
    }
    drop(progress);
    let ended_early = stage.stopped();
    let scenario = Scenario::of(load, warmup, ticks * sides[0].pulses.len() as u64);
    let around = Surroundings {
        occupancy: Occupancy::between(&start, &end, &pins),
        gone_why: stage.swarm.reasons(),
        machine: Machine::ask(&pins),
    };
    PairReport::of(scenario, ended_early, around, sides)
}
