//! Names that clients of one worker subscribed to and that no bar came for: who holds how many, and who
//! loses one when the node has too many of them.
//!
//! The session that holds most on the whole node does. Each worker tells how many its own greediest holds;
//! whoever makes a name too many looks who that is: on its own worker it is dealt with at once, another
//! worker is woken.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::hub::SessionId;
use super::node::Limit;
use super::protocol::{Refusal, write_refusal};
use super::registry::Entry;
use super::worker::Worker;

/// Names that a worker lets go in one turn; the rest follows in the next.
const MAX_EVICTED_AT_ONCE: usize = 256;
/// Names of one session from which on they are counted: an honest client that waits for the first bar of a few
/// costs no memory for it, and loses none.
const MANY: usize = 16;

/// What each worker tells the others.
#[derive(Debug)]
pub struct Shares(Box<[Share]>);

#[derive(Debug, Default)]
struct Share {
    /// Most names that one session of the worker holds.
    largest: AtomicUsize,
    /// There are too many, and that session is the one.
    wanted: Notify,
}

impl Shares {
    /// Of so many workers.
    pub fn of(workers: usize) -> Self {
        Self((0..workers).map(|_| Share::default()).collect())
    }

    /// The worker of the session that holds most.
    fn greediest(&self) -> Option<usize> {
        let largest = |share: &Share| share.largest.load(Ordering::Relaxed);
        let most = self.0.iter().map(largest).max().filter(|most| *most > 0)?;
        self.0.iter().position(|share| largest(share) == most)
    }

    fn tell(&self, worker: usize, largest: usize) {
        if let Some(share) = self.0.get(worker) {
            share.largest.store(largest, Ordering::Relaxed);
        }
    }

    fn wake(&self, worker: usize) {
        if let Some(share) = self.0.get(worker) {
            share.wanted.notify_one();
        }
    }
}

/// One worker's sessions that hold many such names, and how many.
#[derive(Debug, Default)]
pub(super) struct Placeholders {
    counts: HashMap<SessionId, usize>,
    by_count: BTreeSet<(usize, SessionId)>,
}

impl Placeholders {
    fn set(&mut self, session: SessionId, count: usize) {
        let many = count >= MANY;
        let before = if many {
            self.counts.insert(session, count)
        } else {
            self.counts.remove(&session)
        };
        if let Some(before) = before {
            self.by_count.remove(&(before, session));
        }
        if many {
            self.by_count.insert((count, session));
        }
    }

    /// The session that holds most, and how many.
    fn greediest(&self) -> Option<(usize, SessionId)> {
        self.by_count.last().copied()
    }
}

impl Worker {
    fn set_placeholders(&self, id: SessionId, count: usize) {
        let mut placeholders = self.placeholders.borrow_mut();
        placeholders.set(id, count);
        let largest = placeholders.greediest().map_or(0, |(count, _)| count);
        self.node.shares.tell(self.at, largest);
    }

    /// Counts anew how many names without a bar a session holds: something changed, or may have.
    fn count_placeholders(&self, id: SessionId) {
        let count = {
            let hub = self.hub();
            let made_up = hub.topics_of(id).filter(|entry| !entry.is_open());
            made_up.count()
        };
        self.set_placeholders(id, count);
    }

    /// A session subscribed to names, some of them perhaps without a bar.
    pub(super) fn add_placeholders(&self, id: SessionId, entries: &[Arc<Entry>]) {
        if self.hub().count_of(id) >= MANY && entries.iter().any(|entry| !entry.is_open()) {
            self.count_placeholders(id);
        }
    }

    /// A session unsubscribed from something.
    pub(super) fn end_placeholders(&self, id: SessionId) {
        if self.placeholders.borrow().counts.contains_key(&id) {
            self.count_placeholders(id);
        }
    }

    /// A session is about to end all its subscriptions.
    pub(super) fn forget_placeholders(&self, id: SessionId) {
        if self.placeholders.borrow().counts.contains_key(&id) {
            self.set_placeholders(id, 0);
        }
    }

    /// Lets names go until the node has no more than it may, as long as it is a session of this worker
    /// that holds most; otherwise wakes the one whose turn it is.
    pub(super) fn evict_placeholders(self: &Rc<Self>) {
        let (registry, shares) = (&self.node.registry, &self.node.shares);
        for _ in 0..MAX_EVICTED_AT_ONCE {
            if !registry.has_too_many_placeholders() {
                return;
            }
            match shares.greediest() {
                Some(worker) if worker == self.at => self.evict_one(),
                Some(worker) => return shares.wake(worker),
                // Their sessions are on their way out.
                None => return,
            }
        }
        shares.wake(self.at);
    }

    fn evict_one(self: &Rc<Self>) {
        let Some((_, id)) = self.placeholders.borrow().greediest() else {
            return;
        };
        let entry = {
            let hub = self.hub();
            let mut made_up = hub.topics_of(id).filter(|entry| !entry.is_open());
            made_up.next().map(Arc::clone)
        };
        let Some(Entry {
            id: number, topic, ..
        }) = entry.as_deref()
        else {
            return self.set_placeholders(id, 0);
        };
        self.hub().unsubscribe(id, *number);
        self.count_placeholders(id);
        self.node.metrics.limited(Limit::Placeholders.label()).inc();
        let limit = self.node.config.limits.max_placeholders;
        let refusal = Refusal {
            id: None,
            code: "limit",
            message: format!(
                "the subscription to {topic} has ended: no bar came for it, and this node holds {limit} such names"
            ),
        };
        self.answer(id, |out| write_refusal(out, &refusal));
        // There is room for what its patterns lack.
        if let Some(connection) = self.connection(id) {
            self.complete_all(id, &connection);
        }
        self.see_to_todo();
    }
}

/// Lets names go when another worker found that there are too many.
pub(super) async fn evict(worker: Rc<Worker>) {
    loop {
        let node = Arc::clone(&worker.node);
        let Some(share) = node.shares.0.get(worker.at) else {
            return;
        };
        share.wanted.notified().await;
        worker.evict_placeholders();
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_most_is_known() {
        let mut held = Placeholders::default();
        held.set(7, MANY - 1);
        assert_eq!(held.greediest(), None, "not worth a note");
        held.set(7, MANY + 2);
        held.set(9, MANY + 1);
        assert_eq!(held.greediest(), Some((MANY + 2, 7)));
        held.set(7, MANY);
        assert_eq!(held.greediest(), Some((MANY + 1, 9)));
        held.set(9, 0);
        held.set(7, 1);
        assert_eq!(held.greediest(), None);
        assert!(held.counts.is_empty());

        let shares = Shares::of(3);
        assert_eq!(shares.greediest(), None);
        shares.tell(1, 5);
        shares.tell(2, 5);
        assert_eq!(shares.greediest(), Some(1));
    }
}
