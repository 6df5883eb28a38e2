//! Pulses to several servers in turn: what `pair` and `compare` measure by.
//!
//! Runs one after the other differ by a fifth by themselves on a shared machine. So all servers are
//! alive at once with the same clients, and get pulses in turn, A B C A B C …; what disturbs one
//! disturbs its neighbours, and the ratio round by round stays. A pulse has ended when all of it has
//! arrived: a server that falls behind takes nothing from the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use clap::Args;

use crate::clock::Clock;
use crate::figures::{Latency, Spread, per};
use crate::load::Load;
use crate::machine::Machine;
use crate::market::Market;
use crate::occupancy::{Occupancy, Reading, Watch};
use crate::pair_report::{Pulse, Side, Surroundings};
use crate::pins::Pins;
use crate::process::{Cpu, cpu};
use crate::progress::Progress;
use crate::report::{Memory, Scenario};
use crate::rig::{Rig, SETTLE, stop_on_signal};
use crate::run::{DRAIN, STRACE_SECONDS, traced_pass};
use crate::servers::Kind;
use crate::swarm::{Interval, Swarm};

/// Pulses to several servers in turn.
#[derive(Debug, Clone, Args)]
pub struct TurnArgs {
    /// Measured pulses of each server
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub pulses: u32,
    /// Pulses of each server before them that are not measured
    #[arg(long, default_value_t = 2)]
    pub warmup_pulses: u32,
    /// Seconds of a pulse
    #[arg(long, default_value_t = 1.0)]
    pub pulse: f64,
}

/// What the servers stand on.
pub struct Ground {
    load: Load,
    turns: TurnArgs,
    /// Ticks of a pulse.
    ticks: u64,
    pins: Pins,
    stop: Arc<AtomicBool>,
    clock: Clock,
    market: Arc<Market>,
    progress: Progress,
}

