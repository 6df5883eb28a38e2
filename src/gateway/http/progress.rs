//! A socket whose peer must take what is written: an answer that nobody reads is not kept for ever.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::idle::Pulse;
use super::waiting::Meter;
use crate::gateway::lag::PROGRESS_BYTES;
use crate::running::{Sleep, sleep};

/// Largest answer that is handed to the kernel without a word, in bytes.
const LARGE_BYTES: usize = 64 << 10;
/// What the kernel may keep of larger ones for one peer, in bytes; by itself it takes 4 MB, which are counted
/// nowhere. A megabyte a second over a tenth of a second's distance, and lists have about one.
const SEND_BUFFER_BYTES: usize = 128 << 10;
/// How long input is thrown away after our last byte: closed at once with something unread, TCP would reset the
/// connection, and the peer might lose the answer.
const LINGER: Duration = Duration::from_secs(1);
/// Of it at a time.
const LINGER_READ_BYTES: usize = 1 << 10;

/// Writing fails once the peer took next to nothing for `grace` while something waited for it.
pub struct Progressing {
    stream: TcpStream,
    grace: Duration,
    meter: Arc<Meter>,
    pulse: Arc<Pulse>,
    is_narrow: bool,
    /// Runs while the socket is full.
    patience: Option<Sleep>,
    /// Bytes taken since it runs.
    taken: usize,
    /// Runs from our last byte on.
    linger: Option<Pin<Box<Sleep>>>,
}

impl Progressing {
    /// Gives the peer of `stream` that long to take something, and tells `meter` what it took and `pulse` when.
    pub fn new(stream: TcpStream, grace: Duration, meter: Arc<Meter>, pulse: Arc<Pulse>) -> Self {
        Self {
            stream,
            grace,
            meter,
            pulse,
            is_narrow: false,
            patience: None,
            taken: 0,
            linger: None,
        }
    }

    /// The socket itself.
    pub fn into_inner(self) -> TcpStream {
        self.stream
    }

    /// Before so much is offered to the kernel.
    fn narrow(&mut self, offered: usize) {
        if offered > LARGE_BYTES && !self.is_narrow {
            self.is_narrow = true;
            // If it fails the kernel just keeps more.
            let _ = SockRef::from(&self.stream).set_send_buffer_size(SEND_BUFFER_BYTES);
        }
    }

    fn judge(
        &mut self,
        context: &mut Context<'_>,
        offered: usize,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => {
                self.meter.took(offered, *bytes);
                self.pulse.wrote(*bytes >= offered);
                self.taken = self.taken.saturating_add(*bytes);
                if self.taken >= PROGRESS_BYTES {
                    (self.patience, self.taken) = (None, 0);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let grace = self.grace;
                let patience = self.patience.get_or_insert_with(|| sleep(grace));
                if Pin::new(patience).poll(context).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        written
    }
}

impl AsyncRead for Progressing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(bytes) = buffer.filled().get(before..)
            && !bytes.is_empty()
        {
            self.pulse.read(bytes);
        }
        read
    }
}

impl AsyncWrite for Progressing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.narrow(bytes.len());
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, bytes.len(), written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper offers all it has: a head and a body are few parts.
        let offered = parts.iter().map(|part| part.len()).sum();
        self.narrow(offered);
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.judge(context, offered, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Ends our side, and then reads until the peer has ended its own, or [`LINGER`] is over.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if linger.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut bytes = [0; LINGER_READ_BYTES];
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // It has ended, too, or it is gone.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
