//! The loop of one thread of clients.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use barcast::bar::write_bar;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use super::client::{Client, State};
use super::{Command, Interval, Live, Move, Reasons, Target};
use crate::clock::Clock;
use crate::frame::{self, CLOSE, PACKED_TEXT, PING, PONG, TEXT, Unpacker};
use crate::tally::{Booked, Counts};
use crate::update::{Gap, Kind, Update, kind, same};

/// The token of the waker.
pub(super) const WAKE: Token = Token(usize::MAX);
/// Sockets taken from epoll at once.
const EVENTS: usize = 1_024;
/// Room for one read, in bytes. One that fills it is followed by another.
const READ_BYTES: usize = 64 << 10;

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
    came: u64,
    /// Its clients, by index.
    clients: Vec<usize>,
    /// Which of them moves next.
    next: usize,
}

struct Room {
    context: Context,
    books: Vec<Book>,
    /// Clients that connect and are not subscribed yet.
    connecting: usize,
    /// Clients that are to connect, by index.
    queue: VecDeque<usize>,
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
    for (index, client) in clients.iter().enumerate() {
        let book: &mut Book = &mut books[client.target];
        book.clients.push(index);
    }
    let mut room = Room {
        context,
        books,
        connecting: 0,
        queue: (0..clients.len()).collect(),
        expected: Vec::new(),
        unpacker: None,
    };
    let mut buffer = Vec::new();
    let mut events = Events::with_capacity(EVENTS);
    loop {
        while let Some(index) = room.may_connect(&clients) {
            room.connect(&poll, &mut clients[index], index);
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
                Ok(Command::Move(target, what, count)) => {
                    room.shift(&mut clients, target, what, count);
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
            store(&live.came, book.came);
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

    /// The next client to connect, while there is room for one more.
    fn may_connect(&mut self, clients: &[Client]) -> Option<usize> {
        let index = *self.queue.front()?;
        let target = &self.context.targets[clients[index].target];
        (self.connecting < target.at_once).then(|| self.queue.pop_front())?
    }

    /// Lets the next `count` clients of a target leave and come back, or ask for another topic. Those
    /// that are just coming are passed over.
    fn shift(&mut self, clients: &mut [Client], target: usize, what: Move, count: u64) {
        let now = self.context.clock.now_us();
        let mut left = count;
        for _ in 0..self.books[target].clients.len() {
            if left == 0 {
                break;
            }
            let book = &mut self.books[target];
            let index = book.clients[book.next % book.clients.len()];
            book.next += 1;
            let client = &mut clients[index];
            match (what, client.state) {
                (Move::Reconnect, State::Ready | State::Gone) => {
                    let was = match client.state {
                        State::Ready => &mut book.ready,
                        _ => &mut book.gone,
                    };
                    *was -= 1;
                    book.interval.left += 1;
                    client.leave();
                    client.began = now;
                    self.queue.push_back(index);
                }
                (Move::Resubscribe, State::Ready) if client.asked == 0 => {
                    book.interval.asked += 1;
                    client.asked = now;
                    if let Err(why) = client.resubscribe(&self.context.targets[target]) {
                        self.end(client, &why);
                    }
                }
                _ => continue,
            }
            left -= 1;
        }
    }

    fn connect(&mut self, poll: &Poll, client: &mut Client, token: usize) {
        self.connecting += 1;
        if client.began == 0 {
            client.began = self.context.clock.now_us();
        }
        let target = &self.context.targets[client.target];
        let registered = client.connect(target).and_then(|stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(stream, Token(token), interest)
        });
        if let Err(why) = registered {
            self.end(client, &format!("connecting: {why}"));
        }
    }

    fn end(&mut self, client: &mut Client, why: &str) {
        self.connecting -= usize::from(!matches!(client.state, State::Ready | State::Gone));
        let book = &mut self.books[client.target];
        book.ready -= u64::from(client.state == State::Ready);
        book.gone += 1;
        book.interval.failed += 1;
        client.leave();
        client.state = State::Gone;
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
                    self.ready(client, now);
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

    fn ready(&mut self, client: &Client, now: u64) {
        self.connecting -= 1;
        let book = &mut self.books[client.target];
        book.ready += 1;
        book.came += 1;
        let took = now.saturating_sub(client.began);
        book.interval.came.saturating_record(took);
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
        let target = &self.context.targets[client.target];
        if target.subscribe.is_some() {
            if let Some(update) = Update::anywhere(text)
                && let Some(topic) = target.market.number_in(text)
            {
                self.update(client, topic, &update, bytes, now);
            }
            return Ok(());
        }
        match kind(text) {
            Kind::Update => {
                let Some(update) = Update::read(text) else {
                    self.books[client.target].counts.altered += 1;
                    return Ok(());
                };
                if let Some(topic) = target.market.number_of(update.topic) {
                    self.update(client, topic, &update, bytes, now);
                }
                Ok(())
            }
            Kind::Gap => {
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
                        self.ready(client, now);
                    }
                } else if client.asked > 0 {
                    let took = now.saturating_sub(client.asked);
                    client.asked = 0;
                    let interval = &mut self.books[client.target].interval;
                    interval.answered.saturating_record(took);
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
    fn update(
        &mut self,
        client: &mut Client,
        topic: u32,
        update: &Update<'_>,
        bytes: usize,
        now: u64,
    ) {
        let target = &self.context.targets[client.target];
        let book = &mut self.books[client.target];
        if !target.audited {
            book.received += 1;
            return;
        }
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
