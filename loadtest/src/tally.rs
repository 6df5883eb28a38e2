//! Keeping account of what each client got, by the publisher's sequence numbers.
//!
//! Every update that was published for a subscription after the warm-up ends in exactly one of these:
//! `expected = delivered + conflated + gapped + lost`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::market::Market;

/// What became of the updates of a group of clients.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Updates that came, each once.
    pub delivered: u64,
    /// Forming updates that never came although a newer update of their topic did.
    pub conflated: u64,
    /// Closed bars that never came, and of which a `bars.gap` told.
    pub gapped: u64,
    /// Closed bars that never came without a word, and everything after the last update that came.
    pub lost: u64,
    /// Updates older than one that came before. They are not in `delivered`.
    pub out_of_order: u64,
    /// Updates equal to the one before, such as a current bar sent again. They are not in `delivered`.
    pub duplicates: u64,
    /// Closed bars among `delivered` that are not what was published.
    pub altered: u64,
    /// `bars.gap` frames.
    pub gap_frames: u64,
    /// `lost` by number of topic.
    #[serde(skip)]
    pub lost_by_topic: BTreeMap<u32, u64>,
}

impl Counts {
    /// Adds the counts of another group.
    pub fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.conflated += other.conflated;
        self.gapped += other.gapped;
        self.lost += other.lost;
        self.out_of_order += other.out_of_order;
        self.duplicates += other.duplicates;
        self.altered += other.altered;
        self.gap_frames += other.gap_frames;
        for (topic, lost) in &other.lost_by_topic {
            *self.lost_by_topic.entry(*topic).or_default() += lost;
        }
    }

    /// The topics that lost most, with how much.
    pub fn lost_topics(&self, market: &Market) -> Vec<(String, u64)> {
        /// More would hide the rest of a report.
        const NAMED: usize = 20;
        let name = |topic: &u32| {
            market
                .topics()
                .get(*topic as usize)
                .map(ToString::to_string)
        };
        let mut lost: Vec<(String, u64)> = self
            .lost_by_topic
            .iter()
            .filter_map(|(topic, lost)| Some((name(topic)?, *lost)))
            .collect();
        lost.sort_by_key(|(_, lost)| std::cmp::Reverse(*lost));
        lost.truncate(NAMED);
        lost
    }

    /// Whether every update came, was conflated, or was told of, and none came wrongly.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.out_of_order == 0 && self.altered == 0
    }
}

/// How an update was booked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Booked {
    Delivered,
    /// New, but of the warm-up.
    WarmUp,
    /// Not newer than what came before, or not subscribed to.
    Not,
}

/// Closed bars among the updates `from..=to` of the subscription `slot` did not come.
#[derive(Debug, Clone, Copy)]
struct Hole {
    slot: usize,
    from: u64,
    to: u64,
}

/// A told gap: the bars from one time to another, ms since the epoch.
#[derive(Debug, Clone, Copy)]
struct Told {
    slot: usize,
    from: i64,
    to: i64,
}

/// The subscriptions of one client and what came on each.
#[derive(Debug)]
pub struct Ledger {
    /// Numbers of the topics, sorted.
    topics: Box<[u32]>,
    /// For each topic the newest `seq` that came.
    last: Box<[u64]>,
    holes: Vec<Hole>,
    told: Vec<Told>,
}

impl Ledger {
    /// `topics` is sorted and without repetitions.
    pub fn new(topics: Vec<u32>) -> Self {
        Self {
            last: vec![0; topics.len()].into(),
            topics: topics.into(),
            holes: Vec::new(),
            told: Vec::new(),
        }
    }

    /// The topics' numbers.
    pub fn topics(&self) -> &[u32] {
        &self.topics
    }

