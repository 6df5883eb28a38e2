//! What each worker of a gateway bears, read at a scrape: nothing is counted for it per delivery.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// One worker at the moment of a scrape.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct WorkerLoad {
    pub clients: usize,
    /// How long it did not wait since it started, in seconds.
    pub busy_seconds: f64,
    /// Bytes of frames that it has not taken up yet.
    pub waiting_bytes: usize,
    /// Times that it was woken to take frames up.
    pub wakes: u64,
}

/// All workers of a gateway, in their order.
#[derive(Debug)]
pub struct WorkerLoads(pub Vec<WorkerLoad>);

impl WorkerLoads {
    fn family<M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        metric: impl Fn(&WorkerLoad) -> M,
    ) -> Result<(), std::fmt::Error> {
        let kind = metric(&WorkerLoad::default()).metric_type();
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for (at, worker) in self.0.iter().enumerate() {
            let label = [("worker", at)];
            metric(worker).encode(family.encode_family(&label)?)?;
        }
        Ok(())
    }
}

fn gauge(value: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

impl Collector for WorkerLoads {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.family(
            &mut encoder,
            (
                "barcast_worker_clients",
                "WebSocket clients of each worker.",
            ),
            |worker| gauge(worker.clients),
        )?;
        self.family(
            &mut encoder,
            (
                "barcast_worker_busy_seconds",
                "Seconds that each worker did not wait for something to do.",
            ),
            |worker| ConstCounter::new(worker.busy_seconds),
        )?;
        self.family(
            &mut encoder,
            (
                "barcast_worker_waiting_bytes",
                "Bytes of frames that each worker has not taken up yet.",
            ),
            |worker| gauge(worker.waiting_bytes),
        )?;
        self.family(
            &mut encoder,
            (
                "barcast_worker_wakes",
                "Times that each worker was woken to take frames up.",
            ),
            |worker| ConstCounter::new(worker.wakes),
        )
    }
}
