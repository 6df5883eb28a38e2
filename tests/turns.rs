//! One client's requests are done in turns: others on the same worker do not wait until all are done.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use common::client::{Client, PING, TEXT, frame};
use common::gateway::{candle, in_process};
use common::harm::any_rate;

/// Bounds isolation, seconds against milliseconds: the flood takes many seconds in a debug build.
const WORST_PONG: Duration = Duration::from_secs(1);
const TOPICS: usize = 1_000;

/// Requests that are short and cost much: each names topics that nobody has, while its client has many.
fn requests(count: usize) -> Vec<u8> {
    let names: Vec<_> = (0..200).map(|n| format!("\"bars:NO{n}:1\"")).collect();
    let names = names.join(",");
    let text = format!(r#"{{"type":"bars.unsubscribe","payload":{{"topics":[{names}]}}}}"#);
    frame(TEXT, text).repeat(count)
}

#[test]
fn requests_of_one_client_do_not_make_others_wait() {
    let mut config = any_rate();
    config.workers = 1;
    let (gateway, mut feed) = in_process(config);
    let bars = (0..TOPICS).map(|n| candle(format!("T{n}").leak(), 0, 1).outgoing());
    feed.all(bars.collect());
    gateway.received(TOPICS as u64);
    let mut probe = gateway.client();
    let mut flooder = Client::connect(gateway.address);
    flooder.subscribe("bars:*:1");
    flooder.until_pong();
    let address = gateway.address;
    thread::scope(|scope| {
        let mut reading = flooder.wire.stream.try_clone().unwrap();
        let harm = scope.spawn(move || {
            let ended = [requests(400), frame(PING, "end of the flood")].concat();
            flooder.wire.stream.write_all(&ended).unwrap();
        });
        let answers = scope.spawn(move || {
            let mut last = Vec::new();
            let mut bytes = [0; 64 << 10];
            while !last.ends_with(b"end of the flood") {
                let read = reading.read(&mut bytes).unwrap();
                assert!(read > 0, "the flooder was cut");
                last.extend_from_slice(&bytes[..read]);
                last.drain(..last.len().saturating_sub(64));
            }
        });
        let mut worst = Duration::ZERO;
        let mut rounds = 0;
        while !answers.is_finished() {
            let asked = Instant::now();
            probe.until_pong();
            worst = worst.max(asked.elapsed());
            rounds += 1;
            // New clients get in as well.
            if rounds % 10 == 0 {
                let asked = Instant::now();
                drop(Client::connect(address));
                worst = worst.max(asked.elapsed());
            }
        }
        harm.join().unwrap();
        assert!(worst < WORST_PONG, "others waited for {worst:?}");
    });
}
