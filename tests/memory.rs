//! The past of topics: within its bound, and behind readiness where the store is large.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barcast::bar::Bar;
use barcast::bus::{Bus, RedisBus, Sink};
use barcast::gateway::Config;
use common::client::get;
use common::gateway::{Candle, Feed, MINUTE, Running, START, candle, config, in_process};
use common::{RedisServer, eventually_blocking};
use tokio_util::sync::CancellationToken;

const SYMBOLS: [&str; 8] = ["A", "B", "C", "D", "E", "F", "G", "H"];

/// What a sink was told of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Stored(String),
    Reachable,
    Loaded,
    Connected,
}

/// A bus whose past takes long to take in, as a large one does.
#[derive(Clone)]
struct Slow {
    bus: RedisBus,
    told: Arc<Mutex<Vec<Told>>>,
    /// For each bar behind the newest message of each topic.
    wait: Duration,
}

struct SlowSink<S> {
    sink: S,
    slow: Slow,
}

impl<S> SlowSink<S> {
    fn told(&self, told: Told) -> usize {
        let mut all = self.slow.told.lock().unwrap();
        all.push(told);
        all.len()
    }
}

impl<S: Sink> Sink for SlowSink<S> {
    fn connected(&mut self) {
        self.told(Told::Connected);
        self.sink.connected();
    }
    fn lost(&mut self, why: &str) {
        self.sink.lost(why);
    }
    fn message(&mut self, channel: &str, payload: &[u8]) {
        self.sink.message(channel, payload);
    }
    fn flush(&mut self) {
        self.sink.flush();
    }
    fn loading(&mut self) {
        self.sink.loading();
    }
    fn stored(&mut self, topic: &str, payload: &[u8]) {
        if self.told(Told::Stored(topic.to_owned())) > SYMBOLS.len() {
            std::thread::sleep(self.slow.wait);
        }
        self.sink.stored(topic, payload);
    }
    fn reachable(&mut self) {
        self.told(Told::Reachable);
        self.sink.reachable();
    }
    fn loaded(&mut self) {
        self.told(Told::Loaded);
        self.sink.loaded();
    }
    fn unloaded(&mut self, why: &str) {
        self.sink.unloaded(why);
    }
}

impl Bus for Slow {
    type Publisher = <RedisBus as Bus>::Publisher;
    fn publisher(&self) -> Self::Publisher {
        self.bus.publisher()
    }
    async fn subscribe<S: Sink>(self, sink: S, stop: CancellationToken) {
        let slow = self.clone();
        self.bus.subscribe(SlowSink { sink, slow }, stop).await;
    }
    fn address(&self) -> String {
        self.bus.address()
    }
}

/// A store with three bars of each symbol, the newest of which is forming.
fn filled() -> (RedisServer, Slow) {
    let server = RedisServer::start();
    let mut feed = Feed::new(&server.bus().keeping(9));
    for symbol in SYMBOLS {
        let bars = [0, 1].map(|m| candle(symbol, m, 10).closed());
        assert_eq!(feed.keep(&bars), None);
        assert_eq!(feed.keep(&[candle(symbol, 2, 12)]), None);
    }
    let slow = Slow {
        // So many bars that each topic is read by itself.
        bus: server.bus().loading(100, 10_000),
        told: Arc::default(),
        wait: Duration::from_millis(400),
    };
    (server, slow)
}

#[test]
fn a_large_past_comes_behind_readiness_and_its_watchers_are_told() {
    let (server, slow) = filled();
    let gateway = Running::start(config(), slow.clone());
    let told = || slow.told.lock().unwrap().clone();
    let before = told();
    assert!(before.contains(&Told::Reachable), "{before:?}");
    assert!(!before.contains(&Told::Loaded), "{before:?}");
    let mut newest: Vec<_> = before[..SYMBOLS.len()].to_vec();
    newest.sort_by_key(|told| format!("{told:?}"));
    let all = SYMBOLS.map(|symbol| Told::Stored(format!("bars:{symbol}:1")));
    assert_eq!(newest, all, "the newest of every topic first");
    assert_eq!(get(gateway.address, "/readyz").status, 200);

    // A topic whose past is not read yet.
    let late = SYMBOLS
        .into_iter()
        .find(|symbol| {
            let topic = format!("bars:{symbol}:1").parse().unwrap();
            let entry = gateway.node.registry.get(&topic).unwrap();
            let count = entry.lock().history.count();
            count == 1
        })
        .unwrap();
    let mut client = gateway.client();
    client.ask(&format!(
        r#"{{"type":"bars.subscribe","payload":{{"topics":["bars:{late}:1"],"snapshot":9}}}}"#
    ));
    let snapshot = |bars: &[Candle]| {
        let bars: Vec<_> = bars.iter().map(Candle::json).collect();
        format!(
            r#"{{"type":"bars.snapshot","topic":"bars:{late}:1","payload":{{"bars":[{}]}}}}"#,
            bars.join(",")
        )
    };
    assert_eq!(client.text(), snapshot(&[candle(late, 2, 12)]));
    // Bars flow meanwhile, and stay beside what the store has.
    let live = candle(late, 2, 13);
    Feed::new(&server.bus()).bar(&live);
    assert_eq!(client.text(), live.update());
    let gap = client.json();
    assert_eq!(gap["type"], "bars.gap");
    assert_eq!(gap["payload"]["from"], START);
    client.ask(&format!(
        r#"{{"type":"bars.subscribe","payload":{{"topics":["bars:{late}:1"],"since":{START}}}}}"#
    ));
    let past = [0, 1].map(|m| candle(late, m, 10).closed());
    assert_eq!(client.text(), snapshot(&[past[0], past[1], live]));
    let after = told();
    assert_eq!(after.last(), Some(&Told::Loaded));
    assert!(!after.contains(&Told::Connected), "{after:?}");
}

