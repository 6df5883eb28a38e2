//! WebSocket clients of tests: a plain socket on which any bytes can be sent, and on top of it what a
//! well-behaved client needs. Blocking, with a deadline on every read.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::DEADLINE;

/// The example of RFC 6455, section 1.3, and the answer that it must get.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A mask of four different bytes.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// One frame of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// A client's frame, masked, with any first byte.
pub fn frame_with(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
        medium @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    frame
}

/// A whole message or control frame, masked.
pub fn frame(opcode: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame_with(0x80 | opcode, payload.as_ref())
}

/// A close frame, masked.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    frame(CLOSE, payload)
}

/// A good handshake's head.
pub fn handshake() -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: barcast.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// An answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// A header's value, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A plain connection with what was read but not looked at.
pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// With a receive buffer as small as the kernel allows, until [`widen`](Self::widen).
    pub fn connect_narrow(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Set before connecting, since the window is agreed on then.
        socket.set_recv_buffer_size(1).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into())
    }

    /// Takes in as others do: through the smallest window TCP trickles some kB a second.
    pub fn widen(&self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_recv_buffer_size(1 << 20).unwrap();
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Reads more; `false` at the end of the connection, however it came.
    fn fill(&mut self) -> bool {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&bytes[..n]);
                true
            }
            Err(why) if why.kind() == ErrorKind::ConnectionReset => false,
            Err(why) => panic!("nothing came within {DEADLINE:?}: {why}"),
        }
    }

    /// The head of an answer, up to its empty line.
    pub fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.fill(), "ended before an answer");
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            head,
            body: String::new(),
        }
    }

    /// A whole answer.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length: usize = answer
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        while self.buffer.len() < length {
            assert!(self.fill(), "ended inside an answer");
        }
        let body = self.buffer.drain(..length).collect();
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    /// Fails if anything but the end comes.
    pub fn expect_end(&mut self) {
        while self.buffer.is_empty() {
            if !self.fill() {
                return;
            }
        }
        let text = String::from_utf8_lossy(&self.buffer);
        panic!("the end was expected, {text:?} came");
    }

    /// The next frame that is no ping, which may come at any time; `None` at the end of the connection.
    pub fn frame(&mut self) -> Option<Frame> {
        let end = Instant::now() + DEADLINE;
        loop {
            assert!(
                Instant::now() < end,
                "nothing but pings within {DEADLINE:?}"
            );
            let frame = self.any_frame();
            if frame.as_ref().is_none_or(|frame| frame.opcode != PING) {
                return frame;
            }
        }
    }

    /// The next frame; `None` at the end of the connection. What a server may not send fails.
    pub fn any_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, len)) = parse(&self.buffer) {
                self.buffer.drain(..len);
                return Some(frame);
            }
            if !self.fill() {
                assert!(self.buffer.is_empty(), "ended inside a frame");
                return None;
            }
        }
    }
}

/// The first frame and its length, if it is whole. What a server may not send fails.
pub fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0xf0, 0x80, "FIN and no reserved bits: {first:#x}");
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (at, len) = match second {
        126 => (
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())),
        ),
        127 => {
            let len = u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap());
            (10, usize::try_from(len).unwrap())
        }
        short => (2, usize::from(short)),
    };
    let payload = bytes.get(at..at + len)?.to_vec();
    let opcode = first & 0x0f;
    Some((Frame { opcode, payload }, at + len))
}

/// What `GET path` answers.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    let mut wire = Wire::connect(address);
    wire.send(format!(
        "GET {path} HTTP/1.1\r\nHost: barcast.test\r\nConnection: close\r\n\r\n"
    ));
    wire.answer()
}

/// One sample of `/metrics`, named as it is written there, labels included; 0 when it is absent.
pub fn metric(address: SocketAddr, name: &str) -> u64 {
    let text = get(address, "/metrics").body;
    sample(&text, name).unwrap_or(0)
}

/// One sample of a metrics text.
pub fn sample(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .map(|value| value.parse().unwrap())
}

/// A client after its handshake.
pub struct Client {
    pub wire: Wire,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(Wire::connect(address))
    }

    pub fn connect_narrow(address: SocketAddr) -> Self {
        Self::over(Wire::connect_narrow(address))
    }

    fn over(mut wire: Wire) -> Self {
        wire.send(handshake());
        let answer = wire.head();
        assert_eq!(answer.status, 101, "{}", answer.head);
        Self { wire }
    }

    pub fn send(&mut self, text: impl AsRef<[u8]>) {
        self.wire.send(frame(TEXT, text));
    }

    /// The next text message; pings are answered on the way.
    pub fn text(&mut self) -> String {
        // Pings would begin each read's patience anew.
        let end = Instant::now() + DEADLINE;
        loop {
            assert!(
                Instant::now() < end,
                "nothing but pings within {DEADLINE:?}"
            );
            let frame = self.wire.any_frame().expect("the connection ended");
            match frame.opcode {
                TEXT => return String::from_utf8(frame.payload).unwrap(),
                PING => self.wire.send(super::client::frame(PONG, frame.payload)),
                _ => panic!("a text message was expected: {frame:?}"),
            }
        }
    }

    pub fn json(&mut self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text}"))
    }

    /// Sends a request and takes its answer.
    pub fn ask(&mut self, text: &str) -> String {
        self.send(text);
        self.text()
    }

    /// Subscribes to one topic; what is known of it comes next.
    pub fn subscribe(&mut self, topic: &str) {
        let answer = self.ask(&format!(
            r#"{{"type":"bars.subscribe","payload":{{"topics":["{topic}"]}}}}"#
        ));
        assert!(answer.contains(r#""status":"ok""#), "{answer}");
    }

    /// All that the gateway had to say before it answered a ping: nothing else is under way.
    pub fn until_pong(&mut self) -> Vec<String> {
        self.send(r#"{"type":"ping","id":"fence"}"#);
        let mut before = Vec::new();
        loop {
            let text = self.text();
            if text == r#"{"type":"pong","id":"fence"}"# {
                return before;
            }
            before.push(text);
        }
    }

    /// Waits for the close frame, whatever comes before it, and tells its code and reason; then the
    /// connection must end.
    pub fn expect_close(&mut self) -> (u16, String) {
        loop {
            let frame = self.wire.frame().expect("ended without a close frame");
            if frame.opcode != CLOSE {
                continue;
            }
            let (code, reason) = frame.payload.split_at(2);
            let code = u16::from_be_bytes(code.try_into().unwrap());
            // A client answers with the same code (RFC 6455, section 5.5.1), unless it is gone.
            let _ = self.wire.stream.write_all(&close(code, ""));
            assert_eq!(self.wire.frame(), None, "nothing comes after a close frame");
            return (code, String::from_utf8(reason.to_vec()).unwrap());
        }
    }
}
