//! One worker: a thread with its own runtime, listener and clients.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::net::Shutdown;
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
use super::hub::{Hub, SessionId};
use super::mailbox::Mailbox;
use super::node::{Limit, Node};
use super::reading::ReadBuffer;
use super::registry::Entry;
use super::session::{self, Connection};
use super::ws::{CloseCode, FrameBuilder};
use crate::bar::Pattern;
use crate::clock::now_us;
use crate::limited::Limited;
use crate::metrics::Counts;

/// One read's size. Shared by all clients of the worker, so it can be generous; a client's message
/// is at most 4 KiB by default.
const READ_BYTES: usize = 16 << 10;
/// Connections of one worker that are not, or not yet, sessions: handshakes, pages, probes. Each
/// costs some 10 KiB for at most the handshake's time-out.
pub const MAX_HTTP_CONNECTIONS: usize = 4_096;
/// Label of connections refused at that bound.
pub const REFUSED_HTTP: &str = "http_connections";
/// Sessions whose places are kept in advance, 32 MiB of addresses; with more the list grows as it must.
const MAX_RESERVED_SESSIONS: usize = 1 << 18;

/// A session that is subscribed to a pattern.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    pub session: SessionId,
    pub max_rate: Option<f64>,
}

/// A worker's state. Everything is touched by its own thread only, and no borrow is held across an
/// await.
pub struct Worker {
    /// Which of the node's workers it is.
    at: usize,
    pub node: Arc<Node>,
    pub read_buffer: ReadBuffer,
    pub(super) hub: RefCell<Hub<Rc<Connection>>>,
    /// Patterns with a `*`, and who holds them.
    pub(super) patterns: RefCell<HashMap<Pattern, Vec<Holder>>>,
    /// Connections that are not (yet) sessions.
    http_connections: Cell<usize>,
    /// Some update began to wait for its turn.
    turns: Notify,
    frames: RefCell<FrameBuilder>,
    pub(super) policy_log: RefCell<Limited>,
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
        let counts = node.metrics.worker();
        Self {
            at,
            node,
            read_buffer: Rc::new(RefCell::new(vec![0; READ_BYTES].into_boxed_slice())),
            hub: RefCell::new(hub),
            patterns: RefCell::default(),
            http_connections: Cell::new(0),
            turns: Notify::new(),
            frames: RefCell::default(),
            policy_log: RefCell::default(),
            started: Instant::now(),
            counts,
        }
    }

    /// Whole seconds since this worker started: coarse on purpose, it is kept for every client.
    pub fn seconds(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
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

    /// Forgets a session whose reading ended.
    pub fn leave(self: &Rc<Self>, id: SessionId, connection: &Connection) {
        connection.gone.set(true);
        self.forget_patterns(id, connection);
        self.hub.borrow_mut().remove(id);
        self.tell_clients();
        self.see_to_todo();
    }

    fn tell_clients(&self) {
        if let Some(load) = self.node.loads.get(self.at) {
            load.clients.store(self.clients(), Ordering::Relaxed);
        }
    }

    pub(super) fn forget_patterns(&self, id: SessionId, connection: &Connection) {
        for pattern in connection.patterns.take().into_vec() {
            self.forget_pattern(id, pattern);
        }
    }

    pub(super) fn forget_pattern(&self, id: SessionId, pattern: Pattern) {
        let mut patterns = self.patterns.borrow_mut();
        if let Some(holders) = patterns.get_mut(&pattern) {
            holders.retain(|holder| holder.session != id);
            if holders.is_empty() {
                patterns.remove(&pattern);
            }
        }
        self.node.registry.remove_pattern(pattern);
    }

    /// Counts a connection that is no session, until the guard goes; `None` when there are too many.
    pub fn http_connection(self: &Rc<Self>) -> Option<HttpConnection> {
        let count = self.http_connections.get();
        if count >= MAX_HTTP_CONNECTIONS {
            self.node.metrics.refused(REFUSED_HTTP).inc();
            return None;
        }
        self.http_connections.set(count + 1);
        Some(HttpConnection(Rc::clone(self)))
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
            self.node.registry.unwatch(&entry);
        }
    }

    fn deliver(self: &Rc<Self>, batch: &Batch) {
        for &(id, topic) in &batch.opened {
            let holders: Vec<Holder> = {
                let patterns = self.patterns.borrow();
                let covering = Pattern::covering(&topic);
                let lists = covering.iter().filter_map(|p| patterns.get(p));
                lists.flatten().copied().collect()
            };
            // The topic just had a bar, so it is there and stays.
            if !holders.is_empty()
                && let Some(entry) = self.node.registry.get(&topic)
                && entry.id == id
            {
                for holder in holders {
                    self.expand(holder, &entry);
                }
            }
        }
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

    /// Subscribes the holder of a pattern to a topic that just opened.
    fn expand(&self, holder: Holder, entry: &Arc<Entry>) {
        let id = holder.session;
        let mut hub = self.hub();
        if hub.is_subscribed(id, entry.id) {
            return;
        }
        if hub.count_of(id) >= self.node.config.limits.max_topics_per_client {
            self.node
                .metrics
                .limited(Limit::TopicsPerClient.label())
                .inc();
            tracing::debug!(session = id, topic = %entry.topic, "pattern at the topic limit");
            return;
        }
        if !hub.is_watched(entry.id) && self.node.registry.watch(&entry.topic).is_err() {
            return;
        }
        // Its first bar is in the batch that opened it, so there is nothing to join.
        hub.subscribe(id, entry, 0, holder.max_rate);
    }

    pub(super) fn hub(&self) -> RefMut<'_, Hub<Rc<Connection>>> {
        self.hub.borrow_mut()
    }

    /// How many clients this worker has.
    pub fn clients(&self) -> usize {
        self.hub.borrow().len()
    }
}

/// A connection that is no session; gives its place back when dropped.
pub struct HttpConnection(Rc<Worker>);

impl Drop for HttpConnection {
    fn drop(&mut self) {
        let count = &self.0.http_connections;
        count.set(count.get().saturating_sub(1));
    }
}

/// Takes batches from the mailbox to the clients.
pub async fn deliver(worker: Rc<Worker>, mailbox: Arc<Mailbox>) {
    let mut batches = Vec::new();
    let mut merged = Batch::default();
    loop {
        mailbox.take(&mut batches).await;
        if let [one] = batches.as_slice() {
            worker.deliver(one);
        } else {
            // Behind: what has gathered meanwhile goes out together, with one write a client. The
            // copy costs some microseconds once, the writes it saves as much each.
            merged.clear();
            for batch in &batches {
                merged.append(batch);
            }
            worker.deliver(&merged);
        }
        batches.clear();
        // Others get their turn: reads, accepts, answers.
        tokio::task::yield_now().await;
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
