//! From the bus to batches of frames: everything that is done once per bar.
//!
//! Runs on its own thread. Decode and validate, find the topic, keep the bar, and — only if somebody
//! on this node watches — encode one WebSocket frame. The same batch then goes to every worker.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::batch::{Batch, Head, Kind, TopicId};
use super::config::PROOF_WAIT;
use super::mailbox::Mailbox;
use super::protocol::write_gap;
use super::registry::{Entry, Registry, TopicLimit};
use super::state::Hole;
use crate::bar::{Decoder, Message, Topic, write_update};
use crate::bus::Sink;
use crate::clock::now_ms;
use crate::limited::Limited;
use crate::metrics::GatewayMetrics;

/// Frames in one batch at most: bounds what a worker notes down at once.
const MAX_BATCH_FRAMES: usize = 1_024;
/// Label of bars dropped because the node holds as many topics as it may.
pub const DROPPED_AT_LIMIT: &str = "topic_limit";
/// Bars noted as fresh while the store is read, some 16 MB: beyond them nothing more of it is taken.
const MAX_FRESH_BARS: usize = 500_000;

/// Whether the bus stands, for `/readyz` and `/metrics`.
#[derive(Debug, Default)]
pub struct BusState {
    connected: AtomicBool,
    losses: AtomicU64,
}

impl BusState {
    /// Whether the subscription stands now.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// The sink of the bus on a gateway.
pub struct Ingest {
    registry: Arc<Registry>,
    mailboxes: Vec<Arc<Mailbox>>,
    metrics: GatewayMetrics,
    bus: Arc<BusState>,
    address: String,
    decoder: Decoder,
    frames: Frames,
    /// How long a topic may take to prove by `seq` that nothing was missed.
    proof_wait: Duration,
    /// When the topics that are still suspect are told of a gap.
    proof_due: Option<Instant>,
    malformed_log: Limited,
}

/// The batch in the making.
#[derive(Debug, Default)]
struct Frames {
    batch: Batch,
    received: u64,
    encoded: u64,
    /// Bars that came over the bus since the store is being read; only while that lasts.
    fresh: Option<HashSet<(TopicId, i64)>>,
    /// What watchers will be told to ask for once the store is read: before, they would not get it.
    untold: HashMap<Topic, Hole>,
}

impl Ingest {
    /// Feeds `mailboxes`, one a worker.
    pub fn new(
        registry: Arc<Registry>,
        mailboxes: Vec<Arc<Mailbox>>,
        metrics: GatewayMetrics,
        bus: Arc<BusState>,
        address: String,
    ) -> Self {
        Self {
            registry,
            mailboxes,
            metrics,
            bus,
            address,
            decoder: Decoder::default(),
            frames: Frames::default(),
            proof_wait: PROOF_WAIT,
            proof_due: None,
            malformed_log: Limited::default(),
        }
    }

    /// Gives topics that long after the bus is back, instead of [`PROOF_WAIT`].
    #[must_use]
    pub fn proof_within(mut self, wait: Duration) -> Self {
        self.proof_wait = wait;
        self
    }

    fn hand_over(&mut self) {
        let received = std::mem::take(&mut self.frames.received);
        let encoded = std::mem::take(&mut self.frames.encoded);
        self.metrics.received.inc_by(received);
        self.metrics.broadcast.inc_by(encoded);
        // Every bar that is encoded was received.
        self.metrics.unwatched.inc_by(received - encoded);
        if self.frames.batch.is_empty() {
            return;
        }
        let next = Batch::like(&self.frames.batch);
        let batch = Arc::new(std::mem::replace(&mut self.frames.batch, next));
        for mailbox in &self.mailboxes {
            mailbox.push(&batch);
        }
    }

