//! What strangers may use up, and that each limit is counted.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use barcast::gateway::Config;
use barcast::gateway::config::Limits;
use common::client::{Answer, Client, TEXT, Wire, frame, handshake, metric};
use common::eventually_blocking;
use common::gateway::{Running, candle, config, in_process};

fn with(set: impl FnOnce(&mut Limits)) -> Config {
    let mut config = config();
    set(&mut config.limits);
    config
}

fn knock(gateway: &Running) -> Answer {
    let mut wire = Wire::connect(gateway.address);
    wire.send(handshake());
    wire.head()
}

fn refused(gateway: &Running, reason: &str) -> u64 {
    let name = format!(r#"barcast_refused_clients_total{{reason="{reason}"}}"#);
    metric(gateway.address, &name)
}

fn limited(gateway: &Running, limit: &str) -> u64 {
    let name = format!(r#"barcast_limited_requests_total{{limit="{limit}"}}"#);
    metric(gateway.address, &name)
}

/// Sends a request that must meet a limit: told with its id, and the connection stays.
fn meets_limit(client: &mut Client, payload: &str) -> String {
    client.send(format!(
        r#"{{"type":"bars.subscribe","id":5,"payload":{payload}}}"#
    ));
    let error = client.json();
    assert_eq!(error["type"], "error", "{error}");
    assert_eq!(error["id"], 5);
    assert_eq!(error["payload"]["code"], "limit");
    error["payload"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn clients_of_the_node() {
    let (gateway, _feed) = in_process(with(|limits| limits.max_clients = 2));
    let first = gateway.client();
    let _second = gateway.client();
    let answer = knock(&gateway);
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(refused(&gateway, "max_clients"), 1);
    assert_eq!(metric(gateway.address, "barcast_clients"), 2);
    // Probes are no clients.
    assert_eq!(common::client::get(gateway.address, "/healthz").status, 200);
    drop(first);
    eventually_blocking("a place is free", || gateway.node.clients() == 1);
    gateway.client();
}

#[test]
fn clients_from_one_address() {
    let (gateway, _feed) = in_process(with(|limits| limits.max_clients_per_address = 1));
    let first = gateway.client();
    assert_eq!(knock(&gateway).status, 429);
    assert_eq!(refused(&gateway, "max_clients_per_address"), 1);
    assert_eq!(refused(&gateway, "max_clients"), 0);
    // Another address has its own count.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let other: std::net::SocketAddr = "127.0.0.2:0".parse().unwrap();
    socket.bind(&other.into()).unwrap();
    socket.connect(&gateway.address.into()).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    std::io::Write::write_all(&mut stream, handshake().as_bytes()).unwrap();
    eventually_blocking("the other is in", || gateway.node.clients() == 2);
    drop(first);
    eventually_blocking("a place is free", || gateway.node.clients() == 1);
    gateway.client();
}

#[test]
fn topics_of_one_client() {
    let (gateway, mut feed) = in_process(with(|limits| limits.max_topics_per_client = 2));
    let mut client = gateway.client();
    let message = meets_limit(
        &mut client,
        r#"{"topics":["bars:A:1","bars:B:1","bars:C:1"]}"#,
    );
    assert!(message.contains('2'), "{message}");
    // All or nothing: none of the three is subscribed.
    assert_eq!(gateway.node.registry.len(), 0);
    client.subscribe("bars:A:1");
    client.subscribe("bars:B:1");
    // What it has already costs nothing.
    client.subscribe("bars:A:1");
    meets_limit(&mut client, r#"{"symbol":"C"}"#);
    assert_eq!(limited(&gateway, "topics_per_client"), 2);
    client.send(r#"{"type":"bars.unsubscribe","payload":{"symbol":"A"}}"#);
    client.text();
    client.subscribe("bars:C:1");
    let bar = candle("C", 0, 1);
    feed.bar(&bar);
    assert_eq!(client.text(), bar.update());
}

#[test]
fn topics_of_one_client_by_a_pattern() {
    let (gateway, mut feed) = in_process(with(|limits| limits.max_topics_per_client = 2));
    for symbol in ["A", "B", "C"] {
        feed.bar(&candle(symbol, 0, 1));
    }
    gateway.received(3);
    let mut client = gateway.client();
    meets_limit(&mut client, r#"{"symbol":"*"}"#);
    assert_eq!(limited(&gateway, "topics_per_client"), 1);
    // The refused pattern is not held: what opens later is not sent.
    feed.bar(&candle("D", 0, 1));
    gateway.received(4);
    assert!(client.until_pong().is_empty());

    // One that fits now and would not later: the first two that open come, the third is told of and counted.
    client.subscribe("bars:*:5");
    for (symbol, price) in [("A", 1), ("B", 2)] {
        let bar = candle(symbol, 0, price).resolution("5");
        feed.bar(&bar);
        assert_eq!(client.text(), bar.update());
    }
    feed.bar(&candle("C", 0, 3).resolution("5"));
    let error = client.json();
    assert_eq!(error["payload"]["code"], "limit", "{error}");
    feed.bar(&candle("A", 0, 4).resolution("5"));
    assert_eq!(client.text(), candle("A", 0, 4).resolution("5").update());
    assert_eq!(limited(&gateway, "topics_per_client"), 2);
}

/// Of bars: what clients ask for counts apart.
#[test]
fn topics_of_the_node() {
    let (gateway, mut feed) = in_process(with(|limits| limits.max_topics = 2));
    feed.bar(&candle("A", 0, 1));
    gateway.received(1);
    let mut client = gateway.client();
    for symbol in ["B", "C", "D"] {
        client.subscribe(&format!("bars:{symbol}:1"));
    }
    assert_eq!(metric(gateway.address, "barcast_topics"), 1);
    assert_eq!(metric(gateway.address, "barcast_placeholders"), 3);
    // The next topic takes the last place, and a producer of one more meets the limit.
    let bar = candle("B", 0, 2);
    feed.bar(&bar);
    assert_eq!(client.text(), bar.update());
    feed.bar(&candle("C", 0, 1));
    let bar = candle("B", 0, 3);
    feed.bar(&bar);
    assert_eq!(client.text(), bar.update());
    let dropped = r#"barcast_dropped_messages_total{reason="topic_limit"}"#;
    assert_eq!(metric(gateway.address, dropped), 1);
    assert_eq!(metric(gateway.address, "barcast_topics"), 2);
    assert_eq!(metric(gateway.address, "barcast_placeholders"), 2);
}

/// A pattern that matches nothing yet takes up room all the same.
#[test]
fn patterns_of_one_client() {
    let (gateway, mut feed) = in_process(with(|limits| limits.max_topics_per_client = 2));
    let mut client = gateway.client();
    meets_limit(
        &mut client,
        r#"{"topics":["bars:A:*","bars:B:*","bars:C:*"]}"#,
    );
    client.subscribe("bars:A:*");
    client.subscribe("bars:B:*");
    client.subscribe("bars:A:*");
    meets_limit(&mut client, r#"{"symbol":"C","resolution":"*"}"#);
    assert_eq!(limited(&gateway, "patterns_per_client"), 2);
    for symbol in ["A", "B", "C"] {
        feed.bar(&candle(symbol, 0, 1));
    }
    assert_eq!(client.text(), candle("A", 0, 1).update());
    assert_eq!(client.text(), candle("B", 0, 1).update());
    gateway.received(3);
    assert!(client.until_pong().is_empty());
}

/// Names that clients invent take up no room for longer than they are watched.
#[test]
fn topics_that_nobody_watches_and_that_had_no_bar_are_forgotten() {
    let (gateway, mut feed) = in_process(with(|limits| limits.max_topics = 3));
    let registry = &gateway.node.registry;
    feed.bar(&candle("REAL", 0, 1));
    gateway.received(1);
    for round in 0..5 {
        let mut leaving = gateway.client();
        let mut staying = gateway.client();
        leaving.subscribe(&format!("bars:L{round}:1"));
        staying.subscribe(&format!("bars:S{round}:1"));
        assert_eq!((registry.len(), registry.placeholders()), (1, 2));
        drop(leaving);
        let answer = staying.ask(&format!(
            r#"{{"type":"bars.unsubscribe","payload":{{"symbol":"S{round}"}}}}"#
        ));
        assert!(answer.contains("Unsubscribed"), "{answer}");
        eventually_blocking("the names are gone", || registry.placeholders() == 0);
    }
    // Their numbers are used again, so the bar of a topic must not reach who had its number before.
    let mut client = gateway.client();
    client.subscribe("bars:NEW:1");
    let bar = candle("NEW", 0, 2);
    feed.bar(&bar);
    assert_eq!(client.text(), bar.update());
    assert!(client.until_pong().is_empty());
}

#[test]
fn bars_of_one_request() {
    let (gateway, mut feed) = in_process(Config {
        history_bars: 6_000,
        ..config()
    });
    for minute in 0..4_000 {
        for symbol in ["A", "B", "C"] {
            feed.bar(&candle(symbol, minute, 1));
        }
    }
    gateway.received(12_000);
    let mut client = gateway.client();
    for wish in [r#""snapshot":5000"#, r#""since":0"#] {
        let message = meets_limit(&mut client, &format!(r#"{{"symbol":"*",{wish}}}"#));
        assert!(
            message.contains("12000 bars") && message.contains("10000"),
            "{message}"
        );
    }
    assert_eq!(limited(&gateway, "snapshot_bars"), 2);
    assert!(client.until_pong().is_empty());
    client.send(r#"{"type":"bars.subscribe","payload":{"symbol":"*","snapshot":1000}}"#);
    client.text();
    for _ in 0..3 {
        assert_eq!(client.json()["type"], "bars.snapshot");
    }
}

/// Told by an `error` each time, it goes on all the same.
#[test]
fn refused_requests_of_one_client() {
    const MANY: usize = 1_000;
    let (gateway, mut feed) = in_process(with(|limits| {
        limits.max_topics_per_client = 1;
        limits.max_messages_per_second = 1_000_000;
    }));
    let closed = gateway.node.metrics.closed(1008);
    for (n, refused) in [
        r#"{"type":"bars.subscribe","payload":{"symbol":"B"}}"#,
        r#"{"type":"dance"}"#,
        "nonsense",
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = gateway.client();
        client.subscribe("bars:A:1");
        client.until_pong();
        // A hundred are borne, and what it holds stays.
        for _ in 0..100 {
            assert!(client.ask(refused).contains(r#""type":"error""#));
        }
        let bar = candle("A", i64::try_from(n).unwrap(), 1);
        feed.bar(&bar);
        assert_eq!(client.text(), bar.update());
        assert_eq!(closed.get(), n as u64);
        // Far more than the seconds that this takes can forgive.
        let flood = frame(TEXT, refused).repeat(MANY);
        let _ = std::io::Write::write_all(&mut client.wire.stream, &flood);
        let (code, reason) = client.expect_close();
        assert_eq!(code, 1008, "{reason}");
        assert_eq!(closed.get(), n as u64 + 1);
    }
}
