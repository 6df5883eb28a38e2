//! Who watches what: only those are fed, names that clients make up are no topics, and requests that ask
//! for very much cost others nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use barcast::bus::{Outgoing, Sink};
use barcast::gateway::hub::{Hub, Socket};
use barcast::gateway::ingest::Ingest;
use barcast::gateway::mailbox::Mailbox;
use barcast::gateway::registry::Registry;
use barcast::gateway::watching::Watching;
use barcast::gateway::{Config, Limits};
use barcast::metrics::GatewayMetrics;
use common::client::{Client, TEXT, frame, metric};
use common::gateway::{candle, config, in_process};
use common::harm::push;

fn with(change: impl FnOnce(&mut Limits)) -> Config {
    let mut config = config();
    change(&mut config.limits);
    config
}

/// A `bars.subscribe` or `bars.unsubscribe` of a list.
fn list(kind: &str, topics: &[String]) -> String {
    let topics: Vec<_> = topics.iter().map(|topic| format!("\"{topic}\"")).collect();
    let topics = topics.join(",");
    format!(r#"{{"type":"bars.{kind}","payload":{{"topics":[{topics}]}}}}"#)
}

/// One bar of each of so many topics.
fn market(topics: usize) -> Vec<Outgoing> {
    let bar = candle("T", 0, 1).json();
    let of = |n| Outgoing {
        channel: format!("bars:T{n}:1"),
        payload: format!(r#"{{"symbol":"T{n}","resolution":"1","bar":{bar}}}"#).into_bytes(),
    };
    (0..topics).map(of).collect()
}

/// The longest of a client's waits for a pong, while something else goes on.
fn worst_pong<T: Send>(client: &mut Client, other: impl FnOnce() -> T + Send) -> (Duration, T) {
    thread::scope(|scope| {
        let other = scope.spawn(other);
        let mut worst = Duration::ZERO;
        while !other.is_finished() {
            let asked = Instant::now();
            client.until_pong();
            worst = worst.max(asked.elapsed());
        }
        (worst, other.join().unwrap())
    })
}

#[test]
fn only_workers_that_watch_are_woken() {
    const BARS: u64 = 3_000;
    let (gateway, mut feed) = in_process(Config {
        workers: 32,
        ..config()
    });
    let mut client = gateway.client();
    client.subscribe("bars:A:1");
    for price in 1..=BARS {
        feed.bar(&candle("A", 0, price));
        // Nobody's: it wakes nobody.
        feed.bar(&candle("B", 0, price));
    }
    gateway.received(2 * BARS);
    let loads = gateway.node.loads.iter().map(|load| load.read().wakes);
    let wakes: Vec<_> = loads.filter(|wakes| *wakes > 0).collect();
    assert_eq!(wakes.len(), 1, "{wakes:?}");
    assert!(wakes[0] <= BARS, "{wakes:?}");
}

/// A pattern's worker is told of what opens, and of no more than its pattern means.
#[test]
fn a_pattern_is_interest_in_what_opens() {
    let (gateway, mut feed) = in_process(Config {
        workers: 3,
        ..config()
    });
    let mut client = gateway.client();
    client.subscribe("bars:*:5");
    client.subscribe("bars:A:*");
    let bars = [
        candle("A", 0, 1),
        candle("B", 0, 1),
        candle("B", 0, 2).resolution("5"),
        candle("A", 0, 3).resolution("5"),
    ];
    for bar in &bars {
        feed.bar(bar);
    }
    for bar in [bars[0], bars[2], bars[3]] {
        assert_eq!(client.text(), bar.update());
    }
    gateway.received(4);
    assert!(client.until_pong().is_empty());
    client.ask(&list("unsubscribe", &["bars:*:*".to_owned()]));
    let registry = &gateway.node.registry;
    common::eventually_blocking("nothing is watched", || {
        registry
            .all()
            .iter()
            .all(|entry| !registry.is_watched(entry))
    });
    feed.bar(&candle("B", 0, 3).resolution("5"));
    gateway.received(5);
    assert!(client.until_pong().is_empty());
    assert_eq!(gateway.node.metrics.unwatched.get(), 2);
}

#[test]
fn made_up_names_displace_nothing() {
    let (gateway, mut feed) = in_process(with(|limits| {
        limits.max_topics = 2;
        limits.max_placeholders = 40;
    }));
    let mut greedy = gateway.client();
    let names: Vec<_> = (0..40).map(|n| format!("bars:NO.SUCH{n}:1")).collect();
    greedy.ask(&list("subscribe", &names));
    // On both workers, whoever of them holds more.
    let mut honest: Vec<_> = (0..4).map(|_| gateway.client()).collect();
    for (n, client) in honest.iter_mut().enumerate() {
        client.subscribe(&format!("bars:H{}:1", n % 2));
    }
    for _ in 0..2 {
        let told = greedy.json();
        assert_eq!(told["type"], "error");
        assert_eq!(told["payload"]["code"], "limit");
        let message = told["payload"]["message"].as_str().unwrap();
        assert!(message.contains("bars:NO.SUCH"), "{message}");
    }
    let registry = &gateway.node.registry;
    common::eventually_blocking("no more names than allowed", || {
        registry.placeholders() == 40
    });
    // Bars come for the others: their names are topics now, and the greedy one keeps what it has.
    for symbol in ["H0", "H1"] {
        feed.bar(&candle(symbol, 0, 1));
    }
    for (n, client) in honest.iter_mut().enumerate() {
        let symbol = ["H0", "H1"][n % 2];
        assert_eq!(client.text(), candle(symbol, 0, 1).update());
    }
    assert!(greedy.until_pong().is_empty());
    assert_eq!(metric(gateway.address, "barcast_topics"), 2);
    assert_eq!(metric(gateway.address, "barcast_placeholders"), 38);
    assert_eq!(gateway.node.metrics.dropped("topic_limit").get(), 0);
}

/// Told once, and made good when there is room.
#[test]
fn a_pattern_at_the_limit_says_so_and_is_completed() {
    let (gateway, mut feed) = in_process(with(|limits| limits.max_topics_per_client = 3));
    let mut client = gateway.client();
    client.subscribe("bars:NAMED:5");
    client.subscribe("bars:*:1");
    for symbol in ["A", "B"] {
        feed.bar(&candle(symbol, 0, 1));
        assert_eq!(client.text(), candle(symbol, 0, 1).update());
    }
    for symbol in ["C", "D"] {
        feed.bar(&candle(symbol, 0, 1));
    }
    let told = client.json();
    assert_eq!(told["payload"]["code"], "limit");
    assert!(
        told["payload"]["message"]
            .as_str()
            .unwrap()
            .contains("bars:*:1")
    );
    gateway.received(4);
    assert!(client.until_pong().is_empty(), "told once");
    // Room for one, then for another; what was ended by name stays out.
    client.send(list("unsubscribe", &["bars:NAMED:5".to_owned()]));
    assert!(client.text().contains("Unsubscribed"));
    assert_eq!(client.text(), candle("C", 0, 1).update());
    client.send(list("unsubscribe", &["bars:A:1".to_owned()]));
    assert!(client.text().contains("Unsubscribed"));
    assert_eq!(client.text(), candle("D", 0, 1).update());
    feed.bar(&candle("A", 0, 2));
    feed.bar(&candle("D", 0, 2));
    assert_eq!(client.text(), candle("D", 0, 2).update());
    assert!(client.until_pong().is_empty());
}

/// A client at its limit is no reason to encode what it does not get; and a pattern that became whole again says
/// so when it is not any more.
#[test]
fn a_full_pattern_watches_nothing_and_speaks_again_after_it_was_whole() {
    let (gateway, mut feed) = in_process(with(|limits| limits.max_topics_per_client = 2));
    let mut client = gateway.client();
    client.subscribe("bars:*:1");
    for symbol in ["A", "B"] {
        feed.bar(&candle(symbol, 0, 1));
        assert_eq!(client.text(), candle(symbol, 0, 1).update());
    }
    feed.bar(&candle("C", 0, 1));
    assert_eq!(client.json()["payload"]["code"], "limit");
    for n in 2..12 {
        feed.bar(&candle("C", 0, n));
        feed.bar(&candle("D", 0, n));
    }
    gateway.received(23);
    let metrics = &gateway.node.metrics;
    assert_eq!(metrics.unwatched.get(), 20, "of C and D none is encoded");
    assert!(client.until_pong().is_empty());
    for (gone, comes) in [("A", "C"), ("B", "D")] {
        client.send(list("unsubscribe", &[format!("bars:{gone}:1")]));
        assert!(client.text().contains("Unsubscribed"));
        assert_eq!(client.text(), candle(comes, 0, 11).update());
    }
    // Whole but for what was ended by name.
    feed.bar(&candle("D", 0, 12));
    assert_eq!(client.text(), candle("D", 0, 12).update());
    feed.bar(&candle("E", 0, 1));
    let told = client.json();
    assert_eq!(told["payload"]["code"], "limit", "{told}");
}

#[test]
fn refused_patterns_over_very_many_topics_cost_others_nothing() {
    const TOPICS: usize = 20_000;
    let (gateway, mut feed) = in_process(Config {
        workers: 1,
        history_bars: 1,
        ..config()
    });
    feed.all(market(TOPICS));
    gateway.received(TOPICS as u64);
    let mut honest = gateway.client();
    let mut hostile = gateway.client();
    let request = frame(TEXT, list("subscribe", &["bars:*:*".to_owned()])).repeat(90);
    let (worst, answers) = worst_pong(&mut honest, || {
        push(&mut hostile.wire.stream, &request);
        hostile.until_pong()
    });
    assert_eq!(answers.len(), 90);
    assert!(answers.iter().all(|answer| answer.contains("limit")));
    // It was ten seconds in a debug build.
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

#[test]
fn names_are_paid_for() {
    let (gateway, mut feed) = in_process(config());
    feed.all(market(1_000));
    gateway.received(1_000);
    let names: Vec<_> = (0..1_000).map(|n| format!("bars:T{n}:1")).collect();
    // A long watchlist is no abuse.
    let mut client = gateway.client();
    for some in names.chunks(200) {
        client.ask(&list("subscribe", some));
        assert_eq!(client.until_pong().len(), some.len());
    }
    // 270 unknown names in each of 800 requests are.
    let unknown: Vec<_> = (0..270).map(|n| format!("bars:U{n}:1")).collect();
    let flood = frame(TEXT, list("unsubscribe", &unknown)).repeat(800);
    push(&mut client.wire.stream, &flood);
    let code = loop {
        match client.wire.frame() {
            Some(frame) if frame.opcode == common::client::CLOSE => break frame.payload,
            Some(_) => {}
            None => panic!("no close frame"),
        }
    };
    assert_eq!(code[..2], 4429_u16.to_be_bytes());
}

#[tokio::test]
async fn a_message_of_very_many_bars_is_several_batches() {
    const BARS: usize = 5_000;
    let registry = Arc::new(Registry::new(10, 1));
    registry.watch(&"bars:A:1".parse().unwrap(), 0).unwrap();
    let mailbox = Arc::new(Mailbox::default());
    let mut ingest = Ingest::new(
        registry,
        vec![Arc::clone(&mailbox)],
        GatewayMetrics::default(),
        Arc::default(),
        String::new(),
    );
    let message = candle("A", 0, 1).message();
    let many = format!("[{}]", vec![message; BARS].join(","));
    ingest.message("bars:@batch", many.as_bytes());
    ingest.flush();
    let mut batches = Vec::new();
    mailbox.take(&mut batches).await;
    let sizes: Vec<_> = batches.iter().map(|batch| batch.frames.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), BARS);
    assert!(sizes.iter().all(|size| *size <= 1_024), "{sizes:?}");
}

/// Takes everything.
struct Sponge;

impl Socket for Sponge {
    type Handle<'a> = ();

    fn handle(&self) {}

    fn send((): (), bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
}

/// As after a drain elsewhere: all come at once.
#[test]
fn a_storm_of_subscriptions_takes_no_shared_lock_for_what_is_known() {
    const WORKERS: usize = 32;
    const CLIENTS: usize = 200;
    const TOPICS: usize = 2_000;
    const EACH: usize = 20;
    let registry = Arc::new(Registry::new(TOPICS, 1).for_workers(WORKERS));
    let topics: Vec<_> = (0..TOPICS)
        .map(|n| format!("bars:T{n}:1").parse().unwrap())
        .collect();
    for topic in &topics {
        registry.of_bar(topic, |_| ()).unwrap();
    }
    assert_eq!(registry.makings(), TOPICS as u64);
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (registry, topics) = (Arc::clone(&registry), &topics);
            scope.spawn(move || {
                let mut watching = Watching::new(worker, registry);
                let mut hub = Hub::new(1 << 10);
                for client in 0..CLIENTS {
                    let session = hub.add(Sponge);
                    for nth in 0..EACH {
                        let topic = &topics[(client * 7 + nth * 13 + worker) % TOPICS];
                        let entry = watching.watch(topic).unwrap();
                        hub.subscribe(session, &entry, 0, None);
                    }
                }
                for session in 0..CLIENTS {
                    hub.remove(u32::try_from(session).unwrap());
                }
                for entry in hub.take_todo().unwatched {
                    watching.unwatch(&entry);
                }
            });
        }
    });
    assert_eq!(registry.makings(), TOPICS as u64);
    assert!(
        registry
            .all()
            .iter()
            .all(|entry| !registry.is_watched(entry))
    );
}
