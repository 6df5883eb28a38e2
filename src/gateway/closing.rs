//! How sessions end: the closing handshake, and the round that looks for slow, silent and closing
//! clients.

use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::hub::SessionId;
use super::lag::{GATHER_BYTES, Lag};
use super::reading::LINGER;
use super::session::{CLOSE_TIMEOUT, Connection};
use super::silence::Judge;
use super::worker::Worker;
use super::ws::{Close, CloseCode, close_frame, ping_frame};
use crate::running;

/// How often slow, silent and closing clients are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Time between two slices of a drain.
const DRAIN_SLICE: Duration = Duration::from_millis(100);
/// Up to so many clients of a worker are closed at once: their coming back is no storm.
const DRAIN_AT_ONCE: usize = 64;

/// Reason of the close frames of a drain.
pub(super) const GOING_AWAY: &str = "gateway is going away";

impl Worker {
    /// Starts the closing handshake: no bar after this, one close frame, and a time by which the
    /// connection is cut.
    pub fn close(
        self: &Rc<Self>,
        id: SessionId,
        connection: &Connection,
        code: CloseCode,
        reason: &str,
    ) {
        if code != CloseCode::Normal && connection.closing.get().is_none() {
            tracing::debug!(session = id, code = code.code(), reason, "closing");
        }
        self.say_goodbye(id, connection, code, close_frame(code.code(), reason));
    }

    /// Answers a client's close frame with its own code (RFC 6455, section 5.5.1), unless it is the
    /// answer to ours; then the connection ends as soon as our part of it is written.
    pub fn answer_close(self: &Rc<Self>, id: SessionId, connection: &Connection, close: Close) {
        let (code, reason) = match close.code {
            Some(code) => (code, "goodbye"),
            None => (CloseCode::Normal.code(), ""),
        };
        // Counted as one code, so that clients cannot fill the metrics with labels.
        self.say_goodbye(id, connection, CloseCode::Normal, close_frame(code, reason));
        if self.hub.borrow().lag(id).is_none() {
            connection.shut(Shutdown::Both);
        }
    }

    fn say_goodbye(
        self: &Rc<Self>,
        id: SessionId,
        connection: &Connection,
        counted: CloseCode,
        frame: Bytes,
    ) {
        if connection.closing.get().is_some() {
            return;
        }
        // One that has left answers nothing.
        let timeout = if connection.left.get() {
            LINGER
        } else {
            CLOSE_TIMEOUT
        };
        let timeout = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        connection
            .closing
            .set(Some(self.seconds().saturating_add(timeout)));
        self.node.metrics.closed(counted.code()).inc();
        self.forget_patterns(id, connection);
        let mut hub = self.hub.borrow_mut();
        hub.silence(id);
        hub.send(id, frame);
        if hub.lag(id).is_none() {
            connection.shut(Shutdown::Write);
        }
    }

    /// Says, at a bounded rate, that a client is closed because too many of its requests were refused,
    /// the last one with this error code.
    pub fn log_closed_by_policy(&self, id: SessionId, last: &str) {
        self.policy_log.borrow_mut().say(|left_out| {
            tracing::warn!(
                session = id,
                last,
                left_out,
                "client closed with 1008: too many of its requests were refused"
            );
        });
    }

    /// Looks after closing, slow and silent clients.
    fn sweep(self: &Rc<Self>, round: u32) {
        for id in self.stalled() {
            if let Some(connection) = self.connection(id) {
                let reason = "too slow: what waits is not being read";
                self.close(id, &connection, CloseCode::SlowClient, reason);
                if connection.left.get() {
                    // It takes nothing, so no close frame either, and waits for none.
                    connection.shut(Shutdown::Both);
                }
            }
        }
        let now = self.seconds();
        let interval = self.node.config.limits.ping_interval;
        let period = u32::try_from(interval.as_secs()).unwrap_or(u32::MAX).max(1);
        let woken = self.woken(interval);
        let mut silent = Vec::new();
        let mut pings = Vec::new();
        let hub = self.hub.borrow();
        let mut silences = self.silences.borrow_mut();
        silences.keep(|id| hub.socket(id).is_some());
        let mut judge = Judge::new(&mut silences, now, period).since(woken);
        for (id, connection) in hub.sessions() {
            if let Some(deadline) = connection.closing.get() {
                if now >= deadline {
                    connection.shut(Shutdown::Both);
                }
            } else if id % period == round % period && !connection.left.get() {
                // Spread over the interval by the session's number.
                let waiting = hub.lag(id).map_or(0, Lag::bytes);
                if judge.is_silent(id, connection, waiting) {
                    silent.push(id);
                } else {
                    pings.push(id);
                }
            }
        }
        drop((hub, silences));
        for id in silent {
            if let Some(connection) = self.connection(id) {
                let reason = "silent for two ping intervals";
                self.close(id, &connection, CloseCode::IdleTimeout, reason);
            }
        }
        for id in pings {
            self.send(id, ping_frame());
        }
        self.keep_budget();
        self.see_to_todo();
    }

