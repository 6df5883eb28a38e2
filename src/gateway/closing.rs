//! How sessions end: the closing handshake, and the round that looks for slow, silent and closing
//! clients.

use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval};

use super::hub::SessionId;
use super::session::{CLOSE_TIMEOUT, Connection};
use super::worker::Worker;
use super::ws::{Close, CloseCode, close_frame, ping_frame};

/// How often slow, silent and closing clients are looked for.
const SWEEP: Duration = Duration::from_secs(1);

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
        let timeout = u32::try_from(CLOSE_TIMEOUT.as_secs()).unwrap_or(u32::MAX);
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
        let now = self.seconds();
        let limits = &self.node.config.limits;
        let period = u32::try_from(limits.ping_interval.as_secs())
            .unwrap_or(u32::MAX)
            .max(1);
        let mut closes = Vec::new();
        let mut pings = Vec::new();
        for (id, connection) in self.hub.borrow().sessions() {
            let lag = self.hub.borrow();
            let over = lag.lag(id).and_then(|lag| lag.over_since());
            if let Some(deadline) = connection.closing.get() {
                if now >= deadline {
                    connection.shut(Shutdown::Both);
                }
            } else if over.is_some_and(|since| since.elapsed() > limits.slow_grace) {
                closes.push((id, CloseCode::SlowClient, "too slow for its subscriptions"));
            } else if id % period == round % period {
                // Spread over the interval by the session's number.
                if now.saturating_sub(connection.heard.get()) > 2 * period {
                    closes.push((id, CloseCode::IdleTimeout, "silent for two ping intervals"));
                } else {
                    pings.push(id);
                }
            }
        }
        for (id, code, reason) in closes {
            if let Some(connection) = self.connection(id) {
                self.close(id, &connection, code, reason);
            }
        }
        for id in pings {
            self.send(id, ping_frame());
        }
        self.see_to_todo();
    }

    /// Closes everyone with 1001.
    pub fn close_all(self: &Rc<Self>) {
        let all: Vec<_> = self
            .hub
            .borrow()
            .sessions()
            .map(|(id, connection)| (id, Rc::clone(connection)))
            .collect();
        for (id, connection) in all {
            self.close(
                id,
                &connection,
                CloseCode::GoingAway,
                "gateway is going away",
            );
        }
        self.see_to_todo();
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
