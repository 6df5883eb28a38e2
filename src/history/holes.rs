//! What a history is not known to have: stretches of time in which bars may have been missed.

use crate::bar::Resolution;

/// Holes remembered of one topic, 16 bytes each. Beyond them the two that lie closest become one: told
/// coarser, never less.
const MAX_HOLES: usize = 32;

/// Stretches beside them that the next message may prove. Mostly there is one, from the newest bar on.
const MAX_DOUBTED: usize = 4;

/// Bars from the one that starts at `from` to the one that starts at `to` may be missing, ms since the
/// epoch: what a `bars.gap` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    pub from: i64,
    pub to: i64,
}

impl Hole {
    /// Both, and what is between them.
    pub fn with(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        }
    }
}

/// Bars that start at `from` or later and before `until` are not proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    from: i64,
    until: i64,
}

/// Stretches of time, sorted, none touching another, none empty.
#[derive(Debug, Default, Clone)]
struct Stretches(Vec<Stretch>);

impl Stretches {
    /// Adds the times from `from` on and before `until`; of more than `most` stretches the closest become one.
    fn add(&mut self, from: i64, until: i64, most: usize) {
        if from >= until {
            return;
        }
        let start = self.0.partition_point(|one| one.until < from);
        let end = self.0.partition_point(|one| one.from <= until);
        let joined = self.0[start..end].iter();
        let all = joined.fold(Stretch { from, until }, |all, one| Stretch {
            from: all.from.min(one.from),
            until: all.until.max(one.until),
        });
        self.0.splice(start..end, [all]);
        self.bound(most);
    }

    /// Takes the times from `from` on and before `until` out.
    fn take(&mut self, from: i64, until: i64, most: usize) {
        let start = self.0.partition_point(|one| one.until <= from);
        let end = self.0.partition_point(|one| one.from < until);
        if from >= until || start >= end {
            return;
        }
        let before = Stretch {
            from: self.0[start].from,
            until: from,
        };
        let after = Stretch {
            from: until,
            until: self.0[end - 1].until,
        };
        let left = [before, after].into_iter();
        self.0
            .splice(start..end, left.filter(|one| one.from < one.until));
        self.bound(most);
    }

    fn bound(&mut self, most: usize) {
        while self.0.len() > most {
            let distances = self.0.windows(2).map(|two| two[1].from - two[0].until);
            let closest = distances.enumerate().min_by_key(|(_, distance)| *distance);
            let Some((at, _)) = closest else { return };
            self.0[at].until = self.0[at + 1].until;
            self.0.remove(at + 1);
        }
    }
}

/// The unproven stretches of one topic.
#[derive(Debug, Default)]
pub struct Holes {
    /// Those that only their bars prove.
    noted: Stretches,
    /// Those that are unproven for want of a message only: if the next one in the order of `seq` comes
    /// after all, nothing was missed. Apart from the others, which may lie where these do.
    doubted: Stretches,
    /// What was told later than bars that came after it: who left between them does not know.
    late: Option<Late>,
}

/// Holes from this time on were told when the newest bar was that of `at`.
#[derive(Debug, Clone, Copy)]
pub struct Late {
    pub from: i64,
    pub at: i64,
}

impl Late {
    /// What covers both.
    pub fn both(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(Self {
                from: one.from.min(other.from),
                at: one.at.max(other.at),
            }),
            _ => one.or(other),
        }
    }

    /// From when on holes may be unknown to whoever has all that was sent up to the bar of `time`.
    pub fn untold_from(self, time: i64) -> Option<i64> {
        (self.at >= time).then_some(self.from.min(time))
    }
}

impl Holes {
    /// Whether everything is proven.
    pub fn is_empty(&self) -> bool {
        self.noted.0.is_empty() && self.doubted.0.is_empty()
    }

    /// Nothing is proven from `from` on and before `until`.
    pub fn note(&mut self, from: i64, until: i64) {
        self.noted.add(from, until, MAX_HOLES);
    }

