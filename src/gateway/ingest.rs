//! From the bus to batches of frames: everything that is done once per bar.
//!
//! Runs on its own thread. Decode and validate, find the topic, keep the bar, and — only if somebody
//! on this node watches — encode one WebSocket frame. The same batch then goes to the workers that watch
//! something in it, and to no other.

mod gaps;
mod past;
mod standing;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::batch::{Batch, Head, Kind};
use super::config::PROOF_WAIT;
use super::interest::Workers;
use super::mailbox::Mailbox;
use super::memory::Memory;
use super::past::Pasts;
use super::protocol::write_gap;
use super::registry::{Entry, Registry, TopicLimit};
use super::state::Stored;
use crate::ahead::{Ahead, FUTURE, MaxAhead};
use crate::bar::{Decoder, Message, Topic, write_update};
use crate::bus::{Doubt, Sink};
use crate::clock::now_ms;
use crate::health::Health;
use crate::history::Hole;
use crate::limited::{Refusals, Repeated};
use crate::metrics::GatewayMetrics;
use crate::running;
use past::Fresh;

/// Frames in one batch at most: bounds what a worker notes down at once.
const MAX_BATCH_FRAMES: usize = 1_024;
/// Label of bars dropped because the node holds as many topics as it may.
pub const DROPPED_AT_LIMIT: &str = "topic_limit";

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
    outlet: Outlet,
    metrics: GatewayMetrics,
    bus: Arc<BusState>,
    address: String,
    decoder: Decoder,
    frames: Frames,
    /// How long a topic may take to prove by `seq` that nothing was missed.
    proof_wait: Duration,
    /// When the topics that are still suspect are told of a gap.
    proof_due: Option<Instant>,
    malformed_log: Refusals,
    /// What keeps bars of the future out.
    ahead: Ahead,
    store_log: Repeated,
    bus_log: Repeated,
    /// The past that is left in the store.
    pasts: Arc<Pasts>,
    health: Health,
    /// The last attempt to read the store did not come to its end.
    is_unread: bool,
    /// What is in doubt of who serves the subscription.
    served_by: Option<String>,
    /// Topics whose past could not be read when somebody asked for it.
    unrecalled: HashSet<Topic>,
}

/// Where batches go.
struct Outlet {
    mailboxes: Vec<Arc<Mailbox>>,
    metrics: GatewayMetrics,
}

impl Outlet {
    /// Hands what is ready to the workers that watch something in it.
    fn hand_over(&mut self, frames: &mut Frames) {
        let received = std::mem::take(&mut frames.received);
        let encoded = std::mem::take(&mut frames.encoded);
        self.metrics.received.inc_by(received);
        self.metrics.broadcast.inc_by(encoded);
        // Every bar that is encoded was received.
        self.metrics.unwatched.inc_by(received - encoded);
        if frames.batch.is_empty() {
            return frames.workers.clear();
        }
        let next = Batch::like(&frames.batch);
        let batch = Arc::new(std::mem::replace(&mut frames.batch, next));
        for (worker, mailbox) in self.mailboxes.iter().enumerate() {
            if frames.workers.contains(worker) {
                mailbox.push(&batch);
            }
        }
        frames.workers.clear();
    }

    /// Likewise, once that is as much as a worker may note down at once.
    fn hand_over_full(&mut self, frames: &mut Frames) {
        if frames.batch.frames.len() >= MAX_BATCH_FRAMES {
            self.hand_over(frames);
        }
    }
}

