//! What waits for readers of HTTP answers, as a part of the node's budget.
//!
//! A body costs its memory until the last byte of it is taken. One that several connections wait for is divided
//! among them, so it counts once. Pages cost nothing: they are a part of the binary.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Body;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use super::Answer;
use crate::gateway::node::Node;

/// Bytes of new answers after which what waits is added up anew at once; else it is once a second.
const RECOUNT_BYTES: usize = 1 << 20;
const RECOUNT: Duration = Duration::from_secs(1);

/// Mark of an answer whose body was built for it, or for several: all that hold it have the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Built(Arc<()>);

/// One connection's answer that waits. Its socket counts along, which must be able to change threads, so the
/// counters can too.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes of the answer's body.
    bytes: AtomicUsize,
    body: Mutex<Option<Built>>,
    is_ended: AtomicBool,
    ended: Notify,
}

impl Meter {
    fn body(&self) -> MutexGuard<'_, Option<Built>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket was offered so many bytes, all that waits, and took so many of them.
    pub(super) fn took(&self, offered: usize, taken: usize) {
        if taken >= offered && self.bytes.load(Ordering::Relaxed) > 0 {
            self.bytes.store(0, Ordering::Relaxed);
            *self.body() = None;
        }
    }

    /// This connection's share of the memory of its body, in bytes.
    fn share(&self) -> usize {
        let bytes = self.bytes.load(Ordering::Relaxed);
        if bytes == 0 || self.is_ended.load(Ordering::Relaxed) {
            return 0;
        }
        let holders = self
            .body()
            .as_ref()
            .map_or(1, |Built(b)| Arc::strong_count(b));
        bytes.div_ceil(holders.max(1))
    }

    /// Ends the connection.
    fn end(&self) {
        self.is_ended.store(true, Ordering::Relaxed);
        self.ended.notify_one();
    }

    /// Waits until the connection is to end because too much waits on the node.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }
}

/// All connections of the thread `http`.
pub struct Waiting {
    node: Arc<Node>,
    next: Cell<u64>,
    /// By age.
    meters: RefCell<BTreeMap<u64, Arc<Meter>>>,
    /// Bytes of answers since what waits was last added up.
    fresh: Cell<usize>,
}

/// A connection's place among them; given back when dropped.
pub struct Counted {
    waiting: Rc<Waiting>,
    number: u64,
    pub meter: Arc<Meter>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.waiting.meters.borrow_mut().remove(&self.number);
    }
}

impl Waiting {
    /// No connections of `node` yet.
    pub fn on(node: Arc<Node>) -> Self {
        Self {
            node,
            next: Cell::default(),
            meters: RefCell::default(),
            fresh: Cell::default(),
        }
    }

    /// One connection more.
    pub fn count(self: &Rc<Self>) -> Counted {
        let number = self.next.get();
        self.next.set(number + 1);
        let meter = Arc::<Meter>::default();
        self.meters.borrow_mut().insert(number, Arc::clone(&meter));
        Counted {
            waiting: Rc::clone(self),
            number,
            meter,
        }
    }

    fn recount(&self) {
        self.fresh.set(0);
        let mut all: Vec<_> = {
            let meters = self.meters.borrow();
            let shares = meters
                .values()
                .map(|meter| (meter.share(), Arc::clone(meter)));
            shares.filter(|(share, _)| *share > 0).collect()
        };
        all.sort_unstable_by_key(|(share, _)| *share);
        let mut bytes = all.iter().map(|(share, _)| *share).sum::<usize>();
        let budget = &self.node.budget;
        let own = self.node.config.workers;
        loop {
            let largest = all.last().map_or(0, |(share, _)| *share);
            budget.report(own, bytes, largest);
            if largest == 0 || !(budget.must_shed(own) || budget.is_far_over()) {
                return;
            }
            if let Some((share, meter)) = all.pop() {
                meter.end();
                self.node.metrics.shed.inc();
                bytes -= share;
            }
        }
    }
}

impl Counted {
    /// From now on this answer waits for the connection's peer.
    pub fn begin(&self, answer: &mut Answer) {
        let Some(built) = answer.extensions_mut().remove::<Built>() else {
            return;
        };
        let bytes = Full::size_hint(answer.body()).exact().unwrap_or_default();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        *self.meter.body() = Some(built);
        self.meter.bytes.store(bytes, Ordering::Relaxed);
        let waiting = &self.waiting;
        waiting.fresh.set(waiting.fresh.get().saturating_add(bytes));
        if waiting.fresh.get() > RECOUNT_BYTES {
            waiting.recount();
        }
    }
}

/// Adds up what waits once a second.
pub async fn keep_budget(waiting: Rc<Waiting>) {
    let mut tick = interval(RECOUNT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        waiting.recount();
    }
}
