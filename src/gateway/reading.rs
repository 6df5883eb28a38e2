//! Reading one connection: a small task a client, which waits until the socket can be read, reads into
//! the worker's shared buffer and decodes. A client that says nothing holds no buffer.
//!
//! What one client asks for is done in turns of [`TURN`], and between two of them all others have theirs.
//! After the end of what is looked at, what still comes is read and thrown away for a moment, so that no
//! reset overtakes the close frame; then the connection is cut.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::ws::{Decoder, Event, Stop, Violation};
use crate::running::{Sleep, sleep};

/// Where a read goes: one buffer for all connections of a thread.
pub type ReadBuffer = Rc<RefCell<Box<[u8]>>>;

/// How long one client's messages may keep the worker in one turn, looked at after each message.
const TURN: Duration = Duration::from_millis(1);
/// How long what comes after the end is thrown away, from the first byte of it.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are thrown away in that time at most: what is under way when our close frame is sent.
const LINGER_BYTES: usize = 64 << 10;

/// Whom a connection's messages are for: a session, or the echo of `examples/echo.rs`, which lets
/// conformance suites for echo servers test what the gateway runs.
pub trait Listener {
    fn stream(&self) -> &TcpStream;

    fn buffer(&self) -> ReadBuffer;

    /// Bytes came, whatever they are.
    fn heard(&mut self) {}

    /// Whether the listener has had enough: nothing more is looked at.
    fn is_done(&self) -> bool {
        false
    }

    /// Whether all that goes to the client is sent. Before that it is not cut for what it sends.
    fn is_shut(&self) -> bool {
        true
    }

    /// With [`Stop::End`] nothing more is looked at; only the end of the connection is waited for. With
    /// [`Stop::Pause`] not until the listener is [ready](Self::poll_ready).
    fn event(&mut self, event: Event<'_>) -> ControlFlow<Stop>;

    /// Whether what comes next can be looked at.
    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// The client broke the protocol; nothing more is looked at.
    fn violation(&mut self, violation: Violation);

    /// All that came with one read was told.
    fn fed(&mut self);
}

/// Reads one connection to its end.
///
/// A future by hand: an `async fn` would be three times its size, and it is the largest thing that a
/// client costs here.
pub struct Reading<L> {
    listener: L,
    decoder: Decoder,
    /// The decoder holds whole messages for which the turn was too short.
    paused: bool,
    /// Nothing more is looked at.
    ended: Option<Box<Linger>>,
}

/// The time after the end.
struct Linger {
    /// Bytes that may still be thrown away.
    left: usize,
    /// When to cut; from the first of them.
    until: Option<Sleep>,
}

impl<L: Listener> Reading<L> {
    /// Reads for `listener`. `early` is what the client sent right behind its handshake.
    pub fn new(listener: L, decoder: Decoder, early: Bytes) -> Self {
        let mut reading = Self {
            listener,
            decoder,
            paused: false,
            ended: None,
        };
        if !early.is_empty() {
            reading.feed(&mut BytesMut::from(early), Instant::now() + TURN);
        }
        reading
    }

    /// Reads once and looks at it; `false` at the end of the connection.
    fn read(&mut self, turn_ends: Instant) -> bool {
        let buffer = self.listener.buffer();
        let mut buffer = buffer.borrow_mut();
        match self.listener.stream().try_read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.listener.heard();
                self.feed(&mut buffer[..n], turn_ends);
                true
            }
            Err(why) => why.kind() == io::ErrorKind::WouldBlock,
        }
    }

    fn feed(&mut self, bytes: &mut [u8], turn_ends: Instant) {
        let Self {
            listener, decoder, ..
        } = self;
        let (mut ended, mut paused) = (false, false);
        let fed = decoder.feed_until(bytes, |event| {
            let flow = listener.event(event);
            if flow == ControlFlow::Break(Stop::End) {
                ended = true;
                return flow;
            }
            paused = flow.is_break() || Instant::now() >= turn_ends;
            if paused {
                return ControlFlow::Break(Stop::Pause);
            }
            ControlFlow::Continue(())
        });
        if let Err(violation) = fed {
            listener.violation(violation);
            ended = true;
        }
        listener.fed();
        self.paused = paused;
        if ended {
            self.end();
        }
    }

    fn end(&mut self) {
        self.ended.get_or_insert_with(|| {
            Box::new(Linger {
                left: LINGER_BYTES,
                until: None,
            })
        });
    }

    /// Throws away what comes after the end; ready when the connection is to be cut.
    fn linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(linger) = &mut self.ended else {
            return Poll::Ready(());
        };
        loop {
            if let Some(until) = &mut linger.until
                && Pin::new(&mut *until).poll(context).is_ready()
            {
                if self.listener.is_shut() {
                    return Poll::Ready(());
                }
                until.reset(LINGER);
                continue;
            }
            if linger.left == 0 {
                // Not read any more, but not cut before the time is over either: the reset would destroy
                // the close frame that the client has yet to read.
                return Poll::Pending;
            }
            let readable = self.listener.stream().poll_read_ready(context);
            if ready!(readable).is_err() {
                return Poll::Ready(());
            }
            let buffer = self.listener.buffer();
            let mut buffer = buffer.borrow_mut();
            match self.listener.stream().try_read(&mut buffer) {
                Ok(0) => return Poll::Ready(()),
                Ok(n) => {
                    linger.left = linger.left.saturating_sub(n);
                    linger.until.get_or_insert_with(|| sleep(LINGER));
                }
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl<L: Listener + Unpin> Future for Reading<L> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let turn_ends = Instant::now() + TURN;
        loop {
            if self.ended.is_none() && !self.listener.is_done() {
                ready!(self.listener.poll_ready(context));
            }
            if self.listener.is_done() {
                self.end();
            }
            if self.ended.is_some() {
                return self.linger(context);
            }
            if self.paused {
                self.feed(&mut [], turn_ends);
            } else {
                let readable = self.listener.stream().poll_read_ready(context);
                if ready!(readable).is_err() || !self.read(turn_ends) {
                    return Poll::Ready(());
                }
            }
            if self.paused && self.ended.is_none() {
                // Woken when all others had their turn, those included whose sockets became ready
                // meanwhile: waking itself would let this one go before them.
                let _ = pin!(yield_now()).poll(context);
                return Poll::Pending;
            }
        }
    }
}
