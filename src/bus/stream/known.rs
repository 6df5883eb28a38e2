//! What is known of a stream while it is read: how far, and whether it is still the same one, whole.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use redis::Value;

/// Entries last read that are remembered, some 240 KB: by them a stream that lost its end in a failover is
/// told from another one.
const MAX_RECENT: usize = 10_000;

/// An entry's id: ms since the epoch, and a number within them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Id(u64, u64);

impl Id {
    /// As Redis writes it; the number may be left out.
    pub fn parse(text: &str) -> Option<Self> {
        let (ms, number) = text.split_once('-').unwrap_or((text, "0"));
        Some(Self(ms.parse().ok()?, number.parse().ok()?))
    }

    /// When the entry arrived, as far as Redis gave the id; ms since the epoch.
    pub fn arrival(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// An entry by its id and a hash of its fields: ids may be given twice by hand.
pub type Mark = (Id, u64);

pub fn mark(id: Id, fields: &HashMap<String, Value>) -> Mark {
    let hashes = fields.iter().map(|(name, value)| {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        match value {
            Value::BulkString(bytes) => bytes.hash(&mut hasher),
            other => format!("{other:?}").hash(&mut hasher),
        }
        hasher.finish()
    });
    (id, hashes.fold(0, u64::wrapping_add))
}

/// How a stream was found.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The newest id ever given in it.
    pub last: Id,
    pub first: Option<Id>,
    pub newest: Option<Mark>,
    /// How many entries were ever added, and how many are there: Redis 7.0 and newer.
    pub counts: Option<(u64, u64)>,
}

/// What there is to be said of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It was deleted and begun anew: all of it is read.
    Anew,
    /// It has lost its newest entries, which were read before: it is read on from its end.
    Shortened,
    /// Entries between these two ids are gone that were not read; how many, where that is known.
    Missed {
        after: Id,
        before: Id,
        entries: Option<u64>,
    },
}

impl News {
    /// This and what was found out next, where both are one thing to say.
    pub fn with(self, next: Self) -> Option<Self> {
        match (self, next) {
            (
                Self::Missed { after, entries, .. },
                Self::Missed {
                    before,
                    entries: more,
                    ..
                },
            ) => Some(Self::Missed {
                after,
                before,
                entries: entries.zip(more).map(|(entries, more)| entries + more),
            }),
            (one, other) => (one == other).then_some(one),
        }
    }
}

/// What is known of a stream.
#[derive(Debug, Default)]
pub struct Known {
    /// The last entry read, or where to begin.
    pub from: Id,
    /// That is an entry's, and not only where to begin.
    is_read: bool,
    /// How many entries were ever added up to there.
    position: Option<u64>,
    recent: VecDeque<Mark>,
    /// The key was not there at the last look.
    is_gone: bool,
}

impl Known {
    /// Begins behind this id.
    pub fn new(from: Id) -> Self {
        Self {
            from,
            ..Self::default()
        }
    }

    /// An entry was read.
    pub fn read(&mut self, mark: Mark) {
        if self.recent.len() >= MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(mark);
        self.from = mark.0;
        self.is_read = true;
        self.position = self.position.map(|position| position + 1);
    }

    /// The key is not there. What is written to it next may be another stream, or a server that was restored.
    pub fn gone(&mut self) {
        self.is_gone = self.is_read;
        if !self.is_read {
            self.position = Some(0);
        }
    }

    /// The id of an entry to look for: it tells whether a stream that was gone is the same again.
    pub fn doubted(&self) -> Option<Id> {
        (self.is_gone && self.is_read).then_some(self.from)
    }

    /// Takes in how the stream was found, with the entry that was looked for. With `is_behind` more entries
    /// than were read at once may have come since the last look.
    pub fn found(&mut self, found: &Found, looked_for: Option<Mark>, is_behind: bool) -> Vec<News> {
        let was_gone = std::mem::take(&mut self.is_gone);
        let is_same = looked_for.is_some() && looked_for == self.recent.back().copied();
        let is_other = self.is_read && (found.last < self.from || (was_gone && !is_same));
        let mut news = Vec::new();
        if is_other {
            let known = found.newest.filter(|newest| self.recent.contains(newest));
            if let Some(newest) = known {
                self.recent.retain(|(id, _)| *id <= newest.0);
                self.from = newest.0;
                self.position = None;
                news.push(News::Shortened);
            } else if found.last < self.from || found.first.is_some_and(|first| first <= self.from)
            {
                *self = Self::default();
                news.push(News::Anew);
            } else {
                // All that is there is to be read anyhow.
                self.position = None;
            }
        }
        news.extend(self.missed(found, is_behind));
        news
    }

