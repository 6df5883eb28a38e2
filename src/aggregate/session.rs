//! Which trades make a day: an exchange's session in its own time zone.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::bar::Resolution;

const MINUTES_PER_DAY: i16 = 1_440;
/// Longest search for the next session, in days: a session has a weekday, so it comes within a week.
const SEARCH_DAYS: usize = 9;

/// A daily session. Its days are named by the date on which it closes, so that the one from Sunday
/// evening to Monday evening is Monday's.
///
/// As text: `America/New_York 09:30-16:00 Mon-Fri`; the weekdays may be left out. It may run over
/// midnight (`17:00-17:00`).
#[derive(Clone, PartialEq)]
pub struct Session {
    zone: TimeZone,
    /// Minutes from the date's midnight: below zero when it opens the day before.
    open: i16,
    /// Minutes from the date's midnight, above `open`.
    close: i16,
    /// By weekday from Monday on.
    days: [bool; 7],
    text: String,
    /// The session asked for last: trades come in order, so it is nearly always the next one too.
    found: Option<Found>,
}

/// One session with what lies between it and the one before.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Found {
    /// When the session before closed: from then on this is the next one.
    after: i64,
    open: i64,
    close: i64,
    /// The date at 00:00 UTC.
    day: i64,
}

impl Session {
    /// The day (00:00 UTC of its date, ms) whose session holds `time`.
    pub fn day_of(&mut self, time: i64) -> Option<i64> {
        let found = self.find(time)?;
        (found.open <= time).then_some(found.day)
    }

    /// The day whose session holds `time`, or the next one to come.
    pub fn day_from(&mut self, time: i64) -> i64 {
        self.find(time)
            .map_or_else(|| Resolution::Day.floor(time), |found| found.day)
    }

    /// When the session of a day opens and closes, ms.
    pub fn hours(&self, day: i64) -> (i64, i64) {
        let hours = date(day).and_then(|date| self.bounds(date));
        hours.unwrap_or((day, Resolution::Day.next(day)))
    }

    /// The coarsest resolution whose bars lie wholly within or without: time zones' offsets are
    /// multiples of 15 minutes (since 1972, in the IANA database).
    pub fn grid(&self) -> Resolution {
        let fits = |minutes: i16| self.open % minutes == 0 && self.close % minutes == 0;
        match () {
            () if fits(15) => Resolution::M15,
            () if fits(5) => Resolution::M5,
            () => Resolution::M1,
        }
    }

    fn find(&mut self, time: i64) -> Option<Found> {
        if let Some(found) = self.found.filter(|f| (f.after..f.close).contains(&time)) {
            return Some(found);
        }
        let local = Timestamp::from_millisecond(time).ok()?;
        let mut date = self.zone.to_datetime(local).date();
        let mut after = time;
        for _ in 0..SEARCH_DAYS {
            if let Some((_, close)) = self.bounds(date).filter(|_| self.is_held(date))
                && close <= time
            {
                after = close;
                break;
            }
            date = date.yesterday().ok()?;
        }
        for _ in 0..2 * SEARCH_DAYS {
            date = date.tomorrow().ok()?;
            let (open, close) = self.bounds(date)?;
            if self.is_held(date) && close > time {
                let day = midnight(date)?;
                self.found = Some(Found {
                    after,
                    open,
                    close,
                    day,
                });
                return self.found;
            }
        }
        None
    }

    fn is_held(&self, date: Date) -> bool {
        let day = date.weekday().to_monday_zero_offset();
        usize::try_from(day).is_ok_and(|day| self.days[day])
    }

    fn bounds(&self, date: Date) -> Option<(i64, i64)> {
        let at = |minutes: i16| {
            let local = date
                .at(0, 0, 0, 0)
                .checked_add(i64::from(minutes).minutes())
                .ok()?;
            // A local time that a change of clocks skips or repeats is taken as RFC 5545 takes it.
            Some(self.zone.to_timestamp(local).ok()?.as_millisecond())
        };
        Some((at(self.open)?, at(self.close)?))
    }
}

fn date(day: i64) -> Option<Date> {
    let timestamp = Timestamp::from_millisecond(day).ok()?;
    Some(TimeZone::UTC.to_datetime(timestamp).date())
}

fn midnight(date: Date) -> Option<i64> {
    let midnight = TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
    Some(midnight.as_millisecond())
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({self})")
    }
}

impl FromStr for Session {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed =
            "allowed: ZONE HH:MM-HH:MM [DAY-DAY], as America/New_York 09:30-16:00 Mon-Fri";
        let words: Vec<&str> = text.split_whitespace().collect();
        let (zone, hours, days) = match words[..] {
            [zone, hours] => (zone, hours, "Mon-Sun"),
            [zone, hours, days] => (zone, hours, days),
            _ => return Err(allowed.to_owned()),
        };
        let zone =
            TimeZone::get(zone).map_err(|_| format!("{zone:?} is no IANA time zone; {allowed}"))?;
        let (open, close) = hours
            .split_once('-')
            .and_then(|(open, close)| Some((minutes(open)?, minutes(close)?)))
            .filter(|(open, _)| *open < MINUTES_PER_DAY)
            .ok_or_else(|| format!("{hours:?} are no hours of a day; {allowed}"))?;
        let days = weekdays(days).ok_or_else(|| format!("{days:?} are no weekdays; {allowed}"))?;
        Ok(Self {
            zone,
            open: if open < close {
                open
            } else {
                open - MINUTES_PER_DAY
            },
            close,
            days,
            text: words.join(" "),
            found: None,
        })
    }
}

