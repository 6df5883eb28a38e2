//! A socket whose peer must take what is written: an answer that nobody reads is not kept for ever.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::waiting::Meter;
use crate::gateway::lag::PROGRESS_BYTES;
use crate::running::{Sleep, sleep};

/// Largest answer that is handed to the kernel without a word, in bytes.
const LARGE_BYTES: usize = 64 << 10;
/// What the kernel may keep of larger ones for one peer, in bytes; by itself it takes 4 MB, which are counted
/// nowhere. A megabyte a second over a tenth of a second's distance, and lists have about one.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// Writing fails once the peer took next to nothing for `grace` while something waited for it.
pub struct Progressing {
    stream: TcpStream,
    grace: Duration,
    meter: Arc<Meter>,
    is_narrow: bool,
    /// Runs while the socket is full.
    patience: Option<Sleep>,
    /// Bytes taken since it runs.
    taken: usize,
}

impl Progressing {
    /// Gives the peer of `stream` that long to take something, and tells `meter` what it took.
    pub fn new(stream: TcpStream, grace: Duration, meter: Arc<Meter>) -> Self {
        Self {
            stream,
            grace,
            meter,
            is_narrow: false,
            patience: None,
            taken: 0,
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
        Pin::new(&mut self.stream).poll_read(context, buffer)
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

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
