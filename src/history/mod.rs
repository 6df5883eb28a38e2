//! The bars a gateway keeps of each topic, for those who subscribe later.

mod holes;

use std::collections::{BTreeMap, VecDeque, vec_deque};

use crate::bar::{Bar, Resolution};

pub use holes::Hole;
use holes::Holes;

/// Memory of one note of a revision: two numbers, and its share of a node of the tree.
const REVISION_BYTES: usize = 32;

/// The last closed bars of one topic and the newest bar, in the order of their times.
#[derive(Debug)]
pub struct History {
    /// The last one is the newest bar, forming or closed; those before it are closed.
    bars: VecDeque<Bar>,
    /// Closed bars kept beside the newest.
    limit: usize,
    /// Kept bars that changed after a newer one had opened, by their times: the time of the newest bar
    /// when that last happened. Whoever saw that one or a later one may have seen the change; whoever
    /// saw less has not.
    revised: BTreeMap<i64, i64>,
    /// The same of bars that are not kept any more.
    forgotten: Option<Forgotten>,
    /// What starts before it was let go to save memory, and does not come back.
    floor: i64,
    /// What may have been missed from the oldest bar kept on; before that one nothing is known. Mostly
    /// there is none, and no list of them.
    holes: Option<Box<Holes>>,
}

/// What is left of revisions whose bars are not kept any more.
#[derive(Debug, Clone, Copy)]
struct Forgotten {
    /// Time of the newest bar at the last of them.
    at: i64,
    /// How far behind the newest bar any of them was, in ms.
    depth: i64,
}

impl History {
    /// A history that keeps up to `limit` closed bars.
    pub fn new(limit: usize) -> Self {
        Self {
            bars: VecDeque::new(),
            limit,
            revised: BTreeMap::new(),
            forgotten: None,
            floor: i64::MIN,
            holes: None,
        }
    }

    /// The newest bar.
    pub fn last(&self) -> Option<&Bar> {
        self.bars.back()
    }

    /// Takes in one bar: the same time replaces, a later time opens a new bar, an earlier time
    /// revises the past as far as it is kept.
    pub fn apply(&mut self, bar: Bar) {
        match self.bars.back_mut() {
            Some(last) if bar.time() == last.time() => *last = bar,
            Some(last) if bar.time() < last.time() => {
                let newest = last.time();
                self.revise(bar, newest);
            }
            _ => self.insert(self.bars.len(), bar),
        }
    }

    fn revise(&mut self, bar: Bar, newest: i64) {
        match self.bars.binary_search_by_key(&bar.time(), Bar::time) {
            // Published again unchanged, as a replay does: nobody lacks anything.
            Ok(at) if self.bars[at] == bar => return,
            Ok(at) => self.bars[at] = bar,
            Err(0) if self.is_too_old(bar.time()) => return self.forget(bar.time(), newest),
            Err(at) => self.insert(at, bar),
        }
        self.mark(bar.time());
    }

    /// Notes that a kept bar changed now, for those who come back. The newest one needs no note: they
    /// get it anyway.
    pub fn mark(&mut self, time: i64) {
        if let Some(newest) = self.last().map(Bar::time).filter(|newest| time < *newest) {
            self.revised.insert(time, newest);
        }
    }

    fn forget(&mut self, time: i64, at: i64) {
        let depth = at.saturating_sub(time);
        let before = self.forgotten.unwrap_or(Forgotten { at, depth });
        self.forgotten = Some(Forgotten {
            at: before.at.max(at),
            depth: before.depth.max(depth),
        });
    }

    /// Takes in a bar of the store where that is better than what is kept, and tells whether it was. A
    /// closed bar is better than a forming one; beside that, what is `fresh` here stays.
    pub fn restore(&mut self, bar: Bar, fresh: bool) -> bool {
        match self.bars.binary_search_by_key(&bar.time(), Bar::time) {
            Ok(at) => {
                let kept = self.bars[at];
                let is_better = match (bar.closed, kept.closed) {
                    (true, false) => true,
                    (false, true) => false,
                    _ => !fresh,
                };
                self.bars[at] = if is_better { bar } else { kept };
                is_better && bar != kept
            }
            Err(0) if self.is_too_old(bar.time()) => false,
            Err(at) => {
                self.insert(at, bar);
                true
            }
        }
    }

