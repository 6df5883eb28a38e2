//! Delivering allocates nothing: counted, over real sockets that take the bytes.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "../benches/common/plain.rs"]
mod plain;

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use barcast::gateway::batch::{Batch, Head, Kind};
use barcast::gateway::hub::Hub;
use barcast::gateway::registry::{Entry, Registry};
use plain::Plain;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const CLIENTS: usize = 50;
const TOPICS: usize = 40;
const PER_CLIENT: usize = 20;
const ROUNDS: u64 = 10;
/// A frame of this payload: 20 of them, ten times over, are well within a socket's buffer.
const PAYLOAD: &[u8] = &[b'x'; 150];

fn batch(entries: &[Arc<Entry>], version: u64) -> Batch {
    let mut batch = Batch::default();
    for entry in entries {
        let head = Head {
            topic: entry.id,
            version,
            time: 0,
            from: 0,
            kind: Kind::Forming,
            ts: None,
        };
        batch.push(head, |out| out.extend_from_slice(PAYLOAD));
    }
    batch
}

/// Without the test harness, whose own thread allocates when it likes.
fn main() {
    a_delivery_that_the_socket_takes_allocates_nothing();
    println!("test a_delivery_that_the_socket_takes_allocates_nothing ... ok");
}

fn a_delivery_that_the_socket_takes_allocates_nothing() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let registry = Registry::new(TOPICS, 0);
    let entries: Vec<_> = (0..TOPICS)
        .map(|n| {
            registry
                .watch(&format!("bars:T{n}:1").parse().unwrap(), 0)
                .unwrap()
        })
        .collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut hub = Hub::new(1 << 18);
    let mut readers = Vec::new();
    for client in 0..CLIENTS {
        readers.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let session = hub.add(Plain(stream));
        for n in 0..PER_CLIENT {
            // Every other topic for half of the clients: frames that lie apart are copied together.
            let step = 1 + client % 2;
            hub.subscribe(session, &entries[(client + n * step) % TOPICS], 0, None);
        }
    }
    // The first round makes room that later ones use again.
    hub.fan_out(&batch(&entries, 1), Instant::now());
    let batches: Vec<_> = (0..ROUNDS).map(|n| batch(&entries, 2 + n)).collect();
    let now = Instant::now();
    let before = dhat::HeapStats::get();
    for batch in &batches {
        hub.fan_out(batch, now);
    }
    let after = dhat::HeapStats::get();
    let tally = hub.take_tally();
    let deliveries = u64::try_from(CLIENTS * PER_CLIENT).unwrap() * (ROUNDS + 1);
    assert_eq!(tally.delivered, deliveries);
    assert_eq!(tally.writes, u64::try_from(CLIENTS).unwrap() * (ROUNDS + 1));
    assert_eq!(after.total_blocks - before.total_blocks, 0, "allocations");

    let expected = tally.bytes / u64::try_from(CLIENTS).unwrap();
    for reader in &mut readers {
        let mut got = vec![0; usize::try_from(expected).unwrap()];
        reader.read_exact(&mut got).unwrap();
    }
}
