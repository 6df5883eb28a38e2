//! The books of a run with everything in it: what `/metrics` says at the end adds up, and is what the
//! clients counted.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use barcast::bus::{Bus, MemoryBus};
use barcast::gateway::Config;
use barcast::metrics::GAPPED_SLOW;
use common::client::{Client, TEXT, close, frame, get, parse, sample};
use common::gateway::{Candle, Feed, Running, START, candle, config};
use common::{RedisServer, eventually_blocking};
use serde_json::Value;

const SYMBOLS: [&str; 8] = ["A", "B", "C", "D", "E", "F", "G", "H"];
/// Far beyond what a kernel buffers for a socket, some MB.
const MOST_MINUTES: i64 = 5_000;
const LAST_PRICE: u64 = 1_000_000;
/// Bars of a minute that are watched: as many again are not.
const WATCHED: u64 = 3 * SYMBOLS.len() as u64;

/// One minute: of every symbol two forming updates and the closed bar, prices always rising and with
/// room for two before them; and as many that nobody watches.
fn minute(minute: i64) -> Vec<Candle> {
    let price = minute.unsigned_abs() * 5;
    let step = |step| SYMBOLS.map(|symbol| candle(symbol, minute, price + step));
    let watched = [step(2), step(3), step(4).map(Candle::closed)].into_iter();
    watched
        .flatten()
        .flat_map(|bar| [bar, bar.resolution("15")])
        .map(|bar| match bar.resolution {
            "15" => Candle { time: START, ..bar },
            _ => bar,
        })
        .collect()
}

fn last() -> [Candle; 8] {
    SYMBOLS.map(|symbol| candle(symbol, MOST_MINUTES, LAST_PRICE).closed())
}

/// What a client got: updates, and where it stands in each topic.
#[derive(Default)]
struct Got {
    updates: u64,
    gaps: u64,
    newest: HashMap<String, u64>,
}

impl Got {
    fn take(&mut self, text: &str) {
        let message: Value = serde_json::from_str(text).unwrap();
        match message["type"].as_str().unwrap() {
            "bars.update" => {
                let topic = message["topic"].as_str().unwrap();
                let price = message["payload"]["close"].as_u64().unwrap();
                let before = self.newest.insert(topic.to_owned(), price);
                assert!(before < Some(price), "older after newer: {text}");
                self.updates += 1;
            }
            "bars.gap" => self.gaps += 1,
            _ => panic!("{text}"),
        }
    }

    /// Whether it has the last bar of so many topics.
    fn has_last(&self, topics: usize) -> bool {
        let last = self.newest.values().filter(|price| **price == LAST_PRICE);
        last.count() == topics
    }
}

/// Reads until the last bar of so many topics.
fn read(client: &mut Client, topics: usize) -> Got {
    let mut got = Got::default();
    while !got.has_last(topics) {
        got.take(&client.text());
    }
    for text in client.until_pong() {
        got.take(&text);
    }
    got
}

fn subscribed(mut client: Client, topics: &[&str], wishes: &str) -> Client {
    let topics: Vec<_> = topics.iter().map(|topic| format!("\"{topic}\"")).collect();
    let answer = client.ask(&format!(
        r#"{{"type":"bars.subscribe","payload":{{"topics":[{}]{wishes}}}}}"#,
        topics.join(",")
    ));
    assert!(answer.contains(r#""status":"ok""#), "{answer}");
    client
}

/// Reads to the end on a thread of its own.
fn reading(mut client: Client, topics: usize) -> JoinHandle<(Client, Got)> {
    thread::spawn(move || {
        let got = read(&mut client, topics);
        (client, got)
    })
}

/// A reader that sets the pace: tells after each minute that it has it.
fn pacing(mut client: Client) -> (mpsc::Receiver<u64>, JoinHandle<(Client, Got)>) {
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut got = Got::default();
        while !got.has_last(SYMBOLS.len()) {
            got.take(&client.text());
            let _ = tell.send(got.updates);
        }
        (client, got)
    });
    (told, thread)
}

/// The samples that the books are made of.
#[derive(Debug)]
struct Books {
    received: u64,
    broadcast: u64,
    unwatched: u64,
    dropped: u64,
    due: u64,
    delivered: u64,
    conflated: u64,
    slow: u64,
    left: u64,
    unsubscribed: u64,
}

