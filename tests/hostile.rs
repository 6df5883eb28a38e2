//! Clients that mean harm: they cost a bounded amount, others do not feel them, and when they are gone
//! so is all that was kept for them. A limit's own tests are in `limits.rs`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use barcast::bus::{Outgoing, Publisher};
use barcast::gateway::Config;
use barcast::gateway::worker::{MAX_HTTP_CONNECTIONS, REFUSED_HTTP};
use common::client::{
    BINARY, CLOSE, CONTINUATION, Client, PING, PONG, TEXT, Wire, frame, frame_with, handshake,
    metric,
};
use common::eventually_blocking;
use common::gateway::{Feed, Running, START, candle, config, in_process};

/// Clients that are there before the harm begins, on both workers.
const ESTABLISHED: usize = 8;
/// No limit on messages: what is left when the rate does not protect.
const ANY_RATE: u32 = 1_000_000;

/// Both ends of every connection are in this process.
fn allow_files(connections: usize) {
    let wanted = 2 * connections as u64 + 500;
    let files = rlimit::increase_nofile_limit(20_000).unwrap();
    assert!(
        files >= wanted,
        "{files} open files are too few for this test"
    );
}

fn any_rate() -> Config {
    let mut config = config();
    config.limits.max_messages_per_second = ANY_RATE;
    config
}

/// Bars flow to established clients all the while: each gets every one, in order.
fn unharmed<T: Send>(
    gateway: &Running,
    feed: &mut Feed<impl Publisher>,
    harm: impl FnOnce(SocketAddr) -> T + Send,
) -> T {
    let mut clients: Vec<_> = (0..ESTABLISHED).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.subscribe("bars:GOOD:1");
    }
    let mut price = 0;
    let mut round = || {
        price += 1;
        let bar = candle("GOOD", 0, price).closed();
        feed.bar(&bar);
        for client in &mut clients {
            assert_eq!(client.text(), bar.update());
        }
    };
    let address = gateway.address;
    thread::scope(|scope| {
        let harm = scope.spawn(move || harm(address));
        while !harm.is_finished() {
            round();
        }
        (0..10).for_each(|_| round());
        harm.join().unwrap()
    })
}

/// Nobody is left, nothing is watched, and there are `topics` topics.
fn given_back(gateway: &Running, topics: usize) {
    eventually_blocking("all have left", || gateway.node.clients() == 0);
    assert_eq!(metric(gateway.address, "barcast_clients"), 0);
    let registry = &gateway.node.registry;
    eventually_blocking("nothing is watched", || {
        registry.all().iter().all(|entry| {
            entry.subscribers.load(Ordering::Relaxed) == 0 && entry.lock().watchers == 0
        })
    });
    assert_eq!(registry.len(), topics);
}

