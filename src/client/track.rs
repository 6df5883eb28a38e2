//! What was seen of one topic, so that nothing is told twice and no hole is passed over.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::message::Update;

/// Newest bars of a topic that are remembered, 16 bytes each: what a gap of that many bars brings again is
/// told apart from what was seen.
const MAX_REMEMBERED_BARS: usize = 256;

/// Bars from the one that starts at `.0` to the one that starts at `.1` may be missing, ms.
pub(super) type Hole = (i64, i64);

/// What was asked for with `since`, and is not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// After a lost connection.
    Resume(i64),
    /// After a gap, from the first bar to the last one that was told.
    Repair(i64, i64),
}

/// What to do about a gap that the gateway told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Whether it is news.
    pub is_news: bool,
    /// Whether to ask for its bars.
    pub repair: bool,
}

#[derive(Debug, Default)]
pub(super) struct Track {
    /// Times of the newest bars, with a hash of what each last looked like.
    seen: VecDeque<(i64, u64)>,
    /// From a lost connection until it is known where the topic goes on.
    is_resuming: bool,
    asked: Option<Asked>,
    /// From the answer to a request until the snapshot that belongs to it: gaps between them are what that
    /// snapshot lacks, and to ask for them again would bring the same.
    is_answered: bool,
}

impl Track {
    /// Time of the newest bar.
    pub fn last(&self) -> Option<i64> {
        self.seen.back().map(|(time, _)| *time)
    }

    pub fn lost(&mut self) {
        self.is_resuming = true;
        self.asked = None;
        self.is_answered = false;
    }

    /// The answer to a request came, and its snapshot will.
    pub fn answered(&mut self) {
        self.is_answered = true;
    }

    /// It is asked for again from its newest bar on.
    pub fn resumes(&mut self) {
        self.asked = self.last().map(Asked::Resume);
    }

    /// Its gap is asked for.
    pub fn repairs(&mut self, (from, to): Hole) {
        self.asked = Some(Asked::Repair(from, to));
    }

    /// No snapshot will come after all.
    pub fn gives_up(&mut self) {
        self.asked = None;
    }

    /// A live bar; tells of the hole before it.
    pub fn live(&mut self, update: &Update) -> Option<Hole> {
        let hole = self.hole_before(update.view.time);
        self.remember(update);
        hole
    }

    /// A snapshot; tells of the hole before it and leaves what is news.
    pub fn snapshot(&mut self, mut bars: Vec<Update>) -> (Option<Hole>, Vec<Update>) {
        let first = bars.first();
        let hole = first.and_then(|first| self.hole_before(first.view.time));
        self.is_answered = false;
        let repaired = match self.asked.take() {
            Some(Asked::Repair(from, _)) => from,
            _ => i64::MAX,
        };
        let (first, last) = (self.seen.front().copied(), self.last());
        bars.retain(|bar| {
            let time = bar.view.time;
            match self.place(time) {
                Ok(at) if self.seen[at].1 == hash(bar) => return false,
                Ok(_) => {}
                Err(_) => {
                    let is_newer = last.is_none_or(|last| time > last);
                    // What lies before all that is remembered may have been told.
                    let was_missed =
                        time >= repaired && first.is_none_or(|(first, _)| time > first);
                    if !is_newer && !was_missed {
                        return false;
                    }
                }
            }
            self.remember(bar);
            true
        });
        (hole, bars)
    }

    /// A gap that the gateway told.
    pub fn gap(&mut self, (from, to): Hole) -> Told {
        self.is_resuming = false;
        let is_asked = match &mut self.asked {
            Some(Asked::Repair(asked, told)) => {
                // Asked for because of this very gap: nobody has its bars.
                if *asked <= from && to <= *told {
                    return Told {
                        is_news: false,
                        repair: false,
                    };
                }
                *told = to.max(*told);
                *asked <= from
            }
            Some(Asked::Resume(asked)) => *asked <= from,
            None => false,
        };
        Told {
            is_news: true,
            repair: !is_asked && !self.is_answered,
        }
    }

    /// A gateway that knows the newest bar goes on there; anything later leaves a hole.
    fn hole_before(&mut self, time: i64) -> Option<Hole> {
        let last = self.last()?;
        let is_hole = self.is_resuming && time > last;
        if time >= last {
            self.is_resuming = false;
        }
        is_hole.then_some((last, time))
    }

    fn place(&self, time: i64) -> Result<usize, usize> {
        self.seen.binary_search_by_key(&time, |(time, _)| *time)
    }