    fn insert(&mut self, at: usize, bar: Bar) {
        let count = self.bars.len();
        if count == self.bars.capacity() {
            // Doubling, as it would do by itself, would leave half of the memory empty.
            self.bars.reserve_exact((count / 8).max(4));
        }
        self.bars.insert(at, bar);
        if self.bars.len() > self.limit + 1 {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(bar) = self.bars.pop_front() {
            if let Some(at) = self.revised.remove(&bar.time()) {
                self.forget(bar.time(), at);
            }
            if self.holes.is_some()
                && let Some(first) = self.known_from()
            {
                self.with_holes(|holes| holes.forget_before(first));
            }
        }
    }

    /// Whether a bar before all that are kept cannot be kept.
    fn is_too_old(&self, time: i64) -> bool {
        self.bars.len() > self.limit || time < self.floor
    }

    /// Memory of what is kept, in bytes.
    pub fn bytes(&self) -> usize {
        self.bars.capacity() * size_of::<Bar>() + self.revised.len() * REVISION_BYTES
    }

    /// Lets go of the `count` oldest bars and their memory, but never of the newest bar.
    pub fn trim_oldest(&mut self, count: usize) {
        let count = count.min(self.bars.len().saturating_sub(1));
        for _ in 0..count {
            self.drop_oldest();
        }
        self.bars.shrink_to_fit();
        if let Some(first) = self.bars.front().filter(|_| count > 0) {
            self.floor = first.time();
        }
    }

    /// How many bars are kept.
    pub fn count(&self) -> usize {
        self.bars.len()
    }

    /// Changes the list of holes, which is let go when it is empty.
    #[cold]
    fn with_holes(&mut self, change: impl FnOnce(&mut Holes)) {
        let mut holes = self.holes.take().unwrap_or_default();
        change(&mut holes);
        self.holes = Some(holes).filter(|holes| !holes.is_empty());
    }

    /// Whether anything from [`known_from`](Self::known_from) on may have been missed.
    pub fn has_holes(&self) -> bool {
        self.holes.is_some()
    }

    /// Notes that bars which start at `from` or later and before `until` may have been missed.
    pub fn note_hole(&mut self, from: i64, until: i64) {
        let from = self.known_from().map_or(from, |first| from.max(first));
        self.with_holes(|holes| holes.note(from, until));
    }

    /// The same, until the next message in order proves that nothing was.
    pub fn doubt(&mut self, from: i64, until: i64) {
        self.with_holes(|holes| holes.doubt(from, until));
    }

    /// The next message in order came: what was doubted is whole.
    pub fn trust(&mut self) {
        self.with_holes(Holes::trust);
    }

    /// No message to come proves what was doubted before `time`, or anything if there is no time.
    pub fn trust_only_from(&mut self, time: Option<i64>) {
        self.with_holes(|holes| holes.trust_only_from(time));
    }

    /// Bars that start at `from` or later and before `until` are whole.
    pub fn prove(&mut self, from: i64, until: i64) {
        self.with_holes(|holes| holes.prove(from, until));
    }

    /// A hole, or what the store brought of it, is told only now, after bars that came later: who left with
    /// one of those does not know.
    pub fn told_late(&mut self, hole: Hole) {
        let Some(at) = self.last().map(Bar::time) else {
            return;
        };
        for (_, seen) in self.revised.range_mut(hole.from..=hole.to) {
            *seen = at;
        }
        if self.has_holes() {
            self.with_holes(|holes| holes.told_late(hole.from, at));
        }
    }

    /// From when on this history is whole but for its holes: the start of the oldest bar kept. `None`: it
    /// has no bar, and nothing is known.
    pub fn known_from(&self) -> Option<i64> {
        self.bars.front().map(Bar::time)
    }

    /// The holes from `from` on and before `until`, which are starts of bars.
    pub fn holes(
        &self,
        resolution: Resolution,
        from: i64,
        until: i64,
    ) -> impl Iterator<Item = Hole> {
        let holes = self.holes.iter();
        holes.flat_map(move |holes| holes.between(resolution, from, until))
    }

    /// What whoever asks for all `since` a time will lack beside the bars that it gets, oldest first: what
    /// lies before all that is kept, and the holes. A history without a bar knows nothing until `now`.
    pub fn missing(&self, resolution: Resolution, since: i64, now: i64) -> Vec<Hole> {
        let start = resolution.floor(since);
        let Some(first) = self.known_from() else {
            let to = resolution.floor(now);
            let all = (start <= to).then_some(Hole { from: start, to });
            return all.into_iter().collect();
        };
        let from = resolution.floor(self.lacking(since).unwrap_or(since));
        let before = (from < first).then(|| Hole {
            from,
            to: resolution.previous(first),
        });
        let untold = self.holes.as_ref();
        let start = untold.map_or(start, |holes| holes.untold_from(start));
        let holes = self.holes(resolution, start, i64::MAX);
        before.into_iter().chain(holes).collect()
    }

    /// The newest `count` bars, oldest first.
    pub fn newest(&self, count: usize) -> impl Iterator<Item = &Bar> {
        self.bars.range(self.bars.len().saturating_sub(count)..)
    }

    /// Kept bars that start at `from` or later and before `to`, oldest first.
    pub fn between(&self, from: i64, to: i64) -> vec_deque::Iter<'_, Bar> {
        let end = self.bars.partition_point(|bar| bar.time() < to);
        let start = self.bars.partition_point(|bar| bar.time() < from);
        self.bars.range(start.min(end)..end)
    }

