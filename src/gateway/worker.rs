//! One worker: a thread with its own runtime, listener and clients.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::net::{IpAddr, Shutdown};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout_at;

use super::batch::Batch;
use super::closing::GOING_AWAY;
use super::holders::Holders;
use super::http::places::Taken;
use super::hub::{Hub, SessionId};
use super::mailbox::Mailbox;
use super::node::Node;
use super::placeholders::Placeholders;
use super::reading::ReadBuffer;
use super::session::{self, Connection};
use super::silence::Silences;
use super::watching::Watching;
use super::ws::{CloseCode, FrameBuilder};
use crate::bar::Pattern;
use crate::clock::now_us;
use crate::limited::Limited;
use crate::metrics::Counts;
use crate::networks::any_contains;
use crate::running;

/// One read's size. Shared by all clients of the worker, so it can be generous; a client's message
/// is at most 4 KiB by default.
const READ_BYTES: usize = 16 << 10;
/// Label of connections refused at that bound.
pub const REFUSED_HTTP: &str = "http_connections";
/// Label of connections of a trusted proxy without a good PROXY header.
pub const REFUSED_PROXY_HEADER: &str = "proxy_header";
/// Change of what waits for a worker's clients that the node is told of at once; else it is told once a
/// second.
const REPORT_STEP_BYTES: usize = 1 << 20;
/// Frames of several batches that go out together: half of what may by default wait for a client that does not
/// take them at once.
const MAX_MERGED_BYTES: usize = 128 << 10;
/// Sessions whose places are kept in advance, 32 MiB of addresses; with more the list grows as it must.
const MAX_RESERVED_SESSIONS: usize = 1 << 18;

/// A worker's state. Everything is touched by its own thread only, and no borrow is held across an
/// await.
pub struct Worker {
    /// Which of the node's workers it is.
    pub(super) at: usize,
    pub node: Arc<Node>,
    pub read_buffer: ReadBuffer,
    pub(super) hub: RefCell<Hub<Rc<Connection>>>,
    /// Patterns with a `*`, and who holds them.
    pub(super) patterns: RefCell<HashMap<Pattern, Holders>>,
    /// What it watches, by name.
    pub(super) watching: RefCell<Watching>,
    /// Names without a bar, and who holds them.
    pub(super) placeholders: RefCell<Placeholders>,
    /// What waited here when the node was last told, in bytes.
    pub(super) reported_bytes: Cell<usize>,
    /// And the most that waited for one client.
    pub(super) reported_largest: Cell<usize>,
    /// Some update began to wait for its turn.
    turns: Notify,
    frames: RefCell<FrameBuilder>,
    pub(super) policy_log: RefCell<Limited>,
    /// Clients that have not answered their last ping.
    pub(super) silences: RefCell<Silences>,
    pub(super) proxy_log: RefCell<Limited>,
    started: Instant,
    counts: Arc<Counts>,
}

impl Worker {
    /// The node's worker number `at`, without clients.
    pub fn new(at: usize, node: Arc<Node>) -> Self {
        let limits = &node.config.limits;
        let mut hub = Hub::new(limits.outbox_bytes);
        // The kernel spreads clients evenly, not exactly.
        let share = limits.max_clients.div_ceil(node.config.workers);
        hub.reserve(share.saturating_add(share / 8).min(MAX_RESERVED_SESSIONS));
        let watching = Watching::new(at, Arc::clone(&node.registry));
        let counts = node.metrics.worker();
        Self {
            at,
            node,
            read_buffer: Rc::new(RefCell::new(vec![0; READ_BYTES].into_boxed_slice())),
            hub: RefCell::new(hub),
            patterns: RefCell::default(),
            watching: RefCell::new(watching),
            placeholders: RefCell::default(),
            reported_bytes: Cell::new(0),
            reported_largest: Cell::new(0),
            turns: Notify::new(),
            frames: RefCell::default(),
            policy_log: RefCell::default(),
            silences: RefCell::default(),
            proxy_log: RefCell::default(),
            started: running::now(),
            counts,
        }
    }

