//! What came to clients in some time.

use anyhow::Result;
use hdrhistogram::Histogram;

/// Longest latency told apart, in µs: ten minutes. Beyond it counts as this.
const LONGEST_US: u64 = 600_000_000;
/// Three significant digits: 0.1 % exact.
const DIGITS: u8 = 3;

/// An empty histogram of latencies in µs.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("the bounds are constant and valid")
}

/// What came from one target since it was asked last.
#[derive(Debug, Clone)]
pub struct Interval {
    pub latency: Histogram<u64>,
    /// Bytes of counted updates with their frames' heads.
    pub bytes: u64,
    /// Clients that came up to a standing subscription, and how long it took them, µs.
    pub came: Histogram<u64>,
    /// Answers to resubscriptions, and how long they took, µs.
    pub answered: Histogram<u64>,
    /// Resubscriptions that were asked for.
    pub asked: u64,
    /// Clients that left to come back.
    pub left: u64,
    /// Clients that could not connect or were disconnected.
    pub failed: u64,
}

impl Default for Interval {
    fn default() -> Self {
        Self {
            latency: latencies(),
            bytes: 0,
            came: latencies(),
            answered: latencies(),
            asked: 0,
            left: 0,
            failed: 0,
        }
    }
}

impl Interval {
    /// Adds another one.
    ///
    /// # Errors
    /// Never: all histograms here have the same bounds.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.latency.add(&other.latency)?;
        self.came.add(&other.came)?;
        self.answered.add(&other.answered)?;
        self.bytes += other.bytes;
        self.asked += other.asked;
        self.left += other.left;
        self.failed += other.failed;
        Ok(())
    }
}