/// Sends what the other side may no longer take.
fn push(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

/// Reads to the end of the connection, whatever comes.
fn drain(stream: &mut TcpStream) -> Vec<u8> {
    // Pings would begin each read's patience anew.
    let end = Instant::now() + common::DEADLINE;
    let (mut all, mut bytes) = (Vec::new(), [0; 4 << 10]);
    while Instant::now() < end {
        match stream.read(&mut bytes) {
            Ok(0) => return all,
            Ok(read) => all.extend_from_slice(&bytes[..read]),
            Err(why) if why.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(why) => panic!("the connection does not end: {why}"),
        }
    }
    panic!("the connection does not end");
}

#[test]
fn half_open_handshakes_are_ended_and_nobody_feels_them() {
    const HALF_OPEN: usize = 1_000;
    allow_files(HALF_OPEN);
    let mut config = config();
    config.limits.handshake_timeout = Duration::from_secs(1);
    let (gateway, mut feed) = in_process(config);
    unharmed(&gateway, &mut feed, |address| {
        let head = handshake();
        let parts = [0, 20, head.len() - 1];
        let mut wires: Vec<_> = (0..HALF_OPEN)
            .map(|n| {
                let mut wire = Wire::connect(address);
                wire.send(&head[..parts[n % parts.len()]]);
                wire
            })
            .collect();
        for wire in &mut wires {
            assert!(!drain(&mut wire.stream).starts_with(b"HTTP/1.1 101"));
        }
    });
    assert_eq!(
        metric(gateway.address, "barcast_accepted_clients_total"),
        ESTABLISHED as u64
    );
    given_back(&gateway, 1);
}

#[test]
fn senders_of_a_byte_at_a_time_are_served_and_nobody_feels_them() {
    const SENDERS: usize = 20;
    let mut config = config();
    // So that an answer to one client tells that the others' bytes were looked at.
    config.workers = 1;
    config.limits.handshake_timeout = Duration::from_secs(600);
    let (gateway, mut feed) = in_process(config);
    let request = r#"{"type":"bars.subscribe","payload":{"topics":["bars:SLOW:1"]}}"#;
    let bytes = [
        handshake().into_bytes(),
        frame(TEXT, request),
        frame(PING, "end"),
    ]
    .concat();
    let mut slow = unharmed(&gateway, &mut feed, |address| {
        let mut wires: Vec<_> = (0..SENDERS).map(|_| Wire::connect(address)).collect();
        // Without it the gateway would find many bytes at once.
        let mut fence = Client::connect(address);
        for byte in &bytes {
            for wire in &mut wires {
                wire.send([*byte]);
            }
            fence.until_pong();
        }
        for wire in &mut wires {
            assert_eq!(wire.head().status, 101);
            let answer = wire.frame().unwrap();
            assert!(
                answer.opcode == TEXT
                    && String::from_utf8_lossy(&answer.payload).contains("bars:SLOW:1")
            );
            let pong = wire.frame().unwrap();
            assert_eq!((pong.opcode, &*pong.payload), (PONG, &b"end"[..]));
        }
        wires
    });
    let bar = candle("SLOW", 0, 1);
    feed.bar(&bar);
    for wire in &mut slow {
        assert_eq!(wire.frame().unwrap().payload, bar.update().as_bytes());
    }
    drop(slow);
    given_back(&gateway, 2);
}

#[test]
fn ping_floods_are_closed_as_too_fast() {
    const FLOODS: usize = 10;
    let (gateway, mut feed) = in_process(config());
    unharmed(&gateway, &mut feed, |address| {
        let flood = frame(PING, "flood").repeat(3_000);
        for _ in 0..FLOODS {
            let mut client = Client::connect(address);
            push(&mut client.wire.stream, &flood);
            // What came before it is answered, unless a reset overtakes it.
            drain(&mut client.wire.stream);
        }
    });
    assert_eq!(gateway.node.metrics.closed(4429).get(), FLOODS as u64);
    given_back(&gateway, 1);
}

/// A message that never ends, in fragments without a byte: it holds no memory, but it is work.
#[test]
fn fragment_floods_are_closed_as_too_fast() {
    const FLOODS: usize = 4;
    let (gateway, mut feed) = in_process(config());
    unharmed(&gateway, &mut feed, |address| {
        let flood = frame_with(CONTINUATION, b"").repeat(5_000);
        for _ in 0..FLOODS {
            let mut client = Client::connect(address);
            push(&mut client.wire.stream, &frame_with(TEXT, b""));
            push(&mut client.wire.stream, &flood);
            drain(&mut client.wire.stream);
        }
    });
    assert_eq!(gateway.node.metrics.closed(4429).get(), FLOODS as u64);
    given_back(&gateway, 1);
}

#[test]
fn pings_are_answered_in_order_where_no_rate_forbids_them() {
    const PINGS: u32 = 10_000;
    let (gateway, mut feed) = in_process(any_rate());
    unharmed(&gateway, &mut feed, |address| {
        let mut client = Client::connect(address);
        let pings: Vec<u8> = (0..PINGS)
            .flat_map(|n| frame(PING, n.to_be_bytes()))
            .collect();
        let mut sender = client.wire.stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || sender.write_all(&pings).unwrap());
            for n in 0..PINGS {
                let pong = client.wire.frame().unwrap();
                assert_eq!((pong.opcode, &*pong.payload), (PONG, &n.to_be_bytes()[..]));
            }
        });
    });
    given_back(&gateway, 1);
}

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
            push(&mut client.wire.stream, &turn.repeat(200));
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
    let time = format!(r#""time":{}"#, START + common::gateway::MINUTE);
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

#[test]
fn garbage_after_the_handshake_ends_the_connection() {
    let (gateway, mut feed) = in_process(config());
    unharmed(&gateway, &mut feed, |address| {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let garbage: Vec<u8> = (0..random.usize(1..3_000)).map(|_| random.u8(..)).collect();
            let mut client = Client::connect(address);
            push(&mut client.wire.stream, &garbage);
            let _ = client.wire.stream.shutdown(Shutdown::Write);
            drain(&mut client.wire.stream);
            // And in place of it.
            let mut wire = Wire::connect(address);
            push(&mut wire.stream, &garbage);
            let _ = wire.stream.shutdown(Shutdown::Write);
            assert!(!drain(&mut wire.stream).starts_with(b"HTTP/1.1 2"));
        }
    });
    given_back(&gateway, 1);
}

