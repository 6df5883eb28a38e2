//! Bars that outlive gateways and publishers: what is stored in Redis, and what a gateway makes of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use barcast::bus::RedisBus;
use barcast::gateway::Config;
use common::RedisServer;
use common::client::get;
use common::gateway::{Candle, Feed, MINUTE, Running, START, candle, config};
use common::process::{Serve, output};

/// Reads up to so many bars of each topic.
fn loading(server: &RedisServer) -> RedisBus {
    let config = config();
    server
        .bus()
        .loading(config.limits.max_topics, config.history_bars)
}

/// What the first client is shown that asks for everything.
fn snapshot(gateway: &Running, topic: &str) -> String {
    let mut client = gateway.client();
    client.ask(&format!(
        r#"{{"type":"bars.subscribe","payload":{{"topics":["{topic}"],"snapshot":9000}}}}"#
    ));
    client.text()
}

fn snapshot_of(bars: &[Candle]) -> String {
    let json: Vec<_> = bars.iter().map(Candle::json).collect();
    format!(
        r#"{{"type":"bars.snapshot","topic":"{}","payload":{{"bars":[{}]}}}}"#,
        bars[0].topic(),
        json.join(",")
    )
}

/// A number that a command answers.
fn number(server: &RedisServer, command: &str) -> u64 {
    let answer = server.command(command);
    let number = answer.strip_prefix(':').and_then(|a| a.lines().next());
    number.expect(&answer).parse().unwrap()
}

fn closed_minutes(count: i64) -> Vec<Candle> {
    let minutes = 0..count;
    minutes
        .map(|m| candle("A", m, 10 + m.unsigned_abs()).closed())
        .collect()
}

