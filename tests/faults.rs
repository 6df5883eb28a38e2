//! What breaks around a gateway, with real processes and a real Redis: it stays, tells, and goes on.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;

use barcast::bus::{Bus, RedisBus};
use common::client::{CLOSE, Client, Wire, get, handshake, metric};
use common::gateway::{Candle, Feed, candle};
use common::process::{Process, Serve};
use common::{RedisServer, eventually_blocking};
use serde_json::Value;

type RedisFeed = Feed<<RedisBus as Bus>::Publisher>;

fn serve(redis: &RedisServer) -> (Serve, RedisFeed) {
    let serve = Serve::start(&redis.url(), &["--workers", "2"]);
    serve.until_ready();
    (serve, Feed::new(&redis.bus()))
}

fn subscribed(serve: &Serve, topics: &[&str]) -> Client {
    let mut client = serve.client();
    for topic in topics {
        client.subscribe(topic);
    }
    client
}

#[test]
fn a_generator_that_is_killed_costs_nobody_anything() {
    let redis = RedisServer::start();
    let (serve, _feed) = serve(&redis);
    let url = redis.url();
    let generate = || {
        Process::start(&[
            "generate",
            "--redis-url",
            &url,
            "--symbols",
            "AAPL",
            "--resolutions",
            "1S",
            "--interval",
            "0.02",
        ])
    };
    let mut client = subscribed(&serve, &["bars:AAPL:1S"]);
    let mut generator = generate();
    let first = client.json();
    assert_eq!(first["type"], "bars.update");
    generator.kill();
    // All that it had sent comes, then nothing, and nobody is closed.
    client.until_pong();
    assert_eq!(serve.readyz(), 200);
    let _again = generate();
    loop {
        let update = client.json();
        assert_eq!(update["type"], "bars.update", "{update}");
        if update["epoch"] != first["epoch"] {
            assert_eq!(update["seq"], 1);
            break;
        }
    }
}

fn gap(message: &Value) -> (&str, i64, i64) {
    assert_eq!(message["type"], "bars.gap", "{message}");
    let payload = &message["payload"];
    assert_eq!(payload["reason"], "upstream");
    (
        message["topic"].as_str().unwrap(),
        payload["from"].as_i64().unwrap(),
        payload["to"].as_i64().unwrap(),
    )
}

#[test]
fn a_redis_that_is_killed_and_comes_back_is_picked_up_again() {
    let mut redis = RedisServer::start();
    let (serve, mut feed) = serve(&redis);
    let mut client = subscribed(&serve, &["bars:PROVEN:1", "bars:HOLE:1", "bars:PLAIN:1"]);
    let before = [
        candle("PROVEN", 0, 1).seq(9, 1),
        candle("HOLE", 0, 1).seq(9, 1),
        candle("PLAIN", 0, 1),
    ];
    for bar in &before {
        feed.bar(bar);
        assert_eq!(client.text(), bar.update());
    }

    redis.kill();
    serve.until_not_ready();
    let body = get(serve.address, "/readyz").body;
    let expected = r#"{"ready":false,"bus_connected":false,"draining":false,"reason":"bus "#;
    assert!(body.starts_with(expected), "{body}");
    assert_eq!(metric(serve.address, "barcast_bus_connected"), 0);
    assert_eq!(get(serve.address, "/healthz").status, 200);
    assert!(
        client.until_pong().is_empty(),
        "the client stays, and is not bothered"
    );

    redis.restart();
    serve.until_ready();
    // An answer that took long to make may be shared for a second.
    eventually_blocking("the metrics say so", || {
        metric(serve.address, "barcast_bus_connected") == 1
    });
    assert_eq!(metric(serve.address, "barcast_bus_reconnects_total"), 1);
    // A topic without seq cannot prove anything: told at once, from its last bar on.
    let told = client.json();
    let (topic, from, to) = gap(&told);
    assert_eq!((topic, from), ("bars:PLAIN:1", before[2].time));
    assert!(to >= from);

    let mut feed: RedisFeed = {
        drop(feed);
        Feed::new(&redis.bus())
    };
    // The next in its epoch: nothing was missed. One too far: something was.
    let proven = candle("PROVEN", 1, 2).seq(9, 2);
    let hole = candle("HOLE", 5, 2).seq(9, 7);
    let plain = candle("PLAIN", 5, 2);
    for bar in [&proven, &hole, &plain] {
        feed.bar(bar);
    }
    assert_eq!(client.text(), proven.update());
    let told = client.json();
    assert_eq!(gap(&told), ("bars:HOLE:1", before[1].time, hole.time));
    assert_eq!(client.text(), hole.update());
    assert_eq!(client.text(), plain.update(), "told once");
    assert!(client.until_pong().is_empty());
    assert_eq!(metric(serve.address, "barcast_upstream_gaps_total"), 2);
}

