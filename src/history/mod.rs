//! The bars a gateway keeps of each topic, for those who subscribe later.

use std::collections::{VecDeque, vec_deque};

use crate::bar::Bar;

/// The last closed bars of one topic and the newest bar, in the order of their times.
#[derive(Debug)]
pub struct History {
    /// The last one is the newest bar, forming or closed; those before it are closed.
    bars: VecDeque<Bar>,
    /// Closed bars kept beside the newest.
    limit: usize,
}

impl History {
    /// A history that keeps up to `limit` closed bars.
    pub fn new(limit: usize) -> Self {
        Self {
            bars: VecDeque::new(),
            limit,
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
                match self.bars.binary_search_by_key(&bar.time(), Bar::time) {
                    Ok(at) => self.bars[at] = bar,
                    Err(0) if self.bars.len() > self.limit => {}
                    Err(at) => self.insert(at, bar),
                }
            }
            _ => self.insert(self.bars.len(), bar),
        }
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
            Err(0) if self.bars.len() > self.limit => false,
            Err(at) => {
                self.insert(at, bar);
                true
            }
        }
    }

    fn insert(&mut self, at: usize, bar: Bar) {
        self.bars.insert(at, bar);
        if self.bars.len() > self.limit + 1 {
            self.bars.pop_front();
        }
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

    /// All kept bars from `time` on, oldest first.
    pub fn since(&self, time: i64) -> impl Iterator<Item = &Bar> {
        self.bars
            .range(self.bars.partition_point(|bar| bar.time() < time)..)
    }

    /// The oldest bar kept.
    pub fn first(&self) -> Option<&Bar> {
        self.bars.front()
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
