//! The bars a gateway keeps of each topic, for those who subscribe later.

pub mod holes;
pub mod order;

use std::collections::{BTreeMap, VecDeque, vec_deque};

use crate::bar::{Bar, Resolution};

pub use holes::Hole;
use holes::{Holes, Late};

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
    /// Holes among those bars that were told late.
    late: Option<Late>,
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
            late: None,
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
                let mut late = None;
                self.with_holes(|holes| late = holes.forget_before(first));
                self.late = Late::both(self.late, late);
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

    /// Lets go of the bars that start before `time`, but never of the newest bar. They may come back.
    pub fn let_go_before(&mut self, time: i64) {
        while self.bars.len() > 1 && self.known_from().is_some_and(|first| first < time) {
            self.drop_oldest();
        }
        self.bars.shrink_to_fit();
        self.take_older();
    }

    /// What was let go to save memory may come back.
    pub fn take_older(&mut self) {
        self.floor = i64::MIN;
    }

    /// Closed bars that are kept at most.
    pub fn limit(&self) -> usize {
        self.limit
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
    /// one of those does not know. Nobody was told of bars from before `heard` and lacks them for that.
    pub fn told_late(&mut self, hole: Hole, heard: i64) {
        let (Some(first), Some(at)) = (self.known_from(), self.last().map(Bar::time)) else {
            return;
        };
        let from = hole.from.max(heard);
        if from < first && from <= hole.to {
            // It is not kept any more.
            self.late = Late::both(self.late, Some(Late { from, at }));
        }
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
    pub fn newest(&self, count: usize) -> impl Iterator<Item = &Bar> + Clone {
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

    /// From which time on they may lack bars that are not kept any more, because those were revised or told
    /// of late: never too late, and too early by no more than the revision that reached back furthest.
    pub fn lacking(&self, time: i64) -> Option<i64> {
        let forgotten = self.forgotten.filter(|forgotten| forgotten.at >= time);
        let revised = forgotten.map(|forgotten| time.saturating_sub(forgotten.depth));
        let late = self.late.and_then(|late| late.untold_from(time));
        revised.into_iter().chain(late).min()
    }
}

#[cfg(test)]
mod tests;
