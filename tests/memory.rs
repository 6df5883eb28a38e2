//! The past of topics: within its bound, and left in the store until it is asked for.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::time::{Duration, Instant};

use barcast::bar::Bar;
use barcast::gateway::Config;
use common::gateway::{Candle, Feed, MINUTE, Running, START, candle, config, in_process};
use common::{RedisServer, eventually_blocking};

const SYMBOLS: [&str; 8] = ["A", "B", "C", "D", "E", "F", "G", "H"];

/// A store with three bars of each symbol, the newest of which is forming.
fn filled() -> RedisServer {
    let server = RedisServer::start();
    let mut feed = Feed::new(&server.bus().keeping(9));
    for symbol in SYMBOLS {
        let bars = [0, 1].map(|m| candle(symbol, m, 10).closed());
        assert_eq!(feed.keep(&bars), None);
        assert_eq!(feed.keep(&[candle(symbol, 2, 12)]), None);
    }
    server
}

/// What a client is answered that asks for some bars of a topic.
fn ask(gateway: &Running, symbol: &str, wish: &str) -> Vec<String> {
    let mut client = gateway.client();
    client.ask(&format!(
        r#"{{"type":"bars.subscribe","payload":{{"topics":["bars:{symbol}:1"],{wish}}}}}"#
    ));
    client.until_pong()
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
    let server = filled();
    let config = Config {
        history_bytes: 1,
        ..config()
    };
    let gateway = Running::start(config, server.bus().loading(100, 9));
    assert_eq!(kept(&gateway), (8, 1, START + 2 * MINUTE));
    let told = ask(&gateway, "A", r#""snapshot":3"#);
    assert!(told[0].contains("bars.gap"), "{told:?}");
    assert!(told[0].contains(&START.to_string()), "{told:?}");
    assert!(told[1].contains(&candle("A", 2, 12).json()), "{told:?}");
    assert_eq!(gateway.node.metrics.store_failures.get(), 1);
}

#[test]
fn what_nobody_asked_for_longest_goes_back_to_the_store_and_can_be_asked_for_again() {
    const BARS: i64 = 40;
    let server = RedisServer::start();
    let mut feed = Feed::new(&server.bus().keeping(100));
    for symbol in SYMBOLS {
        let bars: Vec<_> = (0..BARS).map(|m| candle(symbol, m, 10).closed()).collect();
        assert_eq!(feed.keep(&bars), None);
    }
    // Room for five of eight.
    let config = Config {
        history_bytes: 5 * 40 * size_of::<Bar>(),
        ..config()
    };
    let limit = i64::try_from(config.history_bytes).unwrap();
    let gateway = Running::start(config, server.bus().loading(100, 100));
    for _ in 0..2 {
        for symbol in SYMBOLS {
            let told = ask(&gateway, symbol, &format!(r#""since":{START}"#));
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!(told[0].matches(r#""time""#).count(), 40, "{told:?}");
            assert!(gateway.node.metrics.history_bytes.get() <= limit);
        }
    }
    let count = |symbol: &str| {
        let topic = format!("bars:{symbol}:1").parse().unwrap();
        let entry = gateway.node.registry.get(&topic).unwrap();
        entry.lock().history.count()
    };
    assert_eq!((count("A"), count("H")), (1, 40));
    // And not back to the store what it never had.
    assert_eq!(gateway.node.metrics.store_failures.get(), 0);
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
        let begin = Instant::now();
        let told = ask(&gateway, "S77777", &format!(r#""since":{START}"#));
        println!("{bars} bars asked for: there after {:?}", begin.elapsed());
        assert_eq!(told[0].matches(r#""time""#).count(), bars);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find(|line| line.starts_with("VmRSS"));
        let stored = gateway.node.metrics.stored.get();
        println!("{stored} read, {rss:?}");
        assert_eq!(stored, (TOPICS + bars - 1) as u64);
    }
}
