//! Places of a node for connections that are no sessions: handshakes, pages, probes. Asked for when one comes and
//! when one ends, by whichever thread has it.
//!
//! When all are taken, the address that holds most loses its oldest idle one: a stranger who takes places
//! costs itself and keeps nobody out. There is no fixed number for an address, since behind a proxy all
//! come from one. A connection of a trusted proxy is counted by itself, as nobody's: whose requests come over it
//! is known only when they come.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::holder::{Holder, holder_of};

/// Connections that are not, or not yet, sessions: so many for each worker of a node. Each costs some 10 KiB.
pub const MAX_HTTP_CONNECTIONS: usize = 4_096;

/// A connection has so long to show what it wants before others that hold no less may take its place: in a rush each
/// is answered, and none ended for the next.
const LEAST_LIFE: Duration = Duration::from_millis(100);

/// Connections that lost their place and are not closed yet: so many beyond `most` places.
pub const fn spare(most: usize) -> usize {
    if most / 64 > 4 { most / 64 } else { 4 }
}

/// Who loses a place, the last of them first: by how many it holds, whether it is a stranger, and how old its oldest is.
type Turn = (usize, bool, Reverse<u64>, Holder);

/// All places of a node.
#[derive(Debug)]
pub struct Places {
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    count: usize,
    /// Connections with a [`Place`], also one that they lost.
    open: usize,
    /// By holder, oldest first.
    held: HashMap<Holder, BTreeMap<u64, Arc<State>>>,
    turns: BTreeSet<Turn>,
}

#[derive(Debug)]
struct State {
    since: Instant,
    /// An answer is being made.
    is_busy: AtomicBool,
    evicted: Notify,
}

/// What a connection gets.
#[derive(Debug)]
pub enum Taken {
    Free(Place),
    /// Another connection lost this one.
    Evicted(Place),
    /// None yet: those that are asked to go have just come.
    Soon,
    /// None yet: those that lost theirs are being closed.
    Closing,
    /// None: nobody holds more, and all are in use or have just come.
    Refused,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    holder: Holder,
    number: u64,
    state: Arc<State>,
}

impl Inner {
    fn turn(&self, holder: Holder) -> Option<Turn> {
        let held = self.held.get(&holder)?;
        let (oldest, _) = held.first_key_value()?;
        let is_stranger = matches!(holder, Holder::Address(_));
        Some((held.len(), is_stranger, Reverse(*oldest), holder))
    }

    fn insert(&mut self, holder: Holder, number: u64, state: Arc<State>) {
        if let Some(before) = self.turn(holder) {
            self.turns.remove(&before);
        }
        self.held.entry(holder).or_default().insert(number, state);
        self.count += 1;
        self.turns.extend(self.turn(holder));
    }

    fn remove(&mut self, holder: Holder, number: u64) -> Option<Arc<State>> {
        let before = self.turn(holder)?;
        let held = self.held.get_mut(&holder)?;
        let state = held.remove(&number)?;
        if held.is_empty() {
            self.held.remove(&holder);
        }
        self.count -= 1;
        self.turns.remove(&before);
        self.turns.extend(self.turn(holder));
        Some(state)
    }

    /// Makes room: the oldest idle connection of whoever holds most, and has an idle one. If it has just come the
    /// newcomer waits, if it `may_wait`, unless it is of one who holds more. If none is idle, the oldest of whoever
    /// holds most, unless that is the newcomer: strangers who keep all of theirs in use keep out only themselves.
    fn evict(&mut self, newcomer: Holder, may_wait: bool) -> Room {
        let own = self.held.get(&newcomer).map_or(0, BTreeMap::len);
        let oldest = self.turns.iter().rev().find_map(|(count, .., holder)| {
            let mut held = self.held.get(holder)?.iter();
            let (number, state) = held.find(|(_, state)| !state.is_busy.load(Ordering::Relaxed))?;
            Some((*count, *holder, *number, state.since))
        });
        if let Some((count, .., since)) = oldest
            && since.elapsed() < LEAST_LIFE
        {
            let holds_more = count > own + 1;
            // Whose a proxy's connection is, and what that holds, is not known yet.
            if may_wait && (!holds_more || matches!(newcomer, Holder::Alone(_))) {
                return Room::Soon;
            }
            if !holds_more {
                return Room::None;
            }
        }
        let oldest = oldest.map(|(_, holder, number, _)| (holder, number));
        let oldest = oldest.or_else(|| {
            let (count, _, Reverse(number), holder) = self.turns.last()?;
            (*count > own + 1).then_some((*holder, *number))
        });
        let Some(state) = oldest.and_then(|(holder, number)| self.remove(holder, number)) else {
            return Room::None;
        };
        state.evicted.notify_one();
        Room::Made
    }
}

