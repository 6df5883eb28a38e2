//! The one rule for bars that start ahead of the clock.
//!
//! A bar dated years ahead would stay its topic's newest for ever: every later one would be a revision of its
//! past. So each door (gateway, recorder, what publishes and its store) refuses a bar that starts further
//! ahead of this machine's clock than `--max-ahead` allows.

use std::fmt::Display;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::bar::Resolution;
use crate::clock::now_ms;
use crate::health::{Concern, Health};
use crate::limited::Refusals;

/// Label of bars dropped because they start ahead of the clock.
pub const FUTURE: &str = "future";

/// What two machines' clocks, and the time that a bar is on its way, may differ by when nothing else is set.
const DEFAULT: Duration = Duration::from_secs(60);
/// Bars of days, weeks and months may start that much further ahead, in ms: an evening session carries the
/// next day's date.
const DAY_MS: i64 = 86_400_000;
/// How far the wall clock may step back before it is doubted, in ms: less is NTP at work.
const STEP_MS: i64 = 1_000;
/// How long a wall clock that stepped back is not believed. NTP puts a wrong one right within minutes, and
/// meanwhile it must not refuse all that is good.
const DOUBT: Duration = Duration::from_secs(600);
/// Over which time the share of refused bars is looked at.
const WINDOW: Duration = Duration::from_secs(10);
/// Bars refused in a window from which on it is told, if hardly any other came.
const MANY: u64 = 20;
/// Nearly all: so many times as many as were taken.
const NEARLY_ALL: u64 = 9;
/// Rests after which the clock is read anyway: one that was ahead for a while must not leave its bound behind.
const RESTS_A_LOOK: u32 = 64;
/// It is over when nothing of the kind was seen for so long: more than a minute, since a clock that is behind
/// by less than that refuses the beginnings of minutes alone.
const OVER: Duration = Duration::from_secs(90);

/// What to look at, in the log.
const REMEDY: &str = "check both clocks (NTP), and that the time is the start of the bar in ms since the epoch, UTC; \
    --max-ahead off (BARCAST_MAX_AHEAD) takes any, for simulations";

/// How far a bar may start ahead of the clock: `--max-ahead`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxAhead {
    /// In ms; none is no bound.
    ms: Option<i64>,
}

impl MaxAhead {
    /// No bound, as simulations need it.
    pub const OFF: Self = Self { ms: None };

    /// So far and no further.
    pub fn within(time: Duration) -> Self {
        let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Self { ms: Some(ms) }
    }

    /// The shorter one of two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        let ms = self.ms.into_iter().chain(other.ms).min();
        Self { ms }
    }

    /// Whether there is no bound.
    pub fn is_off(self) -> bool {
        self.ms.is_none()
    }

    /// How far ahead of `now` a bar of this resolution may start; none is no bound.
    pub fn of(self, resolution: Resolution) -> Option<i64> {
        let more = if resolution < Resolution::Day {
            0
        } else {
            DAY_MS
        };
        self.ms.map(|ms| ms.saturating_add(more))
    }
}

impl Default for MaxAhead {
    fn default() -> Self {
        Self::within(DEFAULT)
    }
}

/// Whether a bar that starts at `time` is too far ahead of `now`, both in ms since the epoch.
pub fn is_ahead(resolution: Resolution, time: i64, now: i64, max: MaxAhead) -> bool {
    max.of(resolution)
        .is_some_and(|most| time > now.saturating_add(most))
}

/// The rule at one door, with the clock that it goes by.
#[derive(Debug)]
pub struct Ahead {
    max: MaxAhead,
    /// What starts up to here is surely not ahead, ms since the epoch: the clock is read beyond it alone, and
    /// so about once a minute.
    limit: i64,
    clock: Clock,
    rests: u32,
    /// Bars looked at.
    seen: u64,
    share: Option<Share>,
    /// When it was last seen that nearly all are ahead, while that is told.
    told: Option<Instant>,
    health: Health,
}

/// What was refused in a window.
#[derive(Debug)]
struct Share {
    since: Instant,
    /// Bars looked at before.
    before: u64,
    refused: u64,
    /// How far the nearest was ahead, in ms.
    least: i64,
}

/// The wall clock, but for steps back that are not long past.
#[derive(Debug, Default)]
struct Clock {
    last: Option<(i64, Instant)>,
    /// Since when the wall clock is behind what it should be by the time that ran.
    doubted: Option<Instant>,
}

impl Clock {
    fn now(&mut self, wall: i64, at: Instant) -> i64 {
        let should_be = self.last.map_or(wall, |(last, since)| {
            let ran = at.saturating_duration_since(since).as_millis();
            last.saturating_add(i64::try_from(ran).unwrap_or(i64::MAX))
        });
        if wall >= should_be.saturating_sub(STEP_MS) {
            self.doubted = None;
        } else {
            let since = *self.doubted.get_or_insert(at);
            if at.saturating_duration_since(since) < DOUBT {
                self.last = Some((should_be, at));
                return should_be;
            }
            self.doubted = None;
        }
        self.last = Some((wall, at));
        wall
    }
}

impl Default for Ahead {
    fn default() -> Self {
        Self::new(MaxAhead::default())
    }
}

impl Ahead {
    pub fn new(max: MaxAhead) -> Self {
        Self {
            max,
            limit: max.ms.map_or(i64::MAX, |_| i64::MIN),
            clock: Clock::default(),
            rests: 0,
            seen: 0,
            share: None,
            told: None,
            health: Health::default(),
        }
    }

    /// Says there when nearly all bars are ahead.
    #[must_use]
    pub fn telling(self, health: Health) -> Self {
        Self { health, ..self }
    }