    /// Whole seconds that this worker ran: coarse on purpose, it is kept for every client.
    pub fn seconds(&self) -> u32 {
        self.second_of(running::now())
    }

    /// Likewise at a time of this thread's clock.
    pub(super) fn second_of(&self, time: Instant) -> u32 {
        let since = time.saturating_duration_since(self.started);
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
    }

    pub(super) fn connection(&self, id: SessionId) -> Option<Rc<Connection>> {
        self.hub.borrow().socket(id).cloned()
    }

    /// Takes a session in; one that comes while this gateway drains is closed at once.
    pub fn join(self: &Rc<Self>, connection: &Rc<Connection>) -> SessionId {
        let mut hub = self.hub.borrow_mut();
        let id = hub.add(Rc::clone(connection));
        hub.set_rendition(id, connection.admission.rendition);
        drop(hub);
        self.tell_clients();
        if self.node.is_draining() {
            self.close(id, connection, CloseCode::GoingAway, GOING_AWAY);
        }
        id
    }

    /// Ends a session whose reading ended. What waits for a client that only sends no more is still sent,
    /// and until it is, or the client takes nothing of it, the session stays where the sweep sees it.
    pub fn leave(self: &Rc<Self>, id: SessionId, connection: &Connection) {
        self.forget_patterns(id, connection);
        let flushed = {
            let mut hub = self.hub.borrow_mut();
            hub.retire(id);
            hub.flush(id)
        };
        if flushed {
            return self.part(id, connection);
        }
        connection.left.set(true);
        self.see_to_todo();
    }

    /// Forgets a session for which nothing is left to do.
    pub fn part(self: &Rc<Self>, id: SessionId, connection: &Connection) {
        connection.gone.set(true);
        self.hub.borrow_mut().remove(id);
        connection.shut(Shutdown::Both);
        self.tell_clients();
        self.see_to_todo();
    }

    fn tell_clients(&self) {
        if let Some(load) = self.node.loads.get(self.at) {
            load.clients.store(self.clients(), Ordering::Relaxed);
        }
    }

    /// A session ends: it holds nothing any more.
    pub(super) fn forget_patterns(&self, id: SessionId, connection: &Connection) {
        for pattern in connection.patterns.take().into_vec() {
            self.forget_pattern(id, pattern);
        }
        self.forget_placeholders(id);
    }

    /// A place for a connection that is no session. Behind a trusted
    /// proxy are many: its connections are not added up.
    pub fn http_connection(&self, address: IpAddr, may_wait: bool) -> Taken {
        let is_proxy = any_contains(&self.node.config.trusted_proxies, address);
        let taken = if is_proxy {
            self.node.places.take_alone(may_wait)
        } else {
            self.node.places.take(address, may_wait)
        };
        // One was refused, or lost its place.
        if matches!(taken, Taken::Refused | Taken::Evicted(_)) {
            self.node.metrics.refused(REFUSED_HTTP).inc();
        }
        taken
    }

    /// Sends an answer, a snapshot or a control frame.
    pub fn send(&self, id: SessionId, frame: Bytes) {
        self.hub.borrow_mut().send(id, frame);
    }

    /// One text frame whose payload `write` appends.
    pub(super) fn text(&self, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        self.frames.borrow_mut().text(write)
    }

    /// Sends one text frame whose payload `write` appends.
    pub fn answer(&self, id: SessionId, write: impl FnOnce(&mut Vec<u8>)) {
        let frame = self.text(write);
        self.send(id, frame);
    }

    /// Bytes of answers that the client has not taken yet.
    pub fn answer_backlog(&self, id: SessionId) -> usize {
        self.hub
            .borrow()
            .lag(id)
            .map_or(0, |lag| lag.answer_bytes())
    }

    /// Writes what waits for a session; `true` when nothing is left.
    pub fn flush(self: &Rc<Self>, id: SessionId) -> bool {
        let done = self.hub.borrow_mut().flush(id);
        self.see_to_todo();
        done
    }

