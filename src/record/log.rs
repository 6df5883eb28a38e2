//! What waits to be written: on disk as long as there is a spool that takes it, otherwise in memory.

use std::collections::VecDeque;

use super::Batch;
use super::spool::{Mark, Spool};
use crate::limited::Limited;

/// Bars that may wait in memory, some 20 MB: without a spool, or when its disk refuses.
pub(super) const MAX_WAITING_BARS: usize = 200_000;
/// As near to a bound counts as full: what is being gathered must fit in yet.
const ROOM_BARS: usize = 5_000;

/// Batches in the order in which they came: first those on disk, then those in memory.
pub(super) struct Log {
    spool: Option<Spool>,
    memory: VecDeque<Batch>,
    memory_bars: usize,
    /// Batches that the spool's disk has refused.
    spool_failures: u64,
    /// Whether what comes goes into memory, because it did.
    is_failing: bool,
    warnings: Limited,
}

/// How far a [`Log`] was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Disk(Mark),
    /// So many batches.
    Memory(usize),
}

impl Log {
    pub fn new(spool: Option<Spool>) -> Self {
        Self {
            spool,
            memory: VecDeque::new(),
            memory_bars: 0,
            spool_failures: 0,
            is_failing: false,
            warnings: Limited::default(),
        }
    }

    /// Adds a batch behind all others. `false` when there is no room: then nothing of it is kept.
    pub fn append(&mut self, batch: &Batch) -> bool {
        // What waits in memory is newer than all on disk, and must stay so.
        if let Some(spool) = self.spool.as_mut().filter(|_| self.memory.is_empty()) {
            match spool.append(batch) {
                Ok(true) => {
                    self.is_failing = false;
                    return true;
                }
                Ok(false) => return false,
                Err(why) => {
                    self.spool_failures += 1;
                    self.is_failing = true;
                    let folder = spool.folder().display();
                    self.warnings.say(|left_out| {
                        tracing::error!(%folder, %why, left_out, "the spool cannot be written; bars wait in memory");
                    });
                }
            }
        }
        if self.memory_bars + batch.items() > MAX_WAITING_BARS {
            return false;
        }
        self.memory_bars += batch.items();
        self.memory.push_back(batch.clone());
        true
    }

    /// The oldest batches, up to about so many bars, which stay until [`forget`](Self::forget).
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn oldest(&mut self, bars: usize) -> std::io::Result<(Vec<Batch>, Seen)> {
        if let Some(spool) = self.spool.as_mut().filter(|spool| spool.bars() > 0) {
            let (batches, mark) = spool.oldest(bars)?;
            return Ok((batches, Seen::Disk(mark)));
        }
        let mut taken = 0;
        let some = self.memory.iter().take_while(|batch| {
            let goes = taken < bars;
            taken += batch.items();
            goes
        });
        let batches: Vec<_> = some.cloned().collect();
        let seen = Seen::Memory(batches.len());
        Ok((batches, seen))
    }

    /// Lets go of what was looked at.
    pub fn forget(&mut self, seen: Seen) {
        match (seen, &mut self.spool) {
            (Seen::Disk(mark), Some(spool)) => spool.forget(mark),
            (Seen::Memory(batches), _) => {
                for batch in self.memory.drain(..batches) {
                    self.memory_bars -= batch.items();
                }
            }
            (Seen::Disk(_), None) => {}
        }
    }

    /// Bars that wait.
    pub fn bars(&self) -> usize {
        self.memory_bars + self.spool.as_ref().map_or(0, Spool::bars)
    }

    /// Bars that would be lost if the process ended now.
    pub fn bars_in_memory(&self) -> usize {
        self.memory_bars
    }

    /// Damaged places of the spool that were found.
    pub fn spool_damaged(&self) -> u64 {
        self.spool.as_ref().map_or(0, Spool::damaged)
    }

    /// Batches that the spool's disk has refused.
    pub fn spool_failures(&self) -> u64 {
        self.spool_failures
    }

    /// Whether the spool's disk refused the last batch that it was given.
    pub fn is_failing(&self) -> bool {
        self.is_failing
    }

    /// Bytes of the spool's files.
    pub fn disk_bytes(&self) -> u64 {
        self.spool.as_ref().map_or(0, Spool::bytes)
    }

    /// Whether the next batch may find no room.
    pub fn is_full(&self) -> bool {
        self.memory_bars + ROOM_BARS > MAX_WAITING_BARS
            || (self.memory.is_empty() && self.spool.as_ref().is_some_and(Spool::is_full))
    }
}
