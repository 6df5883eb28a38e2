//! What a history is not known to have: stretches of time in which bars may have been missed.

use crate::bar::Resolution;

/// Holes remembered of one topic, 16 bytes each. Beyond them the two that lie closest become one: told
/// coarser, never less.
const MAX_HOLES: usize = 32;

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

/// The unproven stretches of one topic, sorted, none touching another, none empty.
#[derive(Debug, Default)]
pub struct Holes {
    stretches: Vec<Stretch>,
    /// What is unproven from this time on is so for want of a message only: if the next one in the order
    /// of `seq` comes after all, nothing was missed.
    doubted_from: Option<i64>,
    /// What was told later than bars that came after it: who left between them does not know.
    late: Option<Late>,
}

/// Holes from this time on were told when the newest bar was that of `at`.
#[derive(Debug, Clone, Copy)]
struct Late {
    from: i64,
    at: i64,
}

impl Holes {
    /// Whether everything is proven.
    pub fn is_empty(&self) -> bool {
        self.stretches.is_empty()
    }

    /// Nothing is proven from `from` on and before `until`.
    pub fn note(&mut self, from: i64, until: i64) {
        if from >= until {
            return;
        }
        let start = self.stretches.partition_point(|one| one.until < from);
        let end = self.stretches.partition_point(|one| one.from <= until);
        let joined = self.stretches[start..end].iter();
        let all = joined.fold(Stretch { from, until }, |all, one| Stretch {
            from: all.from.min(one.from),
            until: all.until.max(one.until),
        });
        self.stretches.splice(start..end, [all]);
        self.bound();
    }

    /// All is proven from `from` on and before `until`.
    pub fn prove(&mut self, from: i64, until: i64) {
        if from >= until {
            return;
        }
        let start = self.stretches.partition_point(|one| one.until <= from);
        let end = self.stretches.partition_point(|one| one.from < until);
        if start >= end {
            return;
        }
        let before = Stretch {
            from: self.stretches[start].from,
            until: from,
        };
        let after = Stretch {
            from: until,
            until: self.stretches[end - 1].until,
        };
        let left = [before, after].into_iter();
        self.stretches
            .splice(start..end, left.filter(|one| one.from < one.until));
        self.bound();
    }

    /// Notes a stretch that the next message in order will prove.
    pub fn doubt(&mut self, from: i64, until: i64) {
        self.note(from, until);
        self.doubted_from = Some(self.doubted_from.map_or(from, |doubted| doubted.min(from)));
    }

    /// The next message in order has come: what was only doubted is proven.
    pub fn trust(&mut self) {
        if let Some(from) = self.doubted_from.take() {
            self.prove(from, i64::MAX);
        }
    }

    /// Another order counts from now on: no later message proves what lies before `time`, and none
    /// anything if there is no time.
    pub fn trust_only_from(&mut self, time: Option<i64>) {
        self.doubted_from = self
            .doubted_from
            .and_then(|doubted| time.map(|time| doubted.max(time)));
    }

    /// What lies behind `from` was told only when the newest bar was that of `at`.
    pub fn told_late(&mut self, from: i64, at: i64) {
        let before = self.late.unwrap_or(Late { from, at });
        self.late = Some(Late {
            from: before.from.min(from),
            at: before.at.max(at),
        });
    }

    /// From when on holes may be unknown to whoever has all that was sent up to the bar of `time`.
    pub fn untold_from(&self, time: i64) -> i64 {
        let late = self.late.filter(|late| late.at >= time);
        late.map_or(time, |late| late.from.min(time))
    }

    /// Forgets what lies before `first`: there nothing is kept.
    pub fn forget_before(&mut self, first: i64) {
        self.prove(i64::MIN, first);
    }

    /// What is unproven of the bars that start at `from` or later and before `until`, on the grid of
    /// `resolution`. If a bar is known where the stretch ends, the hole ends there, too, as it is told live.
    pub fn between(
        &self,
        resolution: Resolution,
        from: i64,
        until: i64,
    ) -> impl Iterator<Item = Hole> {
        let start = self.stretches.partition_point(|one| one.until <= from);
        let end = self.stretches.partition_point(|one| one.from < until);
        let some = self.stretches[start.min(end)..end].iter();
        some.map(move |one| Hole {
            from: one.from.max(from),
            to: resolution.floor(if one.until <= until {
                one.until
            } else {
                until - 1
            }),
        })
    }

    fn bound(&mut self) {
        while self.stretches.len() > MAX_HOLES {
            let distances = self
                .stretches
                .windows(2)
                .map(|two| two[1].from - two[0].until);
            let closest = distances.enumerate().min_by_key(|(_, distance)| *distance);
            let Some((at, _)) = closest else { return };
            self.stretches[at].until = self.stretches[at + 1].until;
            self.stretches.remove(at + 1);
        }
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
        let all = holes.stretches.iter();
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
                was_full |= holes.stretches.len() == MAX_HOLES;
                prop_assert!(holes.stretches.len() <= MAX_HOLES);
                prop_assert!(holes.stretches.iter().all(|one| one.from < one.until));
                prop_assert!(holes.stretches.is_sorted_by(|a, b| a.until < b.from));
                let kept = |time: &i64| holes.stretches.iter().any(|one| (one.from..one.until).contains(time));
                prop_assert!(truth.iter().all(kept));
                if !was_full {
                    prop_assert_eq!((0..320).filter(kept).count(), truth.len());
                }
            }
        }
    }
}
