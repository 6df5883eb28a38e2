//! What a client that is subscribed and says nothing takes up is weighed: every allocation is counted.
//!
//! One test, in a binary of its own without a harness: an allocation of another thread would be counted
//! with it. The clients are bare sockets, which allocate nothing for long.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use barcast::bus::MemoryBus;
use barcast::gateway::Config;
use common::eventually_blocking;
use common::gateway::{Running, config};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Those that come first make room for what all share.
const FIRST: usize = 64;
const CLIENTS: usize = 512;
/// For each client, in bytes: the runtime's registration of the socket and the parked reading task, 256
/// each, the `Connection` 128, its subscription 48 and a share of the topic's list of subscribers. The
/// place of 128 bytes in the hub's list is reserved in advance and not in it. Allocators round up to
/// classes, so a few bytes more may cost a quarter more.
const MOST_BYTES: usize = 708;

const HANDSHAKE: &[u8] =
    b"GET /ws HTTP/1.1\r\nHost: barcast\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const COMMAND: &[u8] = br#"{"type":"bars.subscribe","payload":{"symbol":"IDLE","resolution":"1"}}"#;

fn subscribed(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = u8::try_from(COMMAND.len()).unwrap();
    // A masked text frame; a mask of zeros leaves the payload as it is.
    let header = [0x81, 0x80 | length, 0, 0, 0, 0];
    stream
        .write_all(&[HANDSHAKE, &header, COMMAND].concat())
        .unwrap();
    let mut heard = Vec::new();
    let mut part = [0; 1024];
    while !heard.ends_with(b"}}") {
        let n = stream.read(&mut part).unwrap();
        assert_ne!(n, 0, "refused: {}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&part[..n]);
    }
    stream
}

fn main() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let config = Config {
        workers: 1,
        ..config()
    };
    let gateway = Running::start(config, MemoryBus::default());
    let mut clients = Vec::with_capacity(FIRST + CLIENTS);
    clients.extend((0..FIRST).map(|_| subscribed(gateway.address)));
    // What handshakes leave goes a moment after the answer.
    let settled = || dhat::HeapStats::get().curr_bytes;
    let mut before = settled();
    eventually_blocking("the first clients have settled", || {
        let now = settled();
        std::mem::replace(&mut before, now) == now
    });
    clients.extend((0..CLIENTS).map(|_| subscribed(gateway.address)));
    let mut each = 0;
    eventually_blocking("an idle client fits", || {
        each = settled().saturating_sub(before) / CLIENTS;
        println!("{each} bytes for each of {CLIENTS} clients, {MOST_BYTES} at most");
        each <= MOST_BYTES
    });
    assert!(
        each > MOST_BYTES / 2,
        "{each} bytes: something is not counted"
    );
    println!("test an_idle_client_takes_up_no_more_than_it_may ... ok");
}
