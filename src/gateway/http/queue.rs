//! Requests that wait for the one thread that builds bodies. Addresses take turns, so that whoever asks a lot
//! waits for itself, and when there is no room it is the one who is refused.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Requests that wait for the thread; one connection has one. Beyond it the address that has most of them is
/// answered with 503.
pub(super) const MAX_QUEUED_REQUESTS: usize = 1_024;

/// The queue itself; `T` is a request.
#[derive(Debug)]
pub(super) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    is_closed: bool,
    count: usize,
    /// Oldest first.
    waiting: HashMap<IpAddr, VecDeque<T>>,
    /// Each address once, in the order of their turns.
    turns: VecDeque<IpAddr>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                is_closed: false,
                count: 0,
                waiting: HashMap::new(),
                turns: VecDeque::new(),
            }),
            changed: Condvar::new(),
        }
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request of `address`. What there is no room for is dropped: this one, or the newest of whoever has
    /// more.
    pub fn push(&self, address: IpAddr, request: T) {
        let mut inner = self.lock();
        if inner.is_closed || (inner.count >= MAX_QUEUED_REQUESTS && !inner.make_room(address)) {
            return;
        }
        inner.count += 1;
        let Inner { waiting, turns, .. } = &mut *inner;
        let own = waiting.entry(address).or_default();
        if own.is_empty() {
            turns.push_back(address);
        }
        own.push_back(request);
        drop(inner);
        self.changed.notify_one();
    }

    /// The next request, waited for; `None` when the queue is closed.
    pub fn pop(&self) -> Option<T> {
        let mut inner = self.lock();
        loop {
            if inner.is_closed {
                return None;
            }
            if let Some(next) = inner.next() {
                return Some(next);
            }
            let woken = self.changed.wait(inner);
            inner = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// From now on nothing is taken in or given out.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.is_closed = true;
        inner.waiting.clear();
        inner.turns.clear();
        drop(inner);
        self.changed.notify_all();
    }
}

impl<T> Inner<T> {
    fn next(&mut self) -> Option<T> {
        let address = self.turns.pop_front()?;
        let own = self.waiting.get_mut(&address)?;
        let next = own.pop_front();
        if own.is_empty() {
            self.waiting.remove(&address);
        } else {
            self.turns.push_back(address);
        }
        self.count -= 1;
        next
    }

    /// Drops the newest request of the address that has most, unless `newcomer` has as many.
    fn make_room(&mut self, newcomer: IpAddr) -> bool {
        let own = self.waiting.get(&newcomer).map_or(0, VecDeque::len);
        let most = self.waiting.iter_mut().max_by_key(|(_, held)| held.len());
        // With one request it may be its address's only one, whose turn would be lost.
        let Some((_, held)) = most.filter(|(_, held)| held.len() > own.max(1)) else {
            return false;
        };
        held.pop_back();
        self.count -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn addresses_take_turns() {
        let queue = Queue::default();
        for n in 0..3 {
            queue.push(address(1), (1, n));
        }
        queue.push(address(2), (2, 0));
        queue.push(address(2), (2, 1));
        let order: Vec<_> = (0..5).filter_map(|_| queue.pop()).collect();
        assert_eq!(order, [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]);
        queue.close();
        queue.push(address(1), (1, 9));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn without_room_whoever_has_most_is_refused() {
        let queue = Queue::default();
        for n in 0..MAX_QUEUED_REQUESTS + 10 {
            queue.push(address(1), (1, n));
        }
        assert_eq!(queue.lock().count, MAX_QUEUED_REQUESTS);
        queue.push(address(2), (2, 0));
        assert_eq!(queue.lock().count, MAX_QUEUED_REQUESTS);
        assert_eq!(queue.pop(), Some((1, 0)));
        assert_eq!(queue.pop(), Some((2, 0)), "its turn is the next");
        let rest: Vec<_> = (2..MAX_QUEUED_REQUESTS)
            .filter_map(|_| queue.pop())
            .collect();
        assert_eq!(rest.last(), Some(&(1, MAX_QUEUED_REQUESTS - 2)));
        assert_eq!(queue.lock().count, 0);
        assert!(queue.lock().turns.is_empty());
    }
}
