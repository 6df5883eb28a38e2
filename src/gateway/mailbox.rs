//! The one hand-over between threads: batches from ingest to a worker.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::batch::Batch;

/// Bytes of frames that may wait for a worker. Some 50,000 bars: a worker that is further behind
/// holds up ingest, and so Redis, rather than memory.
const MAX_WAITING_BYTES: usize = 8 << 20;

/// A bounded queue with one lock and at most one wake-up a batch, however many clients there are.
#[derive(Debug, Default)]
pub struct Mailbox {
    waiting: Mutex<Waiting>,
    space: Condvar,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: Vec<Arc<Batch>>,
    bytes: usize,
    /// Times that the worker was woken.
    wakes: u64,
    closed: bool,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Whole after every statement, so a panic elsewhere cannot have torn it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a batch in, blocking the thread while the worker is too far behind. A closed mailbox
    /// takes nothing and never blocks.
    pub fn push(&self, batch: &Arc<Batch>) {
        let mut waiting = self.lock();
        while waiting.bytes > MAX_WAITING_BYTES && !waiting.closed {
            waiting = self
                .space
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.closed {
            return;
        }
        waiting.bytes += batch.total_bytes();
        waiting.batches.push(Arc::clone(batch));
        // Of one that did not take up what came before, it knows already.
        let must_wake = waiting.batches.len() == 1;
        waiting.wakes += u64::from(must_wake);
        drop(waiting);
        if must_wake {
            self.arrived.notify_one();
        }
    }

    /// Waits until something is there and takes all of it into `taken`, which must be empty.
    pub async fn take(&self, taken: &mut Vec<Arc<Batch>>) {
        loop {
            {
                let mut waiting = self.lock();
                if !waiting.batches.is_empty() {
                    std::mem::swap(&mut waiting.batches, taken);
                    waiting.bytes = 0;
                    self.space.notify_one();
                    return;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Bytes of frames that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// How often the worker was woken.
    pub fn wakes(&self) -> u64 {
        self.lock().wakes
    }

    /// Lets a blocked ingest go; nothing is taken in any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.space.notify_all();
    }
}
