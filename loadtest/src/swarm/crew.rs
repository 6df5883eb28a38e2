//! Clients in processes of their own: one process may open only so many files, and so only so many
//! connections.
//!
//! The other process is this program again, as `loadtest crew`. It reads one line of JSON that says who
//! its clients are, then a line for each question, and writes a line for each answer; unasked it writes
//! its live figures when they change. It ends when its input does, so that it never outlives us.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command as Program, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{Command, Interval, Live, Members, Move, POLL, Reasons, Swarm, Target, Worker};
use crate::clock::Clock;
use crate::tally::Counts;

/// Open files that a process needs beside its clients': Redis, epoll, logs, libraries.
pub const OTHER_FILES: u64 = 100;

/// Raises the limit of open files as far as it goes, and says how far that is.
///
/// # Errors
/// When the kernel does not say.
pub fn files_of_a_process() -> Result<u64> {
    /// Enough for any process here; some programs that we start go through all that they may open.
    const ENOUGH: u64 = 1 << 20;
    rlimit::increase_nofile_limit(ENOUGH).context("limit of open files")
}

/// The hidden command that runs clients for another process.
pub const COMMAND: &str = "crew";

/// How many run the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crew {
    /// 1 is this process alone.
    pub processes: usize,
    /// Of each process.
    pub threads: usize,
}

/// Who the clients of another process are.
#[derive(Serialize, Deserialize)]
struct Order {
    targets: Vec<Target>,
    members: Members,
    threads: usize,
    clock: Clock,
}

#[derive(Serialize, Deserialize)]
enum Ask {
    Collect(usize),
    Settle(usize, u64),
    Move(usize, Move, u64),
}

#[derive(Serialize, Deserialize)]
enum Say {
    Live(Now),
    Interval(Wire),
    /// With `lost` by topic, which reports leave out.
    Counts(Counts, Vec<(u32, u64)>),
}

/// Live figures: ready, gone, received and came of each target, and why clients went.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Now {
    figures: Vec<[u64; 4]>,
    reasons: Vec<(String, u64)>,
}

/// An interval as text: values of a histogram with how often each came.
#[derive(Serialize, Deserialize)]
struct Wire {
    latency: Vec<(u64, u64)>,
    came: Vec<(u64, u64)>,
    answered: Vec<(u64, u64)>,
    bytes: u64,
    asked: u64,
    left: u64,
    failed: u64,
}

fn counted(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram
        .iter_recorded()
        .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
        .collect()
}

fn histogram(counted: &[(u64, u64)]) -> Histogram<u64> {
    let mut histogram = super::latencies();
    for (value, count) in counted {
        histogram.saturating_record_n(*value, *count);
    }
    histogram
}

impl From<&Interval> for Wire {
    fn from(of: &Interval) -> Self {
        Self {
            latency: counted(&of.latency),
            came: counted(&of.came),
            answered: counted(&of.answered),
            bytes: of.bytes,
            asked: of.asked,
            left: of.left,
            failed: of.failed,
        }
    }
}

impl From<Wire> for Interval {
    fn from(of: Wire) -> Self {
        Self {
            latency: histogram(&of.latency),
            came: histogram(&of.came),
            answered: histogram(&of.answered),
            bytes: of.bytes,
            asked: of.asked,
            left: of.left,
            failed: of.failed,
        }
    }
}

fn write_line(out: &mut impl Write, words: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *out, words)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// `loadtest crew`: runs clients for the process that started this one.
///
/// # Errors
/// When the order cannot be read, or clients cannot be run.
pub fn serve() -> Result<()> {
    let mut lines = BufReader::new(std::io::stdin()).lines();
    let order = lines.next().context("no order came")??;
    let order: Order = serde_json::from_str(&order).context("the order")?;
    // One descriptor a client, and a few of our own.
    rlimit::increase_nofile_limit(order.members.len() as u64 + OTHER_FILES)?;
    let targets = order.targets.len();
    let swarm = Swarm::of(order.targets, order.members, order.threads, order.clock)?;
    let ended = AtomicBool::new(false);
    let say = |words: &Say| write_line(&mut std::io::stdout().lock(), words);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut before = None;
            while !ended.load(Ordering::Relaxed) {
                let now = now(&swarm, targets);
                if before.as_ref() != Some(&now) {
                    if say(&Say::Live(now.clone())).is_err() {
                        return;
                    }
                    before = Some(now);
                }
                std::thread::sleep(POLL);
            }
        });
        let answered = lines.try_for_each(|line| answer(&swarm, &line?, say));
        ended.store(true, Ordering::Relaxed);
        answered
    })
}

fn now(swarm: &Swarm, targets: usize) -> Now {
    let figures = |target| {
        [
            swarm.ready(target),
            swarm.gone(target),
            swarm.received(target),
            swarm.came(target),
        ]
    };
    Now {
        figures: (0..targets).map(figures).collect(),
        reasons: swarm.reasons(),
    }
}

fn answer(swarm: &Swarm, line: &str, say: impl Fn(&Say) -> Result<()>) -> Result<()> {
    match serde_json::from_str(line)? {
        Ask::Collect(target) => say(&Say::Interval(Wire::from(&swarm.collect(target)?))),
        Ask::Settle(target, seq) => {
            let mut counts = swarm.settle(target, seq)?;
            let lost = std::mem::take(&mut counts.lost_by_topic);
            say(&Say::Counts(counts, lost.into_iter().collect()))
        }
        Ask::Move(target, what, count) => swarm.shift(target, what, count),
    }
}

