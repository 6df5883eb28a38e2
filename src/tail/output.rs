//! Standard output, written by a thread of its own: a pipe that nobody reads, or a terminal that is held,
//! must not keep Ctrl-C from being heard.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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
    let (tell, gone) = oneshot::channel();
    // A thread, since the runtime's own way would make the pipe non-blocking for all who share it.
    std::thread::spawn(move || {
        let out = io::stdout();
        // Errors and hang-ups are told unasked (poll(2)).
        let mut watched = [PollFd::new(out.as_fd(), PollFlags::empty())];
        while poll(&mut watched, PollTimeout::NONE) == Err(Errno::EINTR) {}
        let ended = PollFlags::POLLERR | PollFlags::POLLHUP;
        if watched[0]
            .revents()
            .is_some_and(|what| what.intersects(ended))
        {
            let _ = tell.send(());
        }
    });
    if gone.await.is_err() {
        std::future::pending().await
    }
}
