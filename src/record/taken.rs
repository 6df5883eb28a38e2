//! What a lane took and what it refused: the store is read again for the latter, and gives again the former.

use std::sync::Arc;

use super::Batch;
use super::marks::Marks;
use super::owing::{Owing, Refused};
use crate::limited::Limited;
use crate::metrics::OutputMetrics;

/// Gaps that wait for room when the bars beside them are refused.
const MAX_KEPT_GAPS: usize = 10_000;

/// The books of one output.
pub(super) struct Taken {
    name: &'static str,
    /// Which of the outputs it is.
    at: usize,
    owing: Arc<Owing>,
    marks: Marks,
    metrics: OutputMetrics,
    warnings: Limited,
}

impl Taken {
    /// Nothing is taken yet.
    pub fn new(name: &'static str, at: usize, owing: Arc<Owing>, metrics: OutputMetrics) -> Self {
        Self {
            name,
            at,
            owing,
            marks: Marks::default(),
            metrics,
            warnings: Limited::default(),
        }
    }

    /// Leaves out of a batch of the store what the output has already.
    pub fn leave_out(&self, batch: &mut Batch) {
        if batch.arrived_ms.is_none() {
            let before = batch.bars.len();
            batch.bars.retain(|closed| !self.marks.knows(closed));
            let known = before - batch.bars.len();
            self.metrics.known.inc_by(known as u64);
        }
    }

    /// A batch is in the log.
    pub fn note(&mut self, batch: &Batch) {
        batch.bars.iter().for_each(|closed| self.marks.note(closed));
    }

    /// There was no room for a batch: the store is read again. What of it is to be kept all the same.
    pub fn refuse(&mut self, batch: &Batch) -> Option<Batch> {
        let is_live = batch.arrived_ms.is_some();
        let refused = batch.bars.iter().map(|closed| {
            let refused = is_live.then(|| Refused::at(closed.bar.time()));
            (closed.topic, refused)
        });
        self.owing.owe(self.at, refused);
        if is_live && !batch.bars.is_empty() {
            let (output, bars) = (self.name, batch.bars.len());
            self.metrics.refused.inc_by(bars as u64);
            self.warnings.say(|left_out| {
                tracing::error!(
                    output,
                    bars,
                    left_out,
                    "no room for more that waits: bars are refused"
                );
            });
        }
        // They say what is missing, and are few.
        let gaps = 1..=MAX_KEPT_GAPS;
        gaps.contains(&batch.gaps.len()).then(|| Batch {
            bars: Vec::new(),
            ..batch.clone()
        })
    }

    /// Some of what was taken is lost: all of it is to be given again.
    pub fn forget(&mut self) {
        let topics = self.marks.clear().into_iter();
        self.owing.owe(self.at, topics.map(|topic| (topic, None)));
    }

    /// Whether more of the past is taken.
    pub fn set_room(&self, has_room: bool) {
        self.owing.set_room(self.at, has_room);
    }
}
