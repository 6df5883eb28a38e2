//! Bars of the past with times of now, all by the same shift.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::{Pace, ReplayError, Speed};
use crate::bar::{Bar, Resolution, Topic};
use crate::clock::now_ms;

/// From the first to the last of some bars, or trades.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub coarsest: Resolution,
    /// When the first and the last one start.
    first: i64,
    last: i64,
    /// When the last one to end does.
    end: i64,
}

impl Extent {
    /// Of one bar.
    pub fn of_bar(resolution: Resolution, time: i64) -> Self {
        Self {
            coarsest: resolution,
            first: time,
            last: time,
            end: resolution.next(time),
        }
    }

    /// Of one trade, which takes no time. Its shift is whole minutes: the bars of a minute and below hold the
    /// same trades as they did.
    pub fn of_trade(time: i64) -> Self {
        Self {
            coarsest: Resolution::M1,
            first: time,
            last: time,
            end: time,
        }
    }

    pub fn with(self, other: Self) -> Self {
        Self {
            coarsest: self.coarsest.max(other.coarsest),
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            end: self.end.max(other.end),
        }
    }

    /// Of all of them.
    pub fn add(all: &mut Option<Self>, one: Self) {
        *all = Some(all.map_or(one, |all| all.with(one)));
    }

    /// How long a replay of it takes.
    fn played(&self, speed: Speed) -> Duration {
        let (mut pace, start) = (Pace::new(speed), Instant::now());
        pace.due(self.first, start);
        pace.due(self.last, start) - start
    }
}

/// A file is read twice, to know its end before it begins.
///
/// # Errors
/// When that cannot be.
pub(super) fn can_be_read_twice(file: &Path) -> Result<(), String> {
    match file.metadata() {
        Ok(data) if !data.is_file() => Err(format!(
            "{}: --rebase (BARCAST_REPLAY_REBASE) with --speed above 1x reads each file twice, so that its last bar \
             ends now: allowed: files, no pipes; or --speed 1x",
            file.display()
        )),
        // That it is not there is said when it is opened.
        _ => Ok(()),
    }
}

/// Gives bars times of now.
pub(super) struct Rebase {
    /// The coarsest resolution: a multiple of its length keeps every bar on its grid.
    step: Option<Resolution>,
    /// When the last bar ends less the time until it is played: that becomes now. Without it the first bar
    /// decides.
    end: Option<i64>,
    shift: Option<i64>,
}

impl Rebase {
    /// `extent` is needed where bars go out faster than they happened: from the first one on they would run
    /// ahead of the clock.
    ///
    /// # Errors
    /// When months are among the bars: they have no length that a shift could be a multiple of.
    pub fn new(
        step: Option<Resolution>,
        extent: Option<Extent>,
        speed: Speed,
    ) -> Result<Self, ReplayError> {
        if step == Some(Resolution::Month) {
            return Err(ReplayError::Files(
                "--rebase: allowed with resolutions up to W: months differ in length".to_owned(),
            ));
        }
        let end = extent.map(|extent| {
            let played = i64::try_from(extent.played(speed).as_millis());
            extent.end.saturating_sub(played.unwrap_or(i64::MAX))
        });
        Ok(Self {
            step,
            end,
            shift: None,
        })
    }

    /// The shift of all, in ms; `first` becomes now unless the end does.
    pub fn shift(&mut self, first: impl FnOnce(i64) -> i64) -> i64 {
        let Some(step) = self.step else { return 0 };
        let (length, end) = (step.nominal_ms(), self.end);
        *self.shift.get_or_insert_with(|| {
            let now = now_ms();
            let room = end.map_or_else(|| first(now), |end| now.saturating_sub(end));
            room.div_euclid(length) * length
        })
    }

    /// Unless the end decides, the first bar becomes the last whole interval before now. The others follow.
    pub fn apply(&mut self, topic: Topic, bar: Bar) -> Bar {
        if self.step.is_none() {
            return bar;
        }
        let shift = self.shift(|now| topic.resolution.previous(now) - bar.time());
        let time = bar.time().saturating_add(shift);
        // Beyond the year 9999 there is nothing to rebase to.
        bar.at(topic.resolution, time).unwrap_or(bar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(topic: Topic, time: i64) -> Bar {
        let one = crate::bar::Number::Unsigned(1);
        Bar::new(topic.resolution, time, [one; 5], true).unwrap()
    }

    fn by_first(step: Resolution) -> Rebase {
        Rebase::new(Some(step), None, Speed::Times(1.0)).unwrap()
    }

    #[test]
    fn rebased_bars_keep_their_distances_and_their_grid() {
        let minutes: Topic = "bars:A:1".parse().unwrap();
        let days: Topic = "bars:A:D".parse().unwrap();
        let mut rebase = by_first(Resolution::M1);
        let first = rebase.apply(minutes, bar(minutes, 60_000)).time();
        assert!((0..180_000).contains(&(now_ms() - first)));
        assert_eq!(
            rebase.apply(minutes, bar(minutes, 600_000)).time(),
            first + 540_000
        );
        // A recorded day stays a day: minutes keep their time of day.
        let mut rebase = by_first(Resolution::Day);
        let first = rebase.apply(days, bar(days, 0)).time();
        assert!((86_400_000..3 * 86_400_000).contains(&(now_ms() - first)));
        assert_eq!(
            rebase.apply(minutes, bar(minutes, 60_000)).time(),
            first + 60_000
        );
        // Also when a minute comes first.
        let mut rebase = by_first(Resolution::Day);
        let first = rebase.apply(minutes, bar(minutes, 60_000)).time();
        assert_eq!(first.rem_euclid(86_400_000), 60_000);
        assert!((0..2 * 86_400_000).contains(&(now_ms() - first)));
        let mut none = Rebase::new(None, None, Speed::Max).unwrap();
        assert_eq!(none.apply(days, bar(days, 0)).time(), 0);
        assert!(Rebase::new(Some(Resolution::Month), None, Speed::Max).is_err());
    }

    #[test]
    fn what_is_played_faster_ends_when_it_is_played() {
        let minutes: Topic = "bars:A:1".parse().unwrap();
        let hour = 3_600_000;
        let mut extent = None;
        for time in [0, hour, 60_000] {
            Extent::add(&mut extent, Extent::of_bar(Resolution::M1, time));
        }
        for (speed, played) in [
            (Speed::Max, 0),
            (Speed::Times(60.0), hour / 60),
            (Speed::Times(2.0), hour / 2),
        ] {
            let mut rebase = Rebase::new(Some(Resolution::M1), extent, speed).unwrap();
            let now = now_ms();
            let first = rebase.apply(minutes, bar(minutes, 0)).time();
            let last = rebase.apply(minutes, bar(minutes, hour)).time();
            assert_eq!(last - first, hour);
            let left = now + played - (last + 60_000);
            assert!((-1_000..61_000).contains(&left), "{speed}: {left}");
            assert!(first + 60_000 <= now_ms(), "{speed}: ends ahead");
        }
    }
}