/// Bars can be missed while the connection stands, too: another publisher's lost pipeline, a Redis
/// that failed over.
#[test]
fn a_hole_in_seq_is_told_whenever_it_shows() {
    let redis = RedisServer::start();
    let (serve, mut feed) = serve(&redis);
    let mut client = subscribed(&serve, &["bars:AAPL:1"]);
    let mut send = |client: &mut Client, bar: Candle, hole_from: Option<Candle>| {
        feed.bar(&bar);
        if let Some(from) = hole_from {
            let told = client.json();
            assert_eq!(gap(&told), ("bars:AAPL:1", from.time, bar.time));
        }
        assert_eq!(client.text(), bar.update());
        bar
    };
    send(&mut client, candle("AAPL", 0, 1).seq(1, 10), None);
    let last = send(&mut client, candle("AAPL", 0, 2).seq(1, 11), None);
    let last = send(&mut client, candle("AAPL", 3, 3).seq(1, 13), Some(last));
    // The same again, an older one, another run of the publisher, one that does not count: no hole.
    send(&mut client, candle("AAPL", 3, 4).seq(1, 13), None);
    send(&mut client, candle("AAPL", 3, 5).seq(1, 12), None);
    assert_eq!(last.seq, Some(13));
    send(&mut client, candle("AAPL", 4, 6).seq(2, 500), None);
    send(&mut client, candle("AAPL", 4, 7), None);
    let last = send(&mut client, candle("AAPL", 4, 8).seq(2, 1), None);
    send(&mut client, candle("AAPL", 4, 9).seq(2, 3), Some(last));
    assert_eq!(metric(serve.address, "barcast_upstream_gaps_total"), 2);
}

#[test]
fn a_redis_that_is_absent_at_start_is_waited_for() {
    let mut redis = RedisServer::absent();
    let serve = Serve::start(&redis.url(), &[]);
    assert_eq!(serve.readyz(), 503);
    assert_eq!(get(serve.address, "/healthz").status, 200);
    // Clients may come first.
    let mut client = subscribed(&serve, &["bars:AAPL:1"]);
    eventually_blocking("it says so", || {
        serve.process.log().contains("cannot be reached")
    });
    redis.restart();
    serve.until_ready();
    // Whatever was published meanwhile is not known here.
    let told = client.json();
    assert_eq!(gap(&told).0, "bars:AAPL:1");
    let bar = candle("AAPL", 0, 1);
    Feed::new(&redis.bus()).bar(&bar);
    assert_eq!(client.text(), bar.update());
    // Nothing was lost that anybody had.
    assert_eq!(metric(serve.address, "barcast_bus_reconnects_total"), 0);
}

/// A good message with one part replaced.
fn spoiled(from: &str, to: &str) -> String {
    let good = candle("AAPL", 0, 7).message();
    assert!(good.contains(from), "{from}");
    good.replacen(from, to, 1)
}

