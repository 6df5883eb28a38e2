//! The fan-out alone, without network: batches from memory to sockets that take everything and do
//! nothing. For counting instructions; `scripts/instructions` runs it under callgrind.
//!
//! ```text
//! cargo run --release --example fanout -- CLIENTS TOPICS PER_CLIENT ROUNDS
//! ```

use std::io;
use std::time::Instant;

use barcast::bar::{Message, write_update};
use barcast::gateway::batch::{Batch, Head, Kind};
use barcast::gateway::hub::{Hub, Socket};
use barcast::gateway::registry::Registry;
use barcast::generator::market::Market;

/// Takes everything.
struct Void;

impl Socket for Void {
    type Handle<'a> = ();

    fn handle(&self) {}

    fn send((): (), bytes: &[u8]) -> io::Result<usize> {
        Ok(std::hint::black_box(bytes).len())
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::send((), bytes)
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse());
    let mut next = || match arguments.next() {
        Some(Ok(number)) => number,
        _ => {
            eprintln!("usage: fanout CLIENTS TOPICS PER_CLIENT ROUNDS, all whole numbers");
            std::process::exit(2);
        }
    };
    let (clients, topics, per_client, rounds): (usize, usize, usize, u64) =
        (next(), next(), next(), u64::try_from(next()).unwrap_or(0));

    let symbols: Vec<_> = (0..topics)
        .filter_map(|n| format!("SYM{n}").parse().ok())
        .collect();
    let resolutions: Vec<_> = "1".parse().into_iter().collect();
    let mut market = Market::new(&symbols, &resolutions, 1, 1);
    let mut messages: Vec<Message> = Vec::new();
    market.tick(1_700_000_000_000, &mut messages);

    let registry = Registry::new(topics, 0);
    let entries: Vec<_> = messages
        .iter()
        .filter_map(|message| registry.watch(&message.topic).ok())
        .collect();
    let mut batch = Batch::default();
    for (message, entry) in messages.iter().zip(&entries) {
        let head = Head {
            topic: entry.id,
            version: 1,
            time: message.bar.time(),
            kind: Kind::Forming,
            ts: message.ts,
        };
        batch.push(head, |out| write_update(out, message));
    }
    let mut hub = Hub::new(1 << 18);
    for client in 0..clients {
        let session = hub.add(Void);
        for n in 0..per_client {
            // Spread, so that a client's frames are no neighbours and must be copied together.
            let topic = &entries[(client + n * (topics / per_client).max(1)) % topics];
            hub.subscribe(session, topic, 0, None);
        }
    }
    for _ in 0..rounds {
        hub.fan_out(&batch, Instant::now());
    }
    println!("{}", hub.take_tally().delivered);
}
