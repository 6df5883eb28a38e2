//! The yardstick against a foreign WebSocket client and a real Redis.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

mod support;

use std::net::TcpStream;

use barcast::bar::{Message, write_message, write_update};
use loadtest::market::Market;
use loadtest::publisher::connect;
use loadtest::servers::{Redis, is_ready};
use support::{Floor, PATIENCE, until};
use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
use tungstenite::{Error, Message as Frame, WebSocket};

fn client(floor: &Floor, subscribe: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(floor.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let url = format!("ws://{}/ws", floor.addr);
    let (mut client, _) = tungstenite::client(url, stream).unwrap();
    client.send(Frame::text(subscribe)).unwrap();
    let answer = client.read().unwrap().into_text().unwrap();
    assert!(answer.contains("bars.subscribe.response"), "{answer}");
    client
}

fn publish(redis: &mut redis::Connection, messages: &[Message]) {
    let mut pipeline = redis::pipe();
    for message in messages {
        let mut text = Vec::new();
        write_message(&mut text, message);
        pipeline.publish(message.topic.to_string(), text).ignore();
    }
    pipeline.query::<()>(redis).unwrap();
}

fn update(message: &Message) -> String {
    let mut text = Vec::new();
    write_update(&mut text, message);
    String::from_utf8(text).unwrap()
}

fn every_bar_of_a_topic_comes_in_order(mode: &str) {
    let redis = Redis::start().unwrap();
    let floor = Floor::start(&redis.url(), mode);
    assert!(is_ready(floor.addr));
    let market = Market::new("T", 3, 5, 1).unwrap();
    let mut one = client(
        &floor,
        r#"{"type":"bars.subscribe","payload":{"symbol":"T000001","params":{"resolution":"1S"}}}"#,
    );
    let mut two = client(
        &floor,
        r#"{"type":"bars.subscribe","payload":{"topics":["bars:T000001:1S","bars:T000002:1S"]}}"#,
    );
    let mut connection = connect(&redis.url()).unwrap();
    let messages: Vec<Message> = (1..=40)
        .flat_map(|seq| (0..3).map(move |topic| (topic, seq)))
        .map(|(topic, seq)| market.message(topic, seq, seq * 1_000).unwrap())
        .collect();
    publish(&mut connection, &messages);
    for (client, topics) in [
        (&mut one, &market.topics()[1..2]),
        (&mut two, &market.topics()[1..]),
    ] {
        for message in messages
            .iter()
            .filter(|message| topics.contains(&message.topic))
        {
            assert_eq!(client.read().unwrap().into_text().unwrap(), update(message));
        }
    }
    one.close(None).unwrap();
    assert!(one.read().unwrap().is_close());
    // Who has gone is forgotten, and the others go on.
    publish(&mut connection, &messages[4..5]);
    assert_eq!(
        two.read().unwrap().into_text().unwrap(),
        update(&messages[4])
    );
}

#[test]
fn bare_sends_every_bar() {
    every_bar_of_a_topic_comes_in_order("bare");
}

#[test]
fn gather_sends_every_bar() {
    every_bar_of_a_topic_comes_in_order("gather");
}

#[test]
fn a_client_that_does_not_read_is_closed_and_counted() {
    let redis = Redis::start().unwrap();
    let mut floor = Floor::start(&redis.url(), "gather");
    let subscribe = r#"{"type":"bars.subscribe","payload":{"topics":["bars:T000000:1S"]}}"#;
    let (mut silent, mut reading) = (client(&floor, subscribe), client(&floor, subscribe));
    let market = Market::new("T", 1, 5, 1).unwrap();
    let mut connection = connect(&redis.url()).unwrap();
    let said = std::thread::scope(|scope| {
        let said = scope.spawn(|| floor.says());
        let mut seq = 0;
        until("a full socket", || {
            let messages: Vec<Message> = (seq + 1..=seq + 2_000)
                .map(|seq| market.message(0, seq, seq).unwrap())
                .collect();
            publish(&mut connection, &messages);
            for message in &messages {
                assert_eq!(
                    reading.read().unwrap().into_text().unwrap(),
                    update(message)
                );
            }
            seq += 2_000;
            said.is_finished()
        });
        said.join().unwrap()
    });
    assert_eq!(said.trim(), "a client's socket was full: closed (1 so far)");
    let end = loop {
        if let Err(why) = silent.read() {
            break why;
        }
    };
    // The end of the connection, and not of our patience.
    assert!(
        matches!(end, Error::Protocol(ResetWithoutClosingHandshake)),
        "{end:?}"
    );
}
