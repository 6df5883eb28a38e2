//! The loop of one thread of clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use barcast::bar::write_bar;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use serde_json::Value;

use super::client::{Client, State};
use super::{Command, Interval, Live, Reasons, Target};
use crate::clock::Clock;
use crate::frame::{self, CLOSE, PACKED_TEXT, PING, PONG, TEXT, Unpacker};
use crate::tally::{Booked, Counts};
use crate::update::{Gap, Kind, Update, kind};

/// The token of the waker.
pub(super) const WAKE: Token = Token(usize::MAX);
/// Sockets taken from epoll at once.
const EVENTS: usize = 1_024;
/// Room for one read, in bytes. One that fills it is followed by another.
const READ_BYTES: usize = 64 << 10;
/// Clients of one thread that connect at the same time: below any server's listen queue.
const CONNECTING: usize = 128;

pub(super) struct Context {
    pub targets: Arc<[Target]>,
    pub clock: Clock,
    pub live: Arc<Vec<Live>>,
    pub reasons: Reasons,
}

/// What a thread counts for one target.
#[derive(Default)]
struct Book {
    counts: Counts,
    interval: Interval,
    ready: u64,
    gone: u64,
    received: u64,
}

struct Room {
    context: Context,
    books: Vec<Book>,
    /// Clients that connect and are not subscribed yet.
    connecting: usize,
    /// The bar that a closed update must carry.
    expected: Vec<u8>,
    /// Made when the first compressed frame comes.
    unpacker: Option<Unpacker>,
}