/// Single messages that are dropped, by reason.
fn malformed() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let topic = "bars:AAPL:1";
    let single = |reason, from, to| (topic, reason, spoiled(from, to).into_bytes());
    let good = || candle("AAPL", 0, 7).message().into_bytes();
    vec![
        (topic, "json", b"hello".to_vec()),
        (topic, "json", b"".to_vec()),
        (topic, "json", vec![0xff, 0xfe, 0]),
        (topic, "json", good()[..50].to_vec()),
        (topic, "json", "[".repeat(100_000).into_bytes()),
        (topic, "shape", b"[]".to_vec()),
        (topic, "shape", b"7".to_vec()),
        single("shape", "\"bar\":{", "\"bar\":7,\"x\":{"),
        single("field", "\"symbol\":\"AAPL\",", ""),
        single("field", "\"AAPL\"", "7"),
        single("field", "\"volume\":1", "\"volume\":\"1\""),
        single("field", ",\"volume\":1", ""),
        single("field", "\"open\":7", "\"open\":null"),
        single("symbol", "\"AAPL\"", "\"A B\""),
        single("symbol", "\"AAPL\"", "\"\""),
        single("resolution", "\"resolution\":\"1\"", "\"resolution\":\"7\""),
        single("bar", "\"low\":7", "\"low\":8"),
        single("bar", "\"high\":7", "\"high\":6"),
        single("bar", "\"volume\":1", "\"volume\":-1"),
        single("json", "\"open\":7", "\"open\":1e999"),
        single("bar", "\"time\":1697097600000", "\"time\":1697097600001"),
        single("disagrees", "\"AAPL\"", "\"MSFT\""),
        ("bars:AAPL:5", "disagrees", good()),
        ("bars:nonsense", "channel", good()),
        ("bars:AAPL:7", "channel", good()),
        ("bars:@other", "channel", good()),
        (topic, "too_large", vec![b' '; (16 << 20) + 1]),
    ]
}

/// What is malformed is told in the log, with the channel, at a bounded rate.
fn assert_told(log: &str) {
    let lines = log
        .lines()
        .filter(|line| line.contains("malformed message dropped"));
    let lines: Vec<_> = lines.collect();
    assert!(
        lines[0].contains("WARN") && lines[0].contains("bars:AAPL:1"),
        "{}",
        lines[0]
    );
    assert!(lines[0].contains("hello"), "{}", lines[0]);
    // Five of each channel and reason, fifty of all, in ten seconds.
    assert!(lines.len() <= 50, "{} lines", lines.len());
}

