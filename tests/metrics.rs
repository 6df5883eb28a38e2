//! What a gateway tells of itself over HTTP.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::HashSet;

use common::client::{Wire, get, metric, sample};
use common::gateway::{candle, config, in_process};
use serde_json::json;

/// A sample's name, labels and value.
fn parts(line: &str) -> (&str, &str, f64) {
    let (name, value) = line.rsplit_once(' ').expect(line);
    let value = value
        .parse()
        .unwrap_or_else(|_| panic!("no number: {line}"));
    match name.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect(line), value),
        None => (name, "", value),
    }
}

fn is_name(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(rest)
}

/// Checks the rules of OpenMetrics text that a scraper relies on; tells the names of the families.
fn check(text: &str) -> Vec<String> {
    let lines = text.strip_suffix("# EOF\n").expect("ends with # EOF");
    let mut families: Vec<String> = Vec::new();
    let mut samples = HashSet::new();
    let (mut kind, mut helped) = ("", "");
    for line in lines.lines() {
        assert_ne!(line, "", "no empty lines");
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect(line);
            assert!(
                !families.iter().any(|family| family == name),
                "{name} comes twice"
            );
            let ours = name.starts_with("barcast_") || name.starts_with("process_");
            assert!(is_name(name) && ours, "{name}");
            // The encoder ends it with a point.
            assert!(
                help.len() > 5 && help.ends_with('.') && !help.ends_with(".."),
                "{line}"
            );
            families.push(name.to_owned());
            helped = name;
        } else if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, told) = told.split_once(' ').expect(line);
            assert_eq!(name, helped, "HELP and TYPE go together");
            assert!(["counter", "gauge", "histogram"].contains(&told), "{line}");
            kind = told;
        } else {
            assert!(!line.starts_with('#'), "{line}");
            let (name, labels, value) = parts(line);
            let suffix = name.strip_prefix(helped).expect(line);
            let allowed: &[&str] = match kind {
                "counter" => &["_total"],
                "gauge" => &[""],
                _ => &["_bucket", "_sum", "_count"],
            };
            assert!(allowed.contains(&suffix), "{line} of a {kind}");
            assert!(value >= 0.0, "{line}");
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once('=').expect(line);
                assert!(is_name(key) && value.len() > 2, "{line}");
                assert!(value.starts_with('"') && value.ends_with('"'), "{line}");
            }
            assert!(samples.insert((name, labels)), "{line} comes twice");
        }
    }
    families
}

