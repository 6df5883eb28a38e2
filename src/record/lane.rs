//! The way to one database or folder of files: gathers bars, logs them, writes them, and tries again.
//!
//! Each output has a lane of its own, on a thread of its own, so that one that is away costs the other nothing.
//! Taking bars in never waits for a write: the [`writer`](super::writer) is another thread. What an output has is
//! in its books ([`Taken`]): the store gives it again after each break.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::{Instant, sleep_until};

use super::gather::{merge, newest};
use super::lag::measure;
use super::log::{Log, Seen};
use super::owing::Owing;
use super::taken::Taken;
use super::writer::{Work, Writer};
use super::{Batch, Closed, Gap};
use crate::bus::backoff::Backoff;
use crate::health::Concern;
use crate::metrics::OutputMetrics;

/// Longest time that a bar waits for others before all are logged, which is one `fdatasync`.
const GATHER: Duration = Duration::from_millis(200);
/// Bars that are logged at once, however little time has passed: some 200 KiB.
const GATHER_BARS: usize = 1_000;
/// How long the last writes may take after the end was asked for.
pub(super) const LAST_WRITES: Duration = Duration::from_secs(10);
/// A write that has not ended by then hangs; the database's own time-outs are shorter. Bars are refused at the
/// bound then instead of waited for.
pub(super) const HUNG: Duration = Duration::from_secs(30);
/// With as many bars that wait, nothing more of the past is taken: live bars must have their room.
const PAST_BARS: usize = 100_000;
/// A write may take at most one such part of the time: rewriting a large file again and again costs.
const WORK_SHARE: u32 = 10;
/// An output that has nothing to write is asked this often whether it could.
const PROBE: Duration = Duration::from_secs(5);
/// Where closed bars go.
pub trait Output: Send + 'static {
    /// The label in metrics, and the spool's folder.
    const NAME: &'static str;

    /// Writes bars durably, by time and each once; what is there already is replaced, so that to repeat
    /// a write is harmless. Tells how many of them were refused for good and put aside. Without any bar,
    /// tells whether it could.
    fn write(&mut self, bars: Vec<Closed>) -> impl Future<Output = Result<usize, String>> + Send;

    /// Keeps gaps durably, oldest first; to repeat that is harmless, too. Never without any.
    fn note(&mut self, gaps: Vec<Gap>) -> impl Future<Output = Result<(), String>> + Send;
}

/// How bars are gathered into writes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between the starts of writes; zero writes what was gathered at once.
    pub interval: Duration,
    /// Bars of one write.
    pub bars: usize,
}

pub(super) struct Lane {
    name: &'static str,
    taken: Taken,
    log: Log,
    pace: Pace,
    metrics: OutputMetrics,
    gathered: Vec<Batch>,
    /// When what is gathered is to be logged.
    gather_due: Option<Instant>,
    /// Not before.
    write_due: Instant,
    /// When an output that has nothing to write is asked next.
    probe_due: Instant,
    /// What is being written.
    in_flight: Option<Flight>,
    /// Whether nothing more will come.
    ending: bool,
    /// Whether the output took anything, or said that it could, since the last failure.
    works: bool,
    outage: Option<Instant>,
    backoff: Backoff,
}

struct Flight {
    /// None of a probe.
    seen: Option<Seen>,
    batches: Vec<Batch>,
    started: Instant,
}

impl Lane {
    /// The lane of the output that has this place among them.
    pub fn new<O: Output>(
        log: Log,
        pace: Pace,
        metrics: OutputMetrics,
        owing: Arc<Owing>,
        at: usize,
    ) -> Self {
        if log.bars() > 0 {
            tracing::info!(output = O::NAME, bars = log.bars(), "the spool holds bars");
        }
        Self {
            name: O::NAME,
            taken: Taken::new(O::NAME, at, owing, metrics.clone()),
            log,
            pace,
            metrics,
            gathered: Vec::new(),
            gather_due: None,
            write_due: Instant::now(),
            probe_due: Instant::now(),
            in_flight: None,
            ending: false,
            works: false,
            outage: None,
            backoff: Backoff::default(),
        }
    }

    /// Takes batches until their sender is gone, then writes what is left as long as that may take; tells
    /// how many bars are lost by the end.
    pub async fn run(mut self, writer: Writer, mut batches: Receiver<Batch>) -> usize {
        let Writer { jobs, mut results } = writer;
        let mut end = None;
        loop {
            self.show();
            if let Some(end) = end
                && self.has_ended(end)
            {
                return self.close();
            }
            let gather_due = self.gather_due.unwrap_or_else(far);
            let write_due = match self.log.bars() {
                0 => self.probe_due,
                _ => self.write_due,
            };
            let hung = self.in_flight.as_ref().filter(|_| self.outage.is_none());
            let hung_due = hung.map(|flight| flight.started + HUNG);
            tokio::select! {
                batch = batches.recv(), if !self.ending && !self.waits() => match batch {
                    Some(batch) => self.take(batch),
                    None => {
                        self.ending = true;
                        self.append();
                        self.write_due = Instant::now();
                        end = Some(Instant::now() + LAST_WRITES);
                    }
                },
                result = results.recv(), if self.in_flight.is_some() => self.written(result),
                () = sleep_until(gather_due), if self.gather_due.is_some() => self.append(),
                () = sleep_until(write_due), if self.in_flight.is_none() => self.begin(&jobs),
                () = sleep_until(hung_due.unwrap_or_else(far)), if hung_due.is_some() => self.hung(),
                () = sleep_until(end.unwrap_or_else(far)), if end.is_some() => {}
            }
        }
    }

