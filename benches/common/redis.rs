//! The other side of the subscriber: a listener that answers its greeting as Redis does, and recorded
//! replies to pour into it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use barcast::bar::{BATCH_CHANNEL, CHANNEL_PATTERN, Message};
use barcast::bus::RedisBus;

use super::{SYMBOLS, batch_payload, payload};

/// How the bars come over the bus.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Single,
    Batch,
    ZstdBatch,
}

impl Form {
    /// Each, with its name in the reports.
    pub const ALL: [(&'static str, Self); 3] = [
        ("single messages", Self::Single),
        ("batches of 200", Self::Batch),
        ("zstd batches of 200", Self::ZstdBatch),
    ];

    /// What Redis sends to the subscriber for these messages.
    pub fn record(self, messages: &[Message]) -> Vec<u8> {
        let mut out = Vec::new();
        if let Self::Single = self {
            for message in messages {
                push(&mut out, &message.topic.to_string(), &payload(message));
            }
            return out;
        }
        for chunk in messages.chunks(SYMBOLS) {
            let compress = matches!(self, Self::ZstdBatch);
            push(&mut out, BATCH_CHANNEL, &batch_payload(chunk, compress));
        }
        out
    }
}

/// One push of a `PSUBSCRIBE`d message in RESP3.
fn push(out: &mut Vec<u8>, channel: &str, payload: &[u8]) {
    let _ = write!(
        out,
        ">4\r\n$8\r\npmessage\r\n${}\r\n{CHANNEL_PATTERN}\r\n${}\r\n{channel}\r\n${}\r\n",
        CHANNEL_PATTERN.len(),
        channel.len(),
        payload.len()
    );
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// A Redis that sends what is poured into it, and the bus that leads there.
pub fn listen() -> (TcpListener, RedisBus) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let bus = RedisBus::new(&format!("redis://127.0.0.1:{port}")).expect("a URL");
    (listener, bus)
}

/// Answers a subscriber's greeting and returns the connection to pour into.
pub fn greet(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("the subscriber connects");
    stream.set_nodelay(true).expect("a socket option");
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    let mut answer = stream.try_clone().expect("a second handle");
    for line in lines.by_ref() {
        let line = line.expect("the subscriber speaks");
        let reply: &[u8] = match line.as_str() {
            "HELLO" => b"%1\r\n$5\r\nproto\r\n:3\r\n",
            "CLIENT" => b"+OK\r\n",
            "ROLE" => b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
            "PSUBSCRIBE" => b">3\r\n$10\r\npsubscribe\r\n$6\r\nbars:*\r\n:1\r\n",
            _ => continue,
        };
        answer.write_all(reply).expect("the subscriber listens");
        if line == "PSUBSCRIBE" {
            break;
        }
    }
    // Its pings are not answered: the answer would fall into the middle of what is poured. A subscriber
    // that gets bars meanwhile stays.
    thread::spawn(move || lines.for_each(drop));
    stream
}
