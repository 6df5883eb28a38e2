//! The clients against a server that does everything wrong on purpose: they must count exactly that.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

use std::io::{BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use barcast::bar::write_update;
use barcast::gateway::ws::Deflater;
use loadtest::clock::Clock;
use loadtest::frame::{CLOSE, PING, TEXT, write_server_frame};
use loadtest::market::{FIRST_BAR_MS, Market};
use loadtest::swarm::{Swarm, Target};
use loadtest::tally::Counts;
use tungstenite::{Message as Frame, WebSocket};

/// Every fourth update closes a bar.
const BAR_TICKS: u64 = 4;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

fn market() -> Arc<Market> {
    Arc::new(Market::new("T", 3, BAR_TICKS, 1).unwrap())
}

/// Text frames of the updates `seqs` of a topic.
fn updates(topic: u32, seqs: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for seq in seqs {
        let mut text = Vec::new();
        write_update(&mut text, &market().message(topic, *seq, 1).unwrap());
        write_server_frame(&mut bytes, TEXT, &text);
    }
    bytes
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_server_frame(&mut bytes, TEXT, text.as_bytes());
    bytes
}

/// Lets one client of topics 0 and 2 connect, writes `bytes` to it in pieces of `piece` bytes, and
/// gives the swarm when `received` updates have come, with the server's end of the connection.
fn serve(bytes: &[u8], piece: usize, received: u64) -> (Swarm, WebSocket<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target {
        compression: true,
        ..Target::new(listener.local_addr().unwrap(), "/ws", market())
    };
    let clients = std::iter::once((0, vec![0, 2]));
    let swarm = Swarm::start(vec![target], clients, 1, Clock::start()).unwrap();
    let mut server = tungstenite::accept(listener.accept().unwrap().0).unwrap();
    let asked = server.read().unwrap().into_text().unwrap();
    assert_eq!(
        asked,
        r#"{"type":"bars.subscribe","payload":{"topics":["bars:T000000:1S","bars:T000002:1S"]}}"#
    );
    assert_eq!(swarm.ready(0), 0);
    server
        .send(Frame::text(
            r#"{"type":"bars.subscribe.response","payload":{"status":"ok"}}"#,
        ))
        .unwrap();
    swarm.wait_ready(0, 1, |_| {}, || false).unwrap();
    let stream = server.get_mut();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for piece in bytes.chunks(piece) {
        stream.write_all(piece).unwrap();
    }
    assert!(swarm.wait_received(0, received, PATIENCE));
    (swarm, server)
}

#[test]
fn compressed_updates_count_with_the_bytes_that_came() {
    let plain = updates(0, &[1, 2, 3, 4]);
    let (mut packer, mut bytes) = (Deflater::default(), Vec::new());
    for seq in 1..=4 {
        let (mut text, mut frame) = (Vec::new(), Vec::new());
        write_update(&mut text, &market().message(0, seq, 1).unwrap());
        let range = packer.append_text(&text, &mut frame).unwrap();
        bytes.extend_from_slice(&frame[range]);
    }
    assert!(bytes.len() < plain.len());
    let (swarm, _server) = serve(&bytes, 7, 4);
    let counts = swarm.settle(0, 4).unwrap();
    assert_eq!((counts.delivered, counts.altered), (4, 0));
    assert_eq!(swarm.collect(0).unwrap().bytes, bytes.len() as u64);
}

#[test]
fn faults_are_counted_exactly_wherever_the_bytes_are_cut() {
    let bytes = [
        updates(0, &[1, 2, 3, 4]),
        // 2, 3 conflated; 8 lost; 12 told of; 9, 10, 11 conflated.
        updates(2, &[1, 4, 5, 6, 7]),
        updates(0, &[6, 5, 6]),
        text(&format!(
            r#"{{"type":"bars.gap","topic":"bars:T000002:1S","payload":{{"from":{0},"to":{0},"reason":"slow_client"}}}}"#,
            FIRST_BAR_MS + 2_000
        )),
        updates(2, &[13]),
        updates(0, &[7, 8, 9, 10, 11, 12, 13]),
    ]
    .concat();
    let expected = Counts {
        delivered: 12 + 6,
        conflated: 1 + 5,
        gapped: 1,
        lost: 1,
        out_of_order: 1,
        duplicates: 1,
        altered: 0,
        gap_frames: 1,
        lost_by_topic: [(2, 1)].into(),
    };
    for piece in [1, 5, 97, bytes.len()] {
        let (swarm, _server) = serve(&bytes, piece, 18);
        assert_eq!(swarm.settle(0, 13).unwrap(), expected, "pieces of {piece}");
        assert_eq!(swarm.collect(0).unwrap().latency.len(), 18);
        assert_eq!(swarm.gone(0), 0);
    }
}

#[test]
fn a_closed_bar_that_differs_is_altered() {
    let right = String::from_utf8(updates(0, &[4])[4..].to_vec()).unwrap();
    for wrong in [
        right.replace("\"volume\":4000", "\"volume\":4001"),
        right.replace(",\"closed\":true", ""),
    ] {
        assert_ne!(wrong, right);
        let bytes = [updates(0, &[1, 2, 3]), text(&wrong)].concat();
        let (swarm, _server) = serve(&bytes, bytes.len(), 4);
        assert_eq!(swarm.settle(0, 0).unwrap().altered, 1);
    }
}

#[test]
fn pings_are_answered_and_a_close_is_told_with_its_code() {
    let mut bytes = updates(0, &[1]);
    write_server_frame(&mut bytes, PING, b"still there?");
    let (swarm, mut server) = serve(&bytes, bytes.len(), 1);
    assert_eq!(server.read().unwrap(), Frame::Pong("still there?".into()));
    let mut close = Vec::new();
    write_server_frame(&mut close, CLOSE, &4_503_u16.to_be_bytes());
    server.get_mut().write_all(&close).unwrap();
    while swarm.gone(0) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(
        swarm.reasons(),
        [("closed by the server with 4503".to_owned(), 1)]
    );
    // What it had not got by then is lost.
    assert_eq!(swarm.settle(0, 3).unwrap().lost, 2 + 3);
}

#[test]
fn what_max_rate_holds_back_is_conflated() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target {
        max_rate: Some(2.5),
        ..Target::new(listener.local_addr().unwrap(), "/ws", market())
    };
    let clients = std::iter::once((0, vec![0, 2]));
    let swarm = Swarm::start(vec![target], clients, 1, Clock::start()).unwrap();
    let mut server = tungstenite::accept(listener.accept().unwrap().0).unwrap();
    assert_eq!(
        server.read().unwrap().into_text().unwrap(),
        r#"{"type":"bars.subscribe","payload":{"topics":["bars:T000000:1S","bars:T000002:1S"],"max_rate":2.5}}"#
    );
    // Closed bars, which are every fourth, have to come: on topic 2 one does not.
    let came = [updates(0, &[1, 4, 7, 8, 10]), updates(2, &[3, 4, 10])].concat();
    server.get_mut().write_all(&came).unwrap();
    assert!(swarm.wait_received(0, 8, PATIENCE));
    let counts = swarm.settle(0, 10).unwrap();
    assert_eq!(
        (counts.delivered, counts.conflated, counts.lost),
        (8, 11, 1)
    );
}

