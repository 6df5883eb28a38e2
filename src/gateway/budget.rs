//! One bound for all that waits on a node: answers, snapshots, bodies of HTTP answers, outboxes.
//!
//! Each holder (a worker, the HTTP thread) writes its own two figures and reads the others', so no lock
//! is taken and nothing is counted per delivery. Whoever holds the largest single thing that waits lets
//! it go first.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What waits at one holder. A cache line of its own: only its holder writes it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Holding {
    bytes: AtomicUsize,
    largest: AtomicUsize,
}

/// Bytes that wait on a node, and their bound.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    holders: Box<[Holding]>,
}

impl Budget {
    /// At most `limit` bytes over so many holders.
    pub fn new(limit: usize, holders: usize) -> Self {
        Self {
            limit,
            holders: (0..holders).map(|_| Holding::default()).collect(),
        }
    }

    /// What a holder has waiting now: all of it, and the largest single client's share, in bytes.
    pub fn report(&self, holder: usize, bytes: usize, largest: usize) {
        if let Some(holding) = self.holders.get(holder) {
            holding.bytes.store(bytes, Ordering::Relaxed);
            holding.largest.store(largest, Ordering::Relaxed);
        }
    }

    /// Bytes that wait on the node.
    pub fn waiting(&self) -> usize {
        let bytes = self.holders.iter().map(|h| h.bytes.load(Ordering::Relaxed));
        bytes.sum()
    }

    /// The bound, in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether the bound is passed.
    pub fn is_over(&self) -> bool {
        self.waiting() > self.limit
    }

    /// Whether so much waits that every holder sheds its own largest: others may look once a second only, and
    /// clients are faster.
    pub fn is_far_over(&self) -> bool {
        self.waiting() > self.limit.saturating_add(self.limit / 8)
    }

    /// Whether the bound is passed and this holder has the largest single thing that waits.
    pub fn must_shed(&self, holder: usize) -> bool {
        let largest = |h: &Holding| h.largest.load(Ordering::Relaxed);
        let own = self.holders.get(holder).map_or(0, largest);
        own > 0 && self.is_over() && self.holders.iter().all(|h| largest(h) <= own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_the_largest_lets_go() {
        let budget = Budget::new(100, 3);
        budget.report(0, 60, 20);
        budget.report(1, 40, 40);
        assert!((0..3).all(|holder| !budget.must_shed(holder)));
        budget.report(2, 1, 1);
        assert_eq!(budget.waiting(), 101);
        assert_eq!([0, 1, 2].map(|h| budget.must_shed(h)), [false, true, false]);
        budget.report(1, 0, 0);
        assert!(!budget.must_shed(0));
    }
}
