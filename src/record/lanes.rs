//! The outputs at work: two threads for each, one that takes bars and one that writes them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::apart::apart;
use super::inlet::Inlet;
use super::inlets::Inlets;
use super::lane::{LAST_WRITES, Lane, Output, Pace};
use super::log::Log;
use super::owing::Owing;
use super::spool::Spool;
use super::writer::writer;
use super::{Batch, Record, RecordError};
use crate::metrics::OutputMetrics;

/// Batches that wait between the bus and a lane.
const QUEUED_BATCHES: usize = 64;
/// How long the start waits for spools and outputs to be opened; what hangs longer is gone on without.
const OPEN_WAIT: Duration = Duration::from_secs(5);
/// How long a lane may take to end beyond its last writes.
const END_GRACE: Duration = Duration::from_secs(2);

/// Says of one part whether it was opened.
type Report = Result<(), RecordError>;

/// All outputs of a recorder.
pub(super) struct Lanes {
    outputs: Vec<(&'static str, OutputMetrics)>,
    owing: Arc<Owing>,
    inputs: Vec<mpsc::Sender<Batch>>,
    ends: Vec<oneshot::Receiver<usize>>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    /// Parts that have not reported.
    opening: usize,
}

impl Lanes {
    /// Of outputs by their names; none is started yet.
    pub fn new(outputs: Vec<(&'static str, OutputMetrics)>, reads: bool) -> Self {
        Self {
            owing: Arc::new(Owing::new(&outputs, reads)),
            inputs: Vec::new(),
            ends: Vec::new(),
            reports: mpsc::channel(2 * outputs.len().max(1)),
            opening: 0,
            outputs,
        }
    }

    pub fn owing(&self) -> Arc<Owing> {
        Arc::clone(&self.owing)
    }

    /// Starts the next output, which `open` makes on the thread that writes to it.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start<O: Output, F: Future<Output = Result<O, RecordError>>>(
        &mut self,
        settings: &Record,
        pace: Pace,
        open: impl FnOnce() -> F + Send + 'static,
    ) -> anyhow::Result<()> {
        let at = self.inputs.len();
        let (way, desk) = writer();
        let report = self.reports.0.clone();
        apart(O::NAME, move || async move {
            let (opened, output) = match open().await {
                Ok(output) => (Ok(()), Some(output)),
                Err(why) => (Err(why), None),
            };
            // Its places are as many as there are reports.
            let _ = report.try_send(opened);
            if let Some(output) = output {
                desk.serve(output).await;
            }
        })?;
        let (input, batches) = mpsc::channel(QUEUED_BATCHES);
        let spool = settings.spool.as_ref().map(|folder| folder.join(O::NAME));
        let bytes = settings.spool_bytes;
        let report = self.reports.0.clone();
        let metrics = self.outputs[at].1.clone();
        let owing = self.owing();
        let end = apart(&format!("lane-{}", O::NAME), move || async move {
            let spool = spool.map(|folder| {
                let opened = Spool::open(&folder, bytes);
                opened.with_context(|| {
                    format!("--spool (BARCAST_RECORD_SPOOL): {}", folder.display())
                })
            });
            let (opened, log) = match spool.transpose() {
                Ok(spool) => (Ok(()), Some(Log::new(spool))),
                Err(why) => (Err(why.into()), None),
            };
            let _ = report.try_send(opened);
            match log {
                Some(log) => {
                    let lane = Lane::new::<O>(log, pace, metrics, owing, at);
                    lane.run(way, batches).await
                }
                None => 0,
            }
        })?;
        self.opening += 2;
        self.inputs.push(input);
        self.ends.push(end);
        Ok(())
    }

    /// Waits until all parts were opened, which may take for ever.
    ///
    /// # Errors
    /// What cannot be used.
    pub async fn opened(&mut self) -> Report {
        while self.opening > 0
            && let Some(report) = self.reports.1.recv().await
        {
            report?;
            self.opening -= 1;
        }
        Ok(())
    }

    /// The same, for as long as a start may wait.
    ///
    /// # Errors
    /// What cannot be used.
    pub async fn open(&mut self) -> Report {
        let opened = timeout(OPEN_WAIT, self.opened()).await;
        opened.unwrap_or_else(|_| {
            tracing::warn!("an output or its spool cannot be opened yet; going on without");
            Ok(())
        })
    }

    /// The intake's ways to the lanes, which end when they are gone.
    pub fn inlets(&mut self, stop: &CancellationToken) -> Inlets {
        let alone = self.inputs.len() == 1;
        let inputs = self.inputs.drain(..).zip(&self.outputs);
        let inlets = inputs.map(|(input, (name, metrics))| {
            Inlet::new(name, input, metrics.clone(), alone, stop.clone())
        });
        Inlets::new(inlets.collect(), self.owing())
    }

    /// Waits for the last writes, within a bound, though a disk may hang; how many bars are lost.
    ///
    /// # Errors
    /// When one panicked.
    pub async fn end(self) -> anyhow::Result<usize> {
        let last = Instant::now() + LAST_WRITES + END_GRACE;
        let mut lost = 0;
        for (end, (name, metrics)) in self.ends.into_iter().zip(&self.outputs) {
            lost += match timeout_at(last, end).await {
                Ok(ended) => ended.with_context(|| format!("the lane of {name} panicked"))?,
                Err(_) => abandoned(name, metrics),
            };
        }
        Ok(lost)
    }
}

/// The lane itself hangs.
fn abandoned(output: &str, metrics: &OutputMetrics) -> usize {
    let (waiting, spooled) = (metrics.waiting.get(), metrics.spool_bars.get());
    let lost = usize::try_from(waiting - spooled).unwrap_or(0);
    tracing::error!(
        output,
        bars = lost,
        spooled,
        "its disk hangs, the end is not waited for: what waits in memory is lost"
    );
    // At least what it was given last.
    lost.max(1)
}