    /// Books an update and says how. Updates up to `after`, the last of the
    /// warm-up, are remembered and not counted. A topic that was not subscribed to is out of order.
    #[inline]
    pub fn update(
        &mut self,
        topic: u32,
        seq: u64,
        after: u64,
        market: &Market,
        counts: &mut Counts,
    ) -> Booked {
        let Ok(slot) = self.topics.binary_search(&topic) else {
            counts.out_of_order += 1;
            return Booked::Not;
        };
        let last = self.last[slot];
        if seq <= last {
            match seq {
                _ if seq <= after => {}
                _ if seq == last => counts.duplicates += 1,
                _ => counts.out_of_order += 1,
            }
            return Booked::Not;
        }
        self.last[slot] = seq;
        if seq <= after {
            return Booked::WarmUp;
        }
        let from = last.max(after) + 1;
        if from < seq {
            self.hole(slot, from, seq - 1, market, counts);
        }
        counts.delivered += 1;
        Booked::Delivered
    }

    #[cold]
    fn hole(&mut self, slot: usize, from: u64, to: u64, market: &Market, counts: &mut Counts) {
        let closed = market.closing(from, to);
        counts.conflated += to - from + 1 - closed;
        if closed > 0 {
            // A gap may be told before or after the next update: judged at the end.
            self.holes.push(Hole { slot, from, to });
        }
    }

    /// Notes that the server told of a gap, from one bar's time to another's, ms since the epoch.
    pub fn gap(&mut self, topic: u32, from: i64, to: Option<i64>, counts: &mut Counts) {
        counts.gap_frames += 1;
        if let Ok(slot) = self.topics.binary_search(&topic) {
            let to = to.unwrap_or(i64::MAX);
            self.told.push(Told { slot, from, to });
        }
    }

    /// Ends the account: `published` is the last `seq` of every topic. Later updates begin a new one.
    pub fn settle(&mut self, published: u64, after: u64, market: &Market, counts: &mut Counts) {
        for hole in std::mem::take(&mut self.holes) {
            for seq in market.closing_seqs(hole.from, hole.to) {
                self.missing(hole.slot, seq, market, counts);
            }
        }
        for slot in 0..self.topics.len() {
            for seq in self.last[slot].max(after) + 1..=published {
                self.missing(slot, seq, market, counts);
            }
            self.last[slot] = self.last[slot].max(published);
        }
        self.told.clear();
    }

