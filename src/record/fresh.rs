//! Which bars came live while the store was read: they are newer than what it gives.

use std::collections::HashSet;

use crate::bar::Topic;

/// Bars noted as live while the store is read, some 30 MB: beyond them nothing more of it is taken.
const MAX_FRESH_BARS: usize = 500_000;

#[derive(Default)]
pub(super) struct Fresh {
    /// Whether the newest message of every topic is being read.
    all: bool,
    /// Topics whose past is being read.
    topics: HashSet<Topic>,
    bars: HashSet<(Topic, i64)>,
}

impl Fresh {
    /// The newest messages will be read, or no longer are.
    pub fn read_all(&mut self, all: bool) {
        self.all = all;
        self.tidy();
    }

    /// The past of a topic will now be read.
    pub fn begin(&mut self, topic: Topic) {
        self.topics.insert(topic);
    }

    /// It was, or could not be.
    pub fn end(&mut self, topic: &Topic) {
        self.topics.remove(topic);
        self.tidy();
    }

    fn tidy(&mut self) {
        let Self { all, topics, bars } = self;
        if !*all && topics.is_empty() {
            bars.clear();
        } else if !*all {
            bars.retain(|(topic, _)| topics.contains(topic));
        }
    }

    /// A bar came live.
    pub fn note(&mut self, topic: Topic, time: i64) {
        if (self.all || self.topics.contains(&topic)) && !self.is_full() {
            self.bars.insert((topic, time));
        }
    }

    /// Whether a bar of the store must give way.
    pub fn is_newer(&self, topic: Topic, time: i64) -> bool {
        self.is_full() || self.bars.contains(&(topic, time))
    }

    /// Whether more came than is noted: then nothing of the store is known to be newer.
    pub fn is_full(&self) -> bool {
        self.bars.len() >= MAX_FRESH_BARS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_while_it_is_read_is_newer() {
        let [a, b]: [Topic; 2] = ["bars:A:1", "bars:B:1"].map(|name| name.parse().unwrap());
        let mut fresh = Fresh::default();
        fresh.note(a, 1);
        assert!(!fresh.is_newer(a, 1));
        fresh.begin(a);
        fresh.note(a, 1);
        fresh.note(b, 1);
        assert!(fresh.is_newer(a, 1) && !fresh.is_newer(a, 2) && !fresh.is_newer(b, 1));
        fresh.read_all(true);
        fresh.note(b, 1);
        fresh.end(&a);
        assert!(fresh.is_newer(a, 1) && fresh.is_newer(b, 1));
        fresh.begin(b);
        fresh.read_all(false);
        assert!(!fresh.is_newer(a, 1) && fresh.is_newer(b, 1));
        fresh.end(&b);
        assert!(!fresh.is_newer(b, 1));
    }
}
