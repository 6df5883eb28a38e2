use std::{fmt, str::FromStr};

use super::{Resolution, ResolutionError, Symbol, SymbolError};

const PREFIX: &str = "bars:";

/// The Redis channel whose payload is an array of messages. `@` is not a symbol character, so it
/// collides with no topic.
pub const BATCH_CHANNEL: &str = "bars:@batch";

/// What a gateway subscribes to with `PSUBSCRIBE`: every topic and the batch channel.
pub const CHANNEL_PATTERN: &str = "bars:*";

/// `bars:{symbol}:{resolution}`: at once a Redis channel and what a client subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic {
    pub symbol: Symbol,
    pub resolution: Resolution,
}

/// Why a text is not a [`Topic`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Not of the form at all.
    #[error("{0:?} is not a topic: bars:SYMBOL:RESOLUTION is expected")]
    Form(String),
    #[error(transparent)]
    Symbol(#[from] SymbolError),
    #[error(transparent)]
    Resolution(#[from] ResolutionError),
}

impl Topic {
    /// Splits `bars:X:Y` into `X` and `Y`, which are not looked at.
    pub(super) fn split(text: &str) -> Result<(&str, &str), TopicError> {
        text.strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once(':'))
            .ok_or_else(|| TopicError::Form(text.chars().take(80).collect()))
    }

    /// Appends the topic's name.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(PREFIX.as_bytes());
        out.extend_from_slice(self.symbol.as_str().as_bytes());
        out.push(b':');
        out.extend_from_slice(self.resolution.as_str().as_bytes());
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        let (symbol, resolution) = Self::split(text)?;
        Ok(Self {
            symbol: symbol.parse()?,
            resolution: resolution.parse()?,
        })
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:{}", self.symbol, self.resolution)
    }
}
