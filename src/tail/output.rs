//! Standard output, written by a thread of its own: a pipe that nobody reads, or a terminal that is held,
//! must not keep Ctrl-C from being heard.

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Pieces that wait to be written.
const QUEUED: usize = 64;

/// What goes to standard output, piece by piece, each flushed.
pub struct Output {
    pub queue: mpsc::Sender<Vec<u8>>,
    /// When and how the writing ended; a closed pipe is a good end.
    pub ended: oneshot::Receiver<io::Result<()>>,
}

impl Output {
    pub fn start() -> Self {
        let (queue, pieces) = mpsc::channel(QUEUED);
        let (end, ended) = oneshot::channel();
        std::thread::spawn(move || {
            let _ = end.send(write(pieces));
        });
        Self { queue, ended }
    }

    /// Writes what is queued, as far as that can be done within `limit`.
    pub async fn finish(self, limit: Duration) -> io::Result<()> {
        drop(self.queue);
        match timeout(limit, self.ended).await {
            Ok(Ok(written)) => written,
            _ => Ok(()),
        }
    }
}

fn write(mut pieces: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    let mut out = io::stdout();
    while let Some(piece) = pieces.blocking_recv() {
        match out.write_all(&piece).and_then(|()| out.flush()) {
            Err(why) if why.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    Ok(())
}

/// Waits until the reader of a pipe is gone; for ever where the output is none. Without it that would be
/// noticed at the next bar, which for days takes a day.
pub async fn reader_is_gone() {
    let Ok(pipe) = AsyncFd::register_with_interest(io::stdout(), Interest::ERROR) else {
        return std::future::pending().await;
    };
    while let Ok(mut guard) = pipe.ready(Interest::ERROR).await {
        if guard.ready().is_error() || guard.ready().is_write_closed() {
            return;
        }
        guard.clear_ready();
    }
    std::future::pending().await
}
