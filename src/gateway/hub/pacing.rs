//! `max_rate`: forming updates of one subscription thinned to so many a second, closed bars always.
//!
//! [`Pace`] decides, the hub carries out. Subscriptions without a rate never come here.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Hub, Round, SessionId, Socket};
use crate::gateway::batch::{Frame, Head, Kept, Kind};

/// A subscription's rate and the newest update that waits for its turn.
#[derive(Debug)]
pub struct Pace {
    /// Shortest time between two forming updates.
    interval: Duration,
    next_at: Instant,
    waiting: Option<Waiting>,
}

/// An update that waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub frame: Kept,
    /// The fan-out it came in, and where in its batch: its order within that fan-out.
    pub round: u64,
    pub at: u16,
}

/// What is to be done about a frame.
#[derive(Debug)]
pub struct Decision {
    /// Send this first: it turned out to be the final state of its bar.
    pub before: Option<Waiting>,
    /// Send the frame now; otherwise it waits until then, or has replaced one that waits.
    pub now: bool,
    /// Updates that will not be sent because a newer one of the same bar takes their place.
    pub conflated: u64,
    /// Something began to wait, and is due then.
    pub due: Option<Instant>,
}

impl Pace {
    /// At most `rate` forming updates per second. A rate that has no interval is no limit.
    pub fn new(rate: f64, now: Instant) -> Self {
        Self {
            interval: Duration::try_from_secs_f64(rate.recip()).unwrap_or_default(),
            next_at: now,
            waiting: None,
        }
    }

    /// Decides about the frame that stands at `at` in the batch of fan-out `round`.
    pub fn offer(
        &mut self,
        head: &Head,
        bytes: &[u8],
        round: u64,
        at: u16,
        now: Instant,
    ) -> Decision {
        let waited = self.waiting.take();
        // The same bar again: whatever waits of it is stale. Another bar, or a notice: what waits
        // was the final state of its own.
        let replaces = head.kind != Kind::Gap
            && waited
                .as_ref()
                .is_some_and(|w| w.frame.head.time == head.time);
        let conflated = u64::from(replaces);
        let had_timer = waited.is_some();
        let before = waited.filter(|_| !replaces);
        let send = head.kind != Kind::Forming || now >= self.next_at;
        let mut due = None;
        if send {
            if head.kind == Kind::Forming {
                self.next_at = now + self.interval;
            }
        } else {
            self.waiting = Some(Waiting {
                frame: Kept {
                    head: *head,
                    bytes: Bytes::copy_from_slice(bytes),
                },
                round,
                at,
            });
            due = (!had_timer).then_some(self.next_at);
        }
        Decision {
            before,
            now: send,
            conflated,
            due,
        }
    }

    /// The waiting update if its turn has come, or when it will.
    pub fn take_due(&mut self, now: Instant) -> Result<Option<Kept>, Instant> {
        if self.waiting.is_none() {
            return Ok(None);
        }
        if now < self.next_at {
            return Err(self.next_at);
        }
        self.next_at = now + self.interval;
        Ok(self.waiting.take().map(|waiting| waiting.frame))
    }

    /// The waiting update, whenever its turn would be.
    pub fn take(&mut self) -> Option<Kept> {
        self.waiting.take().map(|waiting| waiting.frame)
    }
}

