//! permessage-deflate (RFC 7692) over real sockets: what is agreed on, what goes out compressed, and
//! what comes in so. The examples of the RFC and the forms of an offer are tested in `ws/deflate.rs`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;

use barcast::gateway::Config;
use barcast::gateway::ws::{Decoder, Event};
use common::DEADLINE;
use common::client::{
    CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, close, frame, frame_with, metric,
};
use common::gateway::{Running, candle, config, in_process};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use socket2::{Domain, Socket, Type};

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const OFFER: &str = "permessage-deflate; client_max_window_bits";
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

fn compressing() -> Config {
    Config {
        compression: true,
        ..config()
    }
}

/// A message's payload as a client compresses it, with the tail taken off.
fn deflate(payload: &[u8], level: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() * 2 + 64);
    let mut compress = Compress::new(Compression::new(level), false);
    let flush = FlushCompress::Sync;
    compress.compress_vec(payload, &mut out, flush).unwrap();
    out.truncate(out.len() - 4);
    out
}

/// With a fresh window each time: nothing may refer to the message before.
fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    let flush = FlushDecompress::Sync;
    let mut inflater = Decompress::new_with_window_bits(false, 9);
    inflater.decompress_vec(&input, &mut out, flush).unwrap();
    assert_eq!(inflater.total_in(), input.len() as u64);
    out
}

/// A client that knows of compression.
struct Packed {
    stream: TcpStream,
    /// The answer's extensions.
    extensions: Option<String>,
    /// How many text frames came compressed.
    packed: usize,
}

