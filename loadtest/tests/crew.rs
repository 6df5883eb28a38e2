//! Clients in several processes and from several addresses, several gateways, and servers that do not
//! speak our protocol.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex};

use loadtest::publisher::connect;
use loadtest::servers::Redis;
use support::{report, run};
use tungstenite::Message as Frame;

fn clean(line: &str) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = run(line, &json);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report = report(&json);
    assert!(report["expected"].as_u64().unwrap() > 0);
    for (figure, value) in [("delivered", &report["expected"]), ("lost", &0.into())] {
        assert_eq!(&report[figure], value, "{figure}");
    }
    assert_eq!(report["latency_us"]["count"], report["expected"]);
    report
}

#[test]
fn three_processes_of_clients_count_as_one() {
    let report = clean(
        "run --spawn --server floor --clients 300 --client-processes 3 --clients-per-address 100 \
         --client-threads 2 --topics 20 --per-client 5 --rate 10 --burst spread --publish zstd \
         --duration 1 --warmup 0.3",
    );
    assert_eq!(report["expected"], 10 * 300 * 5);
    assert_eq!(report["scenario"]["client_processes"], 3);
    assert_eq!(report["connect"]["took_us"]["count"], 300);
}

#[test]
fn clients_are_spread_over_gateways() {
    let report = clean(
        "run --spawn --server floor --gateways 2 --clients 41 --topics 10 --per-client 2 --rate 10 \
         --duration 0.5 --warmup 0.2",
    );
    assert_eq!(report["server"], "2 × floor:gather");
    assert_eq!(
        report["started"].as_str().unwrap().matches(" & ").count(),
        1
    );
}

/// A server of another kind: a client names a symbol, and gets the messages of Redis as they are.
/// Counts its clients by their address.
fn foreign(redis: &Redis) -> (String, Arc<Mutex<BTreeMap<IpAddr, u32>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/feed", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let (redis, counts) = (redis.url(), Arc::clone(&seen));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let from = stream.peer_addr().unwrap().ip();
            *counts.lock().unwrap().entry(from).or_default() += 1;
            let mut client = tungstenite::accept(stream).unwrap();
            let redis = redis.clone();
            std::thread::spawn(move || {
                let mut connection = connect(&redis).unwrap();
                let mut subscription = connection.as_pubsub();
                for _ in 0..2 {
                    let asked = client.read().unwrap().into_text().unwrap();
                    let symbol = asked.strip_prefix("I want ").unwrap();
                    subscription.subscribe(format!("bars:{symbol}:1S")).unwrap();
                }
                while let Ok(message) = subscription.get_message() {
                    let text: String = message.get_payload().unwrap();
                    if client.send(Frame::text(text)).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, seen)
}

#[test]
fn a_server_with_another_protocol_can_be_measured() {
    let redis = Redis::start().unwrap();
    let (url, seen) = foreign(&redis);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = support::loadtest()
        .args(["run", "--url", &url, "--redis-url", &redis.url()])
        .args(["--subscribe", "I want {symbol}"])
        .args("--clients 6 --client-processes 3 --clients-per-address 2".split(' '))
        .args("--topics 4 --per-client 2 --rate 10 --duration 1 --warmup 1".split(' '))
        .args(["--bar-ticks", "3", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report = report(&json);
    assert_eq!(report["expected"], 10 * 6 * 2);
    assert_eq!(report["delivered"], report["expected"]);
    assert_eq!(report["altered"], 0, "closed bars were compared");
    let seen = seen.lock().unwrap();
    let addresses = [1, 2, 3].map(|last| (IpAddr::from([127, 0, 0, last]), 2));
    assert_eq!(*seen, BTreeMap::from(addresses));
}
