//! The bound of what a node keeps of the past, and who lets go when it is passed.
//!
//! Owned by ingest, which alone changes histories: nothing is counted by a delivery. Topics let go in turn,
//! each of its oldest quarter, so that none loses all while another keeps a thousand.

use std::sync::Arc;

use super::registry::{Entry, Registry};

/// Topics that let go at most for one bar that came while the bound is passed: each gives at least one bar
/// if it has more than its newest, so that trimming is faster than bars come, and no bar waits long for it.
const MAX_TRIMMED_TOPICS: u64 = 8;

/// What all histories of a node take, and how much they may.
#[derive(Debug)]
pub struct Memory {
    limit: usize,
    bytes: usize,
    /// Topics whose turn comes in this round.
    round: Vec<Arc<Entry>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Memory {
    /// Nothing kept yet; up to `limit` bytes may be.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: 0,
            round: Vec::new(),
        }
    }

    /// A history changed its size.
    pub fn resized(&mut self, before: usize, after: usize) {
        self.bytes = self.bytes.saturating_sub(before).saturating_add(after);
    }

    /// What all histories take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the past of another topic would push out what is kept: the last sixteenth is for bars that
    /// come live.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.limit - self.limit / 16
    }

    /// Lets the next topics go of their oldest quarter while the bound is passed; `bars` came since the
    /// last call. The newest bar of a topic always stays, also where they alone take more.
    pub fn trim(&mut self, registry: &Registry, bars: u64) {
        let mut topics = bars.saturating_mul(MAX_TRIMMED_TOPICS);
        while self.bytes > self.limit && topics > 0 {
            topics -= 1;
            if self.round.is_empty() {
                self.round = registry.all();
            }
            let Some(entry) = self.round.pop() else {
                return;
            };
            let (before, after) = {
                let history = &mut entry.lock().history;
                let before = history.bytes();
                if history.count() > 1 {
                    history.trim_oldest(history.count().div_ceil(4));
                }
                (before, history.bytes())
            };
            self.resized(before, after);
        }
    }
}