/// A frame's head that declares `length` bytes, and nothing behind it.
fn declaring(first: u8, length: u64) -> Vec<u8> {
    let mut head = vec![first, 0xff];
    head.extend_from_slice(&length.to_be_bytes());
    head
}

#[test]
fn lengths_are_judged_when_they_are_declared() {
    const FIN: u8 = 0x80;
    let (gateway, mut feed) = in_process(config());
    let most = config().limits.max_message_bytes;
    let half = vec![b'x'; most / 2 + 1];
    let cases = [
        (declaring(FIN | TEXT, 1 << 62), 1009),
        (declaring(FIN | TEXT, u64::MAX), 1002),
        (declaring(FIN | BINARY, 1 << 32), 1009),
        (declaring(TEXT, 1 << 40), 1009),
        (declaring(FIN | PING, 1 << 20), 1002),
        (declaring(FIN | CLOSE, 126), 1002),
        (
            [frame_with(TEXT, b"x"), declaring(CONTINUATION, 1 << 62)].concat(),
            1009,
        ),
        (
            [frame_with(TEXT, &half), frame_with(FIN, &half)].concat(),
            1009,
        ),
        (frame_with(FIN | CONTINUATION, b"x"), 1002),
    ];
    unharmed(&gateway, &mut feed, |address| {
        for (bytes, code) in &cases {
            let mut client = Client::connect(address);
            client.wire.send(bytes);
            assert_eq!(client.expect_close().0, *code, "{:x?}", &bytes[..10]);
        }
    });
    given_back(&gateway, 1);
}

#[test]
fn connections_that_never_become_sessions_are_bounded() {
    const BEYOND: usize = 16;
    allow_files(MAX_HTTP_CONNECTIONS + BEYOND);
    let mut config = config();
    config.workers = 1;
    config.limits.handshake_timeout = Duration::from_secs(600);
    let (gateway, mut feed) = in_process(config);
    let refused = gateway.node.metrics.refused(REFUSED_HTTP);
    let silent = unharmed(&gateway, &mut feed, |address| {
        let silent: Vec<_> = (0..MAX_HTTP_CONNECTIONS + BEYOND)
            .map(|_| Wire::connect(address))
            .collect();
        eventually_blocking("refused", || refused.get() == BEYOND as u64);
        silent
    });
    drop(silent);
    eventually_blocking("there is room again", || {
        let mut wire = Wire::connect(gateway.address);
        push(&mut wire.stream, handshake().as_bytes());
        let mut status = [0; 12];
        wire.stream.read_exact(&mut status).is_ok() && status == *b"HTTP/1.1 101"
    });
    given_back(&gateway, 1);
}