    /// Tells the watchers of every topic that is still suspect; with `unproven`, those whose `seq`
    /// may yet prove that nothing was missed, too.
    fn tell_gaps(&mut self, unproven: bool) {
        let losses = self.bus.losses.load(Ordering::Relaxed);
        for entry in self.registry.all() {
            let hole = {
                let mut state = entry.lock();
                if state.losses_seen >= losses || (state.provable() && !unproven) {
                    continue;
                }
                state.losses_seen = losses;
                let Some(last) = state.history.last() else {
                    continue;
                };
                let from = last.time();
                let to = entry.topic.resolution.floor(now_ms()).max(from);
                state.version += 1;
                (state.watchers > 0).then_some((Hole { from, to }, state.version))
            };
            if let Some((hole, version)) = hole {
                self.frames.gap(&entry, hole, version);
                self.metrics.gaps_upstream.inc();
            }
        }
        self.hand_over();
    }

    /// Tells the watchers of what history got while the store was read, and of holes found meanwhile.
    fn tell_loaded(&mut self) {
        for (topic, hole) in std::mem::take(&mut self.frames.untold) {
            let Some(entry) = self.registry.get(&topic) else {
                continue;
            };
            let version = {
                let mut state = entry.lock();
                state.version += 1;
                (state.watchers > 0).then_some(state.version)
            };
            if let Some(version) = version {
                self.frames.gap(&entry, hole, version);
                self.metrics.gaps_upstream.inc();
            }
            if self.frames.batch.frames.len() >= MAX_BATCH_FRAMES {
                self.hand_over();
            }
        }
        self.hand_over();
    }
}

impl Frames {
    fn bar(&mut self, entry: &Entry, message: &Message, version: u64) {
        self.encoded += 1;
        tracing::debug!("Broadcasted bar for {}", message.topic);
        let head = Head {
            topic: entry.id,
            version,
            time: message.bar.time(),
            kind: if message.bar.closed {
                Kind::Closed
            } else {
                Kind::Forming
            },
            ts: message.ts,
        };
        self.batch.push(head, |out| write_update(out, message));
    }

    fn gap(&mut self, entry: &Entry, hole: Hole, version: u64) {
        let head = Head {
            topic: entry.id,
            version,
            time: hole.to,
            kind: Kind::Gap,
            ts: None,
        };
        self.batch.push(head, |out| {
            write_gap(out, &entry.topic, hole.from, hole.to, "upstream");
        });
    }

    /// One valid message: kept, and encoded if anybody watches. Tells whether a hole was found.
    fn take(&mut self, entry: &Entry, message: &Message, losses: u64) -> bool {
        self.received += 1;
        let (hole, version, watched) = {
            let mut state = entry.lock();
            if state.history.last().is_none() {
                self.batch.opened.push((entry.id, entry.topic));
            }
            let hole = state.apply(message, losses);
            (hole, state.version, state.watchers > 0)
        };
        let later = self.is_fresh(entry, message) && hole.is_some();
        if let Some(hole) = hole.filter(|_| later) {
            self.tell_later(entry.topic, hole);
        }
        if watched {
            if let Some(hole) = hole.filter(|_| !later) {
                self.gap(entry, hole, version);
            }
            self.bar(entry, message, version);
        }
        hole.is_some() && !later
    }

    /// Notes a live bar while the store is being read, and tells whether that is so.
    fn is_fresh(&mut self, entry: &Entry, message: &Message) -> bool {
        let Some(fresh) = &mut self.fresh else {
            return false;
        };
        if fresh.len() < MAX_FRESH_BARS {
            fresh.insert((entry.id, message.bar.time()));
        }
        true
    }

    fn tell_later(&mut self, topic: Topic, hole: Hole) {
        let told = self.untold.entry(topic).or_insert(hole);
        *told = told.with(hole);
    }

