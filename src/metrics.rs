//! Every counter, its name and its help, in one place.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What `/metrics` answers with: OpenMetrics text, which Prometheus reads.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of everything registered.
pub fn render(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail; a metric that refuses to encode leaves what came before.
    let _ = encode(&mut text, registry);
    text
}

/// What a generator or a replay counts.
#[derive(Debug, Default, Clone)]
pub struct GeneratorMetrics {
    pub published: Counter,
    pub unpublished: Counter,
    pub ticks: Counter,
    pub ticks_late: Counter,
    pub bus_connected: Gauge,
    pub publish_seconds: Gauge<f64, AtomicU64>,
}

impl GeneratorMetrics {
    /// Registers all under their names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "barcast_published_bars",
            "Bars that the bus confirmed",
            self.published.clone(),
        );
        registry.register(
            "barcast_unpublished_bars",
            "Bars whose publish was not confirmed, mostly because the bus was lost",
            self.unpublished.clone(),
        );
        registry.register("barcast_ticks", "Ticks generated", self.ticks.clone());
        registry.register(
            "barcast_ticks_late",
            "Ticks left out because the one before took longer than the interval",
            self.ticks_late.clone(),
        );
        registry.register(
            "barcast_bus_connected",
            "1 while the publisher's connection stands",
            self.bus_connected.clone(),
        );
        registry.register(
            "barcast_publish_seconds",
            "How long the last tick's publish took until it was confirmed",
            self.publish_seconds.clone(),
        );
    }
}
