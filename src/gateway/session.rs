//! One WebSocket: commands in, answers out. Bars do not pass through here: the hub writes them.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::allowance::Allowance;
use super::hub::{SessionId, Socket};
use super::node::Admission;
use super::past::{self, PAST_WAIT};
use super::protocol::{self, Command, Refusal, Request, write_pong, write_refusal};
use super::reading::{Listener, ReadBuffer};
use super::worker::Worker;
use super::ws::{CloseCode, Event, Stop, Violation, pong_frame};
use crate::bar::Pattern;

/// From our close frame to the end of the connection, whatever the client does.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a session whose request waits for the store is looked at: it may have been closed.
const CLOSED_LOOK: Duration = Duration::from_millis(100);
/// Bytes of answers and snapshots that may wait for one client; one that asks for more without reading is
/// closed as slow at once, since it says itself how much it wants. Room for the largest snapshot. From the
/// outbox's bound on it must make progress, as with bars.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// A request counts as one message more for so many topics that it names or that its patterns mean: each
/// costs about a microsecond.
const TOPICS_PER_MESSAGE: usize = 16;
/// A request counts as one message more for so many bars that it is shown: each costs about a third of a
/// microsecond.
const BARS_PER_MESSAGE: usize = 256;
/// A request counts as one message more for so many topics whose past is read from the store for it.
const PASTS_PER_MESSAGE: usize = 4;
/// And as so many more for each pattern with a `*`.
const PATTERN_COST: usize = 1;

/// A client's socket and what the worker must know of it without asking the session.
#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
    /// The session has ended; its number may be another's by now.
    pub gone: Cell<bool>,
    /// The client sends nothing more, and has yet to take what waits for it: the session is in the hub
    /// and nowhere else.
    pub left: Cell<bool>,
    /// Nothing more is sent.
    pub is_shut: Cell<bool>,
    /// When bytes last came, in the worker's seconds.
    pub heard: Cell<u32>,
    /// The worker's second by which a closing connection is cut.
    pub closing: Cell<Option<u32>>,
    /// Patterns with a `*`. Few clients have any, so it is no `Vec`: 8 bytes for each client.
    pub patterns: RefCell<Box<[Pattern]>>,
    pub(super) admission: Admission,
}

impl Connection {
    /// A connection just upgraded.
    pub fn new(stream: TcpStream, admission: Admission, now: u32) -> Self {
        Self {
            stream,
            gone: Cell::new(false),
            left: Cell::new(false),
            is_shut: Cell::new(false),
            heard: Cell::new(now),
            closing: Cell::new(None),
            patterns: RefCell::default(),
            admission,
        }
    }

    /// Ends sending or everything; the reading task then sees the end.
    pub fn shut(&self, how: Shutdown) {
        self.is_shut.set(true);
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

/// One client's requests. The session leaves its worker when this is dropped.
pub struct Session {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    id: SessionId,
    allowance: Allowance,
    /// A request that waits; those behind it wait undecoded.
    deferred: Option<Box<Deferred>>,
}

/// A request that is answered when the past of its topics is read, or that took too long.
struct Deferred {
    text: String,
    read: Pin<Box<dyn Future<Output = ()>>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.worker.leave(self.id, &self.connection);
    }
}

impl Listener for Session {
    fn stream(&self) -> &TcpStream {
        &self.connection.stream
    }

    fn buffer(&self) -> ReadBuffer {
        Rc::clone(&self.worker.read_buffer)
    }

    fn heard(&mut self) {
        self.connection.heard.set(self.worker.seconds());
    }

    fn is_done(&self) -> bool {
        self.connection.closing.get().is_some()
    }

    fn is_shut(&self) -> bool {
        self.connection.is_shut.get()
    }

    fn event(&mut self, event: Event<'_>) -> ControlFlow<Stop> {
        if let Event::Close(close) = event {
            self.worker.answer_close(self.id, &self.connection, close);
            return ControlFlow::Break(Stop::End);
        }
        if !self.allow(1) {
            return ControlFlow::Break(Stop::End);
        }
        match event {
            Event::Text(text) => self.text(text),
            Event::Ping(payload) => self.worker.send(self.id, pong_frame(payload)),
            Event::Binary(_) => self.close(CloseCode::Unsupported, "barcast speaks text frames"),
            Event::Pong(_) | Event::Fragment | Event::Close(_) => {}
        }
        self.look_at_backlog();
        if self.is_done() {
            return ControlFlow::Break(Stop::End);
        }
        match self.deferred {
            Some(_) => ControlFlow::Break(Stop::Pause),
            None => ControlFlow::Continue(()),
        }
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(deferred) = &mut self.deferred {
            ready!(deferred.read.as_mut().poll(context));
        }
        if let Some(deferred) = self.deferred.take() {
            self.request(protocol::parse(&deferred.text));
            self.look_at_backlog();
            self.fed();
        }
        Poll::Ready(())
    }

