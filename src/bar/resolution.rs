use std::{fmt, str::FromStr};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 24 * 60 * MINUTE;
/// 1970-01-01 was a Thursday; the Monday of its week lies three days before.
const MONDAY_SHIFT: i64 = 3 * DAY;

/// How long one bar lasts. All times are milliseconds since the epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// So many milliseconds, aligned to the epoch: the seconds and minutes.
    S1,
    S5,
    S15,
    S30,
    M1,
    M3,
    M5,
    M15,
    M30,
    M45,
    M60,
    M120,
    M240,
    /// A day from 00:00 UTC.
    Day,
    /// A week from Monday 00:00 UTC.
    Week,
    /// A calendar month from its first day, 00:00 UTC.
    Month,
}

/// Why a text is not a [`Resolution`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a resolution: 1S 5S 15S 30S (seconds), 1 3 5 15 30 45 60 120 240 (minutes), D W M are"
)]
pub struct ResolutionError(pub String);

impl Resolution {
    /// Every resolution, finest first.
    pub const ALL: [Self; 16] = [
        Self::S1,
        Self::S5,
        Self::S15,
        Self::S30,
        Self::M1,
        Self::M3,
        Self::M5,
        Self::M15,
        Self::M30,
        Self::M45,
        Self::M60,
        Self::M120,
        Self::M240,
        Self::Day,
        Self::Week,
        Self::Month,
    ];

    /// The short form, which is the one always printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S1 => "1S",
            Self::S5 => "5S",
            Self::S15 => "15S",
            Self::S30 => "30S",
            Self::M1 => "1",
            Self::M3 => "3",
            Self::M5 => "5",
            Self::M15 => "15",
            Self::M30 => "30",
            Self::M45 => "45",
            Self::M60 => "60",
            Self::M120 => "120",
            Self::M240 => "240",
            Self::Day => "D",
            Self::Week => "W",
            Self::Month => "M",
        }
    }

    /// Length in milliseconds; a month counts as 30 days here, and only here.
    pub const fn nominal_ms(self) -> i64 {
        match self {
            Self::S1 => SECOND,
            Self::S5 => 5 * SECOND,
            Self::S15 => 15 * SECOND,
            Self::S30 => 30 * SECOND,
            Self::M1 => MINUTE,
            Self::M3 => 3 * MINUTE,
            Self::M5 => 5 * MINUTE,
            Self::M15 => 15 * MINUTE,
            Self::M30 => 30 * MINUTE,
            Self::M45 => 45 * MINUTE,
            Self::M60 => 60 * MINUTE,
            Self::M120 => 120 * MINUTE,
            Self::M240 => 240 * MINUTE,
            Self::Day => DAY,
            Self::Week => 7 * DAY,
            Self::Month => 30 * DAY,
        }
    }

    /// Start of the bar that `time` falls into.
    pub fn floor(self, time: i64) -> i64 {
        match self {
            Self::Week => (time + MONDAY_SHIFT).div_euclid(7 * DAY) * 7 * DAY - MONDAY_SHIFT,
            Self::Month => {
                let day = time.div_euclid(DAY);
                (day - i64::from(day_of_month(day)) + 1) * DAY
            }
            _ => {
                let step = self.nominal_ms();
                time.div_euclid(step) * step
            }
        }
    }

    /// Start of the bar after the one that `time` falls into.
    pub fn next(self, time: i64) -> i64 {
        let start = self.floor(time);
        match self {
            // 31 days on from a first day always lands in the next month.
            Self::Month => self.floor(start + 31 * DAY),
            _ => start + self.nominal_ms(),
        }
    }

    /// Start of the bar before the one that `time` falls into.
    pub fn previous(self, time: i64) -> i64 {
        self.floor(self.floor(time) - 1)
    }

    /// Whether `time` is the start of a bar.
    pub fn is_aligned(self, time: i64) -> bool {
        self.floor(time) == time
    }
}

/// Day of the month (1 to 31) of a day counted from 1970-01-01, in the proleptic Gregorian calendar
/// (Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn day_of_month(day: i64) -> u8 {
    let of_era = (day + 719_468).rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    u8::try_from(of_year - (153 * month + 2) / 5 + 1).unwrap_or(1)
}

impl FromStr for Resolution {
    type Err = ResolutionError;

    fn from_str(text: &str) -> Result<Self, ResolutionError> {
        Ok(match text {
            "1S" => Self::S1,
            "5S" => Self::S5,
            "15S" => Self::S15,
            "30S" => Self::S30,
            "1" => Self::M1,
            "3" => Self::M3,
            "5" => Self::M5,
            "15" => Self::M15,
            "30" => Self::M30,
            "45" => Self::M45,
            "60" => Self::M60,
            "120" => Self::M120,
            "240" => Self::M240,
            "D" | "1D" => Self::Day,
            "W" | "1W" => Self::Week,
            "M" | "1M" => Self::Month,
            _ => return Err(ResolutionError(text.chars().take(40).collect())),
        })
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