    /// Whether a bar is refused. One comparison for nearly all that are not.
    #[inline]
    pub fn refuses(&mut self, resolution: Resolution, time: i64) -> bool {
        self.seen += 1;
        time > self.limit && self.look(resolution, time)
    }

    /// The clock that the rule goes by, ms since the epoch.
    pub fn now(&mut self) -> i64 {
        self.clock.now(now_ms(), Instant::now())
    }

    fn renew(&mut self) -> i64 {
        let now = self.now();
        self.limit = self.max.ms.map_or(i64::MAX, |ms| now.saturating_add(ms));
        now
    }

    #[cold]
    fn look(&mut self, resolution: Resolution, time: i64) -> bool {
        let now = self.renew();
        is_ahead(resolution, time, now, self.max)
    }

    /// Says that a bar of this channel and time was refused, or a row that was read `at` a place: in the log, and
    /// in health if nearly all are.
    #[cold]
    pub fn refused(
        &mut self,
        channel: impl Display,
        at: Option<&str>,
        time: i64,
        log: &mut Refusals,
    ) {
        let now = self.now();
        let ahead_s = time.saturating_sub(now) / 1_000;
        let channel = log.name(&channel.to_string());
        log.say(&channel, FUTURE, |left_out| {
            tracing::warn!(
                channel,
                at,
                time = shown(time),
                clock = shown(now),
                ahead_s,
                left_out,
                remedy = REMEDY,
                "dropped: its time is ahead of this machine's clock"
            );
        });
        self.count(time.saturating_sub(now), Instant::now());
    }

    fn count(&mut self, ahead: i64, at: Instant) {
        let before = self.seen.saturating_sub(1);
        let is_new = |share: &Share| at.saturating_duration_since(share.since) >= WINDOW;
        if self.share.as_ref().is_none_or(is_new) {
            self.share = Some(Share {
                since: at,
                before,
                refused: 0,
                least: i64::MAX,
            });
        }
        let Some(share) = &mut self.share else { return };
        share.refused += 1;
        share.least = share.least.min(ahead);
        let taken = (self.seen - share.before).saturating_sub(share.refused);
        if share.refused < MANY || share.refused < taken.saturating_mul(NEARLY_ALL) {
            return;
        }
        self.told = Some(at);
        let seconds = share.least / 1_000;
        self.health.warn(
            Concern::Clock,
            format!(
                "all bars are ahead of this machine's clock, by {seconds} s at least, and dropped: is this clock \
                 right (NTP)? If it is, the producers' clocks or units of time are not; see --max-ahead"
            ),
        );
    }

    /// To be called now and then: the clock may have stepped back, and what was told be over.
    pub fn rest(&mut self) {
        self.rests = self.rests.wrapping_add(1);
        if self.rests.is_multiple_of(RESTS_A_LOOK) {
            self.renew();
        }
        if self.told.is_some_and(|told| told.elapsed() >= OVER) {
            self.told = None;
            self.health.clear(Concern::Clock);
        }
    }
}

/// A time for people, as ISO 8601.
pub fn shown(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_steps_back_is_not_believed_at_once() {
        let mut clock = Clock::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        // Seconds that ran, the wall clock then, and what counts.
        for (seconds, wall, expected) in [
            (0, 1_000_000, 1_000_000),
            (10, 1_010_000, 1_010_000),
            // Within what NTP does.
            (20, 1_019_500, 1_019_500),
            // An hour back, and for a while time goes on all the same.
            (30, -2_570_000, 1_029_500),
            (600, -2_000_000, 1_599_500),
            // It was put right.
            (610, 1_610_000, 1_610_000),
            // It is believed in the end.
            (620, 0, 1_620_000),
            (1_219, 599_000, 2_219_000),
            (1_220, 600_000, 600_000),
            (1_230, 610_000, 610_000),
            // Forward at once, as after a machine's sleep.
            (1_231, 9_000_000, 9_000_000),
        ] {
            assert_eq!(clock.now(wall, after(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn the_clock_is_read_only_for_what_may_be_ahead() {
        let mut ahead = Ahead::default();
        let now = now_ms();
        assert!(!ahead.refuses(Resolution::M1, now));
        let limit = ahead.limit;
        assert!((now + 60_000..now + 70_000).contains(&limit));
        assert!(!ahead.refuses(Resolution::M1, limit));
        assert_eq!(ahead.limit, limit, "not read again");
        assert!(!ahead.refuses(Resolution::Day, now + DAY_MS));
        assert!(ahead.limit >= limit);
        // Also when the clock was a day ahead for a moment, and nothing came to look at it for.
        ahead.limit = now + DAY_MS;
        (0..RESTS_A_LOOK).for_each(|_| ahead.rest());
        assert!((now + 60_000..now + 70_000).contains(&ahead.limit));
        let mut off = Ahead::new(MaxAhead::OFF);
        (0..RESTS_A_LOOK).for_each(|_| off.rest());
        assert!(!off.refuses(Resolution::M1, i64::MAX));
    }

    #[test]
    fn what_is_over_is_not_told_any_more() {
        let health = Health::default();
        let mut ahead = Ahead::default().telling(health.clone());
        let mut log = Refusals::default();
        let future = now_ms() + 3_600_000;
        for _ in 0..MANY {
            assert!(ahead.refuses(Resolution::M1, future));
            ahead.refused("bars:A:1", None, future, &mut log);
        }
        assert!(health.is_ready() && health.status().contains("clock, by 3"));
        ahead.rest();
        assert_ne!(health.status(), "ok");
        ahead.told = Instant::now().checked_sub(OVER);
        ahead.rest();
        assert_eq!(health.status(), "ok");
    }
}
