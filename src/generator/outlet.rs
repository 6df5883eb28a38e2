//! The way out to the bus, for a generator and a replay alike: counts, and tells of a lost bus once.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::pack::{Form, Packer, keep};
use crate::bar::Message;
use crate::bus::{Publisher, Refused};
use crate::limited::Limited;
use crate::metrics::GeneratorMetrics;

/// Pause before the same messages are published again over a connection that stands: the bus refused
/// them, and may do so for long.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Publishes messages, and keeps count of what the bus confirmed and what it did not.
#[derive(Debug)]
pub struct Outlet<P> {
    publisher: P,
    packer: Packer,
    metrics: GeneratorMetrics,
    outage: Option<Outage>,
    store_log: Limited,
}

/// Since when nothing was confirmed, and how many bars that cost.
#[derive(Debug)]
struct Outage {
    since: Instant,
    unpublished: u64,
}

impl<P: Publisher> Outlet<P> {
    pub fn new(publisher: P, form: Form, metrics: GeneratorMetrics) -> Self {
        Self {
            publisher,
            packer: Packer::new(form),
            metrics,
            outage: None,
            store_log: Limited::default(),
        }
    }

    /// Waits until the bus is connected, at most until `stop` (then `false`).
    pub async fn ready(&mut self, stop: &CancellationToken) -> bool {
        let ready = stop.run_until_cancelled(self.publisher.ready()).await;
        self.metrics
            .bus_connected
            .set(i64::from(self.publisher.is_connected()));
        ready.is_some()
    }

    /// Publishes once. What is not confirmed, also because `stop` came first, counts as unpublished.
    pub async fn offer(&mut self, messages: &mut [Message], stop: &CancellationToken) {
        match self.publish(messages, stop).await {
            Some(Ok(())) => self.confirmed(messages),
            Some(Err(why)) => self.failed(&why, messages.len()),
            None => {
                self.metrics.unpublished.inc_by(count(messages.len()));
            }
        }
    }

    /// Publishes until it is confirmed, however often that takes: at least once. `false` when `stop`
    /// came first.
    pub async fn deliver(&mut self, messages: &mut [Message], stop: &CancellationToken) -> bool {
        loop {
            match self.publish(messages, stop).await {
                Some(Ok(())) => {
                    self.confirmed(messages);
                    return true;
                }
                Some(Err(why)) => self.failed(&why, 0),
                None => return false,
            }
            let again = async {
                self.publisher.ready().await;
                tokio::time::sleep(RETRY_PAUSE).await;
            };
            if stop.run_until_cancelled(again).await.is_none() {
                return false;
            }
        }
    }

    /// `None` when `stop` came first.
    async fn publish(
        &mut self,
        messages: &mut [Message],
        stop: &CancellationToken,
    ) -> Option<Result<(), String>> {
        let packed = match self.packer.pack(messages) {
            Ok(packed) => packed,
            Err(why) => return Some(Err(format!("cannot compress: {why}"))),
        };
        let kept = if self.publisher.keeps() {
            keep(messages)
        } else {
            Vec::new()
        };
        let started = Instant::now();
        let published = stop
            .run_until_cancelled(self.publisher.publish_and_keep(&packed, &kept))
            .await?;
        self.metrics
            .publish_seconds
            .set(started.elapsed().as_secs_f64());
        self.metrics
            .bus_connected
            .set(i64::from(self.publisher.is_connected()));
        Some(match published {
            Ok(refused) => {
                if let Some(refused) = refused {
                    self.refused(&refused);
                }
                Ok(())
            }
            Err(why) => Err(why.to_string()),
        })
    }

    /// Bars flow all the same: only who comes later misses something.
    fn refused(&mut self, refused: &Refused) {
        let Refused { messages, why } = refused;
        self.metrics.unstored.inc_by(*messages);
        self.store_log.say(|left_out| {
            tracing::warn!(
                messages,
                why,
                left_out,
                "the store does not take bars; they are published all the same"
            );
        });
    }

    fn confirmed(&mut self, messages: &[Message]) {
        self.metrics.published.inc_by(count(messages.len()));
        if let Some(outage) = self.outage.take() {
            tracing::info!(
                after = ?outage.since.elapsed(),
                unpublished = outage.unpublished,
                "publishing again"
            );
        }
        if tracing::enabled!(tracing::Level::DEBUG) {
            for message in messages {
                tracing::debug!("Published to {}", message.topic);
            }
        }
    }

    fn failed(&mut self, why: &str, unpublished: usize) {
        self.metrics.unpublished.inc_by(count(unpublished));
        let outage = self.outage.get_or_insert_with(|| {
            tracing::warn!(%why, "the bus does not take bars; trying until it does");
            Outage {
                since: Instant::now(),
                unpublished: 0,
            }
        });
        outage.unpublished += count(unpublished);
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