#[test]
fn malformed_messages_cost_no_good_one_and_are_counted_by_reason() {
    let redis = RedisServer::start();
    let (serve, mut feed) = serve(&redis);
    let mut client = subscribed(&serve, &["bars:*:*"]);
    let mut dropped: BTreeMap<&str, u64> = BTreeMap::new();
    let mut price = 0;
    let mut good = || {
        price += 1;
        candle("AAPL", 0, price)
    };

    for (channel, reason, payload) in malformed() {
        *dropped.entry(reason).or_default() += 1;
        feed.raw(channel, payload);
        let bar = good();
        feed.bar(&bar);
        assert_eq!(client.text(), bar.update(), "after {reason} on {channel}");
    }

    // Inside one batch, plain and compressed: wrong elements, and elements that are no JSON.
    let off_grid = spoiled("1697097600000", "1697097600001");
    let elements = [
        ("bar", off_grid.as_str()),
        ("shape", "[]"),
        ("json", r#"{"symbol":oops}"#),
        ("json", ""),
    ];
    for compress in [false, true] {
        for upto in 2..=elements.len() {
            let mut parts = Vec::new();
            let mut bars = Vec::new();
            for (reason, bad) in &elements[..upto] {
                *dropped.entry(reason).or_default() += 1;
                bars.push(good());
                parts.push(bars.last().unwrap().message());
                parts.push((*bad).to_owned());
            }
            bars.push(good());
            parts.push(bars.last().unwrap().message());
            let json = format!("[{}]", parts.join(",")).into_bytes();
            let payload = if compress {
                zstd::bulk::compress(&json, 1).unwrap()
            } else {
                json
            };
            feed.raw("bars:@batch", payload);
            for bar in bars {
                assert_eq!(client.text(), bar.update());
            }
        }
    }
    // Whole batches that are none.
    let whole = zstd::bulk::compress(b"[]", 1).unwrap();
    for (reason, payload) in [
        ("zstd", [&[0x28, 0xb5, 0x2f, 0xfd][..], b"garbage"].concat()),
        ("zstd", whole[..whole.len() - 1].to_vec()),
        ("shape", good().message().into_bytes()),
        ("shape", zstd::bulk::compress(b"7", 1).unwrap()),
        ("json", b"garbage".to_vec()),
    ] {
        *dropped.entry(reason).or_default() += 1;
        feed.raw("bars:@batch", payload);
    }
    let bar = good();
    feed.bar(&bar);
    assert_eq!(client.text(), bar.update());

    let text = get(serve.address, "/metrics").body;
    for (reason, count) in dropped {
        let name = format!(r#"barcast_dropped_messages_total{{reason="{reason}"}}"#);
        assert_eq!(
            common::client::sample(&text, &name),
            Some(count),
            "{reason}"
        );
    }
    assert_told(&serve.process.log());
}

#[test]
fn sigterm_drains_with_1001_and_says_so() {
    let redis = RedisServer::start();
    let (mut serve, _feed) = serve(&redis);
    let mut leaving = subscribed(&serve, &["bars:AAPL:1"]);
    let mut staying = subscribed(&serve, &["bars:AAPL:1"]);
    serve.process.terminate();
    assert_eq!(leaving.expect_close().0, 1001);
    // The other does not answer; until it is gone the gateway tells that it is on its way out.
    let ready = get(serve.address, "/readyz");
    assert_eq!(ready.status, 503);
    assert_eq!(
        ready.body,
        r#"{"ready":false,"bus_connected":true,"draining":true,"reason":"draining"}"#
    );
    let mut late = Wire::connect(serve.address);
    late.send(handshake());
    assert_eq!(late.answer().status, 503);
    let draining = r#"barcast_refused_clients_total{reason="draining"}"#;
    assert_eq!(metric(serve.address, draining), 1);
    let frame = staying.wire.frame().unwrap();
    assert_eq!(
        (frame.opcode, &frame.payload[..2]),
        (CLOSE, &1001_u16.to_be_bytes()[..])
    );
    drop(staying);
    assert_eq!(serve.process.exit_code(), Some(0));
    serve.process.until_logged("all clients have left");
    let log = serve.process.log();
    assert!(
        log.contains("draining") && log.contains("all clients have left"),
        "{log}"
    );
}

#[test]
fn a_drain_is_over_with_its_grace_period() {
    let redis = RedisServer::start();
    let mut serve = Serve::start(&redis.url(), &["--drain-grace", "0.2"]);
    let _staying = serve.client();
    serve.process.terminate();
    assert_eq!(serve.process.exit_code(), Some(0));
    serve.process.until_logged("clients were cut");
    let log = serve.process.log();
    assert!(
        log.contains("clients were cut") && log.contains("cut=1"),
        "{log}"
    );
}

#[test]
fn a_second_signal_ends_at_once() {
    let redis = RedisServer::start();
    let mut serve = Serve::start(&redis.url(), &["--drain-grace", "3600"]);
    let mut staying = serve.client();
    serve.process.terminate();
    assert_eq!(staying.wire.frame().unwrap().opcode, CLOSE);
    assert!(serve.process.is_running());
    serve.process.terminate();
    assert_eq!(serve.process.exit_code(), Some(130));
    serve.process.until_logged("ending at once");
}
