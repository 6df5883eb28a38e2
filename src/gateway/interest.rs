//! Which workers watch something: one bit each.
//!
//! Set and cleared by the worker whose bit it is, read by ingest for every bar, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Workers whose bits fit beside the pointer to those of the others.
const WORD: usize = u64::BITS as usize;

/// A set of workers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Workers {
    first: u64,
    /// Of the workers from the 65th on; as long as it must be.
    rest: Vec<u64>,
}

impl Workers {
    /// Whether that worker is one of them.
    pub fn contains(&self, worker: usize) -> bool {
        let word = match worker / WORD {
            0 => self.first,
            at => self.rest.get(at - 1).copied().unwrap_or(0),
        };
        word >> (worker % WORD) & 1 == 1
    }

    /// Takes all of them out; the memory stays.
    pub fn clear(&mut self) {
        self.first = 0;
        self.rest.fill(0);
    }
}

/// A set of workers that changes while others look at it.
#[derive(Debug)]
pub struct AtomicWorkers {
    first: AtomicU64,
    rest: Box<[AtomicU64]>,
}

impl AtomicWorkers {
    /// None of so many workers.
    pub fn of(workers: usize) -> Self {
        let words = workers.div_ceil(WORD).saturating_sub(1);
        Self {
            first: AtomicU64::new(0),
            rest: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn word(&self, worker: usize) -> Option<(&AtomicU64, u64)> {
        let word = match worker / WORD {
            0 => &self.first,
            at => self.rest.get(at - 1)?,
        };
        Some((word, 1 << (worker % WORD)))
    }

    // Relaxed, all of it: whoever must not miss a bit reads it under a lock that was taken after the
    // bit was set.

    /// Puts a worker in; tells whether it was not there.
    pub fn set(&self, worker: usize) -> bool {
        self.word(worker)
            .is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    /// Takes a worker out; tells whether it was there.
    pub fn clear(&self, worker: usize) -> bool {
        self.word(worker)
            .is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        let empty = |word: &AtomicU64| word.load(Ordering::Relaxed) == 0;
        empty(&self.first) && self.rest.iter().all(empty)
    }

    /// Adds all of them to `workers`; tells whether there were any.
    pub fn add_to(&self, workers: &mut Workers) -> bool {
        let first = self.first.load(Ordering::Relaxed);
        workers.first |= first;
        let mut any = first;
        if !self.rest.is_empty() {
            workers.rest.resize(self.rest.len(), 0);
            for (word, into) in self.rest.iter().zip(&mut workers.rest) {
                let bits = word.load(Ordering::Relaxed);
                *into |= bits;
                any |= bits;
            }
        }
        any != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_has_a_bit_of_its_own() {
        let watching = AtomicWorkers::of(130);
        let mut workers = Workers::default();
        assert!(watching.is_empty() && !watching.add_to(&mut workers));
        for worker in [0, 63, 64, 129] {
            assert!(watching.set(worker) && !watching.set(worker));
        }
        assert!(watching.clear(63) && !watching.clear(63));
        assert!(watching.add_to(&mut workers) && !watching.is_empty());
        let there: Vec<_> = (0..200).filter(|at| workers.contains(*at)).collect();
        assert_eq!(there, [0, 64, 129]);
        workers.clear();
        assert!(!(0..200).any(|at| workers.contains(at)));
    }
}
