//! A client that does not read: it costs itself only, and what it missed it is told.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use barcast::gateway::Config;
use barcast::metrics::{GAPPED_LEFT, GAPPED_SLOW};
use common::client::{CLOSE, Client, TEXT, get, sample};
use common::eventually_blocking;
use common::gateway::{Candle, Running, candle, config, in_process};
use serde_json::Value;

const SYMBOLS: [&str; 8] = ["A", "B", "C", "D", "E", "F", "G", "H"];
/// Far beyond what a kernel buffers for a socket, some MB.
const MOST_ROUNDS: i64 = 5_000;

/// One minute of every symbol: two forming updates and the closed bar, prices always rising.
fn minute(minute: i64) -> Vec<Candle> {
    let price = u64::try_from(minute).unwrap() * 3;
    let bar = |symbol: &'static str, step| candle(symbol, minute, price + step);
    (0..3)
        .flat_map(|step| SYMBOLS.map(|symbol| bar(symbol, step)))
        .map(|bar| {
            if bar.price % 3 == 2 {
                bar.closed()
            } else {
                bar
            }
        })
        .collect()
}

/// A client on a thread that reads all the time and tells how many bars it has, and at the end which.
struct Fast {
    counts: mpsc::Receiver<usize>,
    thread: thread::JoinHandle<Vec<String>>,
}

impl Fast {
    fn start(gateway: &Running, last: String) -> Self {
        let mut client = gateway.client();
        client.subscribe("bars:*:1");
        let (count, counts) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut all = Vec::new();
            while all.last() != Some(&last) {
                all.push(client.text());
                let _ = count.send(all.len());
            }
            all
        });
        Self { counts, thread }
    }

    /// Waits until it has so many.
    fn until(&self, bars: usize) {
        while self.counts.recv_timeout(common::DEADLINE).unwrap() < bars {}
    }
}

/// Publishes minute after minute, each only when the fast client has the one before, until `done`;
/// then one last bar of every symbol. Tells all that was published.
fn publish_until(
    feed: &mut common::gateway::Feed<impl barcast::bus::Publisher>,
    fast: &Fast,
    mut done: impl FnMut() -> bool,
) -> Vec<Candle> {
    let mut published = Vec::new();
    let mut at = 0;
    while !done() {
        assert!(at < MOST_ROUNDS, "the socket never became full");
        published.extend(minute(at));
        feed.all(minute(at).iter().map(Candle::outgoing).collect());
        fast.until(published.len());
        at += 1;
    }
    let last = SYMBOLS.map(|symbol| candle(symbol, MOST_ROUNDS, 1_000_000));
    feed.all(last.iter().map(Candle::outgoing).collect());
    published.extend(last);
    published
}

fn last_of_all() -> String {
    candle(SYMBOLS[7], MOST_ROUNDS, 1_000_000).update()
}

/// `due = delivered + conflated + gapped`, when nothing waits any more.
fn accounts(gateway: &Running) -> HashMap<&'static str, u64> {
    let text = get(gateway.address, "/metrics").body;
    let of = |name: &str| sample(&text, name).expect(name);
    let counts: HashMap<_, _> = [
        ("due", of("barcast_due_bars_total")),
        ("delivered", of("barcast_delivered_bars_total")),
        ("conflated", of("barcast_conflated_bars_total")),
        (
            "slow",
            of(r#"barcast_gapped_bars_total{reason="slow_client"}"#),
        ),
        (
            "left",
            of(r#"barcast_gapped_bars_total{reason="disconnected"}"#),
        ),
    ]
    .into();
    // No subscription ends while its client stays.
    let sum = counts["delivered"] + counts["conflated"] + counts["slow"] + counts["left"];
    assert_eq!(counts["due"], sum, "{counts:?}");
    counts
}

fn narrow(outbox_bytes: usize, slow_grace: Duration) -> Config {
    let mut config = config();
    config.limits.outbox_bytes = outbox_bytes;
    config.limits.slow_grace = slow_grace;
    config
}

#[test]
fn a_client_that_stalls_is_told_what_it_missed_and_others_miss_nothing() {
    let (gateway, mut feed) = in_process(narrow(16 << 10, Duration::from_secs(600)));
    let mut slow = Client::connect_narrow(gateway.address);
    slow.subscribe("bars:*:1");
    let fast = Fast::start(&gateway, last_of_all());
    let gapped = gateway.node.metrics.gapped(GAPPED_SLOW);
    let published = publish_until(&mut feed, &fast, || gapped.get() > 500);
    let expected: Vec<_> = published.iter().map(Candle::update).collect();
    assert!(
        fast.thread.join().unwrap() == expected,
        "the other got all, in order"
    );

    slow.wire.widen();
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let ended = |seen: &HashMap<String, Seen>| {
        seen.len() == SYMBOLS.len() && seen.values().all(|s| s.price == Some(1_000_000))
    };
    while !ended(&seen) {
        let message = slow.json();
        let topic = message["topic"].as_str().unwrap().to_owned();
        seen.entry(topic).or_default().take(&message);
    }
    assert!(
        slow.until_pong().is_empty(),
        "nothing comes after the newest"
    );
    for bar in published.iter().filter(|bar| bar.closed) {
        let seen = &seen[&bar.topic()];
        let delivered = seen.closed.contains(&bar.time);
        let told = seen
            .gaps
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&bar.time));
        assert!(delivered || told, "{bar:?} is missing and no gap names it");
    }
    assert!(seen.values().any(|seen| !seen.gaps.is_empty()));
    let counts = accounts(&gateway);
    assert_eq!(counts["due"], 2 * published.len() as u64);
    assert_eq!(counts["left"], 0);
    assert!(counts["slow"] > 500);
}