#[test]
fn a_gateway_answers_with_a_past_it_never_saw() {
    let server = RedisServer::start();
    let mut bars = closed_minutes(5);
    bars.push(candle("A", 5, 99));
    {
        let mut feed = Feed::new(&server.bus().keeping(1_000));
        // In two parts, of which the second revises a bar of the first.
        assert_eq!(feed.keep(&bars[..3]), None);
        bars[1].price = 77;
        assert_eq!(feed.keep(&[bars[3], bars[1], bars[4], bars[5]]), None);
    }
    // Everything but Redis is started anew, twice.
    for _ in 0..2 {
        let gateway = Running::start(config(), loading(&server));
        assert_eq!(snapshot(&gateway, "bars:A:1"), snapshot_of(&bars));
        let mut client = gateway.client();
        let since = bars[4].time;
        client.ask(&format!(
            r#"{{"type":"bars.subscribe","payload":{{"topics":["bars:A:1"],"since":{since}}}}}"#
        ));
        assert_eq!(client.text(), snapshot_of(&bars[4..]));
        let (from, to) = (START / 1_000, (START + 9 * MINUTE) / 1_000);
        let path = format!("/udf/history?symbol=A&resolution=1&from={from}&to={to}");
        let history = get(gateway.address, &path).body;
        assert!(history.contains(r#""c":[10,77,12,13,14,99]"#), "{history}");
        assert_eq!(gateway.node.metrics.stored.get(), 6);
        // And goes on live.
        let next = candle("A", 6, 100);
        Feed::new(&server.bus()).bar(&next);
        assert_eq!(client.text(), next.update());
    }
}

#[test]
fn without_the_store_there_is_no_past() {
    let server = RedisServer::start();
    let bars = closed_minutes(3);
    Feed::new(&server.bus()).keep(&bars);
    assert_eq!(number(&server, "DBSIZE"), 0, "kept by nobody");
    Feed::new(&server.bus().keeping(9)).keep(&bars);
    let gateway = Running::start(config(), server.bus());
    assert_eq!(gateway.node.registry.len(), 0);
}

#[test]
fn the_newest_message_stays_when_an_older_bar_is_revised() {
    let server = RedisServer::start();
    let last = || server.command("HGET barcast:last bars:A:1");
    let bus = server.bus().keeping(2);
    let mut feed = Feed::new(&bus);
    feed.keep(&closed_minutes(4));
    assert!(last().contains(&candle("A", 3, 13).closed().message()));
    feed.keep(&[candle("A", 2, 50).closed()]);
    // Also by a publisher that did not write it.
    Feed::new(&bus).keep(&[candle("A", 2, 51).closed()]);
    assert!(last().contains(&candle("A", 3, 13).closed().message()));
    feed.keep(&[candle("A", 3, 14)]);
    assert!(last().contains(&candle("A", 3, 14).message()), "{}", last());
    // Two are kept, each once.
    let key = "barcast:history:bars:A:1";
    let kept = server.command(&format!("ZRANGE {key} 0 -1 WITHSCORES"));
    for bar in [candle("A", 2, 51), candle("A", 3, 13)] {
        let message = bar.closed().message();
        assert_eq!(kept.matches(&message).count(), 1, "{kept}");
    }
    assert_eq!(number(&server, &format!("ZCARD {key}")), 2);
}

#[test]
fn a_replay_may_be_repeated_and_is_trimmed() {
    let server = RedisServer::start();
    let url = server.url();
    let replay = |more: &[&str]| {
        let mut arguments = vec!["replay", "tests/data/GOOG_D.csv", "--speed", "max"];
        arguments.extend(["--redis-url", &url]);
        arguments.extend(more);
        let output = output(&arguments, &[]);
        assert!(output.status.success(), "{output:?}");
    };
    let count = || number(&server, "ZCARD barcast:history:bars:GOOG:D");
    replay(&["--store", "none"]);
    assert_eq!(number(&server, "DBSIZE"), 0);
    replay(&[]);
    assert_eq!(count(), 400);
    replay(&["--publish", "batch", "--compress", "zstd"]);
    assert_eq!(count(), 400);
    assert_eq!(number(&server, "HLEN barcast:last"), 1);

    let gateway = Serve::start(&url, &[]);
    gateway.until_ready();
    let mut client = gateway.client();
    client.ask(r#"{"type":"bars.subscribe","payload":{"topics":["bars:GOOG:D"],"snapshot":9000}}"#);
    let bars = client.json()["payload"]["bars"].as_array().unwrap().clone();
    assert_eq!(bars.len(), 400);
    let none = Serve::start(&url, &["--store", "none"]);
    none.until_ready();
    let topics = get(none.address, "/api/v1/topics").body;
    assert!(!topics.contains("GOOG"), "{topics}");

    replay(&["--store-bars", "30"]);
    assert_eq!(count(), 30);
}

#[test]
fn a_broken_store_is_told_and_harms_nothing() {
    let server = RedisServer::start();
    server.command("SET barcast:history:bars:A:1 broken");
    let mut feed = Feed::new(&server.bus().keeping(9));
    let other = Candle {
        symbol: "B",
        ..candle("A", 0, 1).closed()
    };
    let refused = feed.keep(&[closed_minutes(1)[0], other]).unwrap();
    assert_eq!(refused.messages, 1);
    assert!(refused.why.contains("WRONGTYPE"), "{refused:?}");

    // One topic lacks its past, the others have it, and bars flow.
    let gateway = Running::start(config(), loading(&server));
    assert_eq!(snapshot(&gateway, "bars:B:1"), snapshot_of(&[other]));
    assert_eq!(gateway.node.metrics.store_failures.get(), 0);
    let gap = snapshot(&gateway, "bars:A:1");
    assert!(gap.contains("bars.gap"), "{gap}");
    assert!(gateway.node.metrics.store_failures.get() >= 1);
    drop(gateway);

    server.command("SET barcast:last broken");
    let refused = feed.keep(&[candle("A", 1, 1), other]).unwrap();
    assert_eq!(refused.messages, 2, "{refused:?}");
    let gateway = Running::start(config(), loading(&server));
    assert!(gateway.node.metrics.store_failures.get() >= 1);
    assert_eq!(gateway.node.registry.len(), 0);
    let mut client = gateway.client();
    client.subscribe("bars:A:1");
    let next = candle("A", 2, 5);
    feed.keep(&[next]);
    assert_eq!(client.text(), next.update());
}

#[test]
fn what_is_malformed_in_the_store_is_counted_and_left_out() {
    let server = RedisServer::start();
    let bars = closed_minutes(2);
    Feed::new(&server.bus().keeping(9)).keep(&bars);
    server.command("ZADD barcast:history:bars:A:1 5 nonsense");
    server.command("HSET barcast:last nonsense 1");
    let gateway = Running::start(config(), loading(&server));
    assert_eq!(snapshot(&gateway, "bars:A:1"), snapshot_of(&bars));
    assert_eq!(gateway.node.metrics.dropped("json").get(), 1);
    assert_eq!(gateway.node.metrics.dropped("channel").get(), 1);
}

#[test]
fn a_gateway_reads_no_more_than_it_may_hold() {
    let server = RedisServer::start();
    let mut feed = Feed::new(&server.bus().keeping(50));
    for symbol in ["A", "B", "C", "D"] {
        let bars: Vec<_> = closed_minutes(40)
            .into_iter()
            .map(|bar| Candle { symbol, ..bar })
            .collect();
        feed.keep(&bars);
    }
    let gateway = Running::start(
        Config {
            history_bars: 3,
            ..config()
        },
        server.bus().loading(2, 3),
    );
    assert_eq!(gateway.node.registry.len(), 2);
    for entry in gateway.node.registry.all() {
        snapshot(&gateway, &entry.topic.to_string());
    }
    assert_eq!(gateway.node.metrics.stored.get(), 6);
    for entry in gateway.node.registry.all() {
        assert_eq!(entry.lock().history.newest(99).count(), 3);
    }
}
