//! How long bars took until they were written.

use super::{Batch, Closed};
use crate::clock::now_ms;
use crate::metrics::OutputMetrics;

/// A bar that arrives later than so after its end, in ms, is of the past: how long ago it closed says
/// nothing about this recorder.
const FRESH_MS: i64 = 3_600_000;

/// Observes those of a batch that was written now.
pub(super) fn measure(metrics: &OutputMetrics, batch: &Batch) {
    let Some(arrived) = batch.arrived_ms else {
        return;
    };
    let now = now_ms();
    for Closed { topic, bar, .. } in &batch.bars {
        metrics.write_lag.observe(seconds(now - arrived));
        let end = topic.resolution.next(bar.time());
        if (arrived - end) < FRESH_MS {
            metrics.close_lag.observe(seconds(now - end));
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53 ms, which is 285,000 years"
)]
fn seconds(ms: i64) -> f64 {
    ms.max(0) as f64 / 1_000.0
}
