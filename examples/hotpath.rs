//! The hot path piece by piece and without network, for counting its instructions: `scripts/instructions`
//! runs it under callgrind and compares with `benches/instructions.json`.
//!
//! ```text
//! cargo run --release --example hotpath -- list
//! cargo run --release --example hotpath -- 'fan-out, hot topic' 100
//! ```

#[path = "../benches/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::io;
use std::process::ExitCode;
use std::time::Instant;

use barcast::bar::{BATCH_CHANNEL, Decoder, Message};
use barcast::bus::Sink;
use barcast::gateway::batch::{Batch, Kind};
use barcast::gateway::hub::Socket;
use barcast::gateway::node::Node;
use barcast::gateway::outbox::Outbox;
use barcast::gateway::registry::Registry;
use common::{Offers, SYMBOLS, WATCHLISTS, Watchlists};

/// Topics of a large node.
const MANY_TOPICS: usize = 10_000;
/// Bytes of bars that may wait for a client: nothing here reaches it unless it is meant to.
const OUTBOX_BYTES: usize = 1 << 20;

/// A piece of the hot path.
struct Piece {
    name: String,
    /// What is counted.
    unit: &'static str,
    /// Rounds of the shorter run: the difference to ten times as many must be some million
    /// instructions, so that what is counted outside of the rounds does not show.
    rounds: u64,
    /// Runs so many rounds and tells the units done.
    run: Box<dyn Fn(u64) -> u64>,
}

fn piece(
    name: impl Into<String>,
    unit: &'static str,
    rounds: u64,
    run: impl Fn(u64) -> u64 + 'static,
) -> Piece {
    Piece {
        name: name.into(),
        unit,
        rounds,
        run: Box::new(run),
    }
}

fn pieces() -> Vec<Piece> {
    let mut pieces = Vec::new();
    for lists in WATCHLISTS {
        let name = format!("fan-out, {}", lists.name);
        pieces.push(piece(name, "delivery", 10, move |n| {
            fan_out::<true>(lists, n)
        }));
    }
    let lists = WATCHLISTS[1];
    pieces.extend([
        piece("fan-out, full sockets", "delivery", 2, move |n| {
            fan_out::<false>(lists, n)
        }),
        piece("decode, single message", "bar", 20, |n| decode(n, false)),
        piece("decode, batch message", "bar", 20, |n| decode(n, true)),
        piece("encode, frame", "bar", 20, encode),
        piece("topic look-up among 10,000", "bar", 2, look_up),
        piece("outbox, queue and take", "frame", 20, |n| {
            outbox(n, Kind::Closed)
        }),
        piece("outbox, conflate", "frame", 20, |n| {
            outbox(n, Kind::Forming)
        }),
        piece("ingest, nobody watching", "message", 20, |n| {
            ingest(n, false, false)
        }),
        piece("ingest, watched", "message", 20, |n| ingest(n, true, false)),
        piece("ingest, watched, batch message", "bar", 20, |n| {
            ingest(n, true, true)
        }),
    ]);
    pieces
}

/// Takes everything and does nothing, or is always full.
struct Void<const TAKES: bool>;

impl<const TAKES: bool> Socket for Void<TAKES> {
    type Handle<'a> = ();

    fn handle(&self) {}

    fn send((): (), bytes: &[u8]) -> io::Result<usize> {
        let bytes = black_box(bytes);
        if TAKES {
            return Ok(bytes.len());
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::send((), bytes)
    }
}

fn fan_out<const TAKES: bool>(lists: Watchlists, rounds: u64) -> u64 {
    let (batch, entries) = lists.round();
    let (mut hub, _) = lists.hub(&entries, OUTBOX_BYTES, || Void::<TAKES>);
    let now = Instant::now();
    for _ in 0..rounds {
        hub.fan_out(black_box(&batch), now);
    }
    hub.take_tally().due
}

/// One tick of a usual market: channel and payload of each message, or of one batch message.
fn tick(batch: bool) -> Vec<(String, Vec<u8>)> {
    let messages = common::messages(SYMBOLS, SYMBOLS);
    if batch {
        let payload = common::batch_payload(&messages, false);
        return vec![(BATCH_CHANNEL.to_owned(), payload)];
    }
    let single = |message: &Message| (message.topic.to_string(), common::payload(message));
    messages.iter().map(single).collect()
}

fn decode(rounds: u64, batch: bool) -> u64 {
    let tick = tick(batch);
    let mut decoder = Decoder::default();
    let mut bars = 0;
    for _ in 0..rounds {
        for (channel, payload) in &tick {
            decoder.decode(channel, black_box(payload), |message| {
                bars += u64::from(black_box(message).is_ok());
            });
        }
    }
    bars
}

fn encode(rounds: u64) -> u64 {
    let messages = common::messages(SYMBOLS, SYMBOLS);
    let entries = common::watched(&Registry::new(SYMBOLS, 0), &messages);
    let mut batch = Batch::default();
    let mut frames = 0;
    for _ in 0..rounds {
        batch.clear();
        common::encode(&mut batch, black_box(&messages), &entries);
        frames += black_box(&batch).frames.len() as u64;
    }
    frames
}

fn look_up(rounds: u64) -> u64 {
    let messages = common::messages(MANY_TOPICS, MANY_TOPICS);
    let registry = Registry::new(MANY_TOPICS, 0);
    let entries = common::watched(&registry, &messages);
    let mut found = 0;
    for _ in 0..rounds {
        for (message, entry) in messages.iter().zip(&entries) {
            let same = registry.of_bar(black_box(&message.topic), |found| found.id == entry.id);
            found += u64::from(same == Ok(true));
        }
    }
    found
}

fn outbox(rounds: u64, kind: Kind) -> u64 {
    let offers = Offers::new(kind);
    let mut outbox = Outbox::default();
    let now = Instant::now();
    (0..rounds)
        .map(|_| offers.offer(&mut outbox, OUTBOX_BYTES, now))
        .sum()
}

fn ingest(rounds: u64, watched: bool, batch: bool) -> u64 {
    let node = Node::new(Default::default(), Default::default());
    if watched {
        common::watched(&node.registry, &common::messages(SYMBOLS, SYMBOLS));
    }
    let tick = tick(batch);
    let mut ingest = common::ingest(&node);
    for _ in 0..rounds {
        for (channel, payload) in &tick {
            ingest.message(channel, black_box(payload));
        }
        ingest.flush();
    }
    node.metrics.received.get()
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let pieces = pieces();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["list"] => {
            for piece in pieces {
                println!("{}\t{}\t{}", piece.name, piece.unit, piece.rounds);
            }
        }
        [name, rounds] => {
            let piece = pieces.iter().find(|piece| piece.name == *name);
            let (Some(piece), Ok(rounds)) = (piece, rounds.parse()) else {
                eprintln!("hotpath: there is no piece {name:?}, or {rounds:?} is no number");
                return ExitCode::from(2);
            };
            println!("{}", (piece.run)(rounds));
        }
        _ => {
            eprintln!("usage: hotpath list, or hotpath PIECE ROUNDS");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
