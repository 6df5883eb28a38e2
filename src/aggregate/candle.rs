//! One bar in the making.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use crate::bar::{Bar, Field, Number};

/// Times of trades that a bar can hold: the years 1 to 9998, in ms since the epoch, so that the bar
/// after the last one still has a time.
const TIME_RANGE: std::ops::Range<i64> = -62_135_596_800_000..253_370_764_800_000;

/// One trade.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trade {
    time: i64,
    price: Number,
    size: Decimal,
}

/// Why something is no trade.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TradeError {
    #[error("time {0} is outside the years 1 to 9998")]
    Time(i64),
    #[error("price is not finite")]
    Price,
    #[error("size {0} is below zero")]
    Size(Decimal),
}

impl Trade {
    /// A trade at `time`, ms since the epoch, UTC. A size of zero moves the price alone.
    ///
    /// # Errors
    /// Which of the three cannot be.
    pub fn new(time: i64, price: Number, size: Decimal) -> Result<Self, TradeError> {
        if !TIME_RANGE.contains(&time) {
            return Err(TradeError::Time(time));
        }
        if !price.is_finite() {
            return Err(TradeError::Price);
        }
        if size.is_sign_negative() && !size.is_zero() {
            return Err(TradeError::Size(size));
        }
        Ok(Self { time, price, size })
    }

    /// ms since the epoch, UTC.
    pub fn time(&self) -> i64 {
        self.time
    }

    /// The same trade so many ms later.
    ///
    /// # Errors
    /// When there is no such time.
    pub fn shifted(&self, ms: i64) -> Result<Self, TradeError> {
        Self::new(self.time.saturating_add(ms), self.price, self.size)
    }

    /// As a candle of its own.
    pub(super) fn candle(&self) -> Candle {
        Candle {
            open: self.price,
            high: self.price,
            low: self.price,
            close: self.price,
            volume: self.size,
        }
    }
}

/// Prices and volume of an interval. The volume is decimal, so that it is the same sum whichever way
/// trades are grouped: with doubles, the minutes of an hour would not add up to the hour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candle {
    pub(super) open: Number,
    pub(super) high: Number,
    pub(super) low: Number,
    pub(super) close: Number,
    pub(super) volume: Decimal,
}

impl Candle {
    /// The candle of a bar. A volume beyond 28 digits is cut to them.
    pub fn of(bar: &Bar) -> Self {
        Self {
            open: bar.get(Field::Open),
            high: bar.get(Field::High),
            low: bar.get(Field::Low),
            close: bar.get(Field::Close),
            volume: decimal(bar.get(Field::Volume)),
        }
    }

    /// This one and `later` as one.
    pub(super) fn and(self, later: Self) -> Self {
        Self {
            open: self.open,
            close: later.close,
            ..self.spanning(later)
        }
    }

    /// High, low and volume of both; open and close of this one.
    pub(super) fn spanning(self, other: Self) -> Self {
        Self {
            high: if other.high.value() > self.high.value() {
                other.high
            } else {
                self.high
            },
            low: if other.low.value() < self.low.value() {
                other.low
            } else {
                self.low
            },
            volume: self.volume.saturating_add(other.volume),
            ..self
        }
    }

    /// Nothing traded at this one's close.
    pub(super) fn flat(self) -> Self {
        Self {
            open: self.close,
            high: self.close,
            low: self.close,
            close: self.close,
            volume: Decimal::ZERO,
        }
    }

    /// Open, high, low, close, volume.
    pub(super) fn numbers(&self) -> [Number; 5] {
        let volume = match self.volume.normalize() {
            whole if whole.scale() == 0 && whole.to_u64().is_some() => {
                Number::Unsigned(whole.to_u64().unwrap_or_default())
            }
            fraction => Number::Float(fraction.to_f64().unwrap_or_default()),
        };
        [self.open, self.high, self.low, self.close, volume]
    }
}

/// A number as people write it: the double 0.1 is a tenth. Beyond what 28 digits hold it is cut to
/// the largest or to zero.
fn decimal(number: Number) -> Decimal {
    match number {
        Number::Unsigned(n) => n.into(),
        Number::Negative(n) => n.into(),
        Number::Float(n) => {
            let text = number.to_string();
            let exact = text.parse().or_else(|_| Decimal::from_scientific(&text));
            exact.unwrap_or(if n >= 1.0 {
                Decimal::MAX
            } else {
                Decimal::ZERO
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_read_as_people_write_them() {
        for (number, text) in [
            (Number::Float(0.1), "0.1"),
            (Number::Float(1e-7), "0.0000001"),
            (Number::Float(1.5e20), "150000000000000000000"),
            (Number::Unsigned(u64::MAX), "18446744073709551615"),
            (Number::Float(1e300), "79228162514264337593543950335"),
            (Number::Float(1e-300), "0"),
        ] {
            assert_eq!(decimal(number), text.parse().unwrap(), "{number}");
        }
    }

    #[test]
    fn sums_of_decimals_are_what_they_seem() {
        let trade = |size: &str| {
            Trade::new(0, Number::Unsigned(1), size.parse().unwrap())
                .unwrap()
                .candle()
        };
        let sum = trade("0.1").and(trade("0.2"));
        assert_eq!(sum.numbers()[4], Number::Float(0.3));
        assert!(matches!(
            sum.and(trade("0.7")).numbers()[4],
            Number::Unsigned(1)
        ));
    }

    #[test]
    fn what_is_no_trade_is_said() {
        let one = Number::Unsigned(1);
        assert!(Trade::new(i64::MAX, one, Decimal::ZERO).is_err());
        assert!(Trade::new(0, Number::Float(f64::NAN), Decimal::ZERO).is_err());
        assert!(Trade::new(0, one, Decimal::NEGATIVE_ONE).is_err());
        assert!(Trade::new(0, Number::Negative(-1), Decimal::ZERO).is_ok());
    }
}
