//! One WebSocket: commands in, answers out. Bars do not pass through here: the hub writes them.
//!
//! Reading is one small task a client: wait until the socket can be read, read into the worker's
//! shared buffer, decode. A client that says nothing holds no buffer.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::hub::{SessionId, Socket};
use super::node::Admission;
use super::protocol::{self, Command, Request, write_pong, write_refusal};
use super::worker::Worker;
use super::ws::{CloseCode, Decoder, Event, pong_frame};
use crate::bar::Pattern;

/// From our close frame to the end of the connection, whatever the client does.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of answers and snapshots that may wait for one client; one that asks without reading is
/// closed as slow. Room for the largest snapshot.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Seconds' worth of messages that a client may send at once.
const BURST_SECONDS: u32 = 10;

/// A pattern with a `*` counts as so many messages, since all topics are looked through for it: some
/// 0.3 ms with 10,000 of them.
const PATTERN_COST: u32 = 10;

/// A client's socket and what the worker must know of it without asking the session.
#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
    /// The session has ended; its number may be another's by now.
    pub gone: Cell<bool>,
    /// When bytes last came, in the worker's seconds.
    pub heard: Cell<u32>,
    /// The worker's second by which a closing connection is cut.
    pub closing: Cell<Option<u32>>,
    /// Patterns with a `*`.
    pub patterns: RefCell<Vec<Pattern>>,
    _admission: Admission,
}

impl Connection {
    /// A connection just upgraded.
    pub fn new(stream: TcpStream, admission: Admission, now: u32) -> Self {
        Self {
            stream,
            gone: Cell::new(false),
            heard: Cell::new(now),
            closing: Cell::new(None),
            patterns: RefCell::default(),
            _admission: admission,
        }
    }

    /// Ends sending or everything; the reading task then sees the end.
    pub fn shut(&self, how: Shutdown) {
        // An error means that the other side was faster.
        let _ = SockRef::from(&self.stream).shutdown(how);
    }
}

impl Socket for Rc<Connection> {
    type Handle<'a> = BorrowedFd<'a>;

    fn handle(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Past the runtime, whose note of whether the socket can be written lies in memory of its own:
    /// one more place to wait for, in order to learn what the kernel says anyway.
    fn send(handle: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        SockRef::from(&handle).send(bytes)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }
}

/// Reads one session to its end.
///
/// A future by hand: an `async fn` would be three times its size, and it is the largest thing that a
/// client costs here. The session leaves its worker when this is dropped.
pub struct Reading {
    session: Session,
    decoder: Decoder,
    /// Nothing more is looked at; only the end of the connection is waited for.
    ended: bool,
}

struct Session {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    id: SessionId,
    /// Messages that may still come in this second.
    allowance: u32,
    allowed_at: u32,
}

impl Reading {
    /// A session of `worker`. `early` is what the client sent right behind its handshake.
    pub fn new(worker: Rc<Worker>, connection: Connection, early: Bytes) -> Self {
        let connection = Rc::new(connection);
        let id = worker.join(&connection);
        let limits = &worker.node.config.limits;
        let mut reading = Self {
            decoder: Decoder::new(limits.max_message_bytes),
            session: Session {
                allowance: limits.max_messages_per_second.saturating_mul(BURST_SECONDS),
                allowed_at: worker.seconds(),
                worker,
                connection,
                id,
            },
            ended: false,
        };
        if !early.is_empty() {
            reading.feed(&mut BytesMut::from(early));
        }
        reading
    }

    /// Reads once; `false` at the end of the connection.
    fn read(&mut self) -> bool {
        let worker = Rc::clone(&self.session.worker);
        let connection = &self.session.connection;
        let mut buffer = worker.read_buffer.borrow_mut();
        match connection.stream.try_read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                connection.heard.set(worker.seconds());
                if !self.ended {
                    self.feed(&mut buffer[..n]);
                }
                true
            }
            Err(why) => why.kind() == io::ErrorKind::WouldBlock,
        }
    }

    fn feed(&mut self, bytes: &mut [u8]) {
        let Self {
            session,
            decoder,
            ended,
        } = self;
        let fed = decoder.feed(bytes, |event| {
            let flow = session.event(event);
            *ended |= flow.is_break();
            flow
        });
        if let Err(violation) = fed {
            session.close(violation.code(), &violation.to_string());
            *ended = true;
        }
        session.worker.see_to_todo();
    }
}

