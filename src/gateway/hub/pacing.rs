//! `max_rate`: forming updates of one subscription thinned to so many a second, closed bars always.
//!
//! All paced subscribers of a topic wait for the same states, which their topic keeps once
//! ([`States`]); a subscriber has only its next time and how far it has come ([`Pace`]). Turns stand on
//! a [`Wheel`], and what is due together is noted and written as in a fan-out: one write a client.
//! Subscriptions without a rate never come here.

use std::time::{Duration, Instant};

use super::states::newer;
use super::topics::{Paced, TopicTable};
use super::wheel::{Place, SLOT, Turn};
use super::{Hub, MAX_NOTES, ROUND_FRAMES, Round, Socket, index};
use crate::gateway::batch::{Batch, Frame, Head, Kind, TopicId};

/// Longest distance of the points in time at which turns fall: topics with the same rate meet at
/// them, and a slow rate waits no longer than this beyond its interval.
const LONGEST_GRID: Duration = Duration::from_secs(1);

/// A subscription's rate and how far it has come.
#[derive(Debug, Default)]
pub struct Pace {
    /// Shortest time between two forming updates.
    interval: Duration,
    /// Turns fall on whole multiples of this since the hub began: a part of `interval`, the same for
    /// all who have the same rate, so that a client's topics are written together.
    grid: Duration,
    /// When the next forming update may go, since the hub began.
    next_at: Duration,
    /// Of its topic's states, those up to this stamp are sent or were never due here.
    pub(super) seen: u64,
    /// Its turn, while it has one.
    pub(super) turn: Option<Place>,
}

impl Pace {
    /// At most `rate` forming updates per second. A rate that has no interval is no limit.
    pub fn new(rate: f64) -> Self {
        let interval = Duration::try_from_secs_f64(rate.recip()).unwrap_or_default();
        let parts = interval.as_nanos().div_ceil(LONGEST_GRID.as_nanos());
        let grid = interval / u32::try_from(parts).unwrap_or(u32::MAX).max(1);
        Self {
            interval,
            grid,
            ..Self::default()
        }
    }

    /// A forming update goes at once.
    fn sent(&mut self, now: Duration) {
        self.next_at = now.saturating_add(self.interval);
        if self.interval >= SLOT {
            self.next_at = self.grid_of(self.next_at + self.grid - Duration::from_nanos(1));
        }
    }

    /// A turn is taken, a little after it was due.
    fn taken(&mut self, now: Duration) {
        if self.interval < SLOT {
            return self.sent(now);
        }
        self.next_at = self.grid_of(now).saturating_add(self.interval);
    }

    /// The last point of the grid up to then.
    fn grid_of(&self, at: Duration) -> Duration {
        let beyond = at.as_nanos() % self.grid.as_nanos().max(1);
        at.saturating_sub(Duration::from_nanos(u64::try_from(beyond).unwrap_or(0)))
    }
}

