use std::{fmt, str::FromStr};

use super::{Resolution, Symbol, Topic, TopicError};

/// What a client asks for: a topic, or `*` for its symbol, its resolution or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    /// `None` stands for `*`.
    pub symbol: Option<Symbol>,
    /// `None` stands for `*`.
    pub resolution: Option<Resolution>,
}

/// Why a text is not a [`Pattern`].
pub type PatternError = TopicError;

impl Pattern {
    /// What means every topic.
    pub const ALL: Self = Self {
        symbol: None,
        resolution: None,
    };

    /// The one topic meant, when there is no `*`.
    pub fn topic(&self) -> Option<Topic> {
        Some(Topic {
            symbol: self.symbol?,
            resolution: self.resolution?,
        })
    }

    /// Whether `topic` is meant.
    pub fn matches(&self, topic: &Topic) -> bool {
        self.symbol.is_none_or(|s| s == topic.symbol)
            && self.resolution.is_none_or(|r| r == topic.resolution)
    }

    /// Whether all that `other` means is meant.
    pub fn includes(&self, other: &Self) -> bool {
        (self.symbol.is_none() || self.symbol == other.symbol)
            && (self.resolution.is_none() || self.resolution == other.resolution)
    }

    /// The patterns with a `*` that mean `topic`, among others.
    pub fn covering(topic: &Topic) -> [Self; 3] {
        let (symbol, resolution) = (Some(topic.symbol), Some(topic.resolution));
        [(symbol, None), (None, resolution), (None, None)]
            .map(|(symbol, resolution)| Self { symbol, resolution })
    }

    /// From a symbol and a resolution, each of which may be `*`.
    pub fn from_parts(symbol: &str, resolution: &str) -> Result<Self, PatternError> {
        Ok(Self {
            symbol: match symbol {
                "*" => None,
                text => Some(text.parse()?),
            },
            resolution: match resolution {
                "*" => None,
                text => Some(text.parse()?),
            },
        })
    }
}

impl From<Topic> for Pattern {
    fn from(topic: Topic) -> Self {
        Self {
            symbol: Some(topic.symbol),
            resolution: Some(topic.resolution),
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (symbol, resolution) = Topic::split(text)?;
        Self::from_parts(symbol, resolution)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symbol = self.symbol.as_ref().map_or("*", Symbol::as_str);
        let resolution = self.resolution.map_or("*", Resolution::as_str);
        write!(f, "bars:{symbol}:{resolution}")
    }
}
