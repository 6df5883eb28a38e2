//! The clients of an experiment: very many, on few threads, each as cheap as can be.
//!
//! A thread owns its clients and an epoll of its own; a readable socket is read once into a buffer that
//! all share, and the clock is read once for what came. What is read is scanned, not parsed. The
//! threads hand over their figures when asked.

mod client;
mod thread;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use hdrhistogram::Histogram;

use crate::clock::Clock;
use crate::market::Market;
use crate::tally::Counts;
use client::Client;

/// Longest latency told apart, in µs: ten minutes. Beyond it counts as this.
const LONGEST_US: u64 = 600_000_000;
/// Three significant digits: 0.1 % exact.
const DIGITS: u8 = 3;
/// How often the figures are looked at while something is waited for.
const POLL: Duration = Duration::from_millis(5);
/// Connecting makes no progress for this long: it will not any more.
const CONNECT_PATIENCE: Duration = Duration::from_secs(15);

/// An empty histogram of latencies in µs.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("the bounds are constant and valid")
}

/// A server and what its clients expect of it.
#[derive(Debug, Clone)]
pub struct Target {
    pub addr: SocketAddr,
    /// Of the WebSocket, as `/ws`. Where it has `{topics}` in it, a client names its topics there, with
    /// commas between them, and sends no subscribe message.
    pub path: String,
    pub market: Arc<Market>,
    /// The last `seq` of the warm-up: later ones are counted.
    pub after: u64,
    /// Whether the server answers a subscribe message with a `bars.subscribe.response`.
    pub answers: bool,
    /// Whether the clients offer permessage-deflate.
    pub compression: bool,
}

/// What came from one target since it was asked last.
#[derive(Debug, Clone)]
pub struct Interval {
    pub latency: Histogram<u64>,
    /// Bytes of counted updates with their frames' heads.
    pub bytes: u64,
}

impl Default for Interval {
    fn default() -> Self {
        Self {
            latency: latencies(),
            bytes: 0,
        }
    }
}

impl Interval {
    /// Adds another one.
    ///
    /// # Errors
    /// Never: all histograms here have the same bounds.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.latency.add(&other.latency)?;
        self.bytes += other.bytes;
        Ok(())
    }
}

enum Command {
    /// Hand over the interval of a target.
    Collect(usize, Sender<Interval>),
    /// End the account of a target at its last `seq`.
    Settle(usize, u64, Sender<Counts>),
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
}

struct Worker {
    commands: Sender<Command>,
    waker: mio::Waker,
    thread: Option<JoinHandle<()>>,
    live: Arc<Vec<Live>>,
}

/// Reasons why clients went, by text, with how many.
type Reasons = Arc<Mutex<std::collections::BTreeMap<String, u64>>>;

/// The clients of all targets. They disconnect when it is dropped.
pub struct Swarm {
    workers: Vec<Worker>,
    reasons: Reasons,
}

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
        let targets: Arc<[Target]> = targets.into();
        let reasons = Reasons::default();
        let mut shares: Vec<Vec<Client>> = Vec::new();
        shares.resize_with(threads.max(1), Vec::new);
        for (index, (target, topics)) in watchlists.enumerate() {
            let at = index % shares.len();
            shares[at].push(Client::new(index, target, topics));
        }
        let workers = shares
            .into_iter()
            .map(|clients| Worker::start(&targets, clients, clock, &reasons))
            .collect::<Result<_>>()?;
        Ok(Self { workers, reasons })
    }

    fn sum(&self, target: usize, of: impl Fn(&Live) -> &AtomicU64) -> u64 {
        let live = self.workers.iter().filter_map(|w| w.live.get(target));
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

    /// Why clients went, with how many.
    pub fn reasons(&self) -> Vec<(String, u64)> {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().map(|(why, n)| (why.clone(), *n)).collect()
    }

    /// Waits until all `clients` clients of a target are subscribed, and says how long it took.
    ///
    /// # Errors
    /// When one cannot, when nothing moves for long, or when `stop` turns true.
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
                bail!("stopped while connecting: {ready} of {clients} clients subscribed");
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

impl Worker {
    fn start(
        targets: &Arc<[Target]>,
        clients: Vec<Client>,
        clock: Clock,
        reasons: &Reasons,
    ) -> Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let mut live = Vec::new();
        live.resize_with(targets.len(), Live::default);
        let live = Arc::new(live);
        let poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), thread::WAKE)?;
        let context = thread::Context {
            targets: Arc::clone(targets),
            clock,
            live: Arc::clone(&live),
            reasons: Arc::clone(reasons),
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
        })
    }

    fn tell(&self, command: Command) -> Result<()> {
        let sent = self.commands.send(command);
        sent.map_err(|_| anyhow!("a client thread ended"))?;
        self.waker.wake().context("waking a client thread")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