    fn missed(&mut self, found: &Found, is_behind: bool) -> Option<News> {
        let is_all_read = found.last <= self.from;
        let is_all_unread = found.first.is_none_or(|first| first > self.from);
        let missed = |entries| News::Missed {
            after: self.from,
            before: found.first.unwrap_or(found.last).max(self.from),
            entries,
        };
        let Some((added, length)) = found.counts else {
            let may_lack = is_behind && self.is_read && !is_all_read && is_all_unread;
            return may_lack.then(|| missed(None));
        };
        let position = if is_all_read {
            added
        } else if is_all_unread {
            added.saturating_sub(length)
        } else {
            return None;
        };
        let before = self.position.unwrap_or(position);
        let news = (before < position).then(|| missed(Some(position - before)));
        self.position = Some(position);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ms: u64, hash: u64) -> Mark {
        (Id(ms, 0), hash)
    }

    fn found(first: u64, newest: Mark, counts: Option<(u64, u64)>) -> Found {
        Found {
            last: newest.0,
            first: Some(Id(first, 0)),
            newest: Some(newest),
            counts,
        }
    }

    /// One that has read entries 1 to 5.
    fn known() -> Known {
        let mut known = Known::new(Id::default());
        let nothing = known.found(&found(1, entry(5, 5), Some((5, 5))), None, true);
        assert_eq!(nothing, []);
        (1..=5).for_each(|n| known.read(entry(n, n)));
        known
    }

    #[test]
    fn ids_are_read_as_redis_writes_them() {
        assert_eq!(Id::parse("5-3").map(|id| id.to_string()).unwrap(), "5-3");
        assert_eq!(Id::parse("0"), Some(Id(0, 0)));
        assert_eq!(Id::parse("$"), None);
        assert!(Id(5, 3) < Id(10, 0));
    }

    #[test]
    fn another_stream_is_told_from_one_that_was_shortened() {
        let cases = [
            ("the same", entry(5, 5), (5, 5), vec![], 5),
            ("longer", entry(9, 9), (9, 9), vec![], 5),
            (
                "its end is lost",
                entry(3, 3),
                (3, 3),
                vec![News::Shortened],
                3,
            ),
            ("another", entry(4, 40), (4, 4), vec![News::Anew], 0),
            ("others' ids", entry(2, 20), (2, 2), vec![News::Anew], 0),
        ];
        for (name, newest, counts, expected, from) in cases {
            let mut known = known();
            let news = known.found(&found(1, newest, Some(counts)), None, false);
            assert_eq!((news, known.from), (expected, Id(from, 0)), "{name}");
        }
    }

    #[test]
    fn a_key_that_was_gone_is_looked_at() {
        let now = found(1, entry(9, 9), Some((9, 9)));
        for (there, expected, from) in [
            (Some(entry(5, 5)), vec![], 5),
            (Some(entry(5, 50)), vec![News::Anew], 0),
            (None, vec![News::Anew], 0),
        ] {
            let mut known = known();
            known.gone();
            assert_eq!(known.doubted(), Some(Id(5, 0)));
            assert_eq!(known.found(&now, there, true), expected);
            assert_eq!(known.from, Id(from, 0));
            assert_eq!(known.doubted(), None);
        }
    }

    #[test]
    fn what_was_trimmed_unread_is_counted() {
        let missed = |before: u64, entries| News::Missed {
            after: Id(5, 0),
            before: Id(before, 0),
            entries,
        };
        // Entries 6 to 8 are gone.
        let mut known = known();
        let trimmed = found(9, entry(20, 20), Some((20, 12)));
        assert_eq!(known.found(&trimmed, None, false), [missed(9, Some(3))]);
        assert_eq!(known.found(&trimmed, None, true), [], "told once");
        (9..=20).for_each(|n| known.read(entry(n, n)));
        assert_eq!(known.found(&trimmed, None, true), []);
        // Only what was read is gone.
        let drained = found(20, entry(20, 20), Some((20, 1)));
        assert_eq!(known.found(&drained, None, true), []);
        // Trimmed between a look and the read behind it.
        known.read(entry(23, 23));
        let later = found(23, entry(23, 23), Some((23, 1)));
        let news = known.found(&later, None, false);
        assert!(
            matches!(
                news[..],
                [News::Missed {
                    entries: Some(2),
                    ..
                }]
            ),
            "{news:?}"
        );
        // An older Redis tells no numbers.
        let mut known = self::known();
        let trimmed = found(9, entry(20, 20), None);
        assert_eq!(known.found(&trimmed, None, false), []);
        assert_eq!(known.found(&trimmed, None, true), [missed(9, None)]);
    }
}
