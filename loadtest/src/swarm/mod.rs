//! The clients of an experiment: very many, on few threads, each as cheap as can be.
//!
//! A thread owns its clients and an epoll of its own; a readable socket is read once into a buffer that
//! all share, and the clock is read once for what came. What is read is scanned, not parsed. The
//! threads hand over their figures when asked.

mod client;
pub mod crew;
mod interval;
mod target;
mod thread;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::tally::Counts;
use client::Client;
use crew::Crew;
pub use interval::{Interval, latencies};
pub use target::{CLIENTS_PER_ADDRESS, Target, check_template};

/// How often the figures are looked at while something is waited for.
const POLL: Duration = Duration::from_millis(5);
/// Connecting makes no progress for this long: it will not any more.
const CONNECT_PATIENCE: Duration = Duration::from_secs(15);

/// What some clients do while bars flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Move {
    /// Leave without a word and come back.
    Reconnect,
    /// Give one topic up and take another.
    Resubscribe,
}

enum Command {
    /// Hand over the interval of a target.
    Collect(usize, Sender<Interval>),
    /// End the account of a target at its last `seq`.
    Settle(usize, u64, Sender<Counts>),
    /// Let so many clients of a target move.
    Move(usize, Move, u64),
    Stop,
}

/// Figures that can be looked at any time, per target.
#[derive(Debug, Default)]
pub struct Live {
    /// Clients whose subscriptions stand.
    pub ready: AtomicU64,
    /// Clients that could not connect or were disconnected.
    pub gone: AtomicU64,
    /// Updates, each once, those of the warm-up too.
    pub received: AtomicU64,
    /// How often a client came up to a standing subscription.
    pub came: AtomicU64,
}

/// Some of the clients: a thread here, or a process of its own.
trait Worker: Send + Sync {
    fn tell(&self, command: Command) -> Result<()>;
    fn live(&self) -> &[Live];
    fn reasons(&self) -> &Reasons;
    /// Its process, when it is another one.
    fn pid(&self) -> Option<u32>;
}

struct Thread {
    commands: Sender<Command>,
    waker: mio::Waker,
    thread: Option<JoinHandle<()>>,
    live: Arc<Vec<Live>>,
    reasons: Reasons,
}

/// Reasons why clients went, by text, with how many.
type Reasons = Arc<Mutex<BTreeMap<String, u64>>>;

/// Figures of one target each, all 0.
fn live(targets: usize) -> Arc<Vec<Live>> {
    let mut live = Vec::new();
    live.resize_with(targets, Live::default);
    Arc::new(live)
}

/// The clients of all targets. They disconnect when it is dropped.
pub struct Swarm {
    workers: Vec<Box<dyn Worker>>,
}

/// Who the clients are: for each its number, which decides its source address, its target's index and
/// its topics.
type Members = Vec<(usize, usize, Vec<u32>)>;

impl Swarm {
    /// Starts `threads` threads, which connect the clients: `watchlists` has, for each client, its
    /// target's index and its topics.
    ///
    /// # Errors
    /// When the system gives no threads or pollers.
    pub fn start(
        targets: Vec<Target>,
        watchlists: impl Iterator<Item = (usize, Vec<u32>)>,
        threads: usize,
        clock: Clock,
    ) -> Result<Self> {
        Self::of(targets, number(watchlists, 0), threads, clock)
    }

    fn of(targets: Vec<Target>, members: Members, threads: usize, clock: Clock) -> Result<Self> {
        let targets: Arc<[Target]> = targets.into();
        let workers = shares(members, threads)
            .into_iter()
            .map(|members| {
                let clients = members
                    .into_iter()
                    .map(|(index, target, topics)| Client::new(index, target, topics));
                let thread = Thread::start(&targets, clients.collect(), clock)?;
                Ok(Box::new(thread) as Box<dyn Worker>)
            })
            .collect::<Result<_>>()?;
        Ok(Self { workers })
    }

