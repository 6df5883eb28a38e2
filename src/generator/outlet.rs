//! The way out to the bus, for a generator, an ingest and a replay alike: counts, tells of a lost bus once,
//! and publishes and stores later what could not be at once.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::pack::{Form, Packer, keep};
use crate::bar::{Message, Topic};
use crate::bus::{BusError, Publisher, Refused};
use crate::limited::{Limited, Repeated};
use crate::metrics::GeneratorMetrics;

/// Pause before the same messages are published again over a connection that stands: the bus refused
/// them, and may do so for long.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often an outlet that rests looks whether something can be published or stored later.
pub const TEND_INTERVAL: Duration = Duration::from_millis(500);
/// Closed bars of a generator that wait for a lost bus, some 10 MB: of more the oldest is given up.
const MAX_LATE_BARS: usize = 50_000;
/// Of those, bars of one write.
const LATE_CHUNK: usize = 2_000;
/// How long the end of the input waits for a store that does not take its last bars: Redis loads, or is
/// restarted.
const END_WAIT: Duration = Duration::from_secs(30);
/// The same after the end was asked for by a signal.
pub const STOP_WAIT: Duration = Duration::from_secs(1);

/// Publishes messages, and keeps count of what the bus confirmed and what it did not.
#[derive(Debug)]
pub struct Outlet<P> {
    publisher: P,
    packer: Packer,
    metrics: GeneratorMetrics,
    outage: Option<Outage>,
    outage_log: Repeated,
    store_log: Limited,
    /// Closed bars that could not be published when they were offered.
    late: VecDeque<Message>,
    /// By topic, how many numbers of forming bars that Redis refused were given to others: of what nobody
    /// got, and what a later state replaces, there is no hole to tell of.
    unused: HashMap<Topic, u64>,
    /// Bars given up by the store that are counted.
    given_up: u64,
    tended: Option<Instant>,
}

/// Why something was not published.
struct Unpublished {
    why: String,
    /// Redis is there, and said that nobody got any of it.
    is_refused: bool,
}

/// Since when nothing was confirmed, and how many bars that cost.
#[derive(Debug)]
struct Outage {
    since: Instant,
    unpublished: u64,
}

impl<P: Publisher> Outlet<P> {
    pub fn new(mut publisher: P, form: Form, metrics: GeneratorMetrics) -> Self {
        publisher.report_to(&metrics.health);
        Self {
            publisher,
            packer: Packer::new(form),
            metrics,
            outage: None,
            outage_log: Repeated::default(),
            store_log: Limited::default(),
            late: VecDeque::new(),
            unused: HashMap::new(),
            given_up: 0,
            tended: None,
        }
    }

    /// Waits until the bus is connected, at most until `stop` (then `false`).
    pub async fn ready(&mut self, stop: &CancellationToken) -> bool {
        let ready = stop.run_until_cancelled(self.publisher.ready()).await;
        self.measure();
        ready.is_some()
    }

    /// Publishes once, after what waits to be published. Of what is not confirmed, closed bars wait for the
    /// next time, and what is forming counts as unpublished; so it is, too, when `stop` came before.
    pub async fn offer(&mut self, messages: &mut [Message], stop: &CancellationToken) {
        for message in messages.iter_mut() {
            let unused = self.unused.get(&message.topic).copied().unwrap_or(0);
            message.seq = message.seq.map(|seq| seq.saturating_sub(unused));
        }
        let published = match self.publish_late(stop).await {
            Some(Ok(())) => self.publish(messages, stop).await,
            failed => failed,
        };
        match published {
            Some(Ok(())) => self.confirmed(messages),
            Some(Err(Unpublished { why, is_refused })) => {
                let unpublished = self.put_off(messages, is_refused);
                self.failed(&why, unpublished);
            }
            None => {
                let unpublished = self.put_off(messages, false);
                self.metrics.unpublished.inc_by(count(unpublished));
            }
        }
        self.measure();
    }

    /// Lets closed bars wait for the next time; how many bars that costs.
    fn put_off(&mut self, messages: &[Message], is_refused: bool) -> usize {
        let mut dropped: HashMap<Topic, u64> = HashMap::new();
        let mut forming = 0;
        for message in messages {
            if message.bar.closed {
                let before = dropped.get(&message.topic).copied().unwrap_or(0);
                self.late.push_back(Message {
                    seq: message.seq.map(|seq| seq.saturating_sub(before)),
                    ..*message
                });
            } else {
                forming += 1;
                if is_refused {
                    *dropped.entry(message.topic).or_default() += 1;
                }
            }
        }
        for (topic, dropped) in dropped {
            *self.unused.entry(topic).or_default() += dropped;
        }
        let given_up = self.late.len().saturating_sub(MAX_LATE_BARS);
        self.late.drain(..given_up);
        forming + given_up
    }

    /// Publishes what could not be before, oldest first. `None` when `stop` came first.
    async fn publish_late(&mut self, stop: &CancellationToken) -> Option<Result<(), Unpublished>> {
        while !self.late.is_empty() {
            let chunk = self.late.len().min(LATE_CHUNK);
            let mut messages: Vec<_> = self.late.iter().take(chunk).copied().collect();
            match self.publish(&mut messages, stop).await {
                Some(Ok(())) => {
                    self.late.drain(..chunk);
                    self.confirmed(&messages);
                }
                failed => return failed,
            }
        }
        Some(Ok(()))
    }

