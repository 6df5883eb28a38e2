//! Subscriptions that mean harm: storms of them, and patterns over very many topics. What else clients may
//! do is in `hostile.rs`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::thread;

use barcast::bus::Outgoing;
use common::client::{Client, TEXT, frame};
use common::gateway::{MINUTE, START, candle, config, in_process};
use common::harm::{any_rate, drain, given_back, push, unharmed};

fn selection(kind: &str, topics: &[String]) -> Vec<u8> {
    let topics: Vec<_> = topics.iter().map(|topic| format!("\"{topic}\"")).collect();
    let topics = topics.join(",");
    let text = format!(r#"{{"type":"bars.{kind}","payload":{{"topics":[{topics}]}}}}"#);
    frame(TEXT, text)
}

#[test]
fn storms_of_subscriptions_leave_nothing_behind() {
    const STORMS: usize = 8;
    const TURNS: usize = 150;
    let (gateway, mut feed) = in_process(any_rate());
    unharmed(&gateway, &mut feed, |address| {
        thread::scope(|scope| {
            for storm in 0..STORMS {
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    let mut random = fastrand::Rng::with_seed(storm as u64);
                    for turn in 0..TURNS {
                        // Some of its own, some that others want as well, patterns among them.
                        let mut topics: Vec<_> = (0..random.usize(1..8))
                            .map(|_| format!("bars:S{}:1", random.u8(0..30)))
                            .collect();
                        topics.push(format!("bars:OWN{storm}.{turn}:1"));
                        topics.push("bars:GOOD:1".to_owned());
                        if random.u8(0..4) == 0 {
                            topics.push(format!("bars:*:{}", ["1", "5"][random.usize(0..2)]));
                        }
                        client.wire.send(selection("subscribe", &topics));
                        if random.u8(0..4) > 0 {
                            client.wire.send(selection("unsubscribe", &topics));
                        }
                    }
                    let answers = client.until_pong();
                    assert!(answers.iter().any(|text| text.contains("Unsubscribed")));
                    // Half leave as they are.
                    if storm % 2 == 0 {
                        client.ask(
                            r#"{"type":"bars.unsubscribe","payload":{"topics":["bars:*:*"]}}"#,
                        );
                    }
                });
            }
        });
    });
    given_back(&gateway, 1);
}

#[test]
fn storms_of_subscriptions_are_closed_as_too_fast() {
    let (gateway, mut feed) = in_process(config());
    unharmed(&gateway, &mut feed, |address| {
        let topics = ["bars:*:*".to_owned(), "bars:X:1".to_owned()];
        let turn = [
            selection("subscribe", &topics),
            selection("unsubscribe", &topics),
        ]
        .concat();
        for _ in 0..4 {
            let mut client = Client::connect(address);
            push(&mut client.wire.stream, &turn.repeat(400));
            drain(&mut client.wire.stream);
        }
    });
    assert_eq!(gateway.node.metrics.closed(4429).get(), 4);
    given_back(&gateway, 1);
}

#[test]
fn patterns_over_ten_thousand_topics() {
    const TOPICS: usize = 10_000;
    let mut config = any_rate();
    config.limits.max_topics = TOPICS + 10;
    config.limits.max_topics_per_client = TOPICS + 10;
    config.history_bars = 1;
    let (gateway, mut feed) = in_process(config);
    let round = |minute: i64| -> Vec<Outgoing> {
        (0..TOPICS)
            .map(|n| Outgoing {
                channel: format!("bars:T{n}:1"),
                payload: format!(
                    r#"{{"symbol":"T{n}","resolution":"1","bar":{}}}"#,
                    candle("T", minute, 1).json()
                )
                .into_bytes(),
            })
            .collect()
    };
    feed.all(round(0));
    gateway.received(TOPICS as u64);
    let mut greedy = unharmed(&gateway, &mut feed, |address| {
        let mut clients: Vec<_> = (0..3).map(|_| Client::connect(address)).collect();
        for client in &mut clients {
            client.send(r#"{"type":"bars.subscribe","payload":{"symbol":"T1","resolution":"1"}}"#);
            client
                .wire
                .send(selection("subscribe", &["bars:*:*".to_owned()]));
            let came = client.until_pong();
            let shown = came
                .iter()
                .filter(|text| text.contains(r#""topic":"bars:T"#) && text.contains("bars.update"));
            assert_eq!(shown.count(), TOPICS);
            client.ask(r#"{"type":"bars.unsubscribe","payload":{"topics":["bars:*:1"]}}"#);
        }
        for client in &mut clients {
            client
                .wire
                .send(selection("subscribe", &["bars:*:1".to_owned()]));
            client.until_pong();
        }
        // One leaves with all of it.
        clients.pop();
        clients
    });
    feed.all(round(1));
    let time = format!(r#""time":{}"#, START + MINUTE);
    for client in &mut greedy {
        let mut left = TOPICS;
        while left > 0 {
            left -= usize::from(client.text().contains(&time));
        }
    }
    drop(greedy);
    given_back(&gateway, TOPICS + 1);
}

/// A request must not cost a system call for each topic that its pattern covers.
#[test]
fn a_pattern_is_shown_in_few_writes() {
    let (gateway, mut feed) = in_process(config());
    let bars = (0..900).map(|n| candle(format!("T{n}").leak(), 0, 1));
    feed.all(bars.map(|bar| bar.outgoing()).collect());
    gateway.received(900);
    let mut client = gateway.client();
    client.until_pong();
    let writes = &gateway.node.metrics.writes;
    let before = writes.get();
    client
        .wire
        .send(selection("subscribe", &["bars:*:*".to_owned()]));
    assert_eq!(client.until_pong().len(), 1 + 900);
    client.until_pong();
    assert!(
        writes.get() - before < 90,
        "{} writes",
        writes.get() - before
    );
}
