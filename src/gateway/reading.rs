//! Reading one connection: a small task a client, which waits until the socket can be read, reads into
//! the worker's shared buffer and decodes. A client that says nothing holds no buffer.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use super::ws::{Decoder, Event, Violation};

/// Where a read goes: one buffer for all connections of a thread.
pub type ReadBuffer = Rc<RefCell<Box<[u8]>>>;

/// Whom a connection's messages are for: a session, or the echo of `examples/echo.rs`, which lets
/// conformance suites for echo servers test what the gateway runs.
pub trait Listener {
    fn stream(&self) -> &TcpStream;

    fn buffer(&self) -> ReadBuffer;

    /// Bytes came, whatever they are.
    fn heard(&mut self) {}

    /// After a break nothing more is looked at; only the end of the connection is waited for.
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()>;

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
    /// Nothing more is looked at; only the end of the connection is waited for.
    ended: bool,
}

impl<L: Listener> Reading<L> {
    /// Reads for `listener`. `early` is what the client sent right behind its handshake.
    pub fn new(listener: L, decoder: Decoder, early: Bytes) -> Self {
        let mut reading = Self {
            listener,
            decoder,
            ended: false,
        };
        if !early.is_empty() {
            reading.feed(&mut BytesMut::from(early));
        }
        reading
    }

    /// Reads once; `false` at the end of the connection.
    fn read(&mut self) -> bool {
        let buffer = self.listener.buffer();
        let mut buffer = buffer.borrow_mut();
        match self.listener.stream().try_read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.listener.heard();
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
            listener,
            decoder,
            ended,
        } = self;
        let fed = decoder.feed(bytes, |event| {
            let flow = listener.event(event);
            *ended |= flow.is_break();
            flow
        });
        if let Err(violation) = fed {
            listener.violation(violation);
            *ended = true;
        }
        listener.fed();
    }
}

impl<L: Listener + Unpin> Future for Reading<L> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let readable = self.listener.stream().poll_read_ready(context);
            if ready!(readable).is_err() || !self.read() {
                return Poll::Ready(());
            }
        }
    }
}
