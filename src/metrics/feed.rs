//! What an ingest counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::GeneratorMetrics;

/// What an ingest counts, beside what it publishes.
#[derive(Debug, Default, Clone)]
pub struct FeedMetrics {
    pub publishing: GeneratorMetrics,
    pub taken: Counter,
    pub late: Counter,
    pub bad: Counter,
    pub future: Counter,
    pub missed: Counter,
    /// The longest delay of a symbol's feed, in seconds.
    pub delay: Gauge<f64, AtomicU64>,
}

impl FeedMetrics {
    /// Registers all under their names.
    pub fn register(&self, registry: &mut Registry) {
        self.publishing.register(registry);
        registry.register(
            "barcast_feed_rows",
            "Trades or bars read that count in some bar",
            self.taken.clone(),
        );
        registry.register(
            "barcast_feed_late",
            "Trades or bars left out because they came later than --late allows",
            self.late.clone(),
        );
        registry.register(
            "barcast_feed_bad",
            "Rows left out because they are no trade or bar",
            self.bad.clone(),
        );
        registry.register(
            "barcast_feed_future",
            "Trades or bars left out because their times are ahead of the clock",
            self.future.clone(),
        );
        registry.register(
            "barcast_feed_missed",
            "Entries of the stream that were trimmed or deleted before they were read, as far as known",
            self.missed.clone(),
        );
        registry.register(
            "barcast_feed_delay_seconds",
            "How far the feed of the most delayed symbol is behind the clock",
            self.delay.clone(),
        );
    }
}