impl Future for Reading {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let readable = self.session.connection.stream.poll_read_ready(context);
            if ready!(readable).is_err() || !self.read() {
                return Poll::Ready(());
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let Session {
            worker,
            connection,
            id,
            ..
        } = &self.session;
        worker.leave(*id, connection);
    }
}

impl Session {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        if let Event::Close(close) = event {
            self.worker.answer_close(self.id, &self.connection, close);
            return ControlFlow::Break(());
        }
        if self.connection.closing.get().is_some() {
            return ControlFlow::Continue(());
        }
        if !self.allow(1) {
            return ControlFlow::Continue(());
        }
        match event {
            Event::Text(text) => self.text(text),
            Event::Ping(payload) => self.worker.send(self.id, pong_frame(payload)),
            Event::Binary(_) => self.close(CloseCode::Unsupported, "barcast speaks text frames"),
            Event::Pong(_) | Event::Fragment | Event::Close(_) => {}
        }
        if self.worker.answer_backlog(self.id) > MAX_ANSWER_BYTES {
            self.close(CloseCode::SlowClient, "answers are not being read");
        }
        ControlFlow::Continue(())
    }

    fn close(&self, code: CloseCode, reason: &str) {
        self.worker.close(self.id, &self.connection, code, reason);
    }

    /// Takes `cost` messages from a bucket that fills with each second's allowance; closes a session
    /// that has used it up.
    fn allow(&mut self, cost: u32) -> bool {
        let rate = self.worker.node.config.limits.max_messages_per_second;
        let now = self.worker.seconds();
        let passed = now.saturating_sub(std::mem::replace(&mut self.allowed_at, now));
        let full = rate.saturating_mul(BURST_SECONDS);
        self.allowance = passed
            .saturating_mul(rate)
            .saturating_add(self.allowance)
            .min(full);
        let left = self.allowance.checked_sub(cost);
        self.allowance = left.unwrap_or(0);
        if left.is_none() {
            let reason = format!("more than {rate} messages per second");
            self.close(CloseCode::TooFast, &reason);
        }
        left.is_some()
    }

    fn text(&mut self, text: &str) {
        let parsed = protocol::parse(text);
        if let Ok(Request {
            command: Command::Subscribe(which, _) | Command::Unsubscribe(which),
            ..
        }) = &parsed
        {
            let patterns = which.patterns.iter().filter(|p| p.topic().is_none());
            let patterns = u32::try_from(patterns.count()).unwrap_or(u32::MAX);
            if !self.allow(patterns.saturating_mul(PATTERN_COST)) {
                return;
            }
        }
        let done = parsed.and_then(|Request { id, command }| match command {
            Command::Ping => {
                self.worker
                    .answer(self.id, |out| write_pong(out, id.as_deref()));
                Ok(())
            }
            Command::Subscribe(which, wishes) => {
                self.worker
                    .subscribe(self.id, &self.connection, &which, wishes, id)
            }
            Command::Unsubscribe(which) => {
                self.worker
                    .unsubscribe(self.id, &self.connection, &which, id.as_deref());
                Ok(())
            }
        });
        if let Err(refusal) = done {
            tracing::debug!(session = self.id, refusal.message, "request refused");
            self.worker
                .answer(self.id, |out| write_refusal(out, &refusal));
        }
    }
}

/// Writes what waits for a slow session as its socket takes it, until nothing is left.
pub async fn flush(worker: Rc<Worker>, id: SessionId, connection: Rc<Connection>) {
    loop {
        if connection.stream.writable().await.is_err() || connection.gone.get() {
            return;
        }
        if worker.flush(id) {
            if connection.closing.get().is_some() {
                connection.shut(Shutdown::Write);
            }
            return;
        }
    }
}
