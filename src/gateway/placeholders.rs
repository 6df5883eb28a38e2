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
use crate::bar::Topic;

/// Names that a worker lets go in one turn; the rest follows in the next.
const MAX_EVICTED_AT_ONCE: usize = 256;

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

/// One worker's sessions that hold such names.
#[derive(Debug, Default)]
pub(super) struct Placeholders {
    /// By session, its names. One that has bars by now is found out when its turn comes.
    of: HashMap<SessionId, BTreeSet<Topic>>,
    /// How many each holds.
    by_count: BTreeSet<(usize, SessionId)>,
}

impl Placeholders {
    fn change(&mut self, session: SessionId, change: impl FnOnce(&mut BTreeSet<Topic>)) {
        let names = self.of.entry(session).or_default();
        let before = names.len();
        change(names);
        let after = names.len();
        if after == 0 {
            self.of.remove(&session);
        }
        if before != after {
            self.by_count.remove(&(before, session));
            if after > 0 {
                self.by_count.insert((after, session));
            }
        }
    }

    fn largest(&self) -> usize {
        self.by_count.last().map_or(0, |(count, _)| *count)
    }

    /// One name of the session that holds most, which does not count for it any more.
    fn take(&mut self) -> Option<(SessionId, Topic)> {
        let (_, session) = *self.by_count.last()?;
        let mut taken = None;
        self.change(session, |names| taken = names.pop_first());
        Some((session, taken?))
    }
}

impl Worker {
    fn change_placeholders(&self, change: impl FnOnce(&mut Placeholders)) {
        let mut placeholders = self.placeholders.borrow_mut();
        change(&mut placeholders);
        self.node.shares.tell(self.at, placeholders.largest());
    }

    /// A session subscribed to names, some of them without a bar.
    pub(super) fn add_placeholders(&self, id: SessionId, entries: &[Arc<Entry>]) {
        let mut made_up = entries.iter().filter(|entry| !entry.is_open()).peekable();
        if made_up.peek().is_some() {
            self.change_placeholders(|placeholders| {
                placeholders.change(id, |names| names.extend(made_up.map(|entry| entry.topic)));
            });
        }
    }

    /// A session subscribes to a name no more.
    pub(super) fn end_placeholder(&self, id: SessionId, entry: &Entry) {
        if self.placeholders.borrow().of.contains_key(&id) {
            self.change_placeholders(|placeholders| {
                placeholders.change(id, |names| {
                    names.remove(&entry.topic);
                });
            });
        }
    }

    /// A session has ended all its subscriptions.
    pub(super) fn forget_placeholders(&self, id: SessionId) {
        if self.placeholders.borrow().of.contains_key(&id) {
            self.change_placeholders(|placeholders| placeholders.change(id, BTreeSet::clear));
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
        let mut taken = None;
        self.change_placeholders(|placeholders| taken = placeholders.take());
        let Some((id, topic)) = taken else { return };
        let entry = self.watching.borrow().get(&topic);
        let Some(entry) = entry.filter(|entry| !entry.is_open()) else {
            return;
        };
        if !self.hub().unsubscribe(id, entry.id) {
            return;
        }
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
    fn whoever_holds_most_loses_one() {
        let mut held = Placeholders::default();
        let topic = |n: u32| format!("bars:T{n}:1").parse::<Topic>().unwrap();
        held.change(7, |names| names.extend([topic(1), topic(2), topic(3)]));
        held.change(9, |names| names.extend([topic(1), topic(2)]));
        assert_eq!((held.largest(), held.take()), (3, Some((7, topic(1)))));
        held.change(7, |names| {
            names.remove(&topic(2));
        });
        assert_eq!((held.largest(), held.take()), (2, Some((9, topic(1)))));
        held.change(9, BTreeSet::clear);
        assert_eq!((held.largest(), held.take()), (1, Some((7, topic(3)))));
        assert_eq!((held.largest(), held.take()), (0, None));
        assert!(held.of.is_empty());

        let shares = Shares::of(3);
        assert_eq!(shares.greediest(), None);
        shares.tell(1, 5);
        shares.tell(2, 5);
        assert_eq!(shares.greediest(), Some(1));
    }
}
