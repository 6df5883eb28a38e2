//! Which bars of a source are replayed.

use crate::bar::{Bar, Pattern, Resolution, Topic};

/// All bars, or those of some topics, or of some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// None stands for all.
    pub topics: Vec<Pattern>,
    /// Bars that start then or later, ms since the epoch.
    pub from: Option<i64>,
    /// Bars that start before, ms since the epoch.
    pub to: Option<i64>,
}

impl Wanted {
    pub fn includes(&self, topic: &Topic, bar: &Bar) -> bool {
        self.overlaps(bar.time(), bar.time())
            && (self.topics.is_empty() || self.topics.iter().any(|wanted| wanted.matches(topic)))
    }

    /// Whether a time from `first` to `last`, ms since the epoch, is wanted in part.
    pub fn overlaps(&self, first: i64, last: i64) -> bool {
        self.from.is_none_or(|from| last >= from) && self.to.is_none_or(|to| first < to)
    }

    /// The coarsest resolution that can come, if the topics tell.
    pub fn coarsest(&self) -> Option<Resolution> {
        let resolutions = self.topics.iter().map(|topic| topic.resolution);
        let told: Option<Vec<_>> = resolutions.collect();
        told?.into_iter().max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::Number;

    #[test]
    fn topics_and_times_are_chosen() {
        let topic: Topic = "bars:A:1".parse().unwrap();
        let one = [Number::Unsigned(1); 5];
        let bar = Bar::new(topic.resolution, 60_000, one, true).unwrap();
        let wanted = |topics: &[&str], from, to| {
            let topics = topics.iter().map(|topic| topic.parse().unwrap()).collect();
            Wanted { topics, from, to }
        };
        let cases = [
            (wanted(&[], None, None), true, None),
            (wanted(&["bars:A:*"], None, None), true, None),
            (
                wanted(&["bars:B:D", "bars:*:1"], None, None),
                true,
                Some(Resolution::Day),
            ),
            (
                wanted(&["bars:B:1"], None, None),
                false,
                Some(Resolution::M1),
            ),
            (wanted(&[], Some(60_000), Some(60_001)), true, None),
            (wanted(&[], Some(60_001), None), false, None),
            (wanted(&[], None, Some(60_000)), false, None),
        ];
        for (wanted, includes, coarsest) in cases {
            assert_eq!(wanted.includes(&topic, &bar), includes, "{wanted:?}");
            assert_eq!(wanted.coarsest(), coarsest, "{wanted:?}");
        }
    }
}