impl Ground {
    /// Checks what was asked for, and pins this process.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn prepare(load: &Load, turns: &TurnArgs, servers: usize) -> Result<Self> {
        load.check(u32::try_from(servers)?)?;
        let ticks = load.ticks("--pulse", turns.pulse)?;
        ensure!(ticks > 0, "--pulse 0: allowed: more than 0 seconds");
        let pins = Pins::choose(load.server_cpu.clone(), load.swarm_cpu.clone(), 1)?;
        let stop = stop_on_signal()?;
        pins.swarm.pin()?;
        let clock = Clock::start();
        let market = Arc::new(load.market(clock.now_us())?);
        let mut progress = Progress::start();
        progress.phase("starting");
        Ok(Self {
            load: load.clone(),
            turns: turns.clone(),
            ticks,
            pins,
            stop,
            clock,
            market,
            progress,
        })
    }

    /// Starts a server.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn spawn(&self, kind: &Kind) -> Result<Rig> {
        Rig::spawn(kind, &self.load, &self.pins, &self.market)
    }

    fn warmup(&self) -> u64 {
        self.ticks * u64::from(self.turns.warmup_pulses)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A pulse with its histogram and its CPU time.
type Measured = (Pulse, Interval, Cpu);

/// One server in the turns.
struct Lane {
    rig: Rig,
    memory: Option<Memory>,
    pulses: Vec<Measured>,
    /// Why it takes no turns any more.
    broken: Option<anyhow::Error>,
}

/// What was seen of one server.
pub struct Taken {
    pub side: Side,
    pub user_ns_per_bar: f64,
}

/// What was seen of all.
pub struct AllTaken {
    pub scenario: Scenario,
    pub ended_early: bool,
    /// Of each server, with its name: its figures, or why there are none.
    pub servers: Vec<(String, Result<Taken>)>,
    pub around: Surroundings,
}

struct Turns {
    // The clients go before their servers do.
    swarm: Swarm,
    lanes: Vec<Lane>,
    ground: Ground,
}

/// Connects the same clients to every server, and gives them their turns.
///
/// # Errors
/// When something breaks that all need; what breaks one server is told in its place.
pub fn take(ground: Ground, rigs: Vec<Rig>) -> Result<AllTaken> {
    let mut turns = Turns::start(ground, rigs)?;
    let watch = turns.watch();
    let start = Reading::take(&watch)?;
    turns.rounds();
    // Without those that are no more: what they used counts as strangers' then.
    let end = Reading::take(&turns.watch())?;
    let mut servers = Vec::new();
    for index in 0..turns.lanes.len() {
        servers.push((turns.lanes[index].rig.name.clone(), turns.taken(index)));
    }
    turns.trace(&mut servers)?;
    let ended_early = turns.ground.stopped();
    let rounds = servers.iter().filter_map(|(_, taken)| taken.as_ref().ok());
    let rounds = rounds.map(|taken| taken.side.pulses.len()).max();
    let Ground {
        load, ticks, pins, ..
    } = &turns.ground;
    let measured = ticks * rounds.unwrap_or(0) as u64;
    Ok(AllTaken {
        scenario: Scenario::of(load, turns.ground.warmup(), measured),
        ended_early,
        servers,
        around: Surroundings {
            occupancy: Occupancy::between(&start, &end, pins),
            gone_why: turns.swarm.reasons(),
            machine: Machine::ask(pins),
        },
    })
}

impl Turns {
    fn start(mut ground: Ground, rigs: Vec<Rig>) -> Result<Self> {
        ground.progress.phase("connecting");
        let Ground { load, market, .. } = &ground;
        let before: Vec<_> = rigs.iter().map(|rig| rig.process.resident()).collect();
        let targets = rigs
            .iter()
            .map(|rig| rig.target(market, ground.warmup(), load));
        // The same lists for all, and all at once: no server's clients are the older ones.
        let clients = load
            .watchlists()
            .flat_map(|topics| (0..rigs.len()).map(move |target| (target, topics.clone())));
        let crew = load.crew(rigs.len() as u64 * u64::from(load.clients))?;
        let swarm = Swarm::crewed(targets.collect(), clients, crew, 0, ground.clock)?;
        let lanes = rigs.into_iter().map(|rig| Lane {
            rig,
            memory: None,
            pulses: Vec::new(),
            broken: None,
        });
        let mut turns = Self {
            swarm,
            lanes: lanes.collect(),
            ground,
        };
        turns.wait_ready(&before);
        Ok(turns)
    }

    /// Waits for the clients of all servers, and looks what memory they cost.
    fn wait_ready(&mut self, before: &[Option<u64>]) {
        let clients = u64::from(self.ground.load.clients);
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let stopped = || self.ground.stopped();
            let ready = self.swarm.wait_ready(index, clients, |_| {}, stopped);
            let ready = ready.and_then(|_| lane.rig.publisher.wait_for_subscriber());
            lane.broken = ready.err();
        }
        std::thread::sleep(SETTLE);
        for (lane, before) in self.lanes.iter_mut().zip(before) {
            lane.memory = Memory::of(*before, lane.rig.process.resident(), clients);
        }
    }

    /// Whose time is read: of the servers that still take turns.
    fn watch(&self) -> Watch {
        let lanes = self.lanes.iter().filter(|lane| lane.broken.is_none());
        Watch::of(lanes.map(|lane| &lane.rig), &self.ground.pins).with(&self.swarm)
    }

    /// All rounds; those of the warm-up leave nothing behind, and neither does one that is not whole.
    fn rounds(&mut self) {
        let TurnArgs {
            pulses,
            warmup_pulses,
            ..
        } = self.ground.turns;
        self.ground.progress.phase("publishing");
        for nth in 0..warmup_pulses + pulses {
            let mut round = Vec::new();
            for index in 0..self.lanes.len() {
                if self.lanes[index].broken.is_some() {
                    continue;
                }
                match self.pulse(index) {
                    Ok(measured) => round.push((index, measured)),
                    Err(why) => self.lanes[index].broken = Some(why),
                }
            }
            if self.ground.stopped() {
                break;
            }
            self.ground.progress.now(|| {
                let costs = round.iter().map(|(_, (pulse, ..))| pulse.ns_per_bar);
                let costs: Vec<String> = costs.map(|ns| format!("{ns:.0}")).collect();
                let of = warmup_pulses + pulses;
                format!("round {} of {of}: {} ns/bar", nth + 1, costs.join(", "))
            });
            if nth >= warmup_pulses {
                for (index, measured) in round {
                    self.lanes[index].pulses.push(measured);
                }
            }
        }
    }

    /// One pulse of one server. The CPU time is read when all of it has arrived.
    fn pulse(&mut self, index: usize) -> Result<Measured> {
        let ground = &self.ground;
        let rig = &mut self.lanes[index].rig;
        let family = rig.process.family();
        let before = cpu(&family)?;
        let received = self.swarm.received(index);
        let (rate, clock) = (ground.load.rate, ground.clock);
        let ticks = rig
            .publisher
            .run(ground.ticks, rate, clock, &ground.stop, |_| {})?;
        let expected = received + ticks * ground.load.per_tick();
        self.swarm.wait_received(index, expected, DRAIN);
        let used = cpu(&family)?.since(before);
        let interval = self.swarm.collect(index)?;
        let delivered = self.swarm.received(index) - received;
        let pulse = Pulse {
            delivered,
            cpu_ns: used.total_ns,
            ns_per_bar: per(used.total_ns, delivered),
            latency_us: Latency::from(&interval.latency),
        };
        Ok((pulse, interval, used))
    }

    /// Closes the account of one server.
    fn taken(&mut self, index: usize) -> Result<Taken> {
        let Ground { load, market, .. } = &self.ground;
        let lane = &mut self.lanes[index];
        if let Some(why) = lane.broken.take() {
            return Err(why);
        }
        let published = lane.rig.publisher.published();
        let counts = self.swarm.settle(index, published)?;
        let (mut sum, mut used) = (Interval::default(), Cpu::default());
        let mut pulses = Vec::new();
        for (pulse, interval, cpu) in lane.pulses.drain(..) {
            sum.add(&interval)?;
            used = used.plus(cpu);
            pulses.push(pulse);
        }
        let delivered = pulses.iter().map(|pulse| pulse.delivered).sum();
        let costs = pulses.iter().filter(|pulse| pulse.delivered > 0);
        let side = Side {
            server: lane.rig.name.clone(),
            started: lane.rig.started.clone(),
            expected: published.saturating_sub(self.ground.warmup()) * load.per_tick(),
            lost_topics: counts.lost_topics(market),
            gone: self.swarm.gone(index),
            counts,
            ns_per_bar: Spread::of(costs.map(|pulse| pulse.ns_per_bar)),
            latency_us: Latency::from(&sum.latency),
            bytes_per_bar: per(sum.bytes, sum.latency.len()),
            memory: lane.memory.take(),
            system_calls: None,
            pulses,
        };
        Ok(Taken {
            side,
            user_ns_per_bar: per(used.user_ns, delivered),
        })
    }

    /// Counts the system calls of each server, when that was asked for.
    fn trace(&mut self, servers: &mut [(String, Result<Taken>)]) -> Result<()> {
        if !self.ground.load.strace || self.ground.stopped() {
            return Ok(());
        }
        self.ground.progress.phase("counting system calls");
        let Ground { load, clock, .. } = &self.ground;
        let size = (load.ticks("--strace", STRACE_SECONDS)?, load.per_tick());
        let lanes = self.lanes.iter_mut().zip(servers);
        for (index, (lane, (_, taken))) in lanes.enumerate() {
            if let Ok(taken) = taken {
                let calls =
                    traced_pass(&mut lane.rig, &self.swarm, index, size, load.rate, *clock)?;
                taken.side.system_calls = Some(calls);
            }
        }
        Ok(())
    }
}