    /// Waits, and meanwhile publishes and stores what could not be before. `false` when `stop` came first.
    pub async fn rest(&mut self, until: Instant, stop: &CancellationToken) -> bool {
        loop {
            if Instant::now() < until || self.is_tend_due() {
                self.tend(stop).await;
            }
            let now = Instant::now();
            let wake = until.min(now + TEND_INTERVAL);
            let slept = stop.run_until_cancelled(sleep_until(wake)).await;
            if slept.is_none() || until <= Instant::now() {
                return slept.is_some();
            }
        }
    }

    /// Whether it is time for [`tend`](Self::tend).
    pub fn is_tend_due(&self) -> bool {
        self.tended
            .is_none_or(|tended| tended.elapsed() >= TEND_INTERVAL)
    }

    /// Publishes and stores some of what could not be before.
    pub async fn tend(&mut self, stop: &CancellationToken) {
        self.tended = Some(Instant::now());
        if !self.late.is_empty() && self.publisher.is_connected() {
            match self.publish_late(stop).await {
                Some(Err(unpublished)) => self.failed(&unpublished.why, 0),
                Some(Ok(())) => {}
                None => return,
            }
        }
        let stored = async {
            // New bars have their turn.
            let end = Instant::now() + TEND_INTERVAL;
            while self.publisher.tend().await && Instant::now() < end {}
        };
        stop.run_until_cancelled(stored).await;
        self.measure();
    }

    /// Publishes and stores what waits, as long as that may take at the end; what still waits then is given
    /// up and counted.
    pub async fn finish(&mut self, stop: &CancellationToken) {
        let never = CancellationToken::new();
        let began = Instant::now();
        // The round that goes on may have begun before the last bars came.
        let hopeless = self.publisher.owed().rounds_refused + 2;
        while self.waits() > 0 {
            let wait = if stop.is_cancelled() {
                STOP_WAIT
            } else {
                END_WAIT
            };
            let Some(left) = wait.checked_sub(began.elapsed()) else {
                break;
            };
            let is_over = timeout(left, self.tend(&never)).await.is_err();
            let is_hopeless =
                self.late.is_empty() && self.publisher.owed().rounds_refused >= hopeless;
            if is_over || self.waits() == 0 || is_hopeless {
                break;
            }
            sleep(RETRY_PAUSE).await;
        }
        let (unpublished, unstored) = (self.late.len(), self.publisher.owed().waiting);
        self.late.clear();
        self.metrics.unpublished.inc_by(count(unpublished));
        self.metrics.unstored.inc_by(count(unstored));
        if unpublished + unstored > 0 {
            tracing::warn!(
                unpublished,
                unstored,
                "bars still waited at the end and are given up"
            );
        }
    }

    /// The end came before these were confirmed.
    pub fn give_up(&mut self, messages: usize) {
        if messages > 0 {
            self.metrics.unpublished.inc_by(count(messages));
            tracing::warn!(
                unpublished = messages,
                "bars of rows that were read could not be published before the end and are given up"
            );
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
                Some(Err(unpublished)) => self.failed(&unpublished.why, 0),
                None => return false,
            }
            let again = async {
                self.publisher.ready().await;
                sleep(RETRY_PAUSE).await;
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
    ) -> Option<Result<(), Unpublished>> {
        let packed = match self.packer.pack(messages) {
            Ok(packed) => packed,
            Err(why) => {
                return Some(Err(Unpublished {
                    why: format!("cannot compress: {why}"),
                    is_refused: true,
                }));
            }
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
        self.measure();
        Some(match published {
            Ok(refused) => {
                if let Some(refused) = refused {
                    self.refused(&refused);
                }
                Ok(())
            }
            Err(why) => Err(Unpublished {
                why: why.to_string(),
                is_refused: matches!(why, BusError::Refused(_)),
            }),
        })
    }

    /// Bars flow all the same: they are stored when the store takes them.
    fn refused(&mut self, refused: &Refused) {
        let Refused { messages, why } = refused;
        let waiting = self.publisher.owed().waiting;
        self.store_log.say(|left_out| {
            tracing::warn!(
                messages,
                why,
                waiting,
                left_out,
                "the store does not take bars; they are published all the same, and stored later"
            );
        });
    }

    /// How many closed bars wait.
    fn waits(&self) -> usize {
        self.late.len() + self.publisher.owed().waiting
    }

    fn measure(&mut self) {
        let owed = self.publisher.owed();
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.late.set(gauge(self.late.len()));
        self.metrics.store_waiting.set(gauge(owed.waiting));
        self.metrics
            .unstored
            .inc_by(owed.given_up.saturating_sub(self.given_up));
        self.given_up = owed.given_up;
        self.metrics
            .bus_connected
            .set(i64::from(self.publisher.is_connected()));
    }

    fn confirmed(&mut self, messages: &[Message]) {
        self.metrics.published.inc_by(count(messages.len()));
        if let Some(outage) = self.outage.take() {
            self.outage_log.forget();
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
        // Its cause may change while it lasts.
        self.outage_log.say(why, |left_out| {
            tracing::warn!(%why, left_out, "the bus does not take bars; trying until it does");
        });
        let outage = self.outage.get_or_insert_with(|| Outage {
            since: Instant::now(),
            unpublished: 0,
        });
        outage.unpublished += count(unpublished);
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
