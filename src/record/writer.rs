//! The side of a lane that waits for the database or the disk: a thread of its own, which may hang.

use tokio::sync::mpsc::{self, Receiver, Sender};

use super::lane::Output;
use super::{Closed, Gap};

/// What is written at once: bars, then the gaps among them.
pub(super) type Work = (Vec<Closed>, Vec<Gap>);

/// The way to an [`Output`], which writes one thing at a time.
pub(super) struct Writer {
    pub jobs: Sender<Work>,
    pub results: Receiver<Result<usize, String>>,
}

/// The other end of a [`Writer`].
pub(super) struct Desk {
    jobs: Receiver<Work>,
    results: Sender<Result<usize, String>>,
}

/// Both ends.
pub(super) fn writer() -> (Writer, Desk) {
    let (jobs, waiting) = mpsc::channel(1);
    let (done, results) = mpsc::channel(1);
    let desk = Desk {
        jobs: waiting,
        results: done,
    };
    (Writer { jobs, results }, desk)
}

impl Desk {
    /// Writes what it is given until there is nobody to give it.
    pub async fn serve<O: Output>(mut self, mut output: O) {
        while let Some(work) = self.jobs.recv().await {
            let written = write(&mut output, work).await;
            if self.results.send(written).await.is_err() {
                return;
            }
        }
    }
}

async fn write<O: Output>(output: &mut O, (bars, gaps): Work) -> Result<usize, String> {
    // An output that has nothing to write is asked whether it could.
    let written = match bars.is_empty() && !gaps.is_empty() {
        true => 0,
        false => output.write(bars).await?,
    };
    if !gaps.is_empty() {
        output.note(gaps).await?;
    }
    Ok(written)
}
