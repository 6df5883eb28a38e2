use std::{fmt, str::FromStr};

/// A JSON number in the form its producer sent: integral numbers stay integral, `150.0` stays
/// `150.0`. Written shortest, and read back equal.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// An integer from zero to `u64::MAX`.
    Unsigned(u64),
    /// An integer below zero.
    Negative(i64),
    /// Anything with a fraction or an exponent; may be not finite until a bar is made of it.
    Float(f64),
}

impl Number {
    /// The value as a double, rounded when it is an integer beyond 2^53.
    #[expect(clippy::cast_precision_loss, reason = "rounding is what is asked for")]
    pub fn value(self) -> f64 {
        match self {
            Self::Unsigned(n) => n as f64,
            Self::Negative(n) => n as f64,
            Self::Float(n) => n,
        }
    }

    /// Whether it is neither infinite nor NaN. Integers always are.
    pub fn is_finite(self) -> bool {
        match self {
            Self::Float(n) => n.is_finite(),
            _ => true,
        }
    }

    /// Appends the shortest text that reads back equal. A number that is not finite has no JSON
    /// form and is written as `null`: only a bar without prices holds one.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Unsigned(n) => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
            Self::Negative(n) => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
            Self::Float(n) if n.is_finite() => {
                out.extend_from_slice(zmij::Buffer::new().format_finite(n).as_bytes());
            }
            Self::Float(_) => out.extend_from_slice(b"null"),
        }
    }
}

/// Why a text is not a [`Number`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a number")]
pub struct NumberError(pub String);

/// Integers stay integers as long as they fit 64 bits; everything else is a double.
impl FromStr for Number {
    type Err = NumberError;

    fn from_str(text: &str) -> Result<Self, NumberError> {
        if let Ok(n) = text.parse::<u64>() {
            return Ok(Self::Unsigned(n));
        }
        if let Ok(n) = text.parse::<i64>() {
            return Ok(Self::from(n));
        }
        text.parse()
            .map(Self::Float)
            .map_err(|_| NumberError(text.chars().take(40).collect()))
    }
}

/// By value: `1` equals `1.0`, as JSON numbers do.
impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Unsigned(a), Self::Unsigned(b)) => a == b,
            (Self::Negative(a), Self::Negative(b)) => a == b,
            (a, b) => a.value() == b.value(),
        }
    }
}

impl From<f64> for Number {
    fn from(n: f64) -> Self {
        Self::Float(n)
    }
}

impl From<u64> for Number {
    fn from(n: u64) -> Self {
        Self::Unsigned(n)
    }
}

impl From<i64> for Number {
    fn from(n: i64) -> Self {
        u64::try_from(n).map_or(Self::Negative(n), Self::Unsigned)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(24);
        self.write(&mut text);
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}
