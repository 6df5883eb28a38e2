//! What the benches and the counted hot path (`examples/hotpath.rs`) share: bars, payloads, batches of
//! frames and the watchlists of clients.
#![allow(
    dead_code,
    reason = "the benches and the example each use their own part"
)]

pub mod redis;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use barcast::bar::{BatchEncoder, Message, Topic, write_message, write_update};
use barcast::gateway::batch::{Batch, Head, Kind};
use barcast::gateway::hub::{Hub, SessionId, Socket};
use barcast::gateway::ingest::Ingest;
use barcast::gateway::node::Node;
use barcast::gateway::outbox::Outbox;
use barcast::gateway::registry::{Entry, Registry};
use barcast::generator::market::Market;

/// Symbols of a usual market in the benches, and so bars of one tick and of one batch message.
pub const SYMBOLS: usize = 200;
/// When the market's first tick is, ms since the epoch.
const START_MS: i64 = 1_700_000_000_000;
/// Time between ticks, ms.
const TICK_MS: i64 = 250;
/// The publish time of every bar, µs since the epoch: of the usual length.
const TS_US: u64 = 1_700_000_000_000_000;

/// The topic of this number: `bars:SYM7:1`.
pub fn topic(n: usize) -> Topic {
    format!("bars:SYM{n}:1").parse().expect("a topic")
}

/// So many bars as a generator of `symbols` makes them, tick by tick.
pub fn messages(symbols: usize, count: usize) -> Vec<Message> {
    let symbols: Vec<_> = (0..symbols).map(|n| topic(n).symbol).collect();
    let mut market = Market::new(&symbols, &[topic(0).resolution], 1, 1);
    let mut messages = Vec::with_capacity(count + symbols.len());
    let mut now = START_MS;
    while messages.len() < count {
        market.tick(now, &mut messages);
        now += TICK_MS;
    }
    messages.truncate(count);
    for message in &mut messages {
        message.ts = Some(TS_US);
    }
    messages
}

/// A message as its producer publishes it.
pub fn payload(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    write_message(&mut out, message);
    out
}

/// Messages as one batch message.
pub fn batch_payload(messages: &[Message], compress: bool) -> Vec<u8> {
    let mut batch = BatchEncoder::default();
    for message in messages {
        batch.push(message);
    }
    batch.take(compress).expect("memory for zstd")
}

/// The entries of the messages' topics, each watched.
pub fn watched(registry: &Registry, messages: &[Message]) -> Vec<Arc<Entry>> {
    let watch = |message: &Message| registry.watch(&message.topic, 0).expect("room for topics");
    messages.iter().map(watch).collect()
}

/// What ingest knows of a message, as the forming update that most are.
pub fn head(entry: &Entry, message: &Message) -> Head {
    Head {
        topic: entry.id,
        version: 1,
        time: message.bar.time(),
        from: message.bar.time(),
        kind: Kind::Forming,
        ts: message.ts,
    }
}

/// Adds one frame for each message, as ingest does.
pub fn encode(batch: &mut Batch, messages: &[Message], entries: &[Arc<Entry>]) {
    for (message, entry) in messages.iter().zip(entries) {
        batch.push(head(entry, message), |out| write_update(out, message));
    }
}

/// The ingest of this node, without workers.
pub fn ingest(node: &Node) -> Ingest {
    Ingest::new(
        Arc::clone(&node.registry),
        Vec::new(),
        node.metrics.clone(),
        Arc::clone(&node.bus),
        String::new(),
    )
}

/// Which topics a client watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Topics that lie side by side in the batch: sent as they lie.
    Neighbours,
    /// Topics far from each other: every frame is copied.
    Scattered,
}

/// Clients and what they watch.
#[derive(Clone, Copy, Debug)]
pub struct Watchlists {
    pub name: &'static str,
    pub clients: usize,
    pub topics: usize,
    pub per_client: usize,
    pub shape: Shape,
}

/// The scenarios of the fan-out, wherever it is measured.
pub const WATCHLISTS: [Watchlists; 3] = [
    Watchlists {
        name: "hot topic",
        clients: 2_000,
        topics: 1,
        per_client: 1,
        shape: Shape::Neighbours,
    },
    Watchlists {
        name: "watchlists of neighbours",
        clients: 1_000,
        topics: SYMBOLS,
        per_client: 20,
        shape: Shape::Neighbours,
    },
    Watchlists {
        name: "scattered watchlists",
        clients: 1_000,
        topics: SYMBOLS,
        per_client: 20,
        shape: Shape::Scattered,
    },
];

impl Watchlists {
    /// Deliveries of one round, in which every topic has one bar.
    pub fn deliveries(&self) -> usize {
        self.clients * self.per_client
    }

    /// The topics of one client, by their numbers.
    pub fn of(self, client: usize) -> impl Iterator<Item = usize> {
        let step = match self.shape {
            Shape::Neighbours => 1,
            Shape::Scattered => self.topics / self.per_client,
        };
        (0..self.per_client).map(move |n| (client + n * step) % self.topics)
    }

    /// One round: a bar of every topic, encoded, and the topics.
    pub fn round(&self) -> (Batch, Vec<Arc<Entry>>) {
        let messages = messages(self.topics, self.topics);
        let entries = watched(&Registry::new(self.topics, 0), &messages);
        let mut batch = Batch::default();
        encode(&mut batch, &messages, &entries);
        (batch, entries)
    }

    /// Bytes that a client gets in a round.
    pub fn bytes_of(self, client: usize, round: &Batch) -> usize {
        let frame = |topic: usize| round.bytes_of(&round.frames[topic]).len();
        self.of(client).map(frame).sum()
    }

    /// A hub with all clients, each on the socket that `connect` makes.
    pub fn hub<S: Socket>(
        &self,
        entries: &[Arc<Entry>],
        outbox_limit: usize,
        mut connect: impl FnMut() -> S,
    ) -> (Hub<S>, Vec<SessionId>) {
        let mut hub = Hub::new(outbox_limit);
        let join = |client| {
            let session = hub.add(connect());
            for topic in self.of(client) {
                hub.subscribe(session, &entries[topic], 0, None);
            }
            session
        };
        let sessions = (0..self.clients).map(join).collect();
        (hub, sessions)
    }
}

/// Topics of a client that fell behind.
pub const WATCHLIST: usize = 20;
/// Updates of each of them before its socket takes anything.
pub const UPDATES: usize = 10;

/// What is offered to the outbox of a client that fell behind.
pub struct Offers {
    frames: Vec<(Head, Vec<u8>)>,
}

impl Offers {
    /// One bar of each topic of a watchlist.
    pub fn new(kind: Kind) -> Self {
        let messages = messages(WATCHLIST, WATCHLIST);
        let entries = watched(&Registry::new(WATCHLIST, 0), &messages);
        let frame = |(message, entry): (&Message, &Arc<Entry>)| {
            let head = head(entry, message);
            (Head { kind, ..head }, payload(message))
        };
        Self {
            frames: messages.iter().zip(&entries).map(frame).collect(),
        }
    }

    /// Offers them again and again, and takes out what is left; tells how many were offered.
    pub fn offer(&self, outbox: &mut Outbox, limit: usize, now: Instant) -> u64 {
        for _ in 0..UPDATES {
            for (head, bytes) in &self.frames {
                black_box(outbox.push(head, black_box(bytes), limit, now));
            }
        }
        while let Some(out) = outbox.pop() {
            black_box(out);
        }
        (self.frames.len() * UPDATES) as u64
    }
}
