//! The one hand-over between threads: batches from ingest to a worker.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::batch::Batch;
use super::missed::Missed;

/// Bytes of frames that may wait for a worker. Some 50,000 bars. When a worker is further behind, only what
/// changed is noted for it; the only one of a node holds up ingest instead, and so Redis.
const MAX_WAITING_BYTES: usize = 8 << 20;

/// A bounded queue with one lock and at most one wake-up a batch, however many clients there are.
#[derive(Debug, Default)]
pub struct Mailbox {
    waiting: Mutex<Waiting>,
    space: Condvar,
    arrived: Notify,
    /// Notes what is missed when it is full, and never blocks.
    notes: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: Vec<Arc<Batch>>,
    bytes: usize,
    /// What came since they were too many.
    missed: Missed,
    /// Times that the worker was woken.
    wakes: u64,
    closed: bool,
}

impl Mailbox {
    /// One of several: its worker must not hold up ingest, which feeds the others, too.
    pub fn never_full() -> Self {
        Self {
            notes: true,
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Whole after every statement, so a panic elsewhere cannot have torn it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a batch in. While the worker is too far behind, what is in it is only noted, or the thread is
    /// blocked. A closed mailbox takes nothing and never blocks.
    pub fn push(&self, batch: &Arc<Batch>) {
        let mut waiting = self.lock();
        let is_full = waiting.bytes > MAX_WAITING_BYTES || !waiting.missed.is_empty();
        if self.notes && is_full && !waiting.closed {
            return waiting.missed.note(batch);
        }
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

    /// Waits until something is there and takes all of it into `taken`, which must be empty; what was missed
    /// comes behind it.
    pub async fn take(&self, taken: &mut Vec<Arc<Batch>>) -> Missed {
        loop {
            {
                let mut waiting = self.lock();
                if !waiting.batches.is_empty() {
                    std::mem::swap(&mut waiting.batches, taken);
                    waiting.bytes = 0;
                    self.space.notify_one();
                    return std::mem::take(&mut waiting.missed);
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