/// The batch in the making.
#[derive(Debug, Default)]
struct Frames {
    batch: Batch,
    /// Who watches something in it.
    workers: Workers,
    received: u64,
    encoded: u64,
    /// Bars that came over the bus since the store is being read; only while that lasts.
    fresh: Option<Fresh>,
    /// How often the bus stood.
    times: u64,
    /// What watchers will be told to ask for once the store is read: before, they would not get it.
    untold: HashMap<Topic, Hole>,
    memory: Memory,
    /// Whether there was no room for a bar of the store.
    crowded: bool,
    /// What the store gave of each topic; only while it is read.
    stored: HashMap<Topic, Stored>,
    /// Not all of the store was read.
    is_partial: bool,
    /// While the bus does not stand: from when on it was not heard, ms since the epoch. Of topics without
    /// a bar nothing else is known.
    unheard_since: Option<i64>,
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
            outlet: Outlet {
                mailboxes,
                metrics: metrics.clone(),
            },
            metrics,
            bus,
            address,
            decoder: Decoder::default(),
            frames: Frames {
                unheard_since: Some(now_ms()),
                ..Frames::default()
            },
            proof_wait: PROOF_WAIT,
            proof_due: None,
            malformed_log: Refusals::default(),
            ahead: Ahead::default(),
            store_log: Repeated::default(),
            bus_log: Repeated::default(),
            pasts: Arc::default(),
            health: Health::default(),
            is_unread: false,
            served_by: None,
            unrecalled: HashSet::new(),
        }
    }

    /// Names channels in warnings with what they have before their names in Redis.
    #[must_use]
    pub fn naming(mut self, prefix: &str) -> Self {
        self.malformed_log = Refusals::of(prefix);
        self
    }

    /// Says there what keeps bars from coming, and refuses those that start further ahead of the clock.
    #[must_use]
    pub fn telling(mut self, health: Health, max_ahead: MaxAhead) -> Self {
        self.ahead = Ahead::new(max_ahead).telling(health.clone());
        self.health = health;
        self
    }

    /// Gives topics that long after the bus is back, instead of [`PROOF_WAIT`].
    #[must_use]
    pub fn proof_within(mut self, wait: Duration) -> Self {
        self.proof_wait = wait;
        self
    }

    /// Leaves the past in the store until it is asked for there.
    #[must_use]
    pub fn recalling_for(mut self, pasts: Arc<Pasts>) -> Self {
        self.pasts = pasts;
        self
    }

    /// Keeps the past of all topics within so many bytes; without it there is no bound.
    #[must_use]
    pub fn history_within(mut self, bytes: usize) -> Self {
        self.frames.memory = Memory::new(bytes);
        self
    }

    fn hand_over(&mut self) {
        let history = i64::try_from(self.frames.memory.bytes());
        self.metrics.history_bytes.set(history.unwrap_or(i64::MAX));
        self.outlet.hand_over(&mut self.frames);
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
            from: message.bar.time(),
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
            from: hole.from,
            kind: Kind::Gap,
            ts: None,
        };
        self.batch.push(head, |out| {
            write_gap(out, &entry.topic, hole.from, hole.to, "upstream");
        });
    }

    /// One valid message: kept, and encoded if anybody watches. Tells whether a hole was found.
    fn take(&mut self, registry: &Registry, entry: &Entry, message: &Message, losses: u64) -> bool {
        self.received += 1;
        let (hole, version, watched) = {
            let mut state = entry.lock();
            let watched = registry.watched_by(entry, &mut self.workers);
            let mut unheard = None;
            if state.history.last().is_none() {
                self.batch.opened.push((entry.id, entry.topic));
                unheard = self.unheard_since.filter(|_| watched);
            }
            let size = state.history.bytes();
            let hole = state.apply(message, losses);
            self.memory.resized(size, state.history.bytes());
            let before = unheard.map(|since| Hole {
                from: entry.topic.resolution.floor(since),
                to: message.bar.time(),
            });
            let before = before.filter(|hole| hole.from <= hole.to);
            (hole.or(before), state.version, watched)
        };
        // Not kept back for as long as a large store takes: what it fills is told again.
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
}

impl Sink for Ingest {
    fn connected(&mut self) {
        self.end_load();
        self.tell_loaded();
        let losses = self.bus.losses.load(Ordering::Relaxed);
        // Before anybody sees that it is connected.
        self.metrics.bus_reconnects.inc_by(u64::from(losses > 0));
        self.metrics.bus_connected.set(1);
        self.bus.connected.store(true, Ordering::Relaxed);
        self.tell_connected();
        self.tell_gaps(false);
        self.frames.unheard_since = None;
        self.say_connected(losses);
        if losses > 0 {
            self.proof_due = Some(running::now() + self.proof_wait);
        }
    }

