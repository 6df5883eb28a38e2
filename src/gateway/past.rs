//! The past of topics that is left in the store until somebody asks for it.
//!
//! Whoever is to be shown a topic's past asks here first and waits until it is read, for
//! [`PAST_WAIT`] at most; then it is answered with what there is, and told what is missing. Ingest takes what is
//! read in beside the live bars, and says when it is done.

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::registry::Entry;
use crate::bar::Topic;
use crate::clock::now_ms;
use crate::running;

/// How long whoever asks for a past waits for the store.
pub const PAST_WAIT: Duration = Duration::from_secs(5);
/// Topics whose past waits to be read: some seconds' worth. Who asks for more is answered with what there is.
const MAX_WAITING_TOPICS: usize = 10_000;

/// Where the past of a topic is, but for the bars that are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Past {
    /// Nowhere: all that there is to be had is kept.
    #[default]
    Kept,
    /// In the store, which was not asked for it, or not since the bus was lost.
    Stored,
    /// Read from the store.
    Read,
}

/// The way from whoever asks to whoever reads.
#[derive(Debug, Default)]
pub struct Pasts {
    queue: OnceLock<mpsc::Sender<Topic>>,
    /// Done with by ingest: cancelled then.
    running: Mutex<HashMap<Topic, CancellationToken>>,
}

impl Pasts {
    /// The end of whoever reads. Only the first call has one.
    pub fn open(&self) -> Option<mpsc::Receiver<Topic>> {
        let (queue, asked) = mpsc::channel(MAX_WAITING_TOPICS);
        self.queue.set(queue).is_ok().then_some(asked)
    }

    /// Whether anybody reads.
    pub fn is_open(&self) -> bool {
        self.queue.get().is_some()
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Topic, CancellationToken>> {
        // A map is whole after every step.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the past of a topic read, unless it is here already or too many wait; what to wait for.
    pub fn ask(&self, entry: &Entry) -> Option<CancellationToken> {
        let queue = self.queue.get()?;
        // Mostly it is here, and then the lock that all share is not needed.
        if !is_asked_for(entry) {
            return None;
        }
        // Before the topic is looked at: else it could be read twice.
        let mut running = self.running();
        if !is_asked_for(entry) {
            return None;
        }
        match running.entry(entry.topic) {
            hash_map::Entry::Occupied(found) => Some(found.get().clone()),
            hash_map::Entry::Vacant(place) => {
                queue.try_send(entry.topic).ok()?;
                Some(place.insert(CancellationToken::new()).clone())
            }
        }
    }

    /// Wakes those who wait for a topic's past: what came of it is kept.
    pub fn done(&self, topic: &Topic) {
        if let Some(done) = self.running().remove(topic) {
            done.cancel();
        }
    }
}

/// Notes that somebody wants a topic's past, and tells whether it must be read for that.
fn is_asked_for(entry: &Entry) -> bool {
    let mut state = entry.lock();
    state.asked = now_ms();
    state.past == Past::Stored
}

/// Waits until all that was asked for is read, or too long.
pub async fn read(asked: Vec<CancellationToken>) {
    let all = async {
        for topic in asked {
            topic.cancelled().await;
        }
    };
    // Whoever asked sees from the topics what is missing.
    let _ = running::timeout(PAST_WAIT, all).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::gateway::registry::Registry;

    /// A topic whose past is here is no business of whoever else asks.
    #[test]
    fn what_is_here_is_asked_for_without_the_lock_that_all_share() {
        let registry = Registry::new(1, 1);
        let entry = registry.watch(&"bars:A:1".parse().unwrap(), 0).unwrap();
        let pasts = Arc::<Pasts>::default();
        let _asked = pasts.open();
        let locked = pasts.running();
        let (done, until_done) = channel();
        let asking = Arc::clone(&pasts);
        thread::spawn(move || done.send(asking.ask(&entry).is_none()));
        assert_eq!(until_done.recv_timeout(PAST_WAIT), Ok(true));
        drop(locked);
    }
}