    /// All is proven from `from` on and before `until`.
    pub fn prove(&mut self, from: i64, until: i64) {
        self.noted.take(from, until, MAX_HOLES);
        self.doubted.take(from, until, MAX_DOUBTED);
    }

    /// Notes a stretch that the next message in order will prove.
    pub fn doubt(&mut self, from: i64, until: i64) {
        self.doubted.add(from, until, MAX_DOUBTED);
    }

    /// The next message in order has come: what was only doubted is proven.
    pub fn trust(&mut self) {
        self.doubted.0.clear();
    }

    /// Another order counts from now on: no later message proves what lies before `time`, and none
    /// anything if there is no time.
    pub fn trust_only_from(&mut self, time: Option<i64>) {
        let time = time.unwrap_or(i64::MAX);
        for Stretch { from, until } in self.doubted.0.clone() {
            self.note(from, until.min(time));
        }
        self.doubted.take(i64::MIN, time, MAX_DOUBTED);
    }

    /// What lies behind `from` was told only when the newest bar was that of `at`.
    pub fn told_late(&mut self, from: i64, at: i64) {
        self.late = Late::both(self.late, Some(Late { from, at }));
    }

    /// From when on holes may be unknown to whoever has all that was sent up to the bar of `time`.
    pub fn untold_from(&self, time: i64) -> i64 {
        let late = self.late.and_then(|late| late.untold_from(time));
        late.unwrap_or(time)
    }

    /// Forgets what lies before `first`: there nothing is kept. If that is something, returns what was told
    /// late.
    pub fn forget_before(&mut self, first: i64) -> Option<Late> {
        let firsts = [self.noted.0.first(), self.doubted.0.first()];
        let goes = firsts.into_iter().flatten().any(|one| one.from < first);
        self.prove(i64::MIN, first);
        self.late.filter(|_| goes)
    }

    /// All that is unproven, noted or doubted: from when on, and before when.
    pub fn stretches(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let mut all = self.noted.clone();
        for one in &self.doubted.0 {
            all.add(one.from, one.until, MAX_HOLES);
        }
        all.0.into_iter().map(|one| (one.from, one.until))
    }