#[test]
fn a_refused_handshake_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::new(listener.local_addr().unwrap(), "/nowhere", market());
    let clients = std::iter::once((0, vec![0]));
    let swarm = Swarm::start(vec![target], clients, 1, Clock::start()).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
    let why = swarm
        .wait_ready(0, 1, |_| {}, || false)
        .unwrap_err()
        .to_string();
    assert!(why.contains("refused with 404"), "{why}");
}

#[test]
fn topics_can_be_named_in_the_path() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::new(
        listener.local_addr().unwrap(),
        "/ws?topics={topics}",
        market(),
    );
    let clients = std::iter::once((0, vec![0, 2]));
    let swarm = Swarm::start(vec![target], clients, 1, Clock::start()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    let mut reader = std::io::BufReader::new(&stream);
    while !head.ends_with(b"\r\n\r\n") {
        reader.read_until(b'\n', &mut head).unwrap();
    }
    let asked = b"GET /ws?topics=bars:T000000:1S,bars:T000002:1S HTTP/1.1\r\n";
    assert!(
        head.starts_with(asked),
        "{}",
        String::from_utf8_lossy(&head)
    );
    let answer = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    (&stream).write_all(answer.as_bytes()).unwrap();
    // It is ready without another word, and sends none.
    swarm.wait_ready(0, 1, |_| {}, || false).unwrap();
    (&stream).write_all(&updates(2, &[1])).unwrap();
    assert!(swarm.wait_received(0, 1, PATIENCE));
    drop(swarm);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
}