    fn has_ended(&self, end: Instant) -> bool {
        let is_safe = self.log.bars_in_memory() == 0;
        let is_hopeless = self.outage.is_some() && is_safe;
        self.log.bars() == 0 || is_hopeless || Instant::now() >= end
    }

    fn close(&self) -> usize {
        let lost = self.log.bars_in_memory();
        let spooled = self.log.bars() - lost;
        self.metrics.refused.inc_by(lost as u64);
        if lost > 0 {
            tracing::error!(
                output = self.name,
                bars = lost,
                "not written before the end: these bars are lost"
            );
        }
        if spooled > 0 {
            tracing::warn!(
                output = self.name,
                bars = spooled,
                "the spool keeps bars for the next run"
            );
        }
        lost
    }

    /// Whether nothing more is taken for now: the output works, and will make room.
    fn waits(&self) -> bool {
        self.outage.is_none() && self.log.is_full() && self.log.bars() > 0
    }

    /// Whether more of the past is taken: that can wait where it is, live bars cannot.
    fn has_room(&self) -> bool {
        let can_wait = !self.ending && !self.log.is_half_full();
        // While the output is away, the store may forget what the disk would not.
        can_wait && (self.log.is_spooling() || (self.works && self.log.bars() < PAST_BARS))
    }

    fn take(&mut self, mut batch: Batch) {
        self.taken.leave_out(&mut batch);
        if batch.items() == 0 {
            return;
        }
        self.gathered.push(batch);
        let bars: usize = self.gathered.iter().map(Batch::items).sum();
        if bars >= GATHER_BARS {
            self.append();
        } else {
            self.gather_due
                .get_or_insert_with(|| Instant::now() + GATHER);
        }
    }

    /// Logs what was gathered, or refuses it.
    fn append(&mut self) {
        self.gather_due = None;
        for batch in merge(std::mem::take(&mut self.gathered)) {
            if self.log.append(&batch) {
                self.taken.note(&batch);
            } else {
                self.gathered.extend(self.taken.refuse(&batch));
            }
        }
        let is_much = self.log.bars() >= self.pace.bars / 2 || self.log.is_full();
        if is_much && self.outage.is_none() {
            self.write_due = Instant::now();
        }
    }

    /// Hands the oldest bars to the writer.
    fn begin(&mut self, jobs: &Sender<Work>) {
        let (batches, seen) = match self.log.bars() {
            0 => (Vec::new(), None),
            _ => match self.log.oldest(self.pace.bars) {
                Ok((batches, seen)) => (batches, Some(seen)),
                Err(why) => return self.failed(&format!("the spool cannot be read: {why}")),
            },
        };
        let gaps = batches.iter().flat_map(|batch| batch.gaps.clone());
        let work = (newest(&batches), gaps.collect());
        // The writer is idle, so its queue of one is empty.
        if jobs.try_send(work).is_ok() {
            self.in_flight = Some(Flight {
                seen,
                batches,
                started: Instant::now(),
            });
        }
    }

    fn written(&mut self, result: Option<Result<usize, String>>) {
        let Some(flight) = self.in_flight.take() else {
            return;
        };
        let result = result.unwrap_or_else(|| Err("the writer has ended".to_owned()));
        let aside = match result {
            Ok(aside) => aside,
            Err(why) => return self.failed(&why),
        };
        if let Some(seen) = flight.seen {
            self.log.forget(seen);
        }
        self.probe_due = Instant::now() + PROBE;
        self.backoff.reset();
        self.works = true;
        self.metrics.connected.set(1);
        self.metrics.health.clear(Concern::Output);
        let mut bars = 0;
        for batch in &flight.batches {
            bars += batch.bars.len();
            measure(&self.metrics, batch);
        }
        self.metrics.set_aside.inc_by(aside as u64);
        let recorded = bars.saturating_sub(aside);
        self.metrics.recorded.inc_by(recorded as u64);
        if let Some(since) = self.outage.take() {
            let (output, after) = (self.name, since.elapsed());
            tracing::info!(output, ?after, waiting = self.log.bars(), "writing again");
        }
        if flight.seen.is_none() {
            return;
        }
        let took = flight.started.elapsed();
        tracing::debug!(output = self.name, bars, ?took, "written");
        // A full write was not all that waited.
        let rest = bars >= self.pace.bars;
        let at_once = rest || self.ending || self.pace.interval.is_zero();
        self.write_due = if at_once {
            Instant::now()
        } else {
            Instant::now() + self.pace.interval.max(took * WORK_SHARE)
        };
    }

