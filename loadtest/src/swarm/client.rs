//! One client's connection: connect, handshake, subscribe, read.

use std::borrow::Cow;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use barcast::bar::Topic;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use super::Target;
use crate::frame::{PONG, TEXT, write_client_frame};
use crate::tally::Ledger;

/// Longest subscribe message, in bytes, below the gateway's limit of 4 KiB.
const SUBSCRIBE_BYTES: usize = 3_500;
/// Longest answer to the handshake, in bytes.
const MAX_HEAD_BYTES: usize = 8_192;
/// What a client adds to its handshake that would take compressed messages, each by itself: nobody
/// keeps a window.
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n";
/// Most header fields of the answer.
const MAX_HEADERS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    Connecting,
    Handshaking,
    /// So many subscribe messages are not answered yet.
    Subscribing(usize),
    Ready,
    Gone,
}

pub(super) struct Client {
    index: usize,
    pub target: usize,
    pub state: State,
    pub stream: Option<TcpStream>,
    /// The beginning of a frame whose end did not come yet.
    pub partial: Vec<u8>,
    pub ledger: Ledger,
    /// When it began to come, µs.
    pub began: u64,
    /// When it asked for another topic, µs; 0 when it waits for no answer.
    pub asked: u64,
}

impl Client {
    pub fn new(index: usize, target: usize, topics: Vec<u32>) -> Self {
        Self {
            index,
            target,
            state: State::Idle,
            stream: None,
            partial: Vec::new(),
            ledger: Ledger::new(topics),
            began: 0,
            asked: 0,
        }
    }

    /// Begins to connect.
    pub fn connect(&mut self, target: &Target) -> std::io::Result<&mut TcpStream> {
        let addr = target.addrs[self.index % target.addrs.len()];
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source(self.index / target.per_address.max(1), addr) {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&addr.into()) {
            Ok(()) => {}
            Err(why) if why.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
            Err(why) => return Err(why),
        }
        self.state = State::Connecting;
        Ok(self
            .stream
            .insert(TcpStream::from_std(std::net::TcpStream::from(socket))))
    }

    /// Sends a little, all of which fits into an empty socket.
    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let stream = self.stream.as_mut().ok_or("not connected")?;
        match stream.write(bytes) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(sent) => Err(format!(
                "only {sent} of {} bytes could be sent",
                bytes.len()
            )),
            Err(why) => Err(format!("sending: {why}")),
        }
    }

    /// The socket can be written to for the first time: it is connected, or could not be.
    pub fn connected(&mut self, target: &Target) -> Result<(), String> {
        let stream = self.stream.as_ref().ok_or("not connected")?;
        if let Some(why) = stream.take_error().map_err(|why| why.to_string())? {
            return Err(format!("connecting: {why}"));
        }
        match stream.peer_addr() {
            Err(why) if why.kind() == ErrorKind::NotConnected => return Ok(()),
            Err(why) => return Err(format!("connecting: {why}")),
            Ok(_) => {}
        }
        let mut key = [0; 16];
        fastrand::fill(&mut key);
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n{}\r\n",
            target.path.replace(TOPICS, &self.names(target).join(",")),
            target.addrs[self.index % target.addrs.len()],
            STANDARD.encode(key),
            if target.compression { OFFER } else { "" }
        );
        self.state = State::Handshaking;
        self.send(request.as_bytes())
    }

    /// Looks for the whole answer to the handshake and, when it is there, subscribes and says where
    /// the frames begin.
    pub fn handshake(&mut self, bytes: &[u8], target: &Target) -> Result<Option<usize>, String> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(bytes) {
            Ok(httparse::Status::Complete(end)) => match response.code {
                Some(101) => {
                    self.subscribe(target)?;
                    Ok(Some(end))
                }
                code => Err(format!("handshake refused with {}", code.unwrap_or(0))),
            },
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => Ok(None),
            Ok(httparse::Status::Partial) => Err("handshake: answer too long".into()),
            Err(why) => Err(format!("handshake: {why}")),
        }
    }

    /// The names of its topics.
    fn names(&self, target: &Target) -> Vec<String> {
        let topics = self.ledger.topics().iter();
        topics
            .filter_map(|topic| target.market.topics().get(usize::try_from(*topic).ok()?))
            .map(ToString::to_string)
            .collect()
    }

    fn subscribe(&mut self, target: &Target) -> Result<(), String> {
        if target.path.contains(TOPICS) {
            self.state = State::Ready;
            return Ok(());
        }
        let template = template(target);
        let messages = messages(&template, target, self.ledger.topics());
        self.state = if target.answers && target.subscribe.is_none() && !messages.is_empty() {
            State::Subscribing(messages.len())
        } else {
            State::Ready
        };
        self.tell(&messages)
    }

    fn tell(&mut self, messages: &[String]) -> Result<(), String> {
        let mut frames = Vec::new();
        for text in messages {
            write_client_frame(&mut frames, TEXT, key(), text.as_bytes());
        }
        self.send(&frames)
    }

    /// Gives one topic up and takes another, which may be the same when there is no other.
    pub fn resubscribe(&mut self, target: &Target) -> Result<(), String> {
        let mut topics = self.ledger.topics().to_vec();
        let Ok(all) = u32::try_from(target.market.topics().len()) else {
            return Ok(());
        };
        if topics.is_empty() {
            return Ok(());
        }
        let old = topics.remove(fastrand::usize(..topics.len()));
        let mut new = fastrand::u32(..all);
        while topics.contains(&new) {
            new = (new + 1) % all;
        }
        topics.push(new);
        topics.sort_unstable();
        self.ledger = Ledger::new(topics);
        let mut both = messages(UNSUBSCRIBE, target, &[old]);
        both.extend(messages(&template(target), target, &[new]));
        self.tell(&both)
    }

    /// Leaves without a word, as clients do whose network or machine went.
    pub fn leave(&mut self) {
        self.stream = None;
        self.partial = Vec::new();
        self.asked = 0;
        self.state = State::Idle;
    }

    /// Answers a ping.
    pub fn pong(&mut self, payload: &[u8]) -> Result<(), String> {
        let mut frame = Vec::new();
        write_client_frame(&mut frame, PONG, key(), payload);
        self.send(&frame)
    }

    /// Reads once behind what is left of the last frame. Says how much is in the buffer now and
    /// whether the socket may hold more; nothing when there was nothing.
    pub fn read(
        &mut self,
        buffer: &mut Vec<u8>,
        room: usize,
    ) -> Result<Option<(usize, bool)>, String> {
        let Some(stream) = self.stream.as_mut() else {
            return Ok(None);
        };
        let left = self.partial.len();
        if buffer.len() < left + room {
            buffer.resize(left + room, 0);
        }
        buffer[..left].copy_from_slice(&self.partial);
        loop {
            return match stream.read(&mut buffer[left..]) {
                Ok(0) => Err("disconnected".into()),
                Ok(n) => Ok(Some((left + n, left + n == buffer.len()))),
                Err(why) if why.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) => Err(format!("reading: {why}")),
            };
        }
    }

    /// Keeps the beginning of a frame until its end comes.
    pub fn keep(&mut self, rest: &[u8]) {
        self.partial.clear();
        self.partial.extend_from_slice(rest);
    }
}