    /// The same with as many threads and processes as `crew` says; `first` is the number of the first
    /// client.
    ///
    /// # Errors
    /// When the system gives no threads, pollers or processes.
    pub fn crewed(
        targets: Vec<Target>,
        watchlists: impl Iterator<Item = (usize, Vec<u32>)>,
        crew: Crew,
        first: usize,
        clock: Clock,
    ) -> Result<Self> {
        let members = number(watchlists, first);
        if crew.processes < 2 {
            return Self::of(targets, members, crew.threads, clock);
        }
        let workers = shares(members, crew.processes)
            .into_iter()
            .map(|members| {
                let process = crew::Process::start(&targets, members, crew.threads, clock)?;
                Ok(Box::new(process) as Box<dyn Worker>)
            })
            .collect::<Result<_>>()?;
        Ok(Self { workers })
    }

    /// The processes of its clients beside this one.
    pub fn pids(&self) -> Vec<u32> {
        self.workers.iter().filter_map(|w| w.pid()).collect()
    }

    /// Lets the next `count` clients of a target move, each worker's a share of them.
    ///
    /// # Errors
    /// When a client thread has ended.
    pub fn shift(&self, target: usize, what: Move, count: u64) -> Result<()> {
        let workers = self.workers.len() as u64;
        // The odd ones go to a worker by lot, or the first would always have more.
        let lot = fastrand::u64(..workers.max(1));
        for (nth, worker) in (0_u64..).zip(&self.workers) {
            let odd = u64::from((nth + lot) % workers < count % workers);
            let share = count / workers + odd;
            if share > 0 {
                worker.tell(Command::Move(target, what, share))?;
            }
        }
        Ok(())
    }

    /// Lets all clients of a target move.
    ///
    /// # Errors
    /// When a client thread has ended.
    pub fn shift_all(&self, target: usize, what: Move) -> Result<()> {
        for worker in &self.workers {
            worker.tell(Command::Move(target, what, u64::MAX))?;
        }
        Ok(())
    }

    fn sum(&self, target: usize, of: impl Fn(&Live) -> &AtomicU64) -> u64 {
        let live = self.workers.iter().filter_map(|w| w.live().get(target));
        live.map(|live| of(live).load(Ordering::Relaxed)).sum()
    }

    /// Clients of a target whose subscriptions stand.
    pub fn ready(&self, target: usize) -> u64 {
        self.sum(target, |live| &live.ready)
    }

    /// Clients of a target that could not connect or were disconnected.
    pub fn gone(&self, target: usize) -> u64 {
        self.sum(target, |live| &live.gone)
    }

    /// Updates of a target so far, each once, those of the warm-up too.
    pub fn received(&self, target: usize) -> u64 {
        self.sum(target, |live| &live.received)
    }

    /// How often a client of a target came up to a standing subscription.
    pub fn came(&self, target: usize) -> u64 {
        self.sum(target, |live| &live.came)
    }

    /// Why clients went, with how many.
    pub fn reasons(&self) -> Vec<(String, u64)> {
        let mut sum: BTreeMap<String, u64> = BTreeMap::new();
        for worker in &self.workers {
            let reasons = worker
                .reasons()
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for (why, n) in reasons.iter() {
                *sum.entry(why.clone()).or_default() += n;
            }
        }
        sum.into_iter().collect()
    }

    /// Waits until all `clients` clients of a target are subscribed or `stop` turns true, and says how
    /// long it took.
    ///
    /// # Errors
    /// When one cannot, or when nothing moves for long.
    pub fn wait_ready(
        &self,
        target: usize,
        clients: u64,
        mut progress: impl FnMut(u64),
        stop: impl Fn() -> bool,
    ) -> Result<Duration> {
        let start = Instant::now();
        let (mut before, mut moved) = (0, Instant::now());
        loop {
            let ready = self.ready(target);
            if ready >= clients {
                return Ok(start.elapsed());
            }
            if ready > before {
                (before, moved) = (ready, Instant::now());
            }
            let gone = self.gone(target);
            if gone > 0 || moved.elapsed() > CONNECT_PATIENCE {
                let why = self.reasons();
                bail!("{ready} of {clients} clients subscribed, {gone} failed: {why:?}");
            }
            if stop() {
                return Ok(start.elapsed());
            }
            progress(ready);
            std::thread::sleep(POLL);
        }
    }