#[test]
fn a_small_past_is_there_when_the_gateway_is_ready() {
    let (_server, mut slow) = filled();
    slow.wait = Duration::ZERO;
    let gateway = Running::start(config(), slow.clone());
    let told = slow.told.lock().unwrap().clone();
    assert_eq!(told.last(), Some(&Told::Connected));
    assert!(!told.contains(&Told::Reachable), "{told:?}");
    assert_eq!(gateway.node.metrics.stored.get(), 8 * 3);
}

/// Bars of all histories, the fewest of one topic, and the latest beginning of one.
fn kept(gateway: &Running) -> (usize, usize, i64) {
    let (mut all, mut least, mut begin) = (0, usize::MAX, i64::MIN);
    gateway.node.registry.each(|entry| {
        let history = &entry.lock().history;
        all += history.count();
        least = least.min(history.count());
        begin = begin.max(history.known_from().unwrap_or(i64::MIN));
    });
    (all, least, begin)
}

#[test]
fn all_histories_stay_within_their_bound_and_keep_the_newest_bar() {
    const BARS: usize = 200;
    let history_bytes = 8 * BARS / 4 * size_of::<Bar>();
    let (gateway, mut feed) = in_process(Config {
        history_bytes,
        ..config()
    });
    for minute in 0..200 {
        let bars = SYMBOLS.map(|symbol| candle(symbol, minute, 10).closed());
        feed.all(bars.iter().map(Candle::outgoing).collect());
    }
    gateway.received(8 * 200);
    eventually_blocking("the metric", || {
        let bytes = usize::try_from(gateway.node.metrics.history_bytes.get()).unwrap();
        bytes > 0 && bytes <= history_bytes
    });
    let (all, least, begin) = kept(&gateway);
    assert!(all * size_of::<Bar>() <= history_bytes, "{all} bars");
    // Nobody lost all while others keep much.
    assert!(least > 10, "{least} bars of a topic, {all} of all");
    assert!(begin > START, "what is known begins later");
    for symbol in SYMBOLS {
        let topic = format!("bars:{symbol}:1").parse().unwrap();
        let entry = gateway.node.registry.get(&topic).unwrap();
        let state = entry.lock();
        let times: Vec<_> = state.history.newest(999).map(Bar::time).collect();
        assert_eq!(times.last(), Some(&(START + 199 * MINUTE)));
        assert!(times.windows(2).all(|two| two[1] - two[0] == MINUTE));
    }
}

#[test]
fn the_newest_bar_stays_where_nothing_else_has_room() {
    let (gateway, mut feed) = in_process(Config {
        history_bytes: 1,
        ..config()
    });
    for minute in 0..9 {
        let bars = SYMBOLS.map(|symbol| candle(symbol, minute, 10).closed());
        feed.all(bars.iter().map(Candle::outgoing).collect());
    }
    gateway.received(8 * 9);
    eventually_blocking("trimmed", || kept(&gateway).0 == 8);
    assert_eq!(kept(&gateway).2, START + 8 * MINUTE);
}

#[test]
fn a_past_without_room_is_left_in_the_store_and_told() {
    let (server, _) = filled();
    let config = Config {
        history_bytes: 1,
        ..config()
    };
    let gateway = Running::start(config, server.bus().loading(100, 9));
    assert_eq!(kept(&gateway), (8, 1, START + 2 * MINUTE));
    assert_eq!(gateway.node.metrics.store_failures.get(), 1);
}

/// Run by hand in release: `cargo test --release --test memory -- --ignored --nocapture`.
#[test]
#[ignore = "a store of gigabytes"]
fn readiness_does_not_wait_for_many_bars() {
    const TOPICS: usize = 100_000;
    for bars in [20, 100] {
        let server = RedisServer::start();
        for part in 0..TOPICS / 1_000 {
            let script = format!(
                r#"EVAL "for t={from},{to} do local s='S'..t local last for b=0,{bars}-1 do local time=string.format('%d',{START}+b*{MINUTE}) last='{{\"symbol\":\"'..s..'\",\"resolution\":\"1\",\"bar\":{{\"time\":'..time..',\"open\":1,\"high\":1,\"low\":1,\"close\":1,\"volume\":1,\"closed\":true}}}}' redis.call('ZADD','barcast:history:bars:'..s..':1',time,last) end redis.call('HSET','barcast:last','bars:'..s..':1',last) end return 1" 0"#,
                from = part * 1_000,
                to = part * 1_000 + 999,
            );
            assert!(server.command(&script).starts_with(":1"));
        }
        let begin = Instant::now();
        let gateway = Running::begin(config(), server.bus().loading(TOPICS, 1_000));
        while !gateway.node.bus.is_connected() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let ready = begin.elapsed();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find(|line| line.starts_with("VmRSS"));
        println!("{bars} bars: ready after {ready:?}, {rss:?}");
        assert!(ready < Duration::from_secs(10), "{ready:?}");
        assert_eq!(gateway.node.registry.len(), TOPICS);
        let wanted = (TOPICS * bars) as u64;
        while gateway.node.metrics.stored.get() < wanted && begin.elapsed().as_secs() < 300 {
            std::thread::sleep(Duration::from_millis(100));
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find(|line| line.starts_with("VmRSS"));
        let stored = gateway.node.metrics.stored.get();
        println!("{stored} read after {:?}, {rss:?}", begin.elapsed());
    }
}