impl<S: Socket> Hub<S> {
    fn since_start(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// Notes a frame for the subscribers with a `max_rate` whose turn it is; for the others it waits.
    #[cold]
    pub(super) fn pace(&mut self, round: Round<'_>, frame: &Frame, at: u16, now: Instant) {
        let now = self.since_start(now);
        let topic = frame.head.topic;
        let Some(Some(table)) = self.topics.get_mut(topic.index()) else {
            return;
        };
        let TopicTable { paced, states, .. } = &mut **table;
        // What this frame shows to be final goes before it. All of this round: earlier ones have gone.
        states.retain(|state| {
            if !newer(&frame.head, state.head.time) {
                return true;
            }
            for waiting in paced.iter().filter(|p| p.pace.seen < state.stamp) {
                let session = waiting.subscriber.session;
                self.notes.add(&mut self.members, session, state.at);
            }
            false
        });
        let owed = states.newest();
        let replaced = states.take_same(&frame.head);
        if let Some(stamp) = replaced {
            let waited = paced.iter().filter(|p| p.pace.seen < stamp).count();
            self.tally.conflated += waited as u64;
        }
        let waits = frame.head.kind == Kind::Forming && states.has_room();
        let stamp = states.next_stamp(waits);
        let mut waiting = 0;
        for (nth, Paced { subscriber, pace }) in paced.iter_mut().enumerate() {
            // One for whom something waits gets this with it.
            let behind = owed.is_some_and(|newest| pace.seen < newest);
            if waits && (behind || now < pace.next_at) {
                waiting += 1;
                if pace.turn.is_none() {
                    let turn = Turn {
                        topic,
                        at: index(nth),
                    };
                    pace.turn = Some(self.wheel.add(pace.next_at, turn));
                }
                continue;
            }
            self.notes.add(&mut self.members, subscriber.session, at);
            if waits {
                pace.sent(now);
                pace.seen = stamp;
            }
        }
        if waiting > 0 {
            states.add(frame.head, round.batch.bytes_of(frame), stamp, at, waiting);
        }
    }

    /// Sends the states of earlier rounds that the frames of this one show to be final.
    #[cold]
    pub(super) fn send_finals(&mut self, round: Round<'_>, now: Instant) {
        let mut due = std::mem::take(&mut self.due_now);
        for frame in round.frames {
            let Some(Some(table)) = self.topics.get_mut(frame.head.topic.index()) else {
                continue;
            };
            let TopicTable { paced, states, .. } = &mut **table;
            if states.is_empty() {
                continue;
            }
            states.replaced_in(self.round, &frame.head);
            let round = self.round;
            states.retain(|state| {
                if state.replaced_in == round || !newer(&frame.head, state.head.time) {
                    return true;
                }
                let place = push(&mut due, &state.head, &state.bytes);
                for waiting in paced.iter().filter(|p| p.pace.seen < state.stamp) {
                    let session = waiting.subscriber.session;
                    self.notes.add(&mut self.members, session, place);
                }
                false
            });
            self.write_when_long(&mut due, now);
        }
        self.write_due(&mut due, now);
        self.due_now = due;
    }

    /// When the next update that waits for its turn is due.
    pub fn next_turn(&self) -> Option<Instant> {
        self.started.checked_add(self.wheel.next()?)
    }

    /// Sends the updates whose turn has come: one write a client.
    pub fn take_turns(&mut self, now: Instant) {
        let mut due = std::mem::take(&mut self.due_now);
        let since = self.since_start(now);
        while let Some(turns) = self.wheel.take(since) {
            for Turn { topic, at } in turns {
                let Some(Some(table)) = self.topics.get_mut(topic.index()) else {
                    continue;
                };
                let TopicTable { paced, states, .. } = &mut **table;
                let Some(Paced { subscriber, pace }) = paced.get_mut(at as usize) else {
                    continue;
                };
                pace.turn = None;
                if since < pace.next_at && states.newest() > Some(pace.seen) {
                    // It got an update meanwhile, so that its turn is later now.
                    pace.turn = Some(self.wheel.add(pace.next_at, Turn { topic, at }));
                    continue;
                }
                let (turns, session) = (self.turns, subscriber.session);
                let got = states.take_owed(pace, |state| {
                    let copied = state.copied.filter(|(of, _)| *of == turns);
                    let (_, place) = copied
                        .unwrap_or_else(|| (turns, push(&mut due, &state.head, &state.bytes)));
                    state.copied = Some((turns, place));
                    self.notes.add(&mut self.members, session, place);
                });
                // Nothing waits any more if a closed bar came meanwhile.
                if got > 0 {
                    pace.taken(since);
                }
                self.write_when_long(&mut due, now);
            }
        }
        self.write_due(&mut due, now);
        self.due_now = due;
    }

    /// Frees a subscriber's turn.
    pub(super) fn free_turn(&mut self, pace: &mut Pace) {
        let Some(place) = pace.turn.take() else {
            return;
        };
        if let Some(moved) = self.wheel.remove(place) {
            self.set_turn(moved, place);
        }
    }

    /// A turn stands elsewhere on the wheel.
    fn set_turn(&mut self, moved: Turn, place: Place) {
        if let Some(paced) = self.paced_mut(moved.topic, moved.at) {
            paced.pace.turn = Some(place);
        }
    }

    /// A subscriber stands elsewhere in its topic's list.
    pub(super) fn move_turn(&mut self, topic: TopicId, at: u32) {
        let turn = self.paced_mut(topic, at).and_then(|p| p.pace.turn);
        if let Some(place) = turn {
            self.wheel.set(place, Turn { topic, at });
        }
    }

    fn paced_mut(&mut self, topic: TopicId, at: u32) -> Option<&mut Paced> {
        let table = self.topics.get_mut(topic.index())?.as_deref_mut()?;
        table.paced.get_mut(at as usize)
    }

    /// Turns that are kept: at most one for each subscription with a rate.
    pub fn turns_kept(&self) -> usize {
        self.wheel.len()
    }

    fn write_when_long(&mut self, due: &mut Batch, now: Instant) {
        if due.frames.len() >= ROUND_FRAMES || self.notes.list.len() >= MAX_NOTES {
            self.write_due(due, now);
        }
    }

    /// Writes what was noted of the states that are due.
    pub(super) fn write_due(&mut self, due: &mut Batch, now: Instant) {
        if !due.is_empty() {
            self.write_noted(
                Round {
                    batch: due,
                    frames: &due.frames,
                    first: 0,
                },
                now,
            );
            due.clear();
            self.turns += 1;
        }
    }

    /// Sends a subscriber that changes its rate what waits for it.
    pub(super) fn send_owed(&mut self, topic: TopicId, paced: &mut Paced, now: Instant) {
        let mut due = std::mem::take(&mut self.due_now);
        if let Some(Some(table)) = self.topics.get_mut(topic.index()) {
            table.states.take_owed(&mut paced.pace, |state| {
                let place = push(&mut due, &state.head, &state.bytes);
                let session = paced.subscriber.session;
                self.notes.add(&mut self.members, session, place);
            });
        }
        self.write_due(&mut due, now);
        self.due_now = due;
    }
}

/// Adds a state to what is due; returns where it stands there.
fn push(due: &mut Batch, head: &Head, bytes: &[u8]) -> u16 {
    let place = due.frames.len();
    due.push_frame(*head, bytes);
    // What is due is written before it is as long as that.
    u16::try_from(place).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn turns_of_one_rate_meet_wherever_they_began() {
        for first in [3, 77, 499] {
            let mut pace = Pace::new(2.0);
            pace.sent(ms(first));
            assert_eq!(
                pace.next_at,
                ms(1_000),
                "the first half second after 500 ms"
            );
            // A timer is a little late.
            pace.taken(ms(1_002));
            assert_eq!(pace.next_at, ms(1_500));
        }
    }

    #[test]
    fn slow_rates_wait_little_longer_and_fast_ones_not_at_all() {
        let mut slow = Pace::new(0.1);
        slow.sent(ms(1));
        assert_eq!(slow.next_at, ms(11_000));
        let mut fast = Pace::new(1_000.0);
        fast.sent(ms(1));
        assert_eq!(fast.next_at, ms(2));
        fast.taken(ms(14));
        assert_eq!(fast.next_at, ms(15));
    }
}