/// Who waits for the next answers, in the order of the questions.
type Waiting = Arc<Mutex<VecDeque<Reply>>>;

enum Reply {
    Interval(Sender<Interval>),
    Counts(Sender<Counts>),
}

/// Clients in another process.
pub(super) struct Process {
    child: Child,
    /// Nothing when it is to end.
    input: Mutex<Option<BufWriter<ChildStdin>>>,
    waiting: Waiting,
    live: Arc<Vec<Live>>,
    reasons: Reasons,
    reader: Option<JoinHandle<()>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    pub fn start(
        targets: &[Target],
        members: Members,
        threads: usize,
        clock: Clock,
    ) -> Result<Self> {
        let mut child = Program::new(std::env::current_exe()?)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own: Ctrl-C on the terminal must not end it before it was asked.
            .process_group(0)
            .spawn()
            .context("a process for the clients")?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = input.zip(output).context("its pipes")?;
        let (waiting, reasons) = (Waiting::default(), Reasons::default());
        let live = super::live(targets.len());
        let reader = std::thread::spawn({
            let (waiting, live, reasons) = (waiting.clone(), live.clone(), reasons.clone());
            move || {
                // Whatever ends it, nobody waits for answers any more.
                let _ = read(output, &waiting, &live, &reasons);
                lock(&waiting).clear();
            }
        });
        let process = Self {
            child,
            input: Mutex::new(Some(BufWriter::new(input))),
            waiting,
            live,
            reasons,
            reader: Some(reader),
        };
        process.write(&Order {
            targets: targets.to_vec(),
            members,
            threads,
            clock,
        })?;
        Ok(process)
    }

    fn write(&self, words: &impl Serialize) -> Result<()> {
        let mut input = lock(&self.input);
        let input = input.as_mut().context("the client process was ended")?;
        write_line(input, words).map_err(|why| anyhow!("a client process ended: {why}"))
    }
}

/// Passes answers on until the other process ends.
fn read(output: ChildStdout, waiting: &Waiting, live: &[Live], reasons: &Reasons) -> Result<()> {
    for line in BufReader::new(output).lines() {
        let say = serde_json::from_str(&line?)?;
        if let Say::Live(now) = say {
            for (live, [ready, gone, received, came]) in live.iter().zip(now.figures) {
                live.ready.store(ready, Ordering::Relaxed);
                live.gone.store(gone, Ordering::Relaxed);
                live.received.store(received, Ordering::Relaxed);
                live.came.store(came, Ordering::Relaxed);
            }
            *lock(reasons) = now.reasons.into_iter().collect();
            continue;
        }
        let reply = lock(waiting).pop_front();
        match (say, reply) {
            (Say::Interval(wire), Some(Reply::Interval(answer))) => {
                let _ = answer.send(wire.into());
            }
            (Say::Counts(mut counts, lost), Some(Reply::Counts(answer))) => {
                counts.lost_by_topic = lost.into_iter().collect();
                let _ = answer.send(counts);
            }
            _ => return Err(anyhow!("an answer that nobody asked for")),
        }
    }
    Ok(())
}

impl Worker for Process {
    fn tell(&self, command: Command) -> Result<()> {
        let (ask, reply) = match command {
            Command::Collect(target, answer) => {
                (Ask::Collect(target), Some(Reply::Interval(answer)))
            }
            Command::Settle(target, seq, answer) => {
                (Ask::Settle(target, seq), Some(Reply::Counts(answer)))
            }
            Command::Move(target, what, count) => (Ask::Move(target, what, count), None),
            Command::Stop => {
                *lock(&self.input) = None;
                return Ok(());
            }
        };
        lock(&self.waiting).extend(reply);
        self.write(&ask)?;
        // Nobody would answer any more, and nobody would say so.
        if self.reader.as_ref().is_none_or(JoinHandle::is_finished) {
            lock(&self.waiting).clear();
        }
        Ok(())
    }

    fn live(&self) -> &[Live] {
        &self.live
    }

    fn reasons(&self) -> &Reasons {
        &self.reasons
    }

    fn pid(&self) -> Option<u32> {
        Some(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input ends it; a process that does not see it any more is killed.
        let _ = self.tell(Command::Stop);
        let start = std::time::Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > super::CONNECT_PATIENCE {
                let _ = self.child.kill();
                break;
            }
            std::thread::sleep(POLL);
        }
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_the_same_after_the_way() {
        let mut interval = Interval {
            bytes: 7,
            asked: 3,
            left: 2,
            failed: 1,
            ..Interval::default()
        };
        for us in [1, 1, 999, 123_456, 599_999_999] {
            interval.latency.record(us).unwrap();
            interval.came.record(us + 1).unwrap();
        }
        let text = serde_json::to_string(&Wire::from(&interval)).unwrap();
        let back = Interval::from(serde_json::from_str::<Wire>(&text).unwrap());
        assert_eq!(back.latency, interval.latency);
        assert_eq!(
            (back.came, back.answered),
            (interval.came, interval.answered)
        );
        assert_eq!(
            (back.bytes, back.asked, back.left, back.failed),
            (7, 3, 2, 1)
        );
    }
}
