//! The bound of what a node keeps of the past, and who lets go when it is passed.
//!
//! Owned by ingest, which alone changes histories: nothing is counted by a delivery. Topics let go in turn,
//! each of its oldest quarter, so that none loses all while another keeps a thousand.

use std::sync::Arc;

use super::past::Past;
use super::registry::{Entry, Registry};
use super::state::State;

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
    /// How often all topics were looked through for what can be let go.
    searches: u64,
    /// Nothing was left to let go of when it was last looked for, and nothing was read since.
    is_bare: bool,
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
            searches: 0,
            is_bare: false,
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
                self.make_room(registry);
                self.round = registry.all();
                continue;
            }
            let Some(entry) = self.round.pop() else {
                return;
            };
            self.change(&entry, |state| {
                let history = &mut state.history;
                if history.count() > 1 {
                    history.trim_oldest(history.count().div_ceil(4));
                    // It can be had again when there is room.
                    if state.past == Past::Read {
                        state.past = Past::Stored;
                    }
                }
            });
        }
    }

    /// Lets go of the past that the store can give again, first of what nobody asked for longest, if there is
    /// no room for more.
    pub fn make_room(&mut self, registry: &Registry) {
        if self.is_bare || !self.is_full() {
            return;
        }
        self.searches += 1;
        let mut read = Vec::new();
        for entry in registry.all() {
            let state = entry.lock();
            if state.can_let_go() {
                let asked = state.asked;
                drop(state);
                read.push((asked, entry));
            }
        }
        read.sort_unstable_by_key(|(asked, entry)| (*asked, entry.id.index()));
        for (_, entry) in read {
            if self.bytes <= self.limit - self.limit / 8 {
                return;
            }
            self.change(&entry, State::let_go);
        }
        self.is_bare = true;
    }

    /// A past was read, so that there is something to let go of.
    pub fn was_read(&mut self) {
        self.is_bare = false;
    }

    /// How often all topics were looked through.
    pub fn searches(&self) -> u64 {
        self.searches
    }

    fn change(&mut self, entry: &Entry, change: impl FnOnce(&mut State)) {
        let mut state = entry.lock();
        let before = state.history.bytes();
        change(&mut state);
        self.resized(before, state.history.bytes());
    }
}