    /// What is unproven of the bars that start at `from` or later and before `until`, on the grid of
    /// `resolution`. If a bar is known where the stretch ends, the hole ends there, too, as it is told live.
    pub fn between(
        &self,
        resolution: Resolution,
        from: i64,
        until: i64,
    ) -> impl Iterator<Item = Hole> {
        let all = self.stretches();
        let all = all.filter(move |(first, end)| *end > from && *first < until);
        all.map(move |(first, end)| Hole {
            from: first.max(from),
            to: resolution.floor(if end <= until { end } else { until - 1 }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holes(stretches: &[(i64, i64)]) -> Holes {
        let mut holes = Holes::default();
        for (from, until) in stretches {
            holes.note(*from, *until);
        }
        holes
    }

    fn stretches(holes: &Holes) -> Vec<(i64, i64)> {
        let all = holes.noted.0.iter().chain(&holes.doubted.0);
        all.map(|one| (one.from, one.until)).collect()
    }

    #[test]
    fn stretches_that_touch_are_one() {
        assert_eq!(stretches(&holes(&[(5, 9), (1, 3)])), [(1, 3), (5, 9)]);
        assert_eq!(stretches(&holes(&[(5, 9), (1, 5)])), [(1, 9)]);
        assert_eq!(stretches(&holes(&[(1, 5), (5, 9)])), [(1, 9)]);
        assert_eq!(stretches(&holes(&[(1, 3), (5, 7), (2, 6)])), [(1, 7)]);
        assert!(holes(&[(3, 3), (4, 2)]).is_empty());
    }

    #[test]
    fn a_proof_takes_away_or_splits() {
        let proven = |from, until| {
            let mut holes = holes(&[(1, 5), (7, 9)]);
            holes.prove(from, until);
            stretches(&holes)
        };
        assert_eq!(proven(2, 3), [(1, 2), (3, 5), (7, 9)]);
        assert_eq!(proven(1, 2), [(2, 5), (7, 9)]);
        assert_eq!(proven(4, 8), [(1, 4), (8, 9)]);
        assert_eq!(proven(5, 7), [(1, 5), (7, 9)]);
        assert_eq!(proven(0, 9), []);
        assert_eq!(proven(0, 8), [(8, 9)]);
    }

    #[test]
    fn only_a_doubt_is_cleared_by_the_next_in_order() {
        let mut holes = holes(&[(1, 3)]);
        holes.doubt(3, 9);
        holes.doubt(4, 12);
        holes.trust();
        assert_eq!(stretches(&holes), [(1, 3)]);
        holes.trust();
        assert_eq!(stretches(&holes), [(1, 3)]);
        holes.doubt(5, 9);
        holes.trust_only_from(Some(7));
        holes.trust();
        assert_eq!(stretches(&holes), [(1, 3), (5, 7)]);
        holes.doubt(5, 9);
        holes.trust_only_from(None);
        holes.trust();
        assert_eq!(stretches(&holes), [(1, 3), (5, 9)]);
    }

    #[test]
    fn what_was_missed_for_certain_stays_whatever_is_doubted_there() {
        let mut holes = holes(&[(5, 9)]);
        holes.doubt(5, 12);
        let told = |holes: &Holes| {
            let told = holes.between(Resolution::S1, 0, i64::MAX);
            told.map(|hole| hole.from).collect::<Vec<_>>()
        };
        assert_eq!(told(&holes), [5], "one stretch, as far as it is told");
        holes.trust();
        assert_eq!(stretches(&holes), [(5, 9)]);
        holes.doubt(6, 12);
        holes.prove(0, 20);
        assert!(holes.is_empty());
    }

    #[test]
    fn what_is_told_lies_on_the_grid_and_within_what_is_asked_for() {
        // To a bar that is known, and to one that is not.
        let holes = holes(&[(1_000, 4_000), (6_000, 8_001)]);
        let told = |from, until| {
            let told = holes.between(Resolution::S1, from, until);
            told.map(|hole| (hole.from, hole.to)).collect::<Vec<_>>()
        };
        assert_eq!(told(0, i64::MAX), [(1_000, 4_000), (6_000, 8_000)]);
        assert_eq!(told(3_000, 6_000), [(3_000, 4_000)]);
        assert_eq!(told(0, 3_000), [(1_000, 2_000)]);
        assert_eq!(told(0, 4_000), [(1_000, 4_000)]);
        assert_eq!(told(4_000, 6_001), [(6_000, 6_000)]);
        assert_eq!(told(8_001, i64::MAX), []);
        assert_eq!(told(9_000, 1_000), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn never_less_than_what_is_unproven_and_exactly_that_while_there_is_room(
            steps in prop::collection::vec((any::<bool>(), 0_i64..300, 0_i64..12), 1..200),
        ) {
            let mut holes = Holes::default();
            let mut truth = std::collections::BTreeSet::new();
            let mut was_full = false;
            for (is_hole, from, length) in steps {
                if is_hole {
                    holes.note(from, from + length);
                    truth.extend(from..from + length);
                } else {
                    holes.prove(from, from + length);
                    truth.retain(|time| !(from..from + length).contains(time));
                }
                let most = MAX_HOLES;
                let stretches = &holes.noted.0;
                was_full |= stretches.len() == most;
                prop_assert!(stretches.len() <= most);
                prop_assert!(stretches.iter().all(|one| one.from < one.until));
                prop_assert!(stretches.is_sorted_by(|a, b| a.until < b.from));
                let kept = |time: &i64| stretches.iter().any(|one| (one.from..one.until).contains(time));
                prop_assert!(truth.iter().all(kept));
                if !was_full {
                    prop_assert_eq!((0..320).filter(kept).count(), truth.len());
                }
            }
        }
    }
}