pub(super) fn run(
    mut poll: Poll,
    context: Context,
    mut clients: Vec<Client>,
    inbox: &Receiver<Command>,
) {
    let mut books = Vec::new();
    books.resize_with(context.targets.len(), Book::default);
    let mut room = Room {
        context,
        books,
        connecting: 0,
        expected: Vec::new(),
        unpacker: None,
    };
    let mut buffer = Vec::new();
    let mut events = Events::with_capacity(EVENTS);
    let mut next = 0;
    loop {
        while room.connecting < CONNECTING && next < clients.len() {
            room.connect(&poll, &mut clients[next], next);
            next += 1;
        }
        room.show();
        match poll.poll(&mut events, None) {
            Ok(()) => {}
            Err(why) if why.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(why) => return room.reason(&format!("epoll: {why}")),
        }
        for event in &events {
            if let Some(client) = clients.get_mut(event.token().0) {
                room.serve(client, event, &mut buffer);
            }
        }
        room.show();
        loop {
            match inbox.try_recv() {
                Ok(Command::Collect(target, answer)) => {
                    let _ = answer.send(std::mem::take(&mut room.books[target].interval));
                }
                Ok(Command::Settle(target, seq, answer)) => {
                    let _ = answer.send(room.settle(&mut clients, target, seq));
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => break,
            }
        }
    }
}

impl Room {
    /// Lets the figures be seen from outside: once a round, not once an update.
    fn show(&self) {
        for (book, live) in self.books.iter().zip(self.context.live.iter()) {
            let store = |cell: &AtomicU64, value| cell.store(value, Ordering::Relaxed);
            store(&live.ready, book.ready);
            store(&live.gone, book.gone);
            store(&live.received, book.received);
        }
    }

    fn reason(&self, why: &str) {
        let mut reasons = self
            .context
            .reasons
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *reasons.entry(why.to_owned()).or_default() += 1;
    }

    fn connect(&mut self, poll: &Poll, client: &mut Client, token: usize) {
        self.connecting += 1;
        let addr = self.context.targets[client.target].addr;
        let registered = client.connect(addr).and_then(|stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(stream, Token(token), interest)
        });
        if let Err(why) = registered {
            self.end(client, &format!("connecting: {why}"));
        }
    }

    fn end(&mut self, client: &mut Client, why: &str) {
        self.connecting -= usize::from(!matches!(client.state, State::Ready | State::Gone));
        client.state = State::Gone;
        client.stream = None;
        client.partial = Vec::new();
        self.books[client.target].gone += 1;
        self.reason(why);
    }

    fn serve(&mut self, client: &mut Client, event: &Event, buffer: &mut Vec<u8>) {
        if client.state == State::Gone {
            return;
        }
        let target = &self.context.targets[client.target];
        let done = if client.state == State::Connecting && event.is_writable() {
            client.connected(target)
        } else {
            Ok(())
        };
        let done = done.and_then(|()| {
            if event.is_readable() {
                self.read(client, buffer)
            } else {
                Ok(())
            }
        });
        if let Err(why) = done {
            self.end(client, &why);
        }
    }

    fn read(&mut self, client: &mut Client, buffer: &mut Vec<u8>) -> Result<(), String> {
        while let Some((filled, more)) = client.read(buffer, READ_BYTES)? {
            let now = self.context.clock.now_us();
            let mut at = 0;
            if client.state == State::Handshaking {
                let target = &self.context.targets[client.target];
                match client.handshake(&buffer[..filled], target)? {
                    Some(end) => at = end,
                    None => {
                        client.keep(&buffer[..filled]);
                        continue;
                    }
                }
                if client.state == State::Ready {
                    self.ready(client.target);
                }
            }
            while let Some(found) =
                frame::frame_at(&buffer[..filled], at).map_err(|_| "a frame that is too long")?
            {
                let bytes = found.payload.end - at;
                at = found.payload.end;
                if found.mask.is_some() {
                    return Err("a masked frame from the server".into());
                }
                self.frame(client, found.first, &buffer[found.payload], bytes, now)?;
            }
            client.keep(&buffer[at..filled]);
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn ready(&mut self, target: usize) {
        self.connecting -= 1;
        self.books[target].ready += 1;
    }

    /// One frame of `bytes` bytes with its head.
    #[inline]
    fn frame(
        &mut self,
        client: &mut Client,
        first: u8,
        payload: &[u8],
        bytes: usize,
        now: u64,
    ) -> Result<(), String> {
        match first {
            TEXT => self.text(client, payload, bytes, now),
            PACKED_TEXT if self.context.targets[client.target].compression => {
                let mut unpacker = self.unpacker.take().unwrap_or_default();
                let text = unpacker.text(payload);
                let done = text.map_err(|_| "a compressed frame that cannot be read".into());
                let done = done.and_then(|text| self.text(client, text, bytes, now));
                self.unpacker = Some(unpacker);
                done
            }
            PING => client.pong(payload),
            PONG => Ok(()),
            CLOSE => {
                let code = payload
                    .first_chunk()
                    .map_or(1005, |code| u16::from_be_bytes(*code));
                Err(format!("closed by the server with {code}"))
            }
            _ => Err(format!("an unexpected frame {first:#04x} from the server")),
        }
    }

    #[inline]
    fn text(
        &mut self,
        client: &mut Client,
        text: &[u8],
        bytes: usize,
        now: u64,
    ) -> Result<(), String> {
        match kind(text) {
            Kind::Update => {
                self.update(client, text, bytes, now);
                Ok(())
            }
            Kind::Gap => {
                let target = &self.context.targets[client.target];
                let gap = Gap::read(text).ok_or("a bars.gap that cannot be read")?;
                if let Some(topic) = target.market.number_of(gap.topic.as_bytes()) {
                    let counts = &mut self.books[client.target].counts;
                    client.ledger.gap(topic, gap.from, gap.to, counts);
                }
                Ok(())
            }
            Kind::Subscribed => {
                if let State::Subscribing(left) = client.state {
                    if left > 1 {
                        client.state = State::Subscribing(left - 1);
                    } else {
                        client.state = State::Ready;
                        self.ready(client.target);
                    }
                }
                Ok(())
            }
            Kind::Error => Err(format!(
                "error from the server: {}",
                String::from_utf8_lossy(text)
            )),
            Kind::Other => Ok(()),
        }
    }

    #[inline]
    fn update(&mut self, client: &mut Client, text: &[u8], bytes: usize, now: u64) {
        let target = &self.context.targets[client.target];
        let book = &mut self.books[client.target];
        let Some(update) = Update::read(text) else {
            book.counts.altered += 1;
            return;
        };
        let Some(topic) = target.market.number_of(update.topic) else {
            return;
        };
        let market = &target.market;
        let counts = &mut book.counts;
        let booked = client
            .ledger
            .update(topic, update.seq, target.after, market, counts);
        book.received += u64::from(booked != Booked::Not);
        if booked != Booked::Delivered {
            return;
        }
        book.interval.bytes += bytes as u64;
        let latency = now.saturating_sub(update.ts);
        book.interval.latency.saturating_record(latency);
        let closes = market.closes(update.seq);
        if closes {
            self.expected.clear();
            if let Ok(bar) = market.bar(topic, update.seq) {
                write_bar(&mut self.expected, &bar);
            }
        }
        if closes != update.closed || (closes && !same(update.bar(), &self.expected)) {
            book.counts.altered += 1;
        }
    }

    fn settle(&mut self, clients: &mut [Client], target: usize, seq: u64) -> Counts {
        let book = &mut self.books[target];
        let Target { market, after, .. } = &self.context.targets[target];
        for client in clients.iter_mut().filter(|client| client.target == target) {
            client.ledger.settle(seq, *after, market, &mut book.counts);
        }
        std::mem::take(&mut book.counts)
    }
}

/// Whether two JSON texts say the same. A server may have written it anew, in another order, and
/// JavaScript writes 100.0 as 100.
fn same(a: &[u8], b: &[u8]) -> bool {
    let json = |text| serde_json::from_slice::<Value>(text).ok();
    a == b || json(a).zip(json(b)).is_some_and(|(a, b)| equal(&a, &b))
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let is_in_b = |(key, value)| b.get(key).is_some_and(|other| equal(value, other));
            a.len() == b.len() && a.iter().all(is_in_b)
        }
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn bars_are_compared_by_what_they_say() {
        assert!(same(br#"{"a":1}"#, br#"{"a":1}"#));
        assert!(same(br#"{"b":2.50,"a":1}"#, br#"{"a":1,"b":2.5}"#));
        assert!(same(br#"{"a":100}"#, br#"{"a":100.0}"#));
        assert!(!same(br#"{"a":1}"#, br#"{"a":2}"#));
        assert!(!same(br#"{"a":1}"#, br#"{"a":1,"b":1}"#));
        assert!(!same(b"x", b"y"));
    }
}
