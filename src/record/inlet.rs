//! The intake's way to one lane: the bus waits for a lane that is busy, and not for one that hangs.

use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use super::Batch;
use super::lane::HUNG;
use crate::bar::Topic;
use crate::health::Concern;
use crate::limited::Limited;
use crate::metrics::OutputMetrics;

/// Between two looks whether a lane takes more; meanwhile the bus feels it.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// How long the bus, and with it the other output, waits for a lane that takes nothing. Redis ends a
/// subscription that is not read for long.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// The same once the end was asked for.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// The intake's end of a lane.
pub(super) struct Inlet {
    name: &'static str,
    lane: Sender<Batch>,
    metrics: OutputMetrics,
    /// How long the lane is waited for when it takes nothing.
    patience: Duration,
    /// It took nothing for so long: it is not waited for until it does again.
    is_stuck: bool,
    warnings: Limited,
    stop: CancellationToken,
}

impl Inlet {
    /// `alone` when no other output waits while this one is waited for.
    pub fn new(
        name: &'static str,
        lane: Sender<Batch>,
        metrics: OutputMetrics,
        alone: bool,
        stop: CancellationToken,
    ) -> Self {
        Self {
            name,
            lane,
            metrics,
            // By then the lane itself has told that its output hangs.
            patience: if alone { HUNG + BUSY_WAIT } else { BUSY_WAIT },
            is_stuck: false,
            warnings: Limited::default(),
            stop,
        }
    }

    /// Hands a batch over now, or not at all.
    pub fn offer(&mut self, batch: Batch) -> bool {
        self.try_send(batch).is_ok()
    }

    /// Hands a batch over, and waits for that as long as the lane goes on. `false` when it does not take it.
    pub fn put(&mut self, mut batch: Batch) -> bool {
        let since = Instant::now();
        while let Err(again) = self.try_send(batch) {
            let patience = match (self.is_stuck, self.stop.is_cancelled()) {
                (true, _) => return false,
                (_, true) => LAST_WAIT,
                _ => self.patience,
            };
            if since.elapsed() >= patience {
                self.stuck();
                return false;
            }
            batch = again;
            thread::sleep(BUSY_PAUSE);
        }
        true
    }

    /// So many live bars were not taken.
    pub fn refused(&self, bars: usize) {
        self.metrics.refused.inc_by(bars as u64);
    }

    /// Bars of these times were refused, some of which the store has no longer.
    pub fn lost(&mut self, topic: Topic, from: i64, to: i64) {
        let output = self.name;
        self.warnings.say(|left_out| {
            tracing::error!(output, %topic, from, to, left_out, "the store no longer has bars that were refused: they are lost");
        });
    }

    fn try_send(&mut self, batch: Batch) -> Result<(), Batch> {
        match self.lane.try_send(batch) {
            Ok(()) => {
                self.look();
                Ok(())
            }
            Err(TrySendError::Full(batch) | TrySendError::Closed(batch)) => Err(batch),
        }
    }

    /// Looks whether a lane that took nothing does again.
    pub fn look(&mut self) {
        if self.is_stuck && self.lane.capacity() > 0 {
            self.is_stuck = false;
            self.metrics.health.clear(Concern::Lane);
            tracing::info!(output = self.name, "bars are taken again");
        }
    }

    fn stuck(&mut self) {
        self.is_stuck = true;
        let output = self.name;
        let why = "it takes no more bars: its spool's disk hangs, or it is much too slow";
        self.metrics
            .health
            .set(Concern::Lane, format!("{output}: {why}"));
        tracing::error!(
            output,
            "{why}; bars are refused until it does, and read from the store then"
        );
    }
}