    fn remember(&mut self, update: &Update) {
        let entry = (update.view.time, hash(update));
        match self.place(entry.0) {
            Ok(at) => self.seen[at] = entry,
            Err(0) if self.seen.len() >= MAX_REMEMBERED_BARS => {}
            Err(at) => {
                self.seen.insert(at, entry);
                if self.seen.len() > MAX_REMEMBERED_BARS {
                    self.seen.pop_front();
                }
            }
        }
    }
}

fn hash(update: &Update) -> u64 {
    let mut hasher = DefaultHasher::new();
    update.bar.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::message::{Message, parse};

    fn bar(time: i64, close: u32) -> Update {
        let text = format!(
            r#"{{"type":"bars.update","topic":"bars:A:1","payload":{{"time":{time},"close":{close}}}}}"#
        );
        match parse(&text) {
            Ok(Message::Update(update)) => update,
            other => panic!("{other:?}"),
        }
    }

    fn times(bars: &[Update]) -> Vec<i64> {
        bars.iter().map(|bar| bar.view.time).collect()
    }

    #[test]
    fn a_resume_tells_what_changed_and_what_is_new() {
        let mut track = Track::default();
        assert_eq!(track.live(&bar(1, 1)), None);
        assert_eq!(track.live(&bar(2, 1)), None);
        track.lost();
        track.resumes();
        let (hole, news) = track.snapshot(vec![bar(2, 1), bar(3, 1)]);
        assert_eq!((hole, times(&news)), (None, vec![3]));
        track.lost();
        track.resumes();
        let (hole, news) = track.snapshot(vec![bar(3, 2), bar(4, 1)]);
        assert_eq!((hole, times(&news)), (None, vec![3, 4]));
    }

    #[test]
    fn a_gateway_that_knows_nothing_leaves_a_hole_that_is_told() {
        let mut track = Track::default();
        track.live(&bar(1, 1));
        track.lost();
        track.resumes();
        assert_eq!(track.snapshot(Vec::new()).0, None);
        assert_eq!(track.live(&bar(4, 1)), Some((1, 4)));
        assert_eq!(
            track.live(&bar(9, 1)),
            None,
            "a pause of the market is none"
        );
        track.lost();
        assert_eq!(track.snapshot(vec![bar(12, 1)]).0, Some((9, 12)));
        track.lost();
        assert_eq!(track.live(&bar(12, 2)), None, "goes on where it was");
    }

    #[test]
    fn a_gap_is_repaired_once_and_brings_only_what_was_missed() {
        let mut track = Track::default();
        for time in [1, 2, 5] {
            track.live(&bar(time, 1));
        }
        let first = track.gap((2, 5));
        assert!(first.is_news && first.repair);
        track.repairs((2, 5));
        let again = track.gap((2, 5));
        assert!(!again.is_news && !again.repair, "told in the answer");
        let bars = [(2, 2), (3, 1), (4, 1), (5, 1)].map(|(time, close)| bar(time, close));
        assert_eq!(times(&track.snapshot(bars.to_vec()).1), [2, 3, 4]);
        assert!(track.gap((4, 5)).repair, "another gap");
    }

    /// A gateway that lacks older bars, too, begins its gap before what was asked for: to ask for that
    /// would go on for ever.
    #[test]
    fn a_gap_that_comes_with_an_answer_is_told_and_not_asked_for() {
        let news = |is_news| Told {
            is_news,
            repair: false,
        };
        let mut track = Track::default();
        track.live(&bar(5, 1));
        track.lost();
        track.resumes();
        track.answered();
        assert_eq!(track.gap((3, 4)), news(true));
        assert_eq!(track.gap((5, 8)), news(true));
        assert_eq!(track.snapshot(vec![bar(5, 1), bar(9, 1)]).0, None, "told");
        assert!(track.gap((9, 12)).repair, "a live one");
        track.repairs((9, 12));
        assert_eq!(track.gap((13, 15)), news(true), "the answer will have it");
        track.answered();
        assert_eq!(track.gap((9, 12)), news(false));
        assert_eq!(track.gap((1, 15)), news(true));
        track.snapshot(Vec::new());
        // The first bars, without any wish to resume or to repair.
        track.answered();
        assert_eq!(track.gap((1, 2)), news(true));
    }

    #[test]
    fn what_is_older_than_all_that_was_seen_is_left_alone() {
        let mut track = Track::default();
        track.live(&bar(10, 1));
        track.repairs((5, 8));
        assert_eq!(times(&track.snapshot(vec![bar(6, 1), bar(11, 1)]).1), [11]);
    }
}
