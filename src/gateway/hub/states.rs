//! The states of a topic's bars that paced subscribers wait for, kept once for all of them.

use super::pacing::Pace;
use crate::gateway::batch::{Head, Kind};

/// Bars of one topic whose states wait at once: the newest, and revisions of the past. A revision of
/// one more bar does not wait.
const MAX_STATES: usize = 8;

/// The newest state of one bar that somebody waits for.
#[derive(Debug)]
pub struct State {
    pub head: Head,
    /// Its plain frame.
    pub bytes: Vec<u8>,
    /// Who has seen less of the topic waits for it.
    pub stamp: u64,
    /// Where it stood in the batch it came with: for the rest of that round.
    pub at: u16,
    /// How many wait for it; it goes with the last of them.
    owing: usize,
    /// The round whose batch has a newer state of the same bar.
    pub replaced_in: u64,
    /// Where it stands among what is due: in which turn's batch, and where.
    pub copied: Option<(u64, u16)>,
}

/// What a topic's paced subscribers wait for, by the bars' times.
#[derive(Debug, Default)]
pub struct States {
    states: Vec<State>,
    stamp: u64,
}

/// Whether a frame says that the bar of this time is final: a newer one opened, or bars were missed.
pub fn newer(head: &Head, time: i64) -> bool {
    head.kind == Kind::Gap || head.time > time
}

impl States {
    /// Whether nobody waits for anything.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The last stamp that was given.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// A stamp for a state that waits, beyond all given before.
    pub fn next_stamp(&mut self, waits: bool) -> u64 {
        self.stamp += u64::from(waits);
        self.stamp
    }

    /// The last stamp of those that wait.
    pub fn newest(&self) -> Option<u64> {
        self.states.iter().map(|s| s.stamp).max()
    }

    /// Whether one more may wait.
    pub fn has_room(&self) -> bool {
        self.states.len() < MAX_STATES
    }

    /// Drops those for which this is false.
    pub fn retain(&mut self, keep: impl FnMut(&State) -> bool) {
        self.states.retain(keep);
    }

    /// Notes that the batch of a round has a newer state of a bar that waits.
    pub fn replaced_in(&mut self, round: u64, head: &Head) {
        if head.kind != Kind::Gap
            && let Some(state) = self.states.iter_mut().find(|s| s.head.time == head.time)
        {
            state.replaced_in = round;
        }
    }

    /// Drops the state that a frame replaces; returns its stamp.
    pub fn take_same(&mut self, head: &Head) -> Option<u64> {
        if head.kind == Kind::Gap {
            return None;
        }
        let at = self.states.iter().position(|s| s.head.time == head.time)?;
        Some(self.states.remove(at).stamp)
    }

    /// Keeps a state for so many who wait for it.
    pub fn add(&mut self, head: Head, bytes: &[u8], stamp: u64, at: u16, owing: usize) {
        let place = self.states.partition_point(|s| s.head.time < head.time);
        self.states.insert(
            place,
            State {
                head,
                bytes: bytes.to_vec(),
                stamp,
                at,
                owing,
                replaced_in: 0,
                copied: None,
            },
        );
    }

    /// Gives a subscriber what it waits for; returns how many states that were.
    pub fn take_owed(&mut self, pace: &mut Pace, mut each: impl FnMut(&mut State)) -> u64 {
        let mut count = 0;
        for state in &mut self.states {
            if pace.seen < state.stamp {
                count += 1;
                state.owing -= 1;
                each(state);
            }
        }
        pace.seen = self.stamp;
        if count > 0 {
            self.states.retain(|state| state.owing > 0);
        }
        count
    }
}