/// What the clients of a server send to subscribe.
fn template(target: &Target) -> Cow<'_, str> {
    match (&target.subscribe, target.max_rate) {
        (Some(other), _) => other.into(),
        (None, None) => SUBSCRIBE.into(),
        (None, Some(rate)) => SUBSCRIBE
            .replace("]}}", &format!("],\"max_rate\":{rate}}}}}"))
            .into(),
    }
}

/// barcast's own messages, in the form of `--subscribe`.
const SUBSCRIBE: &str = r#"{"type":"bars.subscribe","payload":{"topics":[{topics}]}}"#;
const UNSUBSCRIBE: &str = r#"{"type":"bars.unsubscribe","payload":{"topics":[{topics}]}}"#;
/// Where the names of all topics go, in quotes and with commas.
pub const TOPICS: &str = "{topics}";
/// Where one topic, its symbol or its resolution goes: then there is a message for each topic.
pub const EACH: [&str; 3] = ["{topic}", "{symbol}", "{resolution}"];

/// What to send for these topics: one message for each, or as few as the gateway's limit allows.
fn messages(template: &str, target: &Target, topics: &[u32]) -> Vec<String> {
    let all = target.market.topics();
    let topics = topics
        .iter()
        .filter_map(|topic| all.get(usize::try_from(*topic).ok()?));
    if !template.contains(TOPICS) {
        let fill = |topic: &Topic| {
            template
                .replace(EACH[0], &topic.to_string())
                .replace(EACH[1], topic.symbol.as_str())
                .replace(EACH[2], topic.resolution.as_str())
        };
        return topics.map(fill).collect();
    }
    let names: Vec<String> = topics.map(|topic| format!("\"{topic}\"")).collect();
    let longest = names.iter().map(String::len).max().unwrap_or(1) + 1;
    let room = SUBSCRIBE_BYTES.saturating_sub(template.len()) / longest;
    names
        .chunks(room.max(1))
        .map(|names| template.replace(TOPICS, &names.join(",")))
        .collect()
}

fn key() -> [u8; 4] {
    fastrand::u32(..).to_ne_bytes()
}

/// 127.0.0.2, .3 … for clients beyond what one address carries, when the server is on this machine.
fn source(step: usize, addr: SocketAddr) -> Option<IpAddr> {
    let step = u32::try_from(step).ok()?;
    (step > 0 && addr.is_ipv4() && addr.ip().is_loopback())
        .then(|| Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + step).into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::market::Market;

    #[test]
    fn sources_change_when_an_address_is_used_up() {
        let local = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(source(0, local), None);
        let second: IpAddr = [127, 0, 0, 2].into();
        assert_eq!(source(1, local), Some(second));
        assert_eq!(source(1, ([10, 0, 0, 1], 80).into()), None);
    }

    #[test]
    fn templates_are_filled() {
        let market = Market::new("T", 300, 2, 1).unwrap();
        let target = Target::new(([127, 0, 0, 1], 80).into(), "/", Arc::new(market));
        assert_eq!(
            messages(r#"{"s":"{symbol}","r":"{resolution}"}"#, &target, &[7, 8]),
            [r#"{"s":"T000007","r":"1S"}"#, r#"{"s":"T000008","r":"1S"}"#]
        );
        assert_eq!(
            messages("sub {topic}", &target, &[1]),
            ["sub bars:T000001:1S"]
        );
        assert_eq!(
            messages("[{topics}]", &target, &[1, 2]),
            [r#"["bars:T000001:1S","bars:T000002:1S"]"#]
        );
        let all: Vec<u32> = (0..300).collect();
        let many = messages(SUBSCRIBE, &target, &all);
        assert!(many.len() > 1 && many.iter().all(|text| text.len() <= SUBSCRIBE_BYTES));
        let named: usize = many.iter().map(|text| text.matches("bars:T").count()).sum();
        assert_eq!(named, 300);
    }
}