    /// What whoever last saw the bar at `time` may lack, oldest first: kept bars from then on, and before
    /// them those that were revised when that bar or a later one was the newest.
    pub fn since(&self, time: i64) -> impl Iterator<Item = &Bar> {
        let revised = self
            .revised
            .range(..time)
            .filter(move |(_, at)| **at >= time);
        let revised = revised.filter_map(|(time, _)| {
            let at = self.bars.binary_search_by_key(time, Bar::time).ok()?;
            self.bars.get(at)
        });
        let from = self.bars.partition_point(|bar| bar.time() < time);
        revised.chain(self.bars.range(from..))
    }

    /// From which time on they may lack bars that are not kept any more, because those were revised:
    /// never too late, and too early by no more than the revision that reached back furthest.
    pub fn lacking(&self, time: i64) -> Option<i64> {
        let forgotten = self.forgotten.filter(|forgotten| forgotten.at >= time)?;
        Some(time.saturating_sub(forgotten.depth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::{Number, Resolution};

    fn bar(second: i64, close: f64) -> Bar {
        let price = Number::Float(close);
        let numbers = [price, price, price, price, Number::Unsigned(1)];
        Bar::new(Resolution::S1, second * 1000, numbers, false).unwrap()
    }

    fn seconds<'a>(bars: impl Iterator<Item = &'a Bar>) -> Vec<i64> {
        bars.map(|bar| bar.time() / 1000).collect()
    }

    #[test]
    fn keeps_the_limit_and_the_newest() {
        let mut history = History::new(3);
        for second in 0..10 {
            history.apply(bar(second, 1.0));
        }
        assert_eq!(seconds(history.newest(100)), [6, 7, 8, 9]);
        assert_eq!(seconds(history.newest(2)), [8, 9]);
        assert_eq!(seconds(history.since(8_000)), [8, 9]);
        assert_eq!(seconds(history.between(7_000, 9_000)), [7, 8]);
        assert_eq!(seconds(history.between(i64::MIN, i64::MAX)), [6, 7, 8, 9]);
        assert_eq!(history.between(9_000, 7_000).count(), 0);
    }

    #[test]
    fn the_same_time_replaces_and_an_earlier_time_revises() {
        let mut history = History::new(3);
        for second in [1, 2, 4] {
            history.apply(bar(second, 1.0));
        }
        history.apply(bar(4, 2.0));
        history.apply(bar(2, 3.0));
        history.apply(bar(3, 4.0));
        assert_eq!(seconds(history.newest(9)), [1, 2, 3, 4]);
        let closes: Vec<f64> = history
            .newest(9)
            .map(|b| b.value(crate::bar::Field::Close))
            .collect();
        assert_eq!(closes, [1.0, 3.0, 4.0, 2.0]);
        history.apply(bar(0, 1.0));
        assert_eq!(
            seconds(history.newest(9)),
            [1, 2, 3, 4],
            "full: too old to keep"
        );
    }

    #[test]
    fn who_comes_back_gets_what_was_revised_meanwhile() {
        let mut history = History::new(5);
        for second in 1..=4 {
            history.apply(bar(second, 1.0));
        }
        history.apply(bar(1, 1.0));
        assert_eq!(seconds(history.since(4_000)), [4], "nothing changed");
        history.apply(bar(2, 2.0));
        assert_eq!(seconds(history.since(4_000)), [2, 4]);
        assert_eq!(seconds(history.since(3_000)), [2, 3, 4], "once, in order");
        assert_eq!(seconds(history.since(1_000)), [1, 2, 3, 4]);
        history.apply(bar(5, 1.0));
        assert_eq!(seconds(history.since(5_000)), [5], "seen by then");
        assert_eq!(seconds(history.since(4_500)), [5]);
        history.apply(bar(3, 2.0));
        history.apply(bar(2, 3.0));
        assert_eq!(seconds(history.since(5_000)), [2, 3, 5]);
        assert_eq!(history.lacking(5_000), None);
        // Bars 1 and 2 are forgotten, and what is known of 2 is that it was revised at 5.
        history.apply(bar(6, 1.0));
        history.apply(bar(7, 1.0));
        assert_eq!(history.lacking(5_000), None);
        history.apply(bar(8, 1.0));
        assert_eq!(seconds(history.since(5_000)), [3, 5, 6, 7, 8]);
        assert_eq!(history.lacking(5_000), Some(2_000));
        assert_eq!(history.lacking(4_000), Some(1_000));
        assert_eq!(history.lacking(5_001), None);
        history.apply(bar(1, 9.0));
        assert_eq!(history.lacking(8_000), Some(1_000), "too old to keep");
        assert_eq!(history.lacking(8_001), None);
    }

    fn told(history: &History, since: i64) -> Vec<(i64, i64)> {
        let missing = history.missing(Resolution::S1, since * 1_000, 99_000);
        let told = missing.iter();
        told.map(|hole| (hole.from / 1_000, hole.to / 1_000))
            .collect()
    }

    #[test]
    fn what_is_missing_begins_before_what_is_kept_and_ends_with_the_holes() {
        let mut history = History::new(3);
        assert_eq!(told(&history, 98), [(98, 99)]);
        assert_eq!(told(&history, 99), [(99, 99)]);
        assert_eq!(told(&history, 100), []);
        for second in [5, 6, 9] {
            history.apply(bar(second, 1.0));
        }
        assert!(!history.has_holes());
        history.note_hole(6_000, 9_000);
        assert_eq!(told(&history, 4), [(4, 4), (6, 9)]);
        assert_eq!(told(&history, 5), [(6, 9)]);
        assert_eq!(told(&history, 8), [(8, 9)]);
        assert_eq!(told(&history, 9), []);
        // Whoever left with the bar of 9 was not told yet; with a later one it was.
        history.told_late(Hole {
            from: 6_000,
            to: 9_000,
        });
        history.apply(bar(10, 1.0));
        assert_eq!(told(&history, 9), [(6, 9)]);
        assert_eq!(told(&history, 10), []);
        // It goes with the bar that it begins at.
        history.apply(bar(11, 1.0));
        assert_eq!(told(&history, 5), [(5, 5), (6, 9)]);
        history.apply(bar(12, 1.0));
        assert!(!history.has_holes());
        assert_eq!(told(&history, 6), [(6, 8)]);
        history.note_hole(3_000, 10_000);
        assert_eq!(told(&history, 3), [(3, 8), (9, 10)], "kept from 9 on");
    }

    #[test]
    fn only_what_changed_before_the_newest_bar_is_noted_as_revised() {
        let mut history = History::new(3);
        history.apply(bar(1, 1.0));
        history.mark(1_000);
        assert!(history.revised.is_empty(), "the newest comes anyway");
        history.apply(bar(1, 2.0));
        assert!(history.revised.is_empty());
        history.apply(bar(2, 1.0));
        history.mark(1_000);
        assert_eq!(history.revised.len(), 1);
    }

    #[test]
    fn a_history_is_full_with_the_limit_and_the_newest() {
        let full = |count: i64| {
            let mut history = History::new(3);
            for second in 1..=count {
                history.apply(bar(second, 1.0));
            }
            history
        };
        // One short of full, an older bar is kept; then it is only remembered that there was one.
        let mut history = full(3);
        history.apply(bar(0, 1.0));
        assert_eq!(seconds(history.newest(9)), [0, 1, 2, 3]);
        assert_eq!(history.lacking(3_000), None);
        let mut history = full(4);
        history.apply(bar(0, 1.0));
        assert_eq!(seconds(history.newest(9)), [1, 2, 3, 4]);
        assert_eq!(history.lacking(4_000), Some(0));
        let mut history = full(3);
        assert!(history.restore(bar(0, 1.0), false));
        assert!(!history.restore(bar(-1, 1.0), false));
        assert_eq!(seconds(history.newest(9)), [0, 1, 2, 3]);
        assert!(history.restore(bar(5, 1.0), false), "newer ones push out");
        assert_eq!(seconds(history.newest(9)), [1, 2, 3, 5]);
    }

    #[test]
    fn what_was_let_go_does_not_come_back() {
        let mut history = History::new(1_000);
        for second in 0..100 {
            history.apply(bar(second, 1.0));
        }
        let before = history.bytes();
        assert!(before <= 120 * size_of::<Bar>(), "not doubled: {before}");
        history.apply(bar(10, 2.0));
        history.trim_oldest(60);
        assert!(history.bytes() <= 40 * size_of::<Bar>());
        assert_eq!(history.known_from(), Some(60_000));
        assert_eq!(
            history.lacking(99_000),
            Some(10_000),
            "its revision is not forgotten"
        );
        // Otherwise it would seem as if all bars since then were known.
        history.apply(bar(20, 3.0));
        assert!(!history.restore(bar(30, 3.0), false));
        assert_eq!(history.known_from(), Some(60_000));
        history.trim_oldest(usize::MAX);
        assert_eq!(seconds(history.newest(9)), [99]);
    }

    #[test]
    fn a_stored_bar_never_replaces_a_better_one() {
        let closed = |second, close| {
            let mut bar = bar(second, close);
            bar.closed = true;
            bar
        };
        let mut history = History::new(3);
        history.apply(closed(2, 1.0));
        history.apply(bar(4, 1.0));
        // Fills what is missing; says what it had.
        assert!(history.restore(closed(1, 1.0), false));
        assert!(history.restore(closed(3, 1.0), true));
        assert!(!history.restore(closed(3, 1.0), false));
        assert_eq!(seconds(history.newest(9)), [1, 2, 3, 4]);
        // Full.
        assert!(!history.restore(closed(0, 1.0), false));
        // Forming never replaces closed; what came live stays, but for its end.
        assert!(!history.restore(bar(2, 2.0), false));
        assert!(!history.restore(bar(4, 2.0), true));
        assert!(history.restore(bar(4, 2.0), false));
        assert!(history.restore(closed(4, 3.0), true));
        assert!(!history.restore(closed(4, 4.0), true));
        assert_eq!(history.last(), Some(&closed(4, 3.0)));
        assert!(history.restore(closed(4, 5.0), false), "revised meanwhile");
    }
}