/// What a client saw of one topic.
#[derive(Default)]
struct Seen {
    price: Option<u64>,
    closed: Vec<i64>,
    gaps: Vec<(i64, i64)>,
}

impl Seen {
    fn take(&mut self, message: &Value) {
        let payload = &message["payload"];
        let number = |name: &str| payload[name].as_i64().unwrap();
        if message["type"] == "bars.gap" {
            assert_eq!(payload["reason"], "slow_client");
            assert!(number("from") <= number("to"));
            return self.gaps.push((number("from"), number("to")));
        }
        let price = payload["close"].as_u64().unwrap();
        assert!(self.price < Some(price), "older after newer: {message}");
        self.price = Some(price);
        if payload["closed"] == true {
            self.closed.push(number("time"));
        }
    }
}

#[test]
fn a_client_that_never_reads_again_is_closed_as_slow() {
    let (gateway, mut feed) = in_process(narrow(4 << 10, Duration::ZERO));
    let mut returning = Client::connect_narrow(gateway.address);
    returning.subscribe("bars:*:1");
    let mut never = Client::connect_narrow(gateway.address);
    never.subscribe("bars:*:1");
    let fast = Fast::start(&gateway, last_of_all());
    let closed = gateway.node.metrics.closed(4503);
    let published = publish_until(&mut feed, &fast, || {
        // Progress is looked at once a second.
        thread::sleep(Duration::from_millis(1));
        closed.get() == 2
    });
    returning.wire.widen();
    // One reads at last, and finds whole frames and then why it was closed.
    loop {
        let frame = returning.wire.frame().expect("a close frame");
        if frame.opcode == CLOSE {
            assert_eq!(frame.payload[..2], 4503_u16.to_be_bytes());
            break;
        }
        assert_eq!(frame.opcode, TEXT);
    }
    drop(returning);
    assert_eq!(fast.thread.join().unwrap().len(), published.len());
    // The other is cut, and what waited for both is accounted for.
    eventually_blocking("all have left", || gateway.node.clients() == 0);
    let counts = accounts(&gateway);
    assert!(counts["left"] > 0);
    assert_eq!(
        gateway.node.metrics.gapped(GAPPED_LEFT).get(),
        counts["left"]
    );
    let closes = r#"barcast_closed_clients_total{code="4503"}"#;
    assert_eq!(common::client::metric(gateway.address, closes), 2);
    drop(never);
}

#[test]
fn a_client_that_asks_and_does_not_read_the_answers_is_closed_as_slow() {
    let (gateway, mut feed) = in_process(Config {
        history_bars: 10_000,
        ..config()
    });
    let bars: Vec<_> = (0..9_999).map(|minute| candle("A", minute, 1)).collect();
    for chunk in bars.chunks(1_000) {
        feed.all(chunk.iter().map(Candle::outgoing).collect());
    }
    gateway.received(9_999);
    let mut client = Client::connect_narrow(gateway.address);
    let closed = gateway.node.metrics.closed(4503);
    // Each answer has about a megabyte; 4 MiB may wait beside what the kernel holds.
    for _ in 0..30 {
        client.send(r#"{"type":"bars.subscribe","payload":{"symbol":"A","snapshot":10000}}"#);
    }
    eventually_blocking("closed", || closed.get() == 1);
    let mut other = gateway.client();
    assert!(other.until_pong().is_empty());
}
