//! What each worker counts, in memory that it alone writes; added up when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::Tally;

/// From publish to send, in µs: a loopback's tenth of a millisecond to a stuck ten seconds.
const LAG_BUCKETS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// One worker's counts, on cache lines of their own: it pays for no other's.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counts {
    due: AtomicU64,
    delivered: AtomicU64,
    conflated: AtomicU64,
    unsubscribed: AtomicU64,
    sent_bytes: AtomicU64,
    writes: AtomicU64,
    full: AtomicU64,
    /// By bucket, and beyond the last one.
    lag: [AtomicU64; LAG_BUCKETS_US.len() + 1],
    lag_us: AtomicU64,
}

/// For the one thread that writes this counter: no locked instruction.
fn bump(counter: &AtomicU64, by: u64) {
    if by > 0 {
        let sum = counter.load(Ordering::Relaxed).wrapping_add(by);
        counter.store(sum, Ordering::Relaxed);
    }
}

impl Counts {
    /// Adds what its worker counted.
    pub fn add(&self, tally: &Tally) {
        // Deliveries due come last, so that whoever sees them sees what became of them.
        bump(&self.delivered, tally.delivered);
        bump(&self.conflated, tally.conflated);
        bump(&self.unsubscribed, tally.unsubscribed);
        bump(&self.sent_bytes, tally.bytes);
        bump(&self.writes, tally.writes);
        bump(&self.full, tally.full);
        bump(&self.due, tally.due);
    }

    /// Counts a bar that was sent so many µs after it was published.
    pub fn observe_lag(&self, us: u64) {
        let bucket = LAG_BUCKETS_US.partition_point(|bound| *bound < us);
        bump(&self.lag[bucket], 1);
        bump(&self.lag_us, us);
    }
}

/// The counts of all workers. Clones are the same.
#[derive(Debug, Default, Clone)]
pub struct WorkerCounts(Arc<RwLock<Vec<Arc<Counts>>>>);

impl WorkerCounts {
    /// Counts for one more worker.
    pub fn one_more(&self) -> Arc<Counts> {
        let counts = Arc::<Counts>::default();
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&counts));
        counts
    }

    fn sum(&self, of: impl Fn(&Counts) -> &AtomicU64) -> u64 {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|c| of(c).load(Ordering::Relaxed)).sum()
    }

    fn counter(&self, of: fn(&Counts) -> &AtomicU64) -> WorkerCounter {
        WorkerCounter {
            workers: self.clone(),
            of,
        }
    }

    pub fn due(&self) -> WorkerCounter {
        self.counter(|c| &c.due)
    }

    pub fn delivered(&self) -> WorkerCounter {
        self.counter(|c| &c.delivered)
    }

    pub fn conflated(&self) -> WorkerCounter {
        self.counter(|c| &c.conflated)
    }

    pub fn unsubscribed(&self) -> WorkerCounter {
        self.counter(|c| &c.unsubscribed)
    }

    pub fn sent_bytes(&self) -> WorkerCounter {
        self.counter(|c| &c.sent_bytes)
    }

    pub fn writes(&self) -> WorkerCounter {
        self.counter(|c| &c.writes)
    }

    pub fn full(&self) -> WorkerCounter {
        self.counter(|c| &c.full)
    }

    pub fn lag(&self) -> WorkerLag {
        WorkerLag(self.clone())
    }
}

/// One counter, added up over all workers.
#[derive(Debug, Clone)]
pub struct WorkerCounter {
    workers: WorkerCounts,
    of: fn(&Counts) -> &AtomicU64,
}

impl WorkerCounter {
    /// The sum.
    pub fn get(&self) -> u64 {
        self.workers.sum(self.of)
    }
}

impl EncodeMetric for WorkerCounter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self.get(), None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// The histogram of lag, added up over all workers.
#[derive(Debug, Clone)]
pub struct WorkerLag(WorkerCounts);

impl EncodeMetric for WorkerLag {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of lag are small")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = LAG_BUCKETS_US.iter().map(|us| *us as f64 / 1e6);
        let buckets: Vec<_> = bounds
            .chain([f64::INFINITY])
            .enumerate()
            .map(|(at, bound)| (bound, self.0.sum(|c| &c.lag[at])))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.sum(|c| &c.lag_us) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::metrics::render;

    #[test]
    fn workers_are_added_up() {
        let workers = WorkerCounts::default();
        let (one, other) = (workers.one_more(), workers.one_more());
        one.add(&Tally {
            due: 3,
            delivered: 2,
            ..Tally::default()
        });
        other.add(&Tally {
            due: 4,
            ..Tally::default()
        });
        assert_eq!((workers.due().get(), workers.delivered().get()), (7, 2));
        assert_eq!(workers.full().get(), 0);
    }

    /// The same text as the library's own histogram has.
    #[test]
    fn lag_is_a_histogram_over_all_workers() {
        let workers = WorkerCounts::default();
        let library = Histogram::new(LAG_BUCKETS_US.map(|us| f64::from(us as u32) / 1e6));
        for us in [0, 250_000, 500_000, 1_000_000, 20_000_000] {
            workers.one_more().observe_lag(us);
            library.observe(us as f64 / 1e6);
        }
        let mut registries = [Registry::default(), Registry::default()];
        registries[0].register("lag", "Lag", workers.lag());
        registries[1].register("lag", "Lag", library);
        let text = |registry| render(registry, crate::metrics::Format::OpenMetrics);
        assert_eq!(text(&registries[0]), text(&registries[1]));
    }
}
