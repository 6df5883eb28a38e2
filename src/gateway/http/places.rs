//! Places of a node for connections that are no sessions: handshakes, pages, probes. Asked for when one comes and
//! when one ends, by whichever thread has it.
//!
//! When all are taken, the address that holds most loses its oldest idle one: a stranger who takes places
//! costs itself and keeps nobody out. There is no fixed number for an address, since behind a proxy all
//! come from one. A connection of a trusted proxy is counted by itself, as nobody's: whose requests come over it
//! is known only when they come.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Connections that are not, or not yet, sessions: so many for each worker of a node. Each costs some 10 KiB.
pub const MAX_HTTP_CONNECTIONS: usize = 4_096;

/// A connection has so long to show what it wants before others from its own address may take its place: in a rush
/// each is answered, and none ended for the next.
const LEAST_LIFE: Duration = Duration::from_millis(100);

/// Connections that lost their place and are not closed yet: so many beyond `most` places.
pub const fn spare(most: usize) -> usize {
    if most / 64 > 4 { most / 64 } else { 4 }
}

/// Whom an address stands for: an IPv6 client has its whole /64 (RFC 6177).
pub fn holder_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        four => four,
    }
}

/// Who holds places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Holder {
    /// One connection of a trusted proxy, by its number: of those that hold as many the last to lose one, and the
    /// oldest before the newer.
    Alone(Reverse<u64>),
    Address(IpAddr),
}

impl Holder {
    /// Whether both are one address, or connections of proxies.
    fn is_like(self, other: Self) -> bool {
        let are_alone = matches!((self, other), (Self::Alone(_), Self::Alone(_)));
        self == other || are_alone
    }
}

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
    /// Holders by how many they hold.
    by_count: BTreeSet<(usize, Holder)>,
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
    /// None yet, but soon.
    Soon,
    /// None: all are in use, and nobody holds more.
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
    fn recount(&mut self, address: Holder, from: usize, to: usize) {
        self.by_count.remove(&(from, address));
        if to > 0 {
            self.by_count.insert((to, address));
        } else {
            self.held.remove(&address);
        }
    }

    fn remove(&mut self, address: Holder, number: u64) -> Option<Arc<State>> {
        let held = self.held.get_mut(&address)?;
        let before = held.len();
        let state = held.remove(&number)?;
        self.count -= 1;
        self.recount(address, before, before - 1);
        Some(state)
    }

    /// Makes room: the oldest idle connection of whoever holds most, and has an idle one. If none is idle, the
    /// oldest of whoever holds most, unless that is the newcomer: strangers who keep all of theirs in use keep
    /// out only themselves.
    fn evict(&mut self, newcomer: Holder) -> Room {
        let oldest = self.by_count.iter().rev().find_map(|(_, address)| {
            let mut held = self.held.get(address)?.iter();
            let (number, state) = held.find(|(_, state)| !state.is_busy.load(Ordering::Relaxed))?;
            Some((*address, *number, state.since))
        });
        if oldest.is_some_and(|(holder, _, since)| {
            holder.is_like(newcomer) && since.elapsed() < LEAST_LIFE
        }) {
            return Room::Soon;
        }
        let oldest = oldest.map(|(address, number, _)| (address, number));
        let oldest = oldest.or_else(|| {
            let own = self.held.get(&newcomer).map_or(0, BTreeMap::len);
            let (count, address) = self.by_count.last()?;
            let (number, _) = self.held.get(address)?.first_key_value()?;
            (*count > own + 1).then_some((*address, *number))
        });
        let Some(state) = oldest.and_then(|(address, number)| self.remove(address, number)) else {
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

    /// A place for a connection from `address`.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Taken {
        let holder = Holder::Address(holder_of(address));
        self.take_for(|_| holder)
    }

    /// Likewise for a connection that is nobody's yet.
    pub fn take_alone(self: &Arc<Self>) -> Taken {
        self.take_for(|number| Holder::Alone(Reverse(number)))
    }

    fn take_for(self: &Arc<Self>, holder: impl FnOnce(u64) -> Holder) -> Taken {
        let mut inner = self.lock();
        let number = inner.next;
        let holder = holder(number);
        let is_full = inner.count >= self.most;
        if inner.open >= self.most + spare(self.most) {
            return Taken::Soon;
        }
        if is_full {
            match inner.evict(holder) {
                Room::Made => {}
                Room::Soon => return Taken::Soon,
                Room::None => return Taken::Refused,
            }
        }
        inner.next += 1;
        inner.count += 1;
        inner.open += 1;
        let state = Arc::new(State {
            since: Instant::now(),
            is_busy: AtomicBool::new(false),
            evicted: Notify::new(),
        });
        let held = inner.held.entry(holder).or_default();
        held.insert(number, Arc::clone(&state));
        let now = held.len();
        inner.recount(holder, now - 1, now);
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

    fn address(last: u16) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last))
    }

    fn place(places: &Arc<Places>, address: IpAddr) -> Place {
        match places.take(address) {
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
        assert!(matches!(places.take(address), Taken::Soon));
        drop(first);
        let _third = place(&places, address);
        std::thread::sleep(LEAST_LIFE);
        assert!(
            matches!(places.take(address), Taken::Evicted(_)),
            "the second"
        );
        drop(second);
    }

    /// What lost its place and is not closed yet still has its file.
    #[test]
    fn lost_places_count_until_they_are_closed() {
        let places = Arc::new(Places::of(1));
        let other = |n| -> IpAddr { format!("192.0.2.{n}").parse().unwrap() };
        let mut held: Vec<_> = (0..=spare(1)).map(|n| place(&places, other(n))).collect();
        assert!(matches!(places.take(other(99)), Taken::Soon));
        held.remove(0);
        assert!(matches!(places.take(other(99)), Taken::Evicted(_)));
    }

    #[test]
    fn an_address_stands_for_its_network() {
        assert_eq!(holder_of(address(1)), holder_of(address(2)));
        let other = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1));
        assert_ne!(holder_of(address(1)), holder_of(other));
        let four: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(holder_of("::ffff:192.0.2.1".parse().unwrap()), four);
        assert_ne!(holder_of(four), holder_of("192.0.2.2".parse().unwrap()));
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
        let refused = places.take(stranger);
        assert!(matches!(refused, Taken::Refused), "not even its own");
        let Taken::Evicted(_mine) = places.take(other) else {
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
            .map(|_| got(places.take_alone()))
            .collect();
        held.extend([(); 2].map(|()| place(&places, stranger)));
        let Taken::Evicted(_mine) = places.take(other) else {
            panic!("another must lose its place");
        };
        let left = places.lock().held[&Holder::Address(stranger)].len();
        assert_eq!(left, 1, "the stranger lost one");
        // With one each, too, strangers are the first; then the proxy's oldest.
        for lost in [Holder::Address(other), Holder::Address(stranger)] {
            assert!(places.lock().held.contains_key(&lost));
            held.push(got(places.take_alone()));
            assert!(!places.lock().held.contains_key(&lost), "{lost:?}");
        }
        std::thread::sleep(LEAST_LIFE);
        held.push(got(places.take_alone()));
        assert!(!places.lock().held.contains_key(&Holder::Alone(Reverse(0))));
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
        let Taken::Evicted(mine) = places.take(other) else {
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
            (inner.count, inner.held.len(), inner.by_count.len()),
            (0, 0, 0)
        );
    }
}
