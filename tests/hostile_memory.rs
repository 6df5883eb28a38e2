//! Clients that ask and do not read: what waits for them is bounded, in a process of its own so that
//! its memory can be weighed.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::Write;

use common::client::{Client, PING, frame, metric};
use common::gateway::{Feed, candle};
use common::process::Serve;
use common::{RedisServer, eventually_blocking};

const MIB: u64 = 1 << 20;
/// Clients of each kind.
const CLIENTS: u64 = 4;
/// Twice the 4 MiB of answers that may wait for one client, for what was freed and not given back; and
/// what all need together: read buffers, tables, debug builds. `outbox_memory.rs` weighs exactly.
const MOST_BYTES: u64 = CLIENTS * 8 * MIB + 32 * MIB;

/// Resident memory of a process, in bytes.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib << 10
}

/// Sends `bytes` from clients that never read until the gateway has closed all of them, and tells by
/// how much its memory grew.
fn grown(gateway: &Serve, bytes: &[u8]) -> u64 {
    let closed = || {
        metric(
            gateway.address,
            r#"barcast_closed_clients_total{code="4503"}"#,
        )
    };
    let (closed_before, before) = (closed(), resident(gateway.process.id()));
    let mut most = before;
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::connect_narrow(gateway.address);
                // It may be closed before all is written.
                let _ = client.wire.stream.write_all(bytes);
                eventually_blocking("closed as slow", || closed() >= closed_before + CLIENTS);
            });
        }
        eventually_blocking("all closed as slow", || {
            most = most.max(resident(gateway.process.id()));
            closed() == closed_before + CLIENTS
        });
    });
    eventually_blocking("all have left", || {
        metric(gateway.address, "barcast_clients") == 0
    });
    most - before
}

#[test]
fn answers_that_nobody_reads_are_bounded() {
    let redis = RedisServer::start();
    let rate = ["--max-messages-per-second", "1000000"];
    let gateway = Serve::start(
        &redis.url(),
        &[&rate[..], &["--history-bars", "10000"]].concat(),
    );
    gateway.until_ready();
    let mut feed = Feed::new(&redis.bus());
    for minutes in (0..10_000).collect::<Vec<_>>().chunks(1_000) {
        feed.all(
            minutes
                .iter()
                .map(|minute| candle("A", *minute, 1).outgoing())
                .collect(),
        );
    }
    eventually_blocking("received", || {
        metric(gateway.address, "barcast_received_bars_total") == 10_000
    });
    // Some 60 MB, asked for at once.
    let ask = r#"{"type":"bars.subscribe","payload":{"symbol":"A","snapshot":10000}}"#;
    let snapshots = grown(&gateway, &frame(1, ask).repeat(50));
    assert!(snapshots < MOST_BYTES, "{snapshots} bytes for snapshots");
    // Answers as short as can be, of which the bound on their bytes alone would let millions wait.
    let pongs = grown(&gateway, &frame(PING, "").repeat(3_000_000));
    assert!(pongs < MOST_BYTES, "{pongs} bytes for pongs");
    assert_eq!(
        metric(
            gateway.address,
            r#"barcast_topic_subscribers{topic="bars:A:1"}"#
        ),
        0
    );
}