    fn violation(&mut self, violation: Violation) {
        self.close(violation.code(), &violation.to_string());
    }

    fn fed(&mut self) {
        self.worker.see_to_todo();
    }
}

fn messages(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Session {
    /// A new session of `worker`.
    pub fn new(worker: Rc<Worker>, connection: Connection) -> Self {
        let connection = Rc::new(connection);
        let id = worker.join(&connection);
        let rate = worker.node.config.limits.max_messages_per_second;
        Self {
            allowance: Allowance::new(rate, worker.seconds()),
            worker,
            connection,
            id,
            deferred: None,
        }
    }

    fn close(&self, code: CloseCode, reason: &str) {
        self.worker.close(self.id, &self.connection, code, reason);
    }

    /// Takes `cost` messages from what the client may send; closes a session that has used it up.
    fn allow(&mut self, cost: u32) -> bool {
        let rate = self.worker.node.config.limits.max_messages_per_second;
        let allowed = self.allowance.take(cost, rate, self.worker.seconds());
        if !allowed {
            let reason = format!("more than {rate} messages per second");
            self.close(CloseCode::TooFast, &reason);
        }
        allowed
    }

    /// How many messages a command counts as, beside its own: by what it makes the worker look at.
    fn cost(&self, command: &Command) -> u32 {
        let (which, subscribes) = match command {
            Command::Subscribe(which, _) => (which, true),
            Command::Unsubscribe(which) => (which, false),
            Command::Ping => return 0,
        };
        let patterns = which.patterns.iter().filter(|p| p.topic().is_none());
        let topics = self.worker.touched(self.id, which, subscribes);
        messages(patterns.count() * PATTERN_COST + topics / TOPICS_PER_MESSAGE)
    }

    fn text(&mut self, text: &str) {
        let parsed = protocol::parse(text);
        if let Ok(Request { command, .. }) = &parsed
            && !self.allow(self.cost(command))
        {
            return;
        }
        if let Ok(Request { command, .. }) = &parsed
            && self.defer(command, text)
        {
            return;
        }
        self.request(parsed);
    }

    /// Puts a request off while the past that it asks for is read, if it must be.
    fn defer(&mut self, command: &Command, text: &str) -> bool {
        let Command::Subscribe(which, wishes) = command else {
            return false;
        };
        let (worker, connection) = (&self.worker, &self.connection);
        let asked = worker.ask_pasts(self.id, connection, which, *wishes);
        if asked.is_empty() {
            return false;
        }
        // Also when it has used up what it may send: it is closed, and not answered.
        if self.allow(messages(asked.len() / PASTS_PER_MESSAGE)) {
            // Nothing is read of it while it waits, so it is not silent meanwhile.
            let until = u32::try_from(PAST_WAIT.as_secs()).unwrap_or(u32::MAX);
            let heard = self.worker.seconds().saturating_add(until);
            self.connection.heard.set(heard);
            self.deferred = Some(Box::new(Deferred {
                text: text.to_owned(),
                read: Box::pin(async {
                    let mut read = pin!(past::read(asked));
                    // Each time the session is looked at: if it is closed by now, it waits no more.
                    while timeout(CLOSED_LOOK, &mut read).await.is_err() {}
                }),
            }));
        }
        true
    }

    fn look_at_backlog(&self) {
        if self.worker.answer_backlog(self.id) > MAX_ANSWER_BYTES {
            self.close(CloseCode::SlowClient, "answers are not being read");
        }
    }

    fn request(&mut self, parsed: Result<Request, Refusal>) {
        let done = parsed.and_then(|Request { id, command }| match command {
            Command::Ping => {
                self.worker
                    .answer(self.id, |out| write_pong(out, id.as_deref()));
                Ok(())
            }
            Command::Subscribe(which, wishes) => {
                let shown = self.worker.subscribe(
                    self.id,
                    &self.connection,
                    &which,
                    wishes,
                    id.as_deref(),
                )?;
                // Known only now: who spent more than it had is closed when it has been answered.
                self.allow(messages(shown / BARS_PER_MESSAGE));
                Ok(())
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
            if !self.allowance.refuse() {
                self.worker.log_closed_by_policy(self.id, refusal.code);
                self.close(CloseCode::Policy, "too many requests were refused");
            }
        }
    }
}

/// Writes what waits for a slow session as its socket takes it, until nothing is left. A session whose
/// client has left ends with it.
pub async fn flush(worker: Rc<Worker>, id: SessionId, connection: Rc<Connection>) {
    loop {
        if connection.stream.writable().await.is_err() || connection.gone.get() {
            return;
        }
        if worker.flush(id) {
            if connection.left.get() {
                worker.part(id, &connection);
            } else if connection.closing.get().is_some() {
                connection.shut(Shutdown::Write);
            }
            return;
        }
    }
}