    /// Starts what the hub asked for, and adds what it counted to the node's counters: once per batch
    /// or command, never per delivery.
    pub fn see_to_todo(self: &Rc<Self>) {
        let waiting = self.hub.borrow().waiting_bytes();
        if waiting.abs_diff(self.reported_bytes.get()) > REPORT_STEP_BYTES {
            self.tell_waiting(self.reported_largest.get());
            if self.node.budget.is_over() {
                self.keep_budget();
            }
        }
        let (todo, tally) = {
            let mut hub = self.hub.borrow_mut();
            if hub.next_turn().is_some() {
                self.turns.notify_one();
            }
            (hub.take_todo(), hub.take_tally())
        };
        self.counts.add(&tally);
        self.node.metrics.add_gapped(&tally);
        for id in todo.lagging {
            if let Some(connection) = self.connection(id) {
                spawn_local(session::flush(Rc::clone(self), id, connection));
            }
        }
        for id in todo.dead {
            if let Some(connection) = self.connection(id) {
                connection.shut(Shutdown::Both);
            }
        }
        for entry in todo.unwatched {
            // It may have found another subscriber since.
            if !self.hub.borrow().is_watched(entry.id) {
                self.watching.borrow_mut().unwatch(&entry);
            }
        }
    }

    fn deliver(self: &Rc<Self>, batch: &Batch) {
        self.expand(&batch.opened);
        let now = Instant::now();
        self.hub.borrow_mut().fan_out(batch, now);
        let sent = now_us();
        let hub = self.hub.borrow();
        for frame in &batch.frames {
            if let Some(ts) = frame.head.ts
                && hub.is_watched(frame.head.topic)
            {
                self.counts.observe_lag(sent.saturating_sub(ts));
            }
        }
        drop(hub);
        self.see_to_todo();
    }

    pub(super) fn hub(&self) -> RefMut<'_, Hub<Rc<Connection>>> {
        self.hub.borrow_mut()
    }

    /// How many clients this worker has.
    pub fn clients(&self) -> usize {
        self.hub.borrow().len()
    }
}

/// Takes batches from the mailbox to the clients.
pub async fn deliver(worker: Rc<Worker>, mailbox: Arc<Mailbox>) {
    let mut batches = Vec::new();
    let mut merged = Batch::default();
    loop {
        let mut missed = mailbox.take(&mut batches).await;
        let mut waiting = batches.drain(..).peekable();
        while let Some(first) = waiting.next() {
            let fits = |merged: &Batch| merged.total_bytes() < MAX_MERGED_BYTES;
            if waiting.peek().is_none() || !fits(&first) {
                worker.deliver(&first);
            } else {
                // Behind: what has gathered meanwhile goes out together, with one write a client. The
                // copy costs some microseconds once, the writes it saves as much each.
                merged.clear();
                merged.append(&first);
                while fits(&merged)
                    && let Some(next) = waiting.next()
                {
                    merged.append(&next);
                }
                worker.deliver(&merged);
            }
            // Others get their turn: reads, accepts, answers.
            tokio::task::yield_now().await;
        }
        worker.expand(&missed.opened);
        while !missed.is_empty() {
            missed.opened.clear();
            merged.clear();
            missed.catch_up(&mut worker.hub(), &mut merged);
            worker.deliver(&merged);
            tokio::task::yield_now().await;
        }
    }
}

/// Sends updates that wait because of a `max_rate` when their turn has come.
pub async fn pace(worker: Rc<Worker>) {
    loop {
        let next = worker.hub.borrow().next_turn();
        let changed = worker.turns.notified();
        match next {
            // Whichever comes first; the turns are looked at anew either way.
            Some(next) => drop(timeout_at(next.into(), changed).await),
            None => changed.await,
        }
        let now = Instant::now();
        if next.is_some_and(|next| next <= now) {
            worker.hub.borrow_mut().take_turns(now);
            worker.see_to_todo();
        }
    }
}