    /// One message of the store. Tells whether it was news.
    fn restore(&mut self, entry: &Entry, message: &Message) -> bool {
        let Some(fresh) = &self.fresh else {
            return false;
        };
        if fresh.len() >= MAX_FRESH_BARS {
            return false;
        }
        let is_fresh = fresh.contains(&(entry.id, message.bar.time()));
        let (hole, watched) = {
            let mut state = entry.lock();
            if state.history.last().is_none() {
                self.batch.opened.push((entry.id, entry.topic));
            }
            (state.restore(message, is_fresh), state.watchers > 0)
        };
        if let Some(hole) = hole.filter(|_| watched) {
            self.tell_later(entry.topic, hole);
        }
        hole.is_some()
    }
}

impl Sink for Ingest {
    fn connected(&mut self) {
        let fresh = self.frames.fresh.take();
        if fresh.is_some_and(|fresh| fresh.len() >= MAX_FRESH_BARS) {
            self.unloaded("too many bars came meanwhile");
        }
        self.tell_loaded();
        self.bus.connected.store(true, Ordering::Relaxed);
        self.metrics.bus_connected.set(1);
        let losses = self.bus.losses.load(Ordering::Relaxed);
        if losses == 0 {
            tracing::info!(bus = self.address, "bus connected");
            return;
        }
        self.metrics.bus_reconnects.inc();
        tracing::info!(bus = self.address, losses, "bus connected again, bars flow");
        self.tell_gaps(false);
        self.proof_due = Some(Instant::now() + self.proof_wait);
    }

    fn lost(&mut self, why: &str) {
        self.hand_over();
        self.metrics.bus_connected.set(0);
        // Also when it was lost while the store was read: what came meanwhile cleared topics.
        let fresh = self.frames.fresh.take();
        let was_heard = fresh.is_some_and(|fresh| !fresh.is_empty());
        self.tell_loaded();
        if self.bus.connected.swap(false, Ordering::Relaxed) || was_heard {
            self.bus.losses.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                bus = self.address,
                why,
                "bus lost, clients stay, reconnecting"
            );
        } else {
            tracing::warn!(
                bus = self.address,
                why,
                "bus cannot be reached, trying again"
            );
        }
    }

    fn message(&mut self, channel: &str, payload: &[u8]) {
        let Self {
            registry,
            metrics,
            bus,
            decoder,
            frames,
            malformed_log,
            ..
        } = self;
        let losses = bus.losses.load(Ordering::Relaxed);
        decoder.decode(channel, payload, |message| match message {
            Ok(message) => {
                match registry.of_bar(&message.topic, |e| frames.take(e, &message, losses)) {
                    Ok(false) => {}
                    Ok(true) => {
                        metrics.gaps_upstream.inc();
                    }
                    Err(why) => over_limit(metrics, malformed_log, &message, why),
                }
            }
            Err(why) => {
                metrics.dropped(why.reason()).inc();
                malformed_log.malformed(channel, payload, &why);
            }
        });
        if self.frames.batch.frames.len() >= MAX_BATCH_FRAMES {
            self.hand_over();
        }
    }

    fn loading(&mut self) {
        self.frames.fresh = Some(HashSet::new());
    }

    fn stored(&mut self, topic: &str, payload: &[u8]) {
        let Self {
            registry,
            metrics,
            decoder,
            frames,
            malformed_log,
            ..
        } = self;
        decoder.decode(topic, payload, |message| match message {
            Ok(message) => match registry.of_bar(&message.topic, |e| frames.restore(e, &message)) {
                Ok(is_news) => {
                    metrics.stored.inc_by(u64::from(is_news));
                }
                Err(why) => over_limit(metrics, malformed_log, &message, why),
            },
            Err(why) => {
                metrics.dropped(why.reason()).inc();
                malformed_log.malformed(topic, payload, &why);
            }
        });
    }

    fn unloaded(&mut self, why: &str) {
        self.metrics.store_failures.inc();
        tracing::warn!(
            store = self.address,
            why,
            "the store cannot be read; going on without what is missing"
        );
    }

    fn flush(&mut self) {
        if self.proof_due.is_some_and(|due| due <= Instant::now()) {
            self.proof_due = None;
            self.tell_gaps(true);
        }
        self.hand_over();
    }
}

fn over_limit(metrics: &GatewayMetrics, log: &mut Limited, message: &Message, why: TopicLimit) {
    metrics.dropped(DROPPED_AT_LIMIT).inc();
    log.say(|left_out| {
        tracing::warn!(topic = %message.topic, %why, left_out, "bar dropped");
    });
}