#[test]
fn metrics_are_openmetrics_text() {
    let (gateway, mut feed) = in_process(config());
    let before = get(gateway.address, "/metrics");
    assert_eq!(before.status, 200);
    let kind = before.header("content-type").unwrap();
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    let families = check(&before.body);
    assert!(families.len() >= 19, "{families:?}");

    let mut client = gateway.client();
    client.subscribe("bars:AAPL:1");
    feed.bar(&candle("AAPL", 0, 1));
    client.text();
    feed.raw("bars:AAPL:1", "no bar");
    let unwatched = candle("MSFT", 0, 1);
    feed.bar(&unwatched);
    gateway.received(2);
    let after = get(gateway.address, "/metrics").body;
    // Every label was there from the start, but for topics: a rate has a beginning.
    assert_eq!(check(&after), families);
    for (name, value) in [
        ("barcast_received_bars_total", 2),
        ("barcast_broadcast_bars_total", 1),
        ("barcast_due_bars_total", 1),
        ("barcast_delivered_bars_total", 1),
        ("barcast_conflated_bars_total", 0),
        (r#"barcast_gapped_bars_total{reason="slow_client"}"#, 0),
        (r#"barcast_gapped_bars_total{reason="disconnected"}"#, 0),
        (r#"barcast_dropped_messages_total{reason="json"}"#, 1),
        (r#"barcast_closed_clients_total{code="4503"}"#, 0),
        ("barcast_clients", 1),
        ("barcast_max_clients", 100_000),
        ("barcast_ready", 1),
        ("barcast_draining", 0),
        ("barcast_accepted_clients_total", 1),
        ("barcast_bus_connected", 1),
        ("barcast_bus_reconnects_total", 0),
        ("barcast_topics", 2),
        (r#"barcast_topic_subscribers{topic="bars:AAPL:1"}"#, 1),
        (r#"barcast_topic_subscribers{topic="others"}"#, 0),
    ] {
        assert_eq!(sample(&after, name), Some(value), "{name}");
    }
    let labels = |text: &str| {
        let lines = text.lines().filter(|line| !line.contains("topic="));
        lines.filter(|line| !line.starts_with('#')).count()
    };
    assert_eq!(labels(&before.body), labels(&after));
}

#[test]
fn the_lag_from_publish_to_send_is_a_histogram() {
    let (gateway, mut feed) = in_process(config());
    let mut client = gateway.client();
    client.subscribe("bars:AAPL:1");
    let bar = candle("AAPL", 0, 1).message();
    let now = barcast::clock::now_us();
    let stamped = bar.strip_suffix('}').unwrap();
    feed.raw(
        "bars:AAPL:1",
        format!("{stamped},\"ts\":{}}}", now - 3_000_000),
    );
    feed.raw("bars:AAPL:1", bar);
    client.text();
    client.text();
    common::eventually_blocking("observed", || {
        metric(gateway.address, "barcast_lag_seconds_count") == 1
    });
    let text = get(gateway.address, "/metrics").body;
    assert_eq!(
        sample(&text, r#"barcast_lag_seconds_bucket{le="2.5"}"#),
        Some(0)
    );
    assert_eq!(
        sample(&text, r#"barcast_lag_seconds_bucket{le="+Inf"}"#),
        Some(1)
    );
}

/// However many topics there are, the metric has a bounded number of labels.
#[test]
fn only_the_most_watched_topics_are_named() {
    let (gateway, mut feed) = in_process(config());
    for n in 0..120 {
        feed.bar(&candle(format!("T{n}").leak(), 0, 1));
    }
    gateway.received(120);
    let topics = |range: std::ops::Range<u32>| {
        let names: Vec<_> = range.map(|n| format!("\"bars:T{n}:1\"")).collect();
        format!(
            r#"{{"type":"bars.subscribe","payload":{{"topics":[{}]}}}}"#,
            names.join(",")
        )
    };
    let mut one = gateway.client();
    one.ask(&topics(0..120));
    let mut other = gateway.client();
    other.ask(&topics(110..120));
    let text = get(gateway.address, "/metrics").body;
    check(&text);
    let named = text
        .lines()
        .filter(|line| line.contains("topic=\"bars:"))
        .count();
    assert_eq!(named, barcast::metrics::MAX_LABELLED_TOPICS);
    for n in 110..120 {
        let name = format!(r#"barcast_topic_subscribers{{topic="bars:T{n}:1"}}"#);
        assert_eq!(sample(&text, &name), Some(2));
    }
    assert_eq!(
        sample(&text, r#"barcast_topic_subscribers{topic="others"}"#),
        Some(20)
    );
    assert_eq!(sample(&text, "barcast_topics"), Some(120));
}

#[test]
fn topics_are_listed_with_subscribers_and_last_bar() {
    let (gateway, mut feed) = in_process(config());
    let empty = get(gateway.address, "/api/v1/topics");
    assert_eq!(empty.header("content-type"), Some("application/json"));
    assert_eq!(empty.body, r#"{"total":0,"topics":[],"next":null}"#);
    let bar = candle("MSFT", 0, 1).closed();
    feed.bar(&bar);
    feed.bar(&bar);
    gateway.received(2);
    let mut client = gateway.client();
    client.subscribe("bars:AAPL:D");
    client.subscribe("bars:MSFT:1");
    let body = get(gateway.address, "/api/v1/topics").body;
    let listed: serde_json::Value = serde_json::from_str(&body).unwrap();
    let last: serde_json::Value = serde_json::from_str(&bar.json()).unwrap();
    // The other is a name as yet.
    let expected = json!({"total": 1, "topics": [
        {"topic": "bars:MSFT:1", "symbol": "MSFT", "resolution": "1", "subscribers": 1, "last": last, "messages": 2},
    ], "next": null});
    assert_eq!(listed, expected);
}

/// Page by page, every topic is reached once.
#[test]
fn all_topics_are_reached_by_pages() {
    let (gateway, mut feed) = in_process(config());
    for n in 0..25 {
        feed.bar(&candle(format!("P{n}").leak(), 0, 1));
    }
    gateway.received(25);
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/topics?limit=10{after}");
        let body = get(gateway.address, &path).body;
        let page: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(page["total"], 25);
        let topics = page["topics"].as_array().unwrap();
        assert!(topics.len() <= 10);
        names.extend(
            topics
                .iter()
                .map(|t| t["topic"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 25);
    let wrong = get(gateway.address, "/api/v1/topics?limit=0");
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.contains("\"0\""), "{}", wrong.body);
}

#[test]
fn probes_answer() {
    let (gateway, _feed) = in_process(config());
    let alive = get(gateway.address, "/healthz");
    assert_eq!(
        (alive.status, alive.body.as_str()),
        (200, r#"{"status":"ok"}"#)
    );
    let ready = get(gateway.address, "/readyz");
    assert_eq!(ready.status, 200);
    assert_eq!(
        ready.body,
        r#"{"ready":true,"bus_connected":true,"draining":false}"#
    );
    for path in ["/healthz", "/readyz", "/metrics", "/api/v1/topics"] {
        let mut wire = Wire::connect(gateway.address);
        wire.send(format!(
            "HEAD {path} HTTP/1.1\r\nHost: barcast.test\r\n\r\n"
        ));
        assert_eq!(wire.head().status, 200);
        wire.send(format!(
            "POST {path} HTTP/1.1\r\nHost: barcast.test\r\nContent-Length: 0\r\n\r\n"
        ));
        let answer = wire.answer();
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("GET, HEAD"))
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}

/// The values of a family's samples.
fn family(text: &str, name: &str) -> Vec<f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let parts = samples.map(parts).filter(|sample| sample.0 == name);
    parts.map(|sample| sample.2).collect()
}

#[test]
fn every_worker_tells_its_load() {
    let (gateway, mut feed) = in_process(config());
    let load = |name: &str| family(&get(gateway.address, "/metrics").body, name);
    let in_all = || load("barcast_worker_clients").iter().sum::<f64>();
    let mut clients: Vec<_> = (0..6).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.subscribe("bars:AAPL:1");
    }
    assert_eq!(load("barcast_worker_clients").len(), 2);
    assert!((in_all() - 6.0).abs() < f64::EPSILON, "{}", in_all());
    let before = load("barcast_worker_busy_seconds_total");
    assert_eq!(before.len(), 2);
    feed.bar(&candle("AAPL", 0, 1));
    for client in &mut clients {
        client.text();
    }
    // A batch goes to every worker, so none of them can have slept all the time.
    common::eventually_blocking("both were busy", || {
        let now = load("barcast_worker_busy_seconds_total");
        now.iter().zip(&before).all(|(now, before)| now > before)
    });
    common::eventually_blocking("all is taken up", || {
        load("barcast_worker_waiting_bytes") == [0.0, 0.0]
    });
    drop(clients);
    common::eventually_blocking("all have left", || in_all() == 0.0);
}

#[test]
fn the_process_tells_what_it_uses() {
    let (gateway, _feed) = in_process(config());
    let text = get(gateway.address, "/metrics").body;
    let one = |text: &str, name: &str| match family(text, name).as_slice() {
        [value] => *value,
        values => panic!("{name}: {values:?}"),
    };
    // The pages of the smallest process take more than a megabyte.
    assert!(one(&text, "process_resident_memory_bytes") > 1e6);
    let now = barcast::clock::now_us() / 1_000_000;
    let started = one(&text, "process_start_time_seconds");
    assert!((1.0..=f64::from(u32::try_from(now).unwrap()) + 60.0).contains(&started));
    let open = one(&text, "process_open_fds");
    assert!(open >= 3.0 && open < one(&text, "process_max_fds"));
    let clients: Vec<_> = (0..10).map(|_| gateway.client()).collect();
    let more = get(gateway.address, "/metrics").body;
    assert!(one(&more, "process_open_fds") >= open + 10.0);
    drop(clients);
    common::eventually_blocking("the processor's time is counted", || {
        one(
            &get(gateway.address, "/metrics").body,
            "process_cpu_seconds_total",
        ) > 0.0
    });
    assert_eq!(
        sample(
            &text,
            concat!(
                "barcast_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"}"
            )
        ),
        Some(1)
    );
}
