//! What an output has already: so that what the store gives again after each break is not written again.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;

use super::Closed;
use crate::bar::Topic;

/// Bars of one topic that are remembered: more than a store usually keeps. Older ones are written again,
/// which is harmless.
const MAX_TOPIC_MARKS: usize = 2_000;
/// Bars of all topics that are remembered for one output, some 96 MB; a topic beyond them forgets its oldest.
const MAX_MARKS: usize = 2_000_000;

/// A bar that was taken, as it was.
#[derive(Debug, Clone, Copy)]
struct Mark {
    time: i64,
    /// Of its numbers and `rev`: a revision has another one.
    content: u64,
    seq: u64,
    /// Of the run in which `seq` counts; none where it does not.
    run: Option<NonZeroU32>,
    /// As far as it can be told from others; none is 0.
    rev: u16,
    /// Whether it was heard, and is no mere state before a newer bar opened.
    is_heard: bool,
}

impl Mark {
    fn of(closed: &Closed) -> Self {
        let mut hasher = DefaultHasher::new();
        for number in closed.bar.numbers() {
            number.value().to_bits().hash(&mut hasher);
        }
        closed.rev.hash(&mut hasher);
        let run = |(epoch, _): (u64, u64)| {
            let mut hasher = DefaultHasher::new();
            epoch.hash(&mut hasher);
            let [.., a, b, c, d] = hasher.finish().to_be_bytes();
            NonZeroU32::MIN.saturating_add(u32::from_be_bytes([a, b, c, d]))
        };
        Self {
            time: closed.bar.time(),
            content: hasher.finish(),
            seq: closed.seq.unwrap_or(0),
            run: closed.epoch.zip(closed.seq).map(run),
            rev: u16::try_from(closed.rev.unwrap_or(0)).unwrap_or(u16::MAX),
            is_heard: !closed.is_stored,
        }
    }

    /// Whether it stays where another state of the bar would give way: as [`Closed::is_newer_than`] has it.
    fn outlasts(&self, other: &Self) -> bool {
        let is_later = || self.run.is_some() && self.run == other.run && other.seq > self.seq;
        let is_newer = other.rev > self.rev || (other.rev == self.rev && is_later());
        self.is_heard && !other.is_heard && !is_newer
    }
}

/// The newest bars of each topic that an output's log took, which is to say that they are or will be written.
/// In memory: after a restart all that the store has is written once more.
#[derive(Default)]
pub(super) struct Marks {
    /// By time.
    topics: HashMap<Topic, VecDeque<Mark>>,
    len: usize,
}

impl Marks {
    /// Whether exactly this bar was taken, as the last state of its time, or what was heard of it outlasts this.
    pub fn knows(&self, closed: &Closed) -> bool {
        let Some(marks) = self.topics.get(&closed.topic) else {
            return false;
        };
        let time = closed.bar.time();
        let at = marks.binary_search_by_key(&time, |mark| mark.time);
        let new = Mark::of(closed);
        at.is_ok_and(|at| marks[at].content == new.content || marks[at].outlasts(&new))
    }

    /// It is taken.
    pub fn note(&mut self, closed: &Closed) {
        let new = Mark::of(closed);
        let marks = self.topics.entry(closed.topic).or_default();
        let at = match marks.back() {
            Some(last) if last.time >= new.time => {
                marks.binary_search_by_key(&new.time, |mark| mark.time)
            }
            _ => Err(marks.len()),
        };
        match at {
            Ok(at) => marks[at] = new,
            Err(at) => {
                let is_full = marks.len() >= MAX_TOPIC_MARKS || self.len >= MAX_MARKS;
                if is_full && at == 0 {
                    // Older than all that there is room for.
                    return;
                }
                if is_full && marks.pop_front().is_some() {
                    marks.insert(at - 1, new);
                } else {
                    marks.insert(at, new);
                    self.len += 1;
                }
            }
        }
    }

    /// Forgets all; tells the topics.
    pub fn clear(&mut self) -> Vec<Topic> {
        self.len = 0;
        let topics = std::mem::take(&mut self.topics);
        topics.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::{Bar, Number};

    fn bar(symbol: &str, minute: i64, price: u64, rev: Option<u64>) -> Closed {
        let topic: Topic = format!("bars:{symbol}:1").parse().unwrap();
        let numbers = [Number::Unsigned(price); 5];
        let bar = Bar::new(topic.resolution, minute * 60_000, numbers, true).unwrap();
        Closed {
            rev,
            ..Closed::from((topic, bar))
        }
    }

    #[test]
    fn what_was_taken_is_known_until_it_is_revised() {
        let mut marks = Marks::default();
        for minute in [5, 6, 1, 3, 2] {
            assert!(!marks.knows(&bar("A", minute, 1, None)));
            marks.note(&bar("A", minute, 1, None));
            assert!(marks.knows(&bar("A", minute, 1, None)));
        }
        for (minute, price, rev, known) in [
            (3, 1, None, true),
            (3, 2, None, false),
            (3, 1, Some(1), false),
            (4, 1, None, false),
        ] {
            assert_eq!(marks.knows(&bar("A", minute, price, rev)), known);
        }
        assert!(!marks.knows(&bar("B", 3, 1, None)));
        marks.note(&bar("A", 3, 2, None));
        assert!(marks.knows(&bar("A", 3, 2, None)));
        assert!(
            !marks.knows(&bar("A", 3, 1, None)),
            "the state before is not the last"
        );
        let times: Vec<_> = marks.topics.values().flatten().map(|m| m.time).collect();
        assert_eq!(times, [1, 2, 3, 5, 6].map(|minute| minute * 60_000));
    }

    #[test]
    fn what_was_heard_gives_way_only_to_what_is_newer() {
        let with = |price, rev, seq| Closed {
            epoch: Some(7),
            seq: Some(seq),
            ..bar("A", 3, price, rev)
        };
        let mut marks = Marks::default();
        marks.note(&with(1, Some(1), 5));
        for (other, known) in [
            (with(2, None, 9), true),
            (with(2, Some(1), 4), true),
            (with(2, Some(1), 6), false),
            (with(2, Some(2), 4), false),
        ] {
            assert_eq!(marks.knows(&other.stored()), known, "{other:?}");
            assert!(!marks.knows(&other), "what was refused is as good as heard");
        }
        // Its end was not heard.
        marks.note(&with(1, Some(1), 5).stored());
        assert!(!marks.knows(&with(2, None, 9).stored()));
    }

    #[test]
    fn the_newest_are_remembered_up_to_the_bound() {
        let mut marks = Marks::default();
        let most = i64::try_from(MAX_TOPIC_MARKS).unwrap();
        for minute in 0..most + 10 {
            marks.note(&bar("A", minute, 1, None));
        }
        assert_eq!(marks.len, MAX_TOPIC_MARKS);
        marks.note(&bar("A", 2, 1, None));
        assert_eq!(marks.len, MAX_TOPIC_MARKS);
        assert!(!marks.knows(&bar("A", 9, 1, None)));
        assert!(marks.knows(&bar("A", 10, 1, None)));
        assert!(marks.knows(&bar("A", most + 9, 1, None)));
        assert_eq!(marks.clear().len(), 1);
        assert!(!marks.knows(&bar("A", 10, 1, None)));
    }
}
