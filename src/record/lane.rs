//! The way to one database or folder of files: gathers bars, logs them, writes them, and tries again.
//!
//! Each output has a lane of its own, so that one that is away costs the other nothing. Taking bars in
//! never waits for a write: writes are a task beside.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, sleep_until};

use super::log::{Log, Seen};
use super::{Batch, Closed, Gap};
use crate::bus::backoff::Backoff;
use crate::clock::now_ms;
use crate::health::Concern;
use crate::limited::Limited;
use crate::metrics::OutputMetrics;

/// Longest time that a bar waits for others before all are logged, which is one `fdatasync`.
const GATHER: Duration = Duration::from_millis(200);
/// Bars that are logged at once, however little time has passed: some 200 KiB.
const GATHER_BARS: usize = 1_000;
/// How long the last writes may take after the end was asked for.
const LAST_WRITES: Duration = Duration::from_secs(10);
/// A write may take at most one such part of the time: rewriting a large file again and again costs.
const WORK_SHARE: u32 = 10;
/// An output that has nothing to write is asked this often whether it could.
const PROBE: Duration = Duration::from_secs(5);
/// A bar that arrives later than so after its end, in ms, is of the past: how long ago it closed says
/// nothing about this recorder.
const FRESH_MS: i64 = 3_600_000;

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
    outage: Option<Instant>,
    backoff: Backoff,
    warnings: Limited,
}

struct Flight {
    /// None of a probe.
    seen: Option<Seen>,
    batches: Vec<Batch>,
    started: Instant,
}

/// What is written at once: bars, then the gaps among them.
type Work = (Vec<Closed>, Vec<Gap>);

impl Lane {
    pub fn new<O: Output>(log: Log, pace: Pace, metrics: OutputMetrics) -> Self {
        if log.bars() > 0 {
            tracing::info!(output = O::NAME, bars = log.bars(), "the spool holds bars");
        }
        Self {
            name: O::NAME,
            log,
            pace,
            metrics,
            gathered: Vec::new(),
            gather_due: None,
            write_due: Instant::now(),
            probe_due: Instant::now(),
            in_flight: None,
            ending: false,
            outage: None,
            backoff: Backoff::default(),
            warnings: Limited::default(),
        }
    }

    /// Takes batches until their sender is gone, then writes what is left as long as that may take; tells
    /// how many bars are lost by the end.
    pub async fn run<O: Output>(mut self, output: O, mut batches: Receiver<Batch>) -> usize {
        let (jobs, mut results) = writer(output);
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

    fn take(&mut self, batch: Batch) {
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
                continue;
            }
            let bars = batch.items();
            self.metrics.refused.inc_by(bars as u64);
            let output = self.name;
            self.warnings.say(|left_out| {
                tracing::error!(
                    output,
                    bars,
                    left_out,
                    "no room for more that waits: bars are refused"
                );
            });
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
        self.metrics.connected.set(1);
        self.metrics.health.clear(Concern::Output);
        let mut bars = 0;
        for batch in &flight.batches {
            bars += batch.bars.len();
            self.measure(batch);
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

    fn measure(&self, batch: &Batch) {
        let Some(arrived) = batch.arrived_ms else {
            return;
        };
        let now = now_ms();
        for Closed { topic, bar, .. } in &batch.bars {
            self.metrics.write_lag.observe(seconds(now - arrived));
            let end = topic.resolution.next(bar.time());
            if (arrived - end) < FRESH_MS {
                self.metrics.close_lag.observe(seconds(now - end));
            }
        }
    }

    fn failed(&mut self, why: &str) {
        self.metrics.failures.inc();
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
        self.write_due = Instant::now() + self.backoff.wait();
        self.probe_due = self.write_due;
    }

    fn show(&self) {
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

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53 ms, which is 285,000 years"
)]
fn seconds(ms: i64) -> f64 {
    ms.max(0) as f64 / 1_000.0
}

/// A task that writes one thing at a time.
fn writer<O: Output>(mut output: O) -> (Sender<Work>, Receiver<Result<usize, String>>) {
    let (jobs, mut waiting) = mpsc::channel::<Work>(1);
    let (done, results) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some((bars, gaps)) = waiting.recv().await {
            // An output that has nothing to write is asked whether it could.
            let mut written = match bars.is_empty() && !gaps.is_empty() {
                true => Ok(0),
                false => output.write(bars).await,
            };
            if written.is_ok() && !gaps.is_empty() {
                written = match output.note(gaps).await {
                    Ok(()) => written,
                    Err(why) => Err(why),
                };
            }
            if done.send(written).await.is_err() {
                return;
            }
        }
    });
    (jobs, results)
}

/// As few batches as their arrivals allow: those from the store have none.
fn merge(batches: Vec<Batch>) -> Vec<Batch> {
    let mut merged: Vec<Batch> = Vec::new();
    for batch in batches {
        match merged.last_mut() {
            Some(last) if last.arrived_ms.is_some() == batch.arrived_ms.is_some() => {
                last.bars.extend(batch.bars);
                last.gaps.extend(batch.gaps);
            }
            _ => merged.push(batch),
        }
    }
    merged
}

/// Each bar once, as it was last, by time.
fn newest(batches: &[Batch]) -> Vec<Closed> {
    let all = batches.iter().flat_map(|batch| &batch.bars);
    let newest: BTreeMap<_, _> = all
        .map(|closed| ((closed.bar.time(), closed.topic), *closed))
        .collect();
    newest.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::Semaphore;

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
        let lane = Lane::new::<Slow>(Log::new(None), pace, metrics.clone());
        let (sender, batches) = mpsc::channel(8);
        let run = tokio::spawn(lane.run(output.clone(), batches));
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