impl Books {
    fn of(gateway: &Running) -> Self {
        let text = get(gateway.address, "/metrics").body;
        let of = |name: &str| sample(&text, name).expect(name);
        let dropped = text
            .lines()
            .filter(|line| line.starts_with("barcast_dropped_messages_total{"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        Self {
            received: of("barcast_received_bars_total"),
            broadcast: of("barcast_broadcast_bars_total"),
            unwatched: of("barcast_unwatched_bars_total"),
            dropped: dropped.sum(),
            due: of("barcast_due_bars_total"),
            delivered: of("barcast_delivered_bars_total"),
            conflated: of("barcast_conflated_bars_total"),
            slow: of(r#"barcast_gapped_bars_total{reason="slow_client"}"#),
            left: of(r#"barcast_gapped_bars_total{reason="disconnected"}"#),
            unsubscribed: of("barcast_unsubscribed_bars_total"),
        }
    }

    fn pending(&self) -> u64 {
        self.due - self.delivered - self.conflated - self.slow - self.left - self.unsubscribed
    }
}

/// Counts the updates up to the end of the connection. The last frame may be cut: it was not delivered.
fn until_the_end(client: &mut Client) -> u64 {
    client.wire.widen();
    let mut bytes = Vec::new();
    client.wire.stream.read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.as_slice();
    let mut updates = 0;
    while let Some((frame, len)) = parse(rest) {
        let update = br#"{"type":"bars.update""#;
        updates += u64::from(frame.opcode == TEXT && frame.payload.starts_with(update));
        rest = &rest[len..];
    }
    updates
}

/// Reads all that is there now.
fn caught_up(client: &mut Client) -> u64 {
    let mut got = Got::default();
    for text in client.until_pong() {
        got.take(&text);
    }
    got.updates
}

/// The run: who is there, what is published meanwhile, and what the books must say.
fn run(bus: &impl Bus) {
    let gateway = Running::start(settings(), bus.clone());
    let mut feed = Feed::new(bus);
    let join = |topics: &[&str], wishes: &str| subscribed(gateway.client(), topics, wishes);
    let narrow = || subscribed(Client::connect_narrow(gateway.address), &["bars:*:1"], "");

    let (told, first) = pacing(join(&["bars:*:1"], ""));
    let all = reading(join(&["bars:*:1"], ""), 8);
    let some = reading(join(&["bars:A:1", "bars:B:1", "bars:C:1"], ""), 3);
    let rare = reading(join(&["bars:*:1"], r#","max_rate":0.001"#), 8);
    let often = reading(join(&["bars:A:1", "bars:B:1"], r#","max_rate":1000"#), 2);
    let (stopped, mut closed, mut left) = (narrow(), narrow(), narrow());
    let mut leavers = [
        join(&["bars:*:1"], ""),
        join(&["bars:*:1"], r#","max_rate":0.001"#),
        join(&["bars:D:1"], r#","max_rate":0.001"#),
    ];

    let metrics = &gateway.node.metrics;
    let mut minutes = 0;
    let mut round = |feed: &mut Feed<_>| {
        assert!(minutes < MOST_MINUTES, "the sockets never became full");
        feed.all(minute(minutes).iter().map(Candle::outgoing).collect());
        minutes += 1;
        let watched = minutes.unsigned_abs() * WATCHED;
        while told.recv_timeout(common::DEADLINE).unwrap() < watched {}
    };
    (0..20).for_each(|_| round(&mut feed));
    // Three leave in the middle: one with an update that waits, one after it unsubscribed from such.
    feed.all(SYMBOLS.map(|s| candle(s, 20, 100).outgoing()).into());
    feed.all(SYMBOLS.map(|s| candle(s, 20, 101).outgoing()).into());
    eventually_blocking("the first has them", || {
        told.try_iter().any(|n| n == 20 * WATCHED + 16)
    });
    let mut counted: u64 = leavers.iter_mut().map(caught_up).sum();
    // What waits for the third's turn it does not want any more: not lost, but not subscribed.
    leavers[2].ask(r#"{"type":"bars.unsubscribe","payload":{"symbol":"D"}}"#);
    eventually_blocking("not wanted", || metrics.unsubscribed.get() == 1);
    drop(leavers);
    while metrics.gapped(GAPPED_SLOW).get() < 500 {
        round(&mut feed);
    }
    // One goes while bars wait for it. What the kernel had of them still comes.
    left.wire.stream.shutdown(Shutdown::Write).unwrap();
    counted += until_the_end(&mut left);
    feed.raw("bars:A:1", "no bar");
    // Of the two that do not read, one asks for more than may wait; the other comes back.
    let names = SYMBOLS
        .map(|symbol| format!("\"bars:{symbol}:1\""))
        .join(",");
    let ask =
        format!(r#"{{"type":"bars.subscribe","payload":{{"topics":[{names}],"snapshot":1000}}}}"#);
    let asks = frame(TEXT, ask).repeat(200);
    let _ = closed.wire.stream.write_all(&asks);
    eventually_blocking("closed as slow", || metrics.closed(4503).get() == 1);
    let _ = closed.wire.stream.write_all(&close(4503, ""));
    counted += until_the_end(&mut closed);
    stopped.wire.widen();
    let stopped = reading(stopped, 8);
    (0..20).for_each(|_| round(&mut feed));
    feed.all(last().iter().map(Candle::outgoing).collect());

    let [first, all, some, rare, often, late] =
        [first, all, some, rare, often, stopped].map(|thread| thread.join().unwrap());
    // Those without a rate and in time got each bar.
    let watched = minutes.unsigned_abs() * WATCHED + 16 + 8;
    assert_eq!((first.1.updates, all.1.updates), (watched, watched));
    assert_eq!(some.1.updates, watched / 8 * 3);
    assert!(rare.1.updates < watched && late.1.updates < watched && late.1.gaps > 0);
    counted += [&first, &all, &some, &rare, &often, &late]
        .map(|(_, got)| got.updates)
        .iter()
        .sum::<u64>();
    drop((first, all, some, rare, often, late, closed, left));
    eventually_blocking("all have left", || gateway.node.clients() == 0);
    eventually_blocking("nothing is pending", || Books::of(&gateway).pending() == 0);
    let books = Books::of(&gateway);
    let unwatched = minutes.unsigned_abs() * WATCHED;
    assert_eq!(
        (books.received, books.dropped),
        (watched + unwatched, 1),
        "{books:?}"
    );
    assert_eq!(
        (books.broadcast, books.unwatched),
        (watched, unwatched),
        "{books:?}"
    );
    assert!(
        books.conflated > 0 && books.slow >= 500 && books.left > 0,
        "{books:?}"
    );
    assert_eq!(books.delivered, counted, "{books:?}");
}

fn settings() -> Config {
    let mut config = config();
    config.limits.outbox_bytes = 16 << 10;
    config.limits.slow_grace = Duration::from_secs(600);
    config
}

#[test]
fn the_books_of_a_run_on_redis() {
    run(&RedisServer::start().bus());
}

#[test]
fn the_books_of_a_run_in_process() {
    run(&MemoryBus::default());
}