impl<S: Socket> Hub<S> {
    /// Notes a frame for the subscribers with a `max_rate` whose turn it is.
    #[cold]
    pub(super) fn pace(&mut self, round: Round<'_>, frame: &Frame, at: u16, now: Instant) {
        let Some(Some(table)) = self.topics.get_mut(frame.head.topic.index()) else {
            return;
        };
        // Of an earlier round, so it goes out before all that is noted in this one.
        let mut earlier = Vec::new();
        for paced in &mut table.paced {
            let session = paced.subscriber.session;
            let packed = self.members[session as usize].packed;
            let bytes = round.bytes_for(at, packed);
            let decision = paced.pace.offer(&frame.head, bytes, self.round, at, now);
            self.tally.conflated += decision.conflated;
            match decision.before {
                Some(waiting) if waiting.round == self.round => {
                    self.notes.add(&mut self.members, session, waiting.at);
                }
                Some(waiting) => earlier.push((session, waiting.frame)),
                None => {}
            }
            if decision.now {
                self.notes.add(&mut self.members, session, at);
            }
            if let Some(due) = decision.due {
                self.turns.push(Reverse((due, session, frame.head.topic)));
            }
        }
        for (session, kept) in earlier {
            self.send_kept(session, &kept, now);
        }
    }

    /// When the next update that waits for its turn is due.
    pub fn next_turn(&self) -> Option<Instant> {
        self.turns.peek().map(|Reverse((due, _, _))| *due)
    }

    /// Sends the updates whose turn has come.
    pub fn take_turns(&mut self, now: Instant) {
        while let Some(Reverse((due, session, topic))) = self.turns.peek().copied()
            && due <= now
        {
            self.turns.pop();
            let Some(Some(table)) = self.topics.get_mut(topic.index()) else {
                continue;
            };
            let mut of_session = table.paced.iter_mut();
            let Some(paced) = of_session.find(|p| p.subscriber.session == session) else {
                continue;
            };
            match paced.pace.take_due(now) {
                Ok(Some(kept)) => self.send_kept(session, &kept, now),
                Ok(None) => {}
                Err(later) => self.turns.push(Reverse((later, session, topic))),
            }
        }
    }

    /// Sends one frame that waited to its session.
    pub(super) fn send_kept(&mut self, session: SessionId, kept: &Kept, now: Instant) {
        let Some(written) = self.write(session, &kept.bytes) else {
            self.tally.gapped_left += u64::from(kept.head.kind != Kind::Gap);
            return;
        };
        self.queue(session, (&kept.head, &kept.bytes), written, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::batch::TopicId;

    fn head(time: i64, kind: Kind) -> Head {
        Head {
            topic: TopicId(0),
            version: 0,
            time,
            from: time,
            kind,
            ts: None,
        }
    }

    #[test]
    fn forming_updates_wait_and_the_newest_wins() {
        let start = Instant::now();
        let mut pace = Pace::new(2.0, start);
        assert!(pace.offer(&head(1, Kind::Forming), b"x", 1, 0, start).now);
        let second = pace.offer(&head(1, Kind::Forming), b"x", 2, 0, start);
        assert!(!second.now && second.due == Some(start + Duration::from_millis(500)));
        let third = pace.offer(&head(1, Kind::Forming), b"x", 3, 0, start);
        assert!(!third.now && third.conflated == 1 && third.due.is_none());
        assert!(pace.take_due(start).is_err());
        let due = start + Duration::from_millis(500);
        assert!(pace.take_due(due).unwrap().is_some());
        assert!(pace.take_due(due).unwrap().is_none());
    }

    #[test]
    fn closed_bars_go_at_once_and_final_states_before_them() {
        let start = Instant::now();
        let mut pace = Pace::new(1.0, start);
        assert!(pace.offer(&head(1, Kind::Forming), b"x", 1, 0, start).now);
        assert!(!pace.offer(&head(1, Kind::Forming), b"x", 2, 0, start).now);
        // A newer bar opens: the update of the old one that waits was its final state.
        let opened = pace.offer(&head(2, Kind::Forming), b"x", 3, 0, start);
        assert!(!opened.now && opened.conflated == 0);
        assert_eq!(opened.before.map(|w| w.frame.head.time), Some(1));
        // Its closing replaces the forming update that waits, and does not wait itself.
        let closed = pace.offer(&head(2, Kind::Closed), b"x", 4, 0, start);
        assert!(closed.now && closed.conflated == 1 && closed.before.is_none());
    }
}
