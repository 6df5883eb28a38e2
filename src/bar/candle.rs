use std::fmt;

use super::{Number, Resolution};

/// 0001-01-01 and 9999-12-31T23:59:59.999, UTC: beyond lies no date that a chart can print.
pub const TIME_RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// One of a bar's five numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Open,
    High,
    Low,
    Close,
    Volume,
}

impl Field {
    /// In the order in which they are written.
    pub const ALL: [Self; 5] = [Self::Open, Self::High, Self::Low, Self::Close, Self::Volume];

    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::High => "high",
            Self::Low => "low",
            Self::Close => "close",
            Self::Volume => "volume",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which rule of a bar is broken, and by what.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BarError {
    #[error("time {0} is outside the years 1 to 9999")]
    TimeRange(i64),
    #[error("time {time} is not the start of a bar of resolution {resolution}")]
    OffGrid { time: i64, resolution: Resolution },
    #[error("{0} is not finite")]
    NotFinite(Field),
    #[error("high {high} is below {field} {value}")]
    HighBelow {
        field: Field,
        high: Number,
        value: Number,
    },
    #[error("low {low} is above {field} {value}")]
    LowAbove {
        field: Field,
        low: Number,
        value: Number,
    },
    #[error("volume {0} is below zero")]
    NegativeVolume(Number),
}

/// One candle: the whole state of an interval. 64 bytes, copied without an allocation.
///
/// `time` is the start of the interval in milliseconds since the epoch, UTC, on the grid of the
/// topic's resolution; prices satisfy `low ≤ open, close ≤ high`; the volume is not negative. Or it says
/// that nothing was traded in its interval ([`empty`](Bar::empty)): then it has no prices.
#[derive(Clone, Copy)]
pub struct Bar {
    time: i64,
    bits: [u64; 5],
    forms: [Form; 5],
    /// Whether the producer said that this is the interval's final state.
    pub closed: bool,
}

/// How a field's bits are to be read. Kept apart from the bits so that a bar stays small: a gateway
/// keeps a thousand of them a topic.
#[derive(Clone, Copy)]
enum Form {
    Unsigned,
    Negative,
    Float,
}

impl Bar {
    /// Makes a bar if every rule holds.
    ///
    /// # Errors
    /// The first [`BarError`] in the order time, finite, high, low, volume.
    pub fn new(
        resolution: Resolution,
        time: i64,
        [open, high, low, close, volume]: [Number; 5],
        closed: bool,
    ) -> Result<Self, BarError> {
        if !TIME_RANGE.contains(&time) {
            return Err(BarError::TimeRange(time));
        }
        if !resolution.is_aligned(time) {
            return Err(BarError::OffGrid { time, resolution });
        }
        let numbers = [open, high, low, close, volume];
        for (field, number) in Field::ALL.into_iter().zip(numbers) {
            if !number.is_finite() {
                return Err(BarError::NotFinite(field));
            }
        }
        for (field, value) in [
            (Field::Open, open),
            (Field::Low, low),
            (Field::Close, close),
        ] {
            if high.value() < value.value() {
                return Err(BarError::HighBelow { field, high, value });
            }
        }
        for (field, value) in [(Field::Open, open), (Field::Close, close)] {
            if low.value() > value.value() {
                return Err(BarError::LowAbove { field, low, value });
            }
        }
        if volume.value() < 0.0 {
            return Err(BarError::NegativeVolume(volume));
        }
        Ok(Self {
            time,
            bits: numbers.map(|n| match n {
                Number::Unsigned(n) => n,
                Number::Negative(n) => n.cast_unsigned(),
                Number::Float(n) => n.to_bits(),
            }),
            forms: numbers.map(|n| match n {
                Number::Unsigned(_) => Form::Unsigned,
                Number::Negative(_) => Form::Negative,
                Number::Float(_) => Form::Float,
            }),
            closed,
        })
    }

    /// A closed bar without prices and with no volume, for an interval in which nothing was traded.
    ///
    /// # Errors
    /// What is wrong with the time.
    pub fn empty(resolution: Resolution, time: i64) -> Result<Self, BarError> {
        let mut bar = Self::new(resolution, time, [Number::Unsigned(0); 5], true)?;
        // Kept as what is no price, so that bars with prices pay nothing for it; written as `null`.
        for field in [Field::Open, Field::High, Field::Low, Field::Close] {
            bar.bits[field as usize] = f64::NAN.to_bits();
            bar.forms[field as usize] = Form::Float;
        }
        Ok(bar)
    }

    /// Whether nothing was traded in its interval: it has no prices then.
    pub fn is_empty(&self) -> bool {
        self.value(Field::Open).is_nan()
    }

    /// The same bar at another time.
    ///
    /// # Errors
    /// What is wrong with the time.
    pub fn at(&self, resolution: Resolution, time: i64) -> Result<Self, BarError> {
        let checked = Self::empty(resolution, time)?;
        Ok(Self {
            time: checked.time,
            ..*self
        })
    }

    /// Start of the interval, ms since the epoch, UTC.
    pub fn time(&self) -> i64 {
        self.time
    }

    /// One of the five numbers; a price that an [empty](Self::is_empty) bar does not have is NaN.
    pub fn get(&self, field: Field) -> Number {
        let at = field as usize;
        match self.forms[at] {
            Form::Unsigned => Number::Unsigned(self.bits[at]),
            Form::Negative => Number::Negative(self.bits[at].cast_signed()),
            Form::Float => Number::Float(f64::from_bits(self.bits[at])),
        }
    }

    /// One of the five numbers as a double.
    pub fn value(&self, field: Field) -> f64 {
        self.get(field).value()
    }

    /// The five numbers in the order open, high, low, close, volume.
    pub fn numbers(&self) -> [Number; 5] {
        Field::ALL.map(|field| self.get(field))
    }
}

impl PartialEq for Bar {
    fn eq(&self, other: &Self) -> bool {
        let alike = || self.numbers() == other.numbers() || (self.is_empty() && other.is_empty());
        self.time == other.time && self.closed == other.closed && alike()
    }
}

impl fmt::Debug for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [open, high, low, close, volume] = self.numbers();
        let state = if self.closed { "closed" } else { "forming" };
        write!(
            f,
            "{state} bar at {}: {open} {high} {low} {close} volume {volume}",
            self.time
        )
    }
}
