//! HTTP beside the WebSockets: its thread, and that whoever asks for much keeps nobody waiting.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::client::{Client, Wire, get};
use common::gateway::{candle, config, in_process};
use common::harm::any_rate;

/// Debug builds on a busy machine: seconds against milliseconds, and no timing.
const WORST_WAIT: Duration = Duration::from_millis(500);

#[test]
fn threads_have_names() {
    let (gateway, _feed) = in_process(config());
    assert_eq!(get(gateway.address, "/healthz").status, 200);
    let names: Vec<_> = fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    for name in ["worker-0", "worker-1", "ingest", "http"] {
        assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
    }
}

#[test]
fn pipelined_lists_and_searches_keep_nobody_waiting() {
    const TOPICS: usize = 20_000;
    const HOSTILE: usize = 4;
    let (gateway, mut feed) = in_process(any_rate());
    let symbol = |at| -> &'static str { String::leak(format!("S{at}")) };
    let bars: Vec<_> = (0..TOPICS)
        .map(|at| candle(symbol(at), 0, 1).outgoing())
        .collect();
    for some in bars.chunks(1_000) {
        feed.all(some.to_vec());
    }
    gateway.received(TOPICS as u64);
    let address = gateway.address;
    // On both workers.
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(address)).collect();
    let done = AtomicBool::new(false);
    let (mut worst_pong, mut worst_probe) = (Duration::ZERO, Duration::ZERO);
    thread::scope(|scope| {
        for who in 0..HOSTILE {
            let done = &done;
            scope.spawn(move || {
                let mut wire = Wire::connect(address);
                let asks: String = (0..50)
                    .map(|at| {
                        let limit = 5_000 - who * 50 - at;
                        format!(
                            "GET /api/v1/topics?limit={limit} HTTP/1.1\r\nHost: x\r\n\r\n\
                             GET /udf/search?query=nothing HTTP/1.1\r\nHost: x\r\n\r\n"
                        )
                    })
                    .collect();
                // It may be ended because others need the room.
                let _ = wire.stream.write_all(asks.as_bytes());
                let mut bytes = vec![0; 64 << 10];
                while !done.load(Ordering::Relaxed)
                    && wire.stream.read(&mut bytes).is_ok_and(|read| read > 0)
                {}
            });
        }
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            for client in &mut clients {
                let asked = Instant::now();
                client.until_pong();
                worst_pong = worst_pong.max(asked.elapsed());
            }
            let asked = Instant::now();
            assert_eq!(get(address, "/healthz").status, 200);
            worst_probe = worst_probe.max(asked.elapsed());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(worst_pong < WORST_WAIT, "a pong took {worst_pong:?}");
    assert!(worst_probe < WORST_WAIT, "a probe took {worst_probe:?}");
}

#[test]
fn too_long_a_search_is_refused() {
    let (gateway, _feed) = in_process(config());
    let search = |length| {
        get(
            gateway.address,
            &format!("/udf/search?query={}", "A".repeat(length)),
        )
    };
    assert_eq!(search(64).body, "[]");
    let body = search(65).body;
    assert!(body.contains("error") && body.contains("64"), "{body}");
}
