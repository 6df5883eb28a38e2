//! What the names of one environment begin with in a Redis that several share.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;

use redis::{RedisWrite, ToRedisArgs, ToSingleRedisArg};

use crate::bar::CHANNEL_PATTERN;

/// Longest prefix, in bytes: it is a part of every message and key.
const MAX_PREFIX_BYTES: usize = 64;

/// Put before the names of channels and keys in Redis, and nowhere else: topics inside have none. Held inline,
/// as whoever makes a name has a copy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Zeros after its end.
    bytes: [u8; MAX_PREFIX_BYTES],
    length: usize,
}

impl Default for Prefix {
    fn default() -> Self {
        Self {
            bytes: [0; MAX_PREFIX_BYTES],
            length: 0,
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl Prefix {
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub fn new(text: &str) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_graphic() && !"{}*?[]\\".contains(c);
        if text.len() > MAX_PREFIX_BYTES || !text.chars().all(is_plain) {
            return Err(format!(
                "allowed: up to {MAX_PREFIX_BYTES} visible ASCII characters without {{}}*?[]\\, as staging:"
            ));
        }
        // `Xbars:Y` would put its channels `Xbars:Ybars:AAPL:1` among those of the prefix X.
        let topics = CHANNEL_PATTERN.trim_end_matches('*');
        if text.contains(topics) {
            return Err(format!(
                "holds {topics:?}: who has what comes before it as a prefix, or none, would hear these channels as malformed; allowed: a prefix without it, as staging:"
            ));
        }
        let mut prefix = Self {
            length: text.len(),
            ..Self::default()
        };
        prefix.bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(prefix)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub fn as_str(&self) -> &str {
        // It was made of ASCII.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// A name as it is in Redis.
    pub fn name<'a>(&'a self, name: &'a str) -> Name<'a> {
        Name {
            prefix: self.as_str(),
            name,
        }
    }

    /// A channel as it is inside.
    pub fn strip<'a>(&self, channel: &'a [u8]) -> Cow<'a, str> {
        let inside = channel.strip_prefix(self.as_bytes());
        String::from_utf8_lossy(inside.unwrap_or(channel))
    }
}

/// A channel or key with its prefix: written into commands without a copy.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    prefix: &'a str,
    name: &'a str,
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix, self.name)
    }
}

impl ToRedisArgs for Name<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let mut argument = out.writer_for_next_arg();
        for part in [self.prefix, self.name] {
            // Into memory, which takes all.
            let _ = argument.write_all(part.as_bytes());
        }
    }
}

impl ToSingleRedisArg for Name<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_plain_and_hides_no_topics() {
        for text in [
            "",
            "staging:",
            "eu-1.",
            "prod/",
            "bars",
            "barcast:",
            "@x",
            &"p".repeat(64),
        ] {
            assert_eq!(Prefix::new(text).unwrap().as_str(), text);
        }
        let long = "p".repeat(65);
        for text in [
            "{a}",
            "a*",
            "a?",
            "[a",
            "a]",
            "a\\",
            "a b",
            "a\n",
            "ä",
            &long,
            "bars:",
            "bars:x:",
            "mybars:",
            "x:bars:y:",
        ] {
            assert!(Prefix::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_have_it_in_redis_alone() {
        let prefix = Prefix::new("stag:").unwrap();
        assert_eq!(prefix.name("bars:A:1").to_string(), "stag:bars:A:1");
        let command = redis::cmd("X")
            .arg(prefix.name("bars:A:1"))
            .get_packed_command();
        assert!(
            String::from_utf8(command)
                .unwrap()
                .contains("$13\r\nstag:bars:A:1\r\n")
        );
        assert_eq!(prefix.strip(b"stag:bars:A:1"), "bars:A:1");
        assert_eq!(Prefix::default().strip(b"bars:A:1"), "bars:A:1");
    }
}