    fn missing(&self, slot: usize, seq: u64, market: &Market, counts: &mut Counts) {
        let time = market.time(seq);
        let told = |told: &Told| told.slot == slot && (told.from..=told.to).contains(&time);
        if market.closes(seq) && self.told.iter().any(told) {
            counts.gapped += 1;
        } else {
            counts.lost += 1;
            *counts.lost_by_topic.entry(self.topics[slot]).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::FIRST_BAR_MS;

    /// Bars of four updates: 4, 8, 12 … close.
    const BAR_TICKS: u64 = 4;

    /// What a client of topics 3 and 5 counts when `seqs` come on topic 5 and topic 3 comes whole, up
    /// to `published`, the first `after` of them being the warm-up.
    fn count(seqs: &[u64], gaps: &[(i64, Option<i64>)], after: u64, published: u64) -> Counts {
        let market = Market::new("T", 9, BAR_TICKS, 1).unwrap();
        let mut ledger = Ledger::new(vec![3, 5]);
        let mut counts = Counts::default();
        let mut whole = 0;
        for seq in 1..=published {
            let booked = ledger.update(3, seq, after, &market, &mut counts);
            whole += u64::from(booked == Booked::Delivered);
        }
        for seq in seqs {
            ledger.update(5, *seq, after, &market, &mut counts);
        }
        for (from, to) in gaps {
            let time = |bar: i64| FIRST_BAR_MS + bar * 1_000;
            ledger.gap(5, time(*from), to.map(time), &mut counts);
        }
        ledger.settle(published, after, &market, &mut counts);
        assert_eq!(whole, published - after);
        let all = counts.delivered + counts.conflated + counts.gapped + counts.lost;
        assert_eq!(all, 2 * (published - after), "{counts:?}");
        counts.delivered -= whole;
        counts
    }

    fn expect(delivered: u64, conflated: u64, gapped: u64, lost: u64) -> Counts {
        let mut expected = Counts {
            delivered,
            conflated,
            gapped,
            lost,
            ..Counts::default()
        };
        if lost > 0 {
            expected.lost_by_topic.insert(5, lost);
        }
        expected
    }

    #[test]
    fn everything_in_order_is_delivered() {
        assert_eq!(count(&[1, 2, 3, 4, 5, 6], &[], 0, 6), expect(6, 0, 0, 0));
    }

    #[test]
    fn forming_holes_are_conflation_and_closed_ones_loss() {
        assert_eq!(count(&[1, 3, 4, 8], &[], 0, 8), expect(4, 4, 0, 0));
        assert_eq!(count(&[1, 2, 3, 5, 6, 7, 8], &[], 0, 8), expect(7, 0, 0, 1));
        assert_eq!(count(&[1, 13], &[], 0, 13), expect(2, 8, 0, 3));
    }

    #[test]
    fn told_gaps_are_no_loss() {
        // 4, 8 and 12 close the bars 0, 1 and 2.
        let gaps = |gaps: &[(i64, Option<i64>)]| Counts {
            gap_frames: 0,
            ..count(&[1, 13], gaps, 0, 13)
        };
        assert_eq!(gaps(&[(0, Some(2))]), expect(2, 8, 3, 0));
        assert_eq!(gaps(&[(0, Some(0)), (2, None)]), expect(2, 8, 2, 1));
        assert_eq!(gaps(&[(1, Some(1))]), expect(2, 8, 1, 2));
        assert_eq!(count(&[1], &[(0, Some(0))], 0, 1).gap_frames, 1);
    }

    #[test]
    fn what_never_comes_at_the_end_is_lost() {
        assert_eq!(count(&[1, 2], &[], 0, 6), expect(2, 0, 0, 4));
        assert_eq!(count(&[], &[], 0, 3), expect(0, 0, 0, 3));
    }

    #[test]
    fn duplicates_and_steps_back_are_counted_apart() {
        let counted = count(&[1, 2, 2, 3, 1, 4], &[], 0, 4);
        assert_eq!((counted.duplicates, counted.out_of_order), (1, 1));
        assert!(!counted.is_clean());
        assert_eq!((counted.delivered, counted.lost), (4, 0));
    }

    #[test]
    fn the_warm_up_is_not_counted_but_its_end_is_exact() {
        assert_eq!(count(&[5, 6, 7, 8], &[], 4, 8), expect(4, 0, 0, 0));
        assert_eq!(count(&[2, 2, 1, 5, 6], &[], 4, 6), expect(2, 0, 0, 0));
        // The first two after the warm-up are missed although nothing of the warm-up came.
        assert_eq!(count(&[7], &[], 4, 7), expect(1, 2, 0, 0));
        assert_eq!(count(&[1], &[], 4, 6), expect(0, 0, 0, 2));
    }

    #[test]
    fn an_account_can_be_followed_by_another() {
        let market = Market::new("T", 1, BAR_TICKS, 1).unwrap();
        let mut ledger = Ledger::new(vec![0]);
        let mut counts = Counts::default();
        ledger.settle(6, 0, &market, &mut counts);
        assert_eq!(counts.lost, 6);
        let mut later = Counts::default();
        assert_eq!(
            ledger.update(0, 7, 0, &market, &mut later),
            Booked::Delivered
        );
        ledger.settle(7, 0, &market, &mut later);
        assert_eq!(later.delivered, 1);
        assert!(later.is_clean());
    }

    #[test]
    fn a_topic_of_another_client_is_out_of_order() {
        let market = Market::new("T", 9, BAR_TICKS, 1).unwrap();
        let mut counts = Counts::default();
        let booked = Ledger::new(vec![3]).update(4, 1, 0, &market, &mut counts);
        assert_eq!(booked, Booked::Not);
        assert_eq!(counts.out_of_order, 1);
    }
}
