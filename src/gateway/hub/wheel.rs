//! When paced subscribers have their turns: slots of time, each with those who are due in it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::index;
use crate::gateway::batch::TopicId;

/// Length of a slot: turns that are due within it are taken together. Short beside what an eye sees,
/// long beside what a timer costs.
pub const SLOT: Duration = Duration::from_millis(SLOT_MS);
const SLOT_MS: u64 = 10;

/// Whose turn it is: a topic, and where in its list of paced subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    pub topic: TopicId,
    pub at: u32,
}

/// Where a turn stands on the wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    slot: u64,
    at: u32,
}

/// Turns by slot. Each subscriber has at most one and knows its place, so that one that goes takes its
/// turn along; a slot without any is not kept.
#[derive(Debug, Default)]
pub struct Wheel {
    slots: BTreeMap<u64, Vec<Turn>>,
}

fn time_of(slot: u64) -> Duration {
    let millis = slot.checked_mul(SLOT_MS);
    millis.map_or(Duration::MAX, Duration::from_millis)
}

impl Wheel {
    /// Adds a turn that is due then, in the first slot that begins no earlier.
    pub fn add(&mut self, due: Duration, turn: Turn) -> Place {
        let slot = due.as_nanos().div_ceil(SLOT.as_nanos());
        let slot = u64::try_from(slot).unwrap_or(u64::MAX);
        let turns = self.slots.entry(slot).or_default();
        turns.push(turn);
        Place {
            slot,
            at: index(turns.len() - 1),
        }
    }

    /// Takes a turn away; returns the one that stands in its place now.
    pub fn remove(&mut self, place: Place) -> Option<Turn> {
        let turns = self.slots.get_mut(&place.slot)?;
        turns.swap_remove(place.at as usize);
        let moved = turns.get(place.at as usize).copied();
        if turns.is_empty() {
            self.slots.remove(&place.slot);
        }
        moved
    }

    /// Changes whose turn stands at a place.
    pub fn set(&mut self, place: Place, turn: Turn) {
        let turns = self.slots.get_mut(&place.slot);
        if let Some(stands) = turns.and_then(|t| t.get_mut(place.at as usize)) {
            *stands = turn;
        }
    }

    /// When the first slot begins.
    pub fn next(&self) -> Option<Duration> {
        self.slots.keys().next().map(|slot| time_of(*slot))
    }

    /// Takes the turns of the first slot, if it has begun by then.
    pub fn take(&mut self, now: Duration) -> Option<Vec<Turn>> {
        let first = self.slots.first_entry()?;
        (time_of(*first.key()) <= now).then(|| first.remove())
    }

    /// How many turns there are.
    pub fn len(&self) -> usize {
        self.slots.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(at: u32) -> Turn {
        Turn {
            topic: TopicId(0),
            at,
        }
    }

    #[test]
    fn turns_of_a_slot_come_together_and_not_before_it_begins() {
        let mut wheel = Wheel::default();
        let ms = Duration::from_millis;
        wheel.add(ms(11), turn(0));
        let second = wheel.add(ms(20), turn(1));
        wheel.add(ms(21), turn(2));
        assert_eq!(wheel.next(), Some(ms(20)));
        wheel.set(second, turn(3));
        assert!(wheel.take(ms(19)).is_none());
        assert_eq!(wheel.take(ms(25)), Some(vec![turn(0), turn(3)]));
        assert_eq!(wheel.take(ms(30)), Some(vec![turn(2)]));
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn turns_come_however_long_the_process_runs() {
        let mut wheel = Wheel::default();
        let years = Duration::from_secs(10 * 366 * 86_400);
        wheel.add(years, turn(0));
        assert_eq!(wheel.next(), Some(years));
        assert_eq!(wheel.take(years), Some(vec![turn(0)]));
        wheel.add(Duration::MAX, turn(1));
        assert!(wheel.take(years).is_none());
    }

    #[test]
    fn a_turn_that_is_removed_gives_its_place_to_another() {
        let mut wheel = Wheel::default();
        let places = [0, 1, 2].map(|n| wheel.add(SLOT, turn(n)));
        assert_eq!(wheel.remove(places[0]), Some(turn(2)));
        assert_eq!(wheel.remove(places[1]), None);
        assert_eq!(wheel.len(), 1);
        assert_eq!(wheel.remove(places[0]), None);
        assert!(wheel.slots.is_empty());
    }
}