/// Whether there is room for a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Made,
    Soon,
    None,
}

impl Places {
    /// So many.
    pub fn of(most: usize) -> Self {
        Self {
            most,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`, which may have to wait for it, or may not.
    pub fn take(self: &Arc<Self>, address: IpAddr, may_wait: bool) -> Taken {
        let holder = Holder::Address(holder_of(address));
        self.take_for(|_| holder, may_wait)
    }

    /// Likewise for a connection that is nobody's yet.
    pub fn take_alone(self: &Arc<Self>, may_wait: bool) -> Taken {
        self.take_for(Holder::Alone, may_wait)
    }

    fn take_for(self: &Arc<Self>, holder: impl FnOnce(u64) -> Holder, may_wait: bool) -> Taken {
        let mut inner = self.lock();
        let number = inner.next;
        let holder = holder(number);
        let is_full = inner.count >= self.most;
        if inner.open >= self.most + spare(self.most) {
            return Taken::Closing;
        }
        if is_full {
            match inner.evict(holder, may_wait) {
                Room::Made => {}
                Room::Soon => return Taken::Soon,
                Room::None => return Taken::Refused,
            }
        }
        inner.next += 1;
        inner.open += 1;
        let state = Arc::new(State {
            since: Instant::now(),
            is_busy: AtomicBool::new(false),
            evicted: Notify::new(),
        });
        inner.insert(holder, number, Arc::clone(&state));
        drop(inner);
        let place = Place {
            places: Arc::clone(self),
            holder,
            number,
            state,
        };
        if is_full {
            Taken::Evicted(place)
        } else {
            Taken::Free(place)
        }
    }
}

impl Place {
    /// From now on it is one of `address`: whose a proxy's connection is was told.
    pub fn belongs_to(&mut self, address: IpAddr) {
        let holder = Holder::Address(holder_of(address));
        let mut inner = self.places.lock();
        // If it was lost meanwhile there is nothing to count.
        if let Some(state) = inner.remove(self.holder, self.number) {
            inner.insert(holder, self.number, state);
        }
        drop(inner);
        self.holder = holder;
    }

    /// A mark that it is in use, until that is dropped.
    pub fn in_use(&self) -> InUse {
        self.state.is_busy.store(true, Ordering::Relaxed);
        InUse(Arc::clone(&self.state))
    }

    /// Waits until another connection needs the place more.
    pub async fn evicted(&self) {
        self.state.evicted.notified().await;
    }
}

/// A place that must not be taken away.
pub struct InUse(Arc<State>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.places.lock();
        inner.open -= 1;
        let _ = inner.remove(self.holder, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(places: &Arc<Places>, address: IpAddr) -> Place {
        match places.take(address, true) {
            Taken::Free(place) | Taken::Evicted(place) => place,
            other => panic!("{other:?}"),
        }
    }

    /// A rush from one address, as behind a proxy: nobody is ended for the next, but waits for it.
    #[test]
    fn newcomers_wait_for_those_before_them() {
        let places = Arc::new(Places::of(2));
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let first = place(&places, address);
        let second = place(&places, address);
        assert!(matches!(places.take(address, true), Taken::Soon));
        drop(first);
        let _third = place(&places, address);
        std::thread::sleep(LEAST_LIFE);
        assert!(
            matches!(places.take(address, true), Taken::Evicted(_)),
            "the second"
        );
        drop(second);
    }

    /// A rush from as many addresses, by themselves or through a proxy that tells them: likewise, as long as they may
    /// wait, and then it is the newcomer that is refused.
    #[test]
    fn those_that_hold_no_more_are_not_ended_for_the_next() {
        for (is_proxied, addresses) in [(false, 9), (true, 9), (true, 1)] {
            let places = Arc::new(Places::of(3));
            let take = |n: u8, may_wait| {
                let address = IpAddr::from([192, 0, 2, n % addresses]);
                match is_proxied {
                    true => (places.take_alone(may_wait), address),
                    false => (places.take(address, may_wait), address),
                }
            };
            let _held: Vec<_> = (0..3)
                .map(|n| {
                    let (Taken::Free(mut place), address) = take(n, true) else {
                        panic!("it is free");
                    };
                    place.belongs_to(address);
                    place
                })
                .collect();
            assert!(matches!(take(3, true).0, Taken::Soon), "{addresses}");
            let refused = matches!(take(3, false).0, Taken::Refused);
            assert_eq!(refused, addresses > 1, "one that has three must give one");
        }
    }

    /// A flood of one address costs nobody else time, and its own places only once they are old.
    #[test]
    fn whoever_holds_more_gives_way_at_once() {
        let places = Arc::new(Places::of(8));
        let (flood, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let held: Vec<_> = (0..8).map(|_| place(&places, flood)).collect();
        assert!(matches!(places.take(flood, true), Taken::Soon));
        assert!(matches!(places.take(flood, false), Taken::Refused));
        let _others = [true, false].map(|may_wait| {
            let taken = places.take(other, may_wait);
            assert!(matches!(taken, Taken::Evicted(_)), "{taken:?}");
            taken
        });
        drop(held);
    }

    /// What lost its place and is not closed yet still has its file.
    #[test]
    fn lost_places_count_until_they_are_closed() {
        let places = Arc::new(Places::of(1));
        let other = |n| -> IpAddr { format!("192.0.2.{n}").parse().unwrap() };
        let mut held: Vec<_> = (0..=spare(1))
            .map(|n| {
                std::thread::sleep(LEAST_LIFE);
                place(&places, other(n))
            })
            .collect();
        assert!(matches!(places.take(other(99), true), Taken::Closing));
        held.remove(0);
        std::thread::sleep(LEAST_LIFE);
        assert!(matches!(places.take(other(99), true), Taken::Evicted(_)));
    }

    /// A stranger may keep all of its places in use, with requests that wait for a store.
    #[test]
    fn places_in_use_keep_nobody_out() {
        let places = Arc::new(Places::of(MAX_HTTP_CONNECTIONS));
        let (stranger, other): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let held: Vec<_> = (0..MAX_HTTP_CONNECTIONS)
            .map(|_| place(&places, stranger))
            .collect();
        let in_use: Vec<_> = held.iter().map(Place::in_use).collect();
        let refused = places.take(stranger, true);
        assert!(matches!(refused, Taken::Refused), "not even its own");
        let Taken::Evicted(_mine) = places.take(other, true) else {
            panic!("another must lose its place");
        };
        assert!(!places.lock().held[&Holder::Address(stranger)].contains_key(&0));
        drop(in_use);
    }

    /// However many connections a trusted proxy keeps, a stranger with two loses one before it.
    #[test]
    fn a_proxys_connections_are_not_added_up() {
        let places = Arc::new(Places::of(MAX_HTTP_CONNECTIONS));
        let got = |taken| match taken {
            Taken::Free(place) | Taken::Evicted(place) => place,
            other => panic!("{other:?}"),
        };
        let (stranger, other): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut held: Vec<_> = (2..MAX_HTTP_CONNECTIONS)
            .map(|_| got(places.take_alone(true)))
            .collect();
        held.extend([(); 2].map(|()| place(&places, stranger)));
        let Taken::Evicted(_mine) = places.take(other, true) else {
            panic!("another must lose its place");
        };
        let left = places.lock().held[&Holder::Address(stranger)].len();
        assert_eq!(left, 1, "the stranger lost one");
        // With one each, too, strangers are the first, the oldest of them before; then the proxy's oldest.
        std::thread::sleep(LEAST_LIFE);
        for lost in [Holder::Address(stranger), Holder::Address(other)] {
            assert!(places.lock().held.contains_key(&lost));
            held.push(got(places.take_alone(true)));
            assert!(!places.lock().held.contains_key(&lost), "{lost:?}");
        }
        std::thread::sleep(LEAST_LIFE);
        held.push(got(places.take_alone(true)));
        assert!(!places.lock().held.contains_key(&Holder::Alone(0)));
    }

    #[test]
    fn whoever_holds_most_loses_its_oldest_idle_place() {
        let places = Arc::new(Places::of(MAX_HTTP_CONNECTIONS));
        let (stranger, other): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut held: Vec<_> = (0..MAX_HTTP_CONNECTIONS)
            .map(|_| place(&places, stranger))
            .collect();
        let busy = held[0].in_use();
        let Taken::Evicted(mine) = places.take(other, true) else {
            panic!("another must lose its place");
        };
        let inner = places.lock();
        assert!(
            inner.held[&Holder::Address(stranger)].contains_key(&0),
            "it is in use"
        );
        assert!(
            !inner.held[&Holder::Address(stranger)].contains_key(&1),
            "the oldest idle"
        );
        assert_eq!(inner.count, MAX_HTTP_CONNECTIONS);
        drop(inner);
        drop((busy, mine));
        held.clear();
        let inner = places.lock();
        assert_eq!(
            (inner.count, inner.held.len(), inner.turns.len()),
            (0, 0, 0)
        );
    }
}
