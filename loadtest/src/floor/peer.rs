//! One client of the yardstick: its socket, its handshake and what it subscribed to. No more of the
//! protocol than a measurement needs.

use std::io::{ErrorKind, Read, Write};

use barcast::bar::{Symbol, Topic};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mio::net::TcpStream;
use serde::Deserialize;
use sha1::{Digest, Sha1};

use crate::frame::{CLOSE, TEXT, frame_at, unmask, write_server_frame};

/// RFC 6455, section 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest handshake or client message, in bytes.
const MAX_INBOX_BYTES: usize = 64 << 10;
/// Most header fields of a request.
const MAX_HEADERS: usize = 64;
/// What `bars.subscribe` means without a resolution, as the gateway has it.
const DEFAULT_RESOLUTION: &str = "1";

pub(super) struct Peer {
    pub stream: TcpStream,
    inbox: Vec<u8>,
    open: bool,
    /// What it is subscribed to, for when it goes.
    pub topics: Vec<Topic>,
}

/// Why a client is let go: it went itself, or did what is not understood here.
pub(super) struct Ended;

impl From<std::io::Error> for Ended {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

#[derive(Deserialize)]
struct Request {
    r#type: String,
    #[serde(default)]
    payload: Payload,
}

#[derive(Default, Deserialize)]
struct Payload {
    symbol: Option<String>,
    resolution: Option<String>,
    params: Option<Params>,
    #[serde(default)]
    topics: Vec<String>,
}

#[derive(Deserialize)]
struct Params {
    resolution: Option<String>,
}

impl Payload {
    /// The topics of both forms, without those that are none.
    fn topics(self) -> Vec<Topic> {
        let Some(symbol) = self.symbol else {
            return self.topics.iter().filter_map(|t| t.parse().ok()).collect();
        };
        let resolution = self.params.and_then(|params| params.resolution);
        let resolution = resolution.or(self.resolution);
        let resolution = resolution.as_deref().unwrap_or(DEFAULT_RESOLUTION);
        match (symbol.parse::<Symbol>(), resolution.parse()) {
            (Ok(symbol), Ok(resolution)) => vec![Topic { symbol, resolution }],
            _ => Vec::new(),
        }
    }
}

impl Peer {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            inbox: Vec::new(),
            open: false,
            topics: Vec::new(),
        }
    }

    /// Sends, and ends the client when its socket does not take all of it.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        match self.stream.write(bytes) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            _ => Err(Ended),
        }
    }

    /// Reads what there is, answers the handshake, and gives the topics that are asked for.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Vec<Topic>, Ended> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(Ended),
                Ok(n) => self.inbox.extend_from_slice(&buffer[..n]),
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(why.into()),
            }
            if self.inbox.len() > MAX_INBOX_BYTES {
                return Err(Ended);
            }
        }
        if !self.open {
            self.handshake()?;
        }
        let mut asked = Vec::new();
        if self.open {
            self.messages(&mut asked)?;
        }
        if self.inbox.is_empty() {
            self.inbox = Vec::new();
        }
        Ok(asked)
    }

    fn handshake(&mut self) -> Result<(), Ended> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let end = match request.parse(&self.inbox).map_err(|_| Ended)? {
            httparse::Status::Complete(end) => end,
            httparse::Status::Partial => return Ok(()),
        };
        let key = request
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("sec-websocket-key"));
        let Some(key) = key else {
            // `/readyz` and the like. It listens only once it is subscribed to Redis, so it is ready.
            self.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")?;
            return Err(Ended);
        };
        let digest = Sha1::new_with_prefix(key.value).chain_update(ACCEPT_GUID);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            STANDARD.encode(digest.finalize())
        );
        self.inbox.drain(..end);
        self.open = true;
        self.send(answer.as_bytes())
    }

    fn messages(&mut self, asked: &mut Vec<Topic>) -> Result<(), Ended> {
        let (mut at, mut answers) = (0, Vec::new());
        while let Some(found) = frame_at(&self.inbox, at).map_err(|_| Ended)? {
            at = found.payload.end;
            let payload = &mut self.inbox[found.payload];
            unmask(payload, found.mask.ok_or(Ended)?);
            match found.first {
                TEXT => {
                    let request: Request = serde_json::from_slice(payload).map_err(|_| Ended)?;
                    if request.r#type == "bars.subscribe" {
                        asked.extend(request.payload.topics());
                        let answer =
                            br#"{"type":"bars.subscribe.response","payload":{"status":"ok"}}"#;
                        write_server_frame(&mut answers, TEXT, answer);
                    }
                }
                CLOSE => {
                    let mut echo = Vec::new();
                    write_server_frame(&mut echo, CLOSE, payload);
                    self.send(&echo)?;
                    return Err(Ended);
                }
                _ => {}
            }
        }
        self.inbox.drain(..at);
        if answers.is_empty() {
            Ok(())
        } else {
            self.send(&answers)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(text: &str) -> Vec<String> {
        let request: Request = serde_json::from_str(text).unwrap();
        request
            .payload
            .topics()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn every_form_of_subscribing_is_understood() {
        let ask = |payload: &str| {
            topics(&format!(
                r#"{{"type":"bars.subscribe","payload":{payload}}}"#
            ))
        };
        assert_eq!(ask(r#"{"symbol":"AAPL"}"#), ["bars:AAPL:1"]);
        assert_eq!(
            ask(r#"{"symbol":"AAPL","params":{"resolution":"1D"}}"#),
            ["bars:AAPL:D"]
        );
        assert_eq!(
            ask(r#"{"symbol":"AAPL","resolution":"5"}"#),
            ["bars:AAPL:5"]
        );
        assert_eq!(
            ask(r#"{"topics":["bars:A:1","junk","bars:B:W"]}"#),
            ["bars:A:1", "bars:B:W"]
        );
        assert_eq!(ask(r#"{"symbol":"no such symbol"}"#), [""; 0]);
    }
}