    /// The second from which on silence counts, since this worker did not run for a good part of an `interval`
    /// before it: whatever clients are, they are pinged first.
    fn woken(&self, interval: Duration) -> u32 {
        match running::last_pause() {
            Some(pause) if pause.length >= interval / 2 => self.second_of(pause.ended),
            _ => 0,
        }
    }

    /// The sessions that are slow: no progress for so long, while so much waits that it must be made. All
    /// that waits is too much for a client that has left.
    fn stalled(&self) -> Vec<SessionId> {
        let limits = &self.node.config.limits;
        let (bound, grace) = (limits.outbox_bytes, limits.slow_grace);
        let now = running::now();
        let mut hub = self.hub.borrow_mut();
        let full = hub.laggards().filter_map(|(id, connection, lag)| {
            (connection.left.get() || lag.is_at_bound(bound)).then_some(id)
        });
        for id in full.collect::<Vec<_>>() {
            hub.nudge(id);
        }
        let stalled = hub.laggards().filter_map(|(id, connection, lag)| {
            let open = connection.closing.get().is_none();
            let slow = open && lag.is_stalled(bound, connection.left.get(), grace, now);
            slow.then_some(id)
        });
        stalled.collect()
    }

    /// Tells the node what waits here, and sheds the largest laggards while all that waits on the node is
    /// beyond `--waiting-bytes`.
    pub(super) fn keep_budget(self: &Rc<Self>) {
        let mut laggards: Vec<_> = {
            let mut hub = self.hub.borrow_mut();
            let laggards = hub.laggards();
            laggards.map(|(id, _, lag)| (lag.bytes(), id)).collect()
        };
        let largest = laggards.iter().map(|(bytes, _)| *bytes).max();
        self.tell_waiting(largest.unwrap_or_default());
        if !self.node.budget.is_over() {
            return;
        }
        laggards.sort_unstable();
        while let Some((bytes, id)) = laggards.pop() {
            self.tell_waiting(bytes);
            let budget = &self.node.budget;
            if !budget.must_shed(self.at) && !budget.is_far_over() {
                return;
            }
            self.shed(id);
        }
        self.tell_waiting(0);
    }

    /// Tells the node what waits here, and the most that waits for one client, in bytes.
    pub(super) fn tell_waiting(&self, largest: usize) {
        let bytes = self.hub.borrow().waiting_bytes();
        self.reported_bytes.set(bytes);
        self.reported_largest.set(largest);
        self.node.budget.report(self.at, bytes, largest);
    }

    /// Closes a laggard as slow and gives back what waited for it.
    fn shed(self: &Rc<Self>, id: SessionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.closing.get().is_none() {
            self.node.metrics.shed.inc();
            let reason = "more waits than this gateway may hold (--waiting-bytes)";
            self.close(id, &connection, CloseCode::SlowClient, reason);
            let hub = self.hub.borrow();
            if hub
                .lag(id)
                .is_none_or(|lag| lag.begun_bytes() <= GATHER_BYTES)
            {
                return;
            }
        }
        // Its close frame would have to wait for the rest of a large answer, which takes the memory.
        self.hub.borrow_mut().abandon(id);
        connection.shut(Shutdown::Both);
    }

    /// Closes everyone with 1001, in slices over `spread`, so that they do not all come back in the same
    /// second. Up to [`DRAIN_AT_ONCE`] are gone at once.
    pub async fn close_all(self: &Rc<Self>, spread: Duration) {
        let all: Vec<SessionId> = self.hub.borrow().sessions().map(|(id, _)| id).collect();
        let slices = spread.as_millis() / DRAIN_SLICE.as_millis();
        let slices = usize::try_from(slices).unwrap_or(usize::MAX).max(1);
        let each = match all.len() {
            few @ ..=DRAIN_AT_ONCE => few.max(1),
            many => many.div_ceil(slices),
        };
        for (nth, slice) in all.chunks(each).enumerate() {
            if nth > 0 {
                sleep(DRAIN_SLICE).await;
            }
            for &id in slice {
                // By now another's number perhaps: one that came while draining, and is closing.
                if let Some(connection) = self.connection(id) {
                    self.close(id, &connection, CloseCode::GoingAway, GOING_AWAY);
                }
            }
            self.see_to_todo();
        }
    }
}

/// Looks after the clients once a second.
pub async fn sweep(worker: Rc<Worker>) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Counted, and not told from the clock: a tick that comes late must not leave out those whose
    // second it was.
    for round in (0..=u32::MAX).cycle() {
        tick.tick().await;
        worker.sweep(round);
    }
}