    /// Waits until `expected` updates of a target came, or none did for `patience`. Says whether all
    /// came.
    pub fn wait_received(&self, target: usize, expected: u64, patience: Duration) -> bool {
        let (mut before, mut moved) = (self.received(target), Instant::now());
        while before < expected {
            if moved.elapsed() > patience {
                return false;
            }
            std::thread::sleep(POLL);
            let now = self.received(target);
            if now > before {
                (before, moved) = (now, Instant::now());
            }
        }
        true
    }

    fn ask<T>(&self, command: impl Fn(Sender<T>) -> Command) -> Result<Vec<T>> {
        let mut answers: Vec<Receiver<T>> = Vec::new();
        for worker in &self.workers {
            let (send, answer) = mpsc::channel();
            worker.tell(command(send))?;
            answers.push(answer);
        }
        answers
            .into_iter()
            .map(|answer| answer.recv().map_err(|_| anyhow!("a client thread ended")))
            .collect()
    }

    /// What came from a target since the last call.
    ///
    /// # Errors
    /// When a client thread has ended.
    pub fn collect(&self, target: usize) -> Result<Interval> {
        let mut sum = Interval::default();
        for interval in self.ask(|answer| Command::Collect(target, answer))? {
            sum.add(&interval)?;
        }
        Ok(sum)
    }

    /// Ends the account of a target, whose publisher published up to `seq`.
    ///
    /// # Errors
    /// When a client thread has ended.
    pub fn settle(&self, target: usize, seq: u64) -> Result<Counts> {
        let mut sum = Counts::default();
        for counts in self.ask(|answer| Command::Settle(target, seq, answer))? {
            sum.add(&counts);
        }
        Ok(sum)
    }
}

/// Numbers clients from `first` on.
fn number(watchlists: impl Iterator<Item = (usize, Vec<u32>)>, first: usize) -> Members {
    let numbered = watchlists.enumerate();
    numbered
        .map(|(nth, (target, topics))| (first + nth, target, topics))
        .collect()
}

/// Deals clients out in turn.
fn shares(members: Members, count: usize) -> Vec<Members> {
    let mut shares: Vec<Members> = Vec::new();
    shares.resize_with(count.max(1), Vec::new);
    for (nth, member) in members.into_iter().enumerate() {
        let at = nth % shares.len();
        shares[at].push(member);
    }
    shares
}

impl Thread {
    fn start(targets: &Arc<[Target]>, clients: Vec<Client>, clock: Clock) -> Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let live = live(targets.len());
        let reasons = Reasons::default();
        let poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), thread::WAKE)?;
        let context = thread::Context {
            targets: Arc::clone(targets),
            clock,
            live: Arc::clone(&live),
            reasons: Arc::clone(&reasons),
        };
        let thread = std::thread::Builder::new()
            .name("clients".into())
            .spawn(move || thread::run(poll, context, clients, &inbox))
            .context("a thread for the clients")?;
        Ok(Self {
            commands,
            waker,
            thread: Some(thread),
            live,
            reasons,
        })
    }
}

impl Worker for Thread {
    fn tell(&self, command: Command) -> Result<()> {
        let sent = self.commands.send(command);
        sent.map_err(|_| anyhow!("a client thread ended"))?;
        self.waker.wake().context("waking a client thread")
    }

    fn live(&self) -> &[Live] {
        &self.live
    }

    fn reasons(&self) -> &Reasons {
        &self.reasons
    }

    fn pid(&self) -> Option<u32> {
        None
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let _ = self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