/// Minutes from midnight, up to 24:00.
fn minutes(text: &str) -> Option<i16> {
    let (hours, minutes) = text.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes): (i16, i16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let all = hours * 60 + minutes;
    ((0..60).contains(&minutes) && (0..=MINUTES_PER_DAY).contains(&all)).then_some(all)
}

/// One weekday or a span of them, over the weekend too.
fn weekdays(text: &str) -> Option<[bool; 7]> {
    const NAMES: [(&str, Weekday); 7] = [
        ("Mon", Weekday::Monday),
        ("Tue", Weekday::Tuesday),
        ("Wed", Weekday::Wednesday),
        ("Thu", Weekday::Thursday),
        ("Fri", Weekday::Friday),
        ("Sat", Weekday::Saturday),
        ("Sun", Weekday::Sunday),
    ];
    let named = |name: &str| NAMES.iter().position(|(other, _)| *other == name);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (named(first)?, named(last)?);
    let mut days = [false; 7];
    let mut day = first;
    loop {
        days[day] = true;
        if day == last {
            return Some(days);
        }
        day = (day + 1) % 7;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn session(text: &str) -> Session {
        text.parse().unwrap()
    }

    #[test]
    fn a_day_follows_the_exchange_across_daylight_saving() {
        let mut new_york = session("America/New_York 09:30-16:00 Mon-Fri");
        // 2024-03-10 the clocks went forward: 09:30 was 14:30 UTC before and 13:30 after.
        for (time, day) in [
            ("2024-03-08T14:29:59Z", None),
            ("2024-03-08T14:30:00Z", Some("2024-03-08T00:00:00Z")),
            ("2024-03-08T20:59:59Z", Some("2024-03-08T00:00:00Z")),
            ("2024-03-08T21:00:00Z", None),
            ("2024-03-10T15:00:00Z", None),
            ("2024-03-11T13:29:59Z", None),
            ("2024-03-11T13:30:00Z", Some("2024-03-11T00:00:00Z")),
            ("2024-03-11T19:59:59Z", Some("2024-03-11T00:00:00Z")),
            ("2024-03-11T20:00:00Z", None),
            ("2024-03-08T15:00:00Z", Some("2024-03-08T00:00:00Z")),
        ] {
            assert_eq!(new_york.day_of(ms(time)), day.map(ms), "{time}");
        }
        assert_eq!(
            new_york.day_from(ms("2024-03-08T21:00:00Z")),
            ms("2024-03-11T00:00:00Z")
        );
        assert_eq!(
            new_york.hours(ms("2024-03-11T00:00:00Z")),
            (ms("2024-03-11T13:30:00Z"), ms("2024-03-11T20:00:00Z"))
        );
    }

    #[test]
    fn a_session_over_midnight_belongs_to_the_day_it_closes() {
        let mut forex = session("America/New_York 17:00-17:00 Mon-Fri");
        // Sunday 2024-01-07 17:00 in New York is 22:00 UTC.
        assert_eq!(forex.day_of(ms("2024-01-07T21:59:59Z")), None);
        let monday = Some(ms("2024-01-08T00:00:00Z"));
        assert_eq!(forex.day_of(ms("2024-01-07T22:00:00Z")), monday);
        assert_eq!(forex.day_of(ms("2024-01-08T21:59:59Z")), monday);
        assert_eq!(
            forex.day_of(ms("2024-01-08T22:00:00Z")),
            Some(ms("2024-01-09T00:00:00Z"))
        );
        let mut whole = session("Asia/Kolkata 00:00-24:00");
        assert_eq!(
            whole.day_of(ms("2024-01-01T18:30:00Z")),
            Some(ms("2024-01-02T00:00:00Z"))
        );
    }

    #[test]
    fn the_grid_fits_the_hours() {
        assert_eq!(session("UTC 09:30-16:00").grid(), Resolution::M15);
        assert_eq!(session("UTC 09:25-16:00").grid(), Resolution::M5);
        assert_eq!(session("UTC 09:00-16:01").grid(), Resolution::M1);
    }

    #[test]
    fn a_wrong_session_is_told() {
        for text in [
            "",
            "Mars 09:00-10:00",
            "UTC 9:00-10:00",
            "UTC 24:00-10:00",
            "UTC 09:60-10:00",
            "UTC 09:00-24:01",
            "UTC 09:00",
            "UTC 09:00-10:00 Mon-Foo",
            "UTC 09:00-10:00 Mon-Fri more",
            "UTC -1:00-10:00",
        ] {
            let why = text.parse::<Session>().unwrap_err();
            assert!(why.contains("allowed"), "{text}: {why}");
        }
        assert_eq!(
            weekdays("Sat-Mon"),
            Some([true, false, false, false, false, true, true])
        );
    }
}