    fn hung(&mut self) {
        let hangs = format!("a write has not ended for {HUNG:?}: the disk or database hangs");
        self.out(&hangs);
    }

    fn failed(&mut self, why: &str) {
        self.metrics.failures.inc();
        self.out(why);
        self.write_due = Instant::now() + self.backoff.wait();
        self.probe_due = self.write_due;
    }

    fn out(&mut self, why: &str) {
        self.works = false;
        self.metrics.connected.set(0);
        let output = self.name;
        let unwritten = format!("{output}: bars cannot be written: {why}");
        self.metrics.health.set(Concern::Output, unwritten);
        if self.outage.is_none() {
            self.outage = Some(Instant::now());
            tracing::warn!(output, why, "bars cannot be written; they wait");
        } else {
            tracing::debug!(output, why, "bars still cannot be written");
        }
    }

    fn show(&mut self) {
        self.taken.set_room(self.has_room());
        if self.log.spool_damaged() > self.metrics.spool_damaged.get() {
            // Some of what is marked may be what was damaged.
            self.taken.forget();
        }
        let gathered: usize = self.gathered.iter().map(Batch::items).sum();
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.waiting.set(gauge(self.log.bars() + gathered));
        let spooled = self.log.bars() - self.log.bars_in_memory();
        self.metrics.spool_bars.set(gauge(spooled));
        let bytes = i64::try_from(self.log.disk_bytes()).unwrap_or(i64::MAX);
        self.metrics.spool_bytes.set(bytes);
        let raise = |counter: &Counter, to: u64| counter.inc_by(to.saturating_sub(counter.get()));
        raise(&self.metrics.spool_damaged, self.log.spool_damaged());
        raise(&self.metrics.spool_failures, self.log.spool_failures());
        let failing = i64::from(self.log.is_failing());
        self.metrics.spool_failing.set(failing);
    }
}

/// A time that never comes, for a timer that is not armed.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::{Semaphore, mpsc};

    use super::super::writer::writer;
    use super::*;
    use crate::bar::{Bar, Number, Topic};
    use crate::metrics::RecordMetrics;

    /// Writes when it may, and tells that it was asked.
    #[derive(Clone)]
    struct Slow {
        asked: Arc<Semaphore>,
        may: Arc<Semaphore>,
        written: Arc<Mutex<Vec<Closed>>>,
    }

    impl Output for Slow {
        const NAME: &'static str = "slow";

        async fn write(&mut self, bars: Vec<Closed>) -> Result<usize, String> {
            if !bars.is_empty() {
                self.asked.add_permits(1);
                self.may.acquire().await.unwrap().forget();
                self.written.lock().unwrap().extend(bars);
            }
            Ok(0)
        }

        async fn note(&mut self, _gaps: Vec<Gap>) -> Result<(), String> {
            Ok(())
        }
    }

    fn batch(minute: i64) -> Batch {
        let topic: Topic = "bars:A:1".parse().unwrap();
        let numbers = [Number::Unsigned(1); 5];
        let bar = Bar::new(topic.resolution, minute * 60_000, numbers, true);
        Batch {
            arrived_ms: None,
            bars: vec![(topic, bar.unwrap()).into()],
            gaps: Vec::new(),
        }
    }

    /// What came while something else was written is written at the end, too, and not an hour later.
    #[tokio::test]
    async fn the_end_waits_for_no_interval() {
        let output = Slow {
            asked: Arc::new(Semaphore::new(0)),
            may: Arc::new(Semaphore::new(0)),
            written: Arc::default(),
        };
        let pace = Pace {
            interval: Duration::from_secs(3_600),
            bars: 100,
        };
        let metrics = RecordMetrics::default().output(Slow::NAME);
        let owing = Owing::new(&[(Slow::NAME, metrics.clone())], false);
        let log = Log::new(None);
        let lane = Lane::new::<Slow>(log, pace, metrics.clone(), Arc::new(owing), 0);
        let (sender, batches) = mpsc::channel(8);
        let (way, desk) = writer();
        tokio::spawn(desk.serve(output.clone()));
        let run = tokio::spawn(lane.run(way, batches));
        sender.send(batch(0)).await.unwrap();
        output.asked.acquire().await.unwrap().forget();
        sender.send(batch(1)).await.unwrap();
        drop(sender);
        // Both are known to the lane, and one of them is being written.
        while metrics.waiting.get() < 2 {
            tokio::task::yield_now().await;
        }
        output.may.add_permits(2);
        assert_eq!(run.await.unwrap(), 0);
        let all = [batch(0).bars, batch(1).bars].concat();
        assert_eq!(*output.written.lock().unwrap(), all);
    }
}