    fn lost(&mut self, why: &str) {
        self.hand_over();
        self.metrics.bus_connected.set(0);
        // Also when it was lost while the store was read: what came meanwhile cleared topics.
        let was_heard = self.frames.end_fresh().is_some_and(|bars| bars > 0);
        self.frames.is_partial = true;
        self.tell_loaded();
        self.frames.unheard_since.get_or_insert_with(now_ms);
        let event = if self.bus.connected.swap(false, Ordering::Relaxed) || was_heard {
            self.bus.losses.fetch_add(1, Ordering::Relaxed);
            "bus lost, clients stay, reconnecting"
        } else {
            "bus cannot be reached, trying again"
        };
        self.tell_lost(event, why);
    }

    fn message(&mut self, channel: &str, payload: &[u8]) {
        let Self {
            registry,
            outlet,
            metrics,
            bus,
            decoder,
            frames,
            malformed_log,
            ahead,
            ..
        } = self;
        let losses = bus.losses.load(Ordering::Relaxed);
        let mut came = 0;
        decoder.decode(channel, payload, |message| match message {
            Ok(message) if ahead.refuses(message.topic.resolution, message.bar.time()) => {
                metrics.dropped(FUTURE).inc();
                ahead.refused(message.topic, None, message.bar.time(), malformed_log);
            }
            Ok(message) => {
                came += 1;
                let take = |entry: &Entry| frames.take(registry, entry, &message, losses);
                match registry.of_bar(&message.topic, take) {
                    Ok(false) => {}
                    Ok(true) => {
                        metrics.gaps_upstream.inc();
                    }
                    Err(why) => over_limit(metrics, malformed_log, &message, why),
                }
                // Within the message: it may hold hundreds of thousands.
                outlet.hand_over_full(frames);
            }
            Err(why) => {
                metrics.dropped(why.reason()).inc();
                malformed_log.malformed(channel, payload, &why);
            }
        });
        frames.memory.trim(registry, came);
    }

    fn loading(&mut self) {
        self.frames.begin_fresh();
        self.frames.is_partial = false;
        self.frames.crowded = false;
        self.is_unread = false;
        self.forget_pasts();
    }

    fn stored(&mut self, topic: &str, payload: &[u8]) {
        self.take_stored(topic, payload);
    }

    fn unloaded(&mut self, doubt: Doubt) {
        self.frames.is_partial = true;
        self.tell_unread(doubt);
        self.say_unread(doubt.why);
    }

    fn loaded(&mut self) {
        self.end_load();
        self.tell_loaded();
        self.tell_read();
    }

    fn unrecalled(&mut self, doubt: Option<Doubt>) {
        self.tell_unrecalled(doubt);
    }

    fn served(&mut self, doubt: Option<Doubt>) {
        self.tell_served(doubt);
    }

    fn asked(&mut self) -> Option<mpsc::Receiver<Topic>> {
        self.pasts.open()
    }

    fn recalling(&mut self, topics: &[Topic]) {
        self.begin_recalls(topics);
    }

    fn recalled(&mut self, topic: &Topic, bars: Result<Vec<&[u8]>, String>) {
        self.end_recall(topic, bars);
    }

    fn flush(&mut self) {
        if self.proof_due.is_some_and(|due| due <= running::now()) {
            self.proof_due = None;
            self.tell_gaps(true);
        }
        self.ahead.rest();
        self.hand_over();
    }
}

fn over_limit(metrics: &GatewayMetrics, log: &mut Refusals, message: &Message, why: TopicLimit) {
    metrics.dropped(DROPPED_AT_LIMIT).inc();
    // All topics beyond the limit have one cause.
    log.say("", DROPPED_AT_LIMIT, |left_out| {
        tracing::warn!(topic = %message.topic, %why, left_out, "bar dropped");
    });
}