impl Packed {
    fn over(mut stream: TcpStream, offers: &[&str]) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let offers: String = offers
            .iter()
            .map(|offer| format!("Sec-WebSocket-Extensions: {offer}\r\n"))
            .collect();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: barcast.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{offers}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let extensions = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let ours = name.eq_ignore_ascii_case("sec-websocket-extensions");
            ours.then(|| value.to_owned())
        });
        Self {
            stream,
            extensions,
            packed: 0,
        }
    }

    fn connect(gateway: &Running, offers: &[&str]) -> Self {
        Self::over(TcpStream::connect(gateway.address).unwrap(), offers)
    }

    fn agreed(gateway: &Running) -> Self {
        let client = Self::connect(gateway, &[OFFER]);
        assert_eq!(client.extensions.as_deref(), Some(AGREED));
        client
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// First byte, and payload as it came.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).unwrap();
        let len = if head[1] == 126 {
            let mut len = [0; 2];
            self.stream.read_exact(&mut len).unwrap();
            usize::from(u16::from_be_bytes(len))
        } else {
            assert!(head[1] < 126, "{head:x?}");
            usize::from(head[1])
        };
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).unwrap();
        (head[0], payload)
    }

    /// The next frame that is no ping of the gateway's, which are answered.
    fn answer(&mut self) -> (u8, Vec<u8>) {
        loop {
            match self.frame() {
                (first, payload) if first == FIN | PING => self.send(frame(PONG, payload)),
                other => return other,
            }
        }
    }

    fn text(&mut self) -> String {
        let (first, payload) = self.answer();
        let payload = if first & RSV1 == 0 {
            payload
        } else {
            self.packed += 1;
            inflate(&payload)
        };
        assert_eq!(first & !RSV1, FIN | TEXT, "{first:x}");
        String::from_utf8(payload).unwrap()
    }

    fn ask(&mut self, text: &str) -> String {
        self.send(frame(TEXT, text));
        self.text()
    }

    fn subscribe(&mut self, topics: &str) {
        let answer = self.ask(&format!(
            r#"{{"type":"bars.subscribe","payload":{{{topics}}}}}"#
        ));
        assert!(answer.contains(r#""status":"ok""#), "{answer}");
    }

    /// The code of the close frame, which must be the next.
    fn expect_close(&mut self) -> u16 {
        let (first, payload) = self.frame();
        assert_eq!(first, FIN | CLOSE);
        let code = u16::from_be_bytes([payload[0], payload[1]]);
        // The gateway may be gone already.
        let _ = self.stream.write_all(&close(code, ""));
        code
    }
}

#[test]
fn it_is_negotiated_only_when_it_is_on_and_offered() {
    let (on, _feed) = in_process(compressing());
    let (off, _feed) = in_process(config());
    let agreed = |gateway, offers: &[&str]| Packed::connect(gateway, offers).extensions;
    assert_eq!(agreed(&off, &[OFFER]), None);
    assert_eq!(agreed(&on, &[]), None);
    assert_eq!(agreed(&on, &["x-webkit-deflate-frame"]), None);
    for offers in [
        &["permessage-deflate"][..],
        &[OFFER],
        &["x-unknown", OFFER],
        &["permessage-deflate; unknown=1, permessage-deflate"],
        &["permessage-deflate; client_max_window_bits=10; server_no_context_takeover"],
    ] {
        assert_eq!(agreed(&on, offers), Some(AGREED.to_owned()), "{offers:?}");
    }
    let bits = ["permessage-deflate; server_max_window_bits=10"];
    let with_bits = format!("{AGREED}; server_max_window_bits=10");
    assert_eq!(agreed(&on, &bits), Some(with_bits));
    for declined in [
        "permessage-deflate; unknown",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=0",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    ] {
        assert_eq!(agreed(&on, &[declined]), None, "{declined}");
    }
}

#[test]
fn bars_come_compressed_to_those_who_take_them_so_and_plain_to_others() {
    let (gateway, mut feed) = in_process(compressing());
    let mut plain = gateway.client();
    plain.subscribe("bars:AAPL:1");
    let mut packed = Packed::agreed(&gateway);
    packed.subscribe(r#""topics":["bars:AAPL:1","bars:MSFT:1"]"#);
    for minute in 0..20 {
        let bar = candle("AAPL", minute, 1_000);
        feed.bar(&bar);
        assert_eq!(plain.text(), bar.update());
        assert_eq!(packed.text(), bar.update());
    }
    assert_eq!(packed.packed, 20);
    // Many at once, of two topics of which the other client has one.
    let bars: Vec<_> = (20..120)
        .flat_map(|minute| ["AAPL", "MSFT"].map(|symbol| candle(symbol, minute, 7).closed()))
        .collect();
    feed.all(bars.iter().map(|bar| bar.outgoing()).collect());
    for bar in &bars {
        assert_eq!(packed.text(), bar.update());
    }
    for bar in bars.iter().filter(|bar| bar.symbol == "AAPL") {
        assert_eq!(plain.text(), bar.update());
    }
    assert_eq!(packed.packed, 220);
}

#[test]
fn updates_that_wait_for_their_turn_come_compressed() {
    let (gateway, mut feed) = in_process(compressing());
    let mut client = Packed::agreed(&gateway);
    client.subscribe(r#""symbol":"AAPL","resolution":"1","max_rate":2"#);
    for price in 1..=3 {
        feed.bar(&candle("AAPL", 0, price));
    }
    let last = candle("AAPL", 0, 3).update();
    while client.text() != last {}
    assert!(client.packed >= 2, "{}", client.packed);
}

#[test]
fn a_slow_client_gets_whole_compressed_frames() {
    let (gateway, mut feed) = in_process(compressing());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Set before connecting, since the window is agreed on then.
    socket.set_recv_buffer_size(1).unwrap();
    socket.connect(&gateway.address.into()).unwrap();
    let mut slow = Packed::over(socket.into(), &[OFFER]);
    slow.subscribe(r#""symbol":"AAPL","resolution":"1""#);
    let mut minute = 0;
    while gateway.node.metrics.full.get() == 0 {
        let bars = (0..1_000).map(|n| candle("AAPL", minute + n, 7).closed().outgoing());
        feed.all(bars.collect());
        minute += 1_000;
    }
    socket2::SockRef::from(&slow.stream)
        .set_recv_buffer_size(1 << 20)
        .unwrap();
    let last = candle("AAPL", minute, 8);
    feed.bar(&last);
    let mut before = String::new();
    loop {
        let text = slow.text();
        if text == last.update() {
            break;
        }
        assert!(
            text > before || text.contains("bars.gap"),
            "{before} {text}"
        );
        before = text;
    }
    assert!(slow.packed > 1_000);
}

#[test]
fn requests_may_come_compressed() {
    let (gateway, _feed) = in_process(compressing());
    let mut client = Packed::agreed(&gateway);
    for (n, level) in [0, 1, 6, 9].into_iter().enumerate() {
        let packed = deflate(format!(r#"{{"type":"ping","id":{n}}}"#).as_bytes(), level);
        client.send(frame_with(FIN | RSV1 | TEXT, &packed));
        assert_eq!(client.text(), format!(r#"{{"type":"pong","id":{n}}}"#));
    }
    // In fragments, of which only the first is marked, byte by byte, with a ping between.
    let packed = deflate(br#"{"type":"ping","id":"cut"}"#, 6);
    let (start, end) = packed.split_at(5);
    for byte in [
        frame_with(RSV1 | TEXT, start),
        frame(PING, "between"),
        frame_with(CONTINUATION, b""),
        frame_with(FIN | CONTINUATION, end),
    ]
    .concat()
    {
        client.send([byte]);
    }
    assert_eq!(client.answer(), (FIN | PONG, b"between".to_vec()));
    assert_eq!(client.text(), r#"{"type":"pong","id":"cut"}"#);
    // Plain ones as before.
    assert_eq!(client.ask(r#"{"type":"ping"}"#), r#"{"type":"pong"}"#);
}

#[test]
fn breaches_are_closed_with_their_codes() {
    let (gateway, _feed) = in_process(compressing());
    // As much as fits into a message that is not refused by its length alone.
    let bomb = deflate(&vec![b' '; 2 << 20], 9);
    assert!(bomb.len() < 4 << 10, "{}", bomb.len());
    let good = deflate(b"{}", 6);
    let begun = frame_with(RSV1 | TEXT, &good[..1]);
    let breaches: [(&str, Vec<u8>, u16); 10] = [
        ("bomb", frame_with(FIN | RSV1 | TEXT, &bomb), 1009),
        (
            "bomb in fragments",
            [
                frame_with(RSV1 | TEXT, &bomb[..9]),
                frame_with(FIN, &bomb[9..]),
            ]
            .concat(),
            1009,
        ),
        ("long", frame_with(FIN | RSV1 | TEXT, &[0; 8 << 10]), 1009),
        ("broken", frame_with(FIN | RSV1 | TEXT, &[0xff; 9]), 1007),
        (
            "cut off",
            frame_with(FIN | RSV1 | TEXT, &good[..good.len() - 2]),
            1007,
        ),
        (
            "not UTF-8",
            frame_with(FIN | RSV1 | TEXT, &deflate(b"\xff\xff", 6)),
            1007,
        ),
        ("control", frame_with(FIN | RSV1 | PING, b""), 1002),
        (
            "continuation",
            [begun, frame_with(FIN | RSV1, &good[1..])].concat(),
            1002,
        ),
        ("RSV2", frame_with(FIN | RSV1 | 0x20 | TEXT, &good), 1002),
        ("RSV3", frame_with(FIN | 0x10 | TEXT, b"{}"), 1002),
    ];
    for (what, bytes, code) in &breaches {
        let mut client = Packed::agreed(&gateway);
        client.send(bytes);
        assert_eq!(client.expect_close(), *code, "{what}");
    }
    let mut unagreed = Packed::connect(&gateway, &[]);
    unagreed.send(frame_with(FIN | RSV1 | TEXT, &good));
    assert_eq!(unagreed.expect_close(), 1002);
    let counter = r#"barcast_closed_clients_total{code="1007"}"#;
    assert_eq!(metric(gateway.address, counter), 3);
}

/// The cap is that of a plain message, also where compressing made it larger.
#[test]
fn a_message_of_the_cap_may_come_however_it_was_compressed() {
    const MAX: usize = 4 << 10;
    let message: Vec<u8> = (0..MAX).map(|n| b"abcdefgh"[n * n % 8]).collect();
    for level in [0, 1, 9] {
        let mut told = Vec::new();
        let mut feed = |payload: &[u8]| {
            let mut bytes = frame_with(FIN | RSV1 | TEXT, &deflate(payload, level));
            Decoder::new(MAX).inflating().feed(&mut bytes, |event| {
                if let Event::Text(text) = event {
                    told.push(text.to_owned());
                }
                ControlFlow::Continue(())
            })
        };
        feed(&message).unwrap();
        let beyond = [&message[..], b"x"].concat();
        assert_eq!(feed(&beyond).unwrap_err().code().code(), 1009);
        assert_eq!(told, [String::from_utf8(message.clone()).unwrap()]);
    }
}
