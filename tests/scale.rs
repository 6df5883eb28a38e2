//! Several of everything, together; and many clients on one topic.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::HashMap;

use common::RedisServer;
use common::client::{Client, metric};
use common::gateway::{Candle, candle, config, in_process};
use common::process::{Process, Serve};

/// Messages of every topic that each client waits for.
const EACH: u64 = 40;

/// Reads until there are enough messages of every topic: each of `seq` 1, 2, 3 … of one epoch.
fn check(client: &mut Client, topics: &[&str]) {
    let mut seen: HashMap<String, (u64, u64)> = HashMap::new();
    let enough = |seen: &HashMap<String, (u64, u64)>| {
        seen.len() == topics.len() && seen.values().all(|(_, seq)| *seq >= EACH)
    };
    while !enough(&seen) {
        let message = client.json();
        assert_eq!(message["type"], "bars.update", "{message}");
        let topic = message["topic"].as_str().unwrap();
        assert!(topics.contains(&topic), "{topic} was not asked for");
        let epoch = message["epoch"].as_u64().unwrap();
        let (first_epoch, seq) = seen.entry(topic.to_owned()).or_insert((epoch, 0));
        assert_eq!(*first_epoch, epoch);
        *seq += 1;
        assert_eq!(message["seq"].as_u64(), Some(*seq), "{topic}");
    }
}

#[test]
fn several_generators_and_several_gateways_on_one_redis() {
    let redis = RedisServer::start();
    let gateways = [(); 2].map(|()| Serve::start(&redis.url(), &["--workers", "2"]));
    let mine: [&[&str]; 3] = [
        &["bars:AAPL:1S", "bars:EURUSD:1"],
        &["bars:MSFT:1", "bars:MSFT:1S"],
        &[
            "bars:AAPL:1S",
            "bars:AAPL:1",
            "bars:EURUSD:1S",
            "bars:EURUSD:1",
        ],
    ];
    let mut clients = Vec::new();
    for gateway in &gateways {
        gateway.until_ready();
        for topics in mine {
            let mut client = gateway.client();
            for topic in topics {
                client.subscribe(topic);
            }
            clients.push((client, topics.to_vec()));
        }
        let mut all = gateway.client();
        all.subscribe("bars:*:*");
        let every = ["AAPL", "MSFT", "EURUSD", "BTCUSD"]
            .iter()
            .flat_map(|symbol| ["1S", "1"].map(|resolution| format!("bars:{symbol}:{resolution}")))
            .map(|topic| &*topic.leak());
        clients.push((all, every.collect()));
    }
    let url = redis.url();
    let generate = |symbols, more: &[&str]| {
        let mut arguments = vec!["generate", "--redis-url", &url, "--symbols", symbols];
        arguments.extend(["--resolutions", "1S,1", "--interval", "0.02"]);
        arguments.extend(more);
        Process::start(&arguments)
    };
    let _first = generate("AAPL,MSFT", &[]);
    let _second = generate(
        "EURUSD,BTCUSD",
        &["--publish", "batch", "--compress", "zstd"],
    );
    std::thread::scope(|scope| {
        for (client, topics) in &mut clients {
            scope.spawn(move || check(client, topics));
        }
    });
    for gateway in &gateways {
        assert_eq!(metric(gateway.address, "barcast_upstream_gaps_total"), 0);
        assert_eq!(metric(gateway.address, "barcast_conflated_bars_total"), 0);
    }
}

#[test]
fn two_thousand_clients_on_one_topic_lose_no_bar() {
    const CLIENTS: usize = 2_000;
    const BARS: u64 = 60;
    // Both ends of every connection are in this process.
    let files = rlimit::increase_nofile_limit(2 * CLIENTS as u64 + 500).unwrap();
    assert!(
        files >= 2 * CLIENTS as u64 + 200,
        "{files} open files are too few for this test"
    );
    let (gateway, mut feed) = in_process(config());
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.subscribe("bars:AAPL:1");
    }
    assert_eq!(metric(gateway.address, "barcast_clients"), CLIENTS as u64);
    let bars: Vec<_> = (0..BARS).map(|n| candle("AAPL", 0, n)).collect();
    for bar in &bars {
        feed.bar(bar);
    }
    let expected: Vec<_> = bars.iter().map(Candle::update).collect();
    for client in &mut clients {
        for update in &expected {
            assert_eq!(&client.text(), update);
        }
    }
    let named = r#"barcast_topic_subscribers{topic="bars:AAPL:1"}"#;
    assert_eq!(metric(gateway.address, named), CLIENTS as u64);
    let due = CLIENTS as u64 * BARS;
    assert_eq!(metric(gateway.address, "barcast_due_bars_total"), due);
    assert_eq!(metric(gateway.address, "barcast_delivered_bars_total"), due);
    assert_eq!(
        metric(gateway.address, "barcast_broadcast_bars_total"),
        BARS
    );
}
