//! What is asked for: query strings, and what is wrong with them.

use std::borrow::Cow;

use crate::bar::{Resolution, ResolutionError};

/// The longest piece of a request that an error repeats, in characters.
const REPEATED_CHARS: usize = 40;

/// A query string, decoded when it is asked for a parameter (WHATWG URL standard,
/// "application/x-www-form-urlencoded parsing"): a `+` that is meant is written `%2B`.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a>(&'a str);

/// Why a request gets `"s":"error"`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("/udf/ has config, symbols, search, history and time")]
    Route,
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{name} = {value:?}: {allowed}")]
    Value {
        name: &'static str,
        value: String,
        allowed: &'static str,
    },
    #[error("from {from} is not before to {to}")]
    Order { from: i64, to: i64 },
    /// Not of the form of a symbol, or no bar of it has come.
    #[error("unknown symbol {0:?}")]
    Symbol(String),
    #[error("{0}")]
    Resolution(#[from] ResolutionError),
    /// A resolution that this symbol has no bars of.
    #[error("{symbol} has no bars of resolution {resolution}")]
    Absent {
        symbol: String,
        resolution: &'static str,
    },
}

/// The beginning of a text that came from outside.
pub fn shortened(text: &str) -> String {
    text.chars().take(REPEATED_CHARS).collect()
}

impl<'a> Query<'a> {
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The first value of a parameter. An empty one counts as absent: adapters send `type=` for all.
    pub fn get(self, name: &str) -> Option<Cow<'a, str>> {
        form_urlencoded::parse(self.0.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
    }

    /// As [`get`](Self::get).
    ///
    /// # Errors
    /// [`Refused::Missing`]
    pub fn need(self, name: &'static str) -> Result<Cow<'a, str>, Refused> {
        self.get(name).ok_or(Refused::Missing(name))
    }

    fn value<T: std::str::FromStr>(
        self,
        name: &'static str,
        allowed: &'static str,
    ) -> Result<Option<T>, Refused> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let refuse = |_| Refused::Value {
            name,
            value: shortened(&text),
            allowed,
        };
        text.parse().map(Some).map_err(refuse)
    }

    /// A whole number from 0, if it is there.
    ///
    /// # Errors
    /// [`Refused::Value`]
    pub fn count(self, name: &'static str) -> Result<Option<usize>, Refused> {
        self.value(name, "a whole number is needed")
    }

    /// A time in seconds since the epoch, UTC; before 1970 it is below zero.
    ///
    /// # Errors
    /// [`Refused::Missing`] and [`Refused::Value`]
    pub fn seconds(self, name: &'static str) -> Result<i64, Refused> {
        let seconds = self.value(name, "whole seconds since 1970 are needed")?;
        seconds.ok_or(Refused::Missing(name))
    }
}

/// From which bar on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The first that starts at this time or later, in ms since the epoch.
    From(i64),
    /// So many before the end.
    Countback(usize),
}

/// A stretch of history. "countback: number of bars (higher priority than from) starting with to. If
/// countback is set, from should be ignored."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: Start,
    /// No bar that starts at this time or later, in ms since the epoch: "to … (not inclusive)".
    pub to: i64,
}

impl Span {
    /// Reads `from`, `to` and `countback`.
    ///
    /// # Errors
    /// What is missing, no number, or in the wrong order.
    pub fn read(query: Query<'_>) -> Result<Self, Refused> {
        let to = query.seconds("to")?;
        let start = match query.count("countback")? {
            // A countback of nothing is none.
            Some(count @ 1..) => Start::Countback(count),
            _ => {
                let from = query.seconds("from")?;
                if from >= to {
                    return Err(Refused::Order { from, to });
                }
                Start::From(from.saturating_mul(1_000))
            }
        };
        Ok(Self {
            start,
            to: to.saturating_mul(1_000),
        })
    }
}

/// A resolution in UDF's spelling, where days, weeks and months carry a number, too.
pub const fn spelled(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::Day => "1D",
        Resolution::Week => "1W",
        Resolution::Month => "1M",
        other => other.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(query: &str) -> Result<Span, Refused> {
        Span::read(Query::new(query))
    }

    #[test]
    fn parameters_are_decoded_and_the_first_counts() {
        let query = Query::new("symbol=EUR%2FUSD&a=b+c&symbol=X&type=&%zz=%ff&&=&limit");
        assert_eq!(query.get("symbol").as_deref(), Some("EUR/USD"));
        assert_eq!(query.get("a").as_deref(), Some("b c"));
        assert_eq!(query.get("type"), None);
        assert_eq!(query.get("limit"), None);
        assert_eq!(query.get("%zz").as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn countback_is_above_from() {
        let counted = Span {
            start: Start::Countback(3),
            to: 20_000,
        };
        for query in [
            "to=20&countback=3",
            "from=10&to=20&countback=3",
            "from=x&to=20&countback=3",
            "from=30&to=20&countback=3",
        ] {
            assert_eq!(span(query), Ok(counted), "{query}");
        }
        let ranged = Span {
            start: Start::From(-10_000),
            to: 20_000,
        };
        assert_eq!(span("from=-10&to=20"), Ok(ranged));
        assert_eq!(span("from=-10&to=20&countback=0"), Ok(ranged));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, told) in [
            ("", "to is missing"),
            ("to=5", "from is missing"),
            ("from=1", "to is missing"),
            ("from=1&to=x", "to = \"x\": whole seconds since 1970"),
            ("from=1.5&to=9", "from = \"1.5\""),
            ("from=9&to=9", "from 9 is not before to 9"),
            ("from=9&to=8", "from 9 is not before to 8"),
            ("to=9&countback=-1", "countback = \"-1\": a whole number"),
            ("to=9&countback=1e9", "countback = \"1e9\""),
            ("from=1&to=99999999999999999999", "to = \"9999"),
        ] {
            let refused = span(query).unwrap_err().to_string();
            assert!(refused.contains(told), "{query}: {refused}");
        }
        let long = format!("from=1&to={}", "9".repeat(10_000));
        assert!(span(&long).unwrap_err().to_string().len() < 120);
    }
}
