//! What is published: for every topic and sequence number one bar, computed and never stored, so that
//! the receiving side knows what it must have got.

use anyhow::{Context, Result};
use barcast::bar::{Bar, Field, Message, Number, Resolution, Symbol, Topic};
use serde::{Deserialize, Serialize};

/// Time of the first bar: 2024-01-01T00:00:00Z in milliseconds. In the past, so that a gateway sees
/// ordinary history however fast the bars advance.
pub const FIRST_BAR_MS: i64 = 1_704_067_200_000;
/// All topics are of this resolution, whose grid a bar can step along quickly.
pub const RESOLUTION: Resolution = Resolution::S1;
/// Width of a topic's number in its symbol, so that every frame has the same length.
const DIGITS: usize = 6;
/// Most topics that [`DIGITS`] can name.
pub const MAX_TOPICS: u32 = 1_000_000;
/// Lowest price, in cents, and how far a price goes above it.
const LOWEST_CENTS: u64 = 10_000;
const SPAN_CENTS: u64 = 500;

/// The topics of one experiment and every bar on them.
///
/// Every tick publishes every topic once, and `seq` counts the ticks from 1. `bar_ticks` updates make
/// a bar; the last of them says `"closed":true`, the next opens the bar of the next second.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Description", into = "Description")]
pub struct Market {
    /// Every topic's symbol is this and a number.
    prefix: String,
    topics: Vec<Topic>,
    bar_ticks: u64,
    epoch: u64,
}

/// What a market is computed from: another process makes the same one of it.
#[derive(Serialize, Deserialize)]
struct Description {
    prefix: String,
    topics: u32,
    bar_ticks: u64,
    epoch: u64,
}

impl TryFrom<Description> for Market {
    type Error = anyhow::Error;

    fn try_from(of: Description) -> Result<Self> {
        Self::new(&of.prefix, of.topics, of.bar_ticks, of.epoch)
    }
}

impl From<Market> for Description {
    fn from(market: Market) -> Self {
        Self {
            topics: u32::try_from(market.topics.len()).unwrap_or(MAX_TOPICS),
            prefix: market.prefix,
            bar_ticks: market.bar_ticks,
            epoch: market.epoch,
        }
    }
}

impl Market {
    /// A market of `topics` topics whose bars take `bar_ticks` updates each. `epoch` names this run
    /// of the publisher.
    ///
    /// # Errors
    /// When `prefix` has characters that no symbol may have, or leaves no room for the number.
    pub fn new(prefix: &str, topics: u32, bar_ticks: u64, epoch: u64) -> Result<Self> {
        let topics = (0..topics)
            .map(|topic| {
                let symbol: Symbol = format!("{prefix}{topic:0DIGITS$}")
                    .parse()
                    .with_context(|| format!("--prefix {prefix:?}"))?;
                Ok(Topic {
                    symbol,
                    resolution: RESOLUTION,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            prefix: prefix.to_owned(),
            topics,
            bar_ticks: bar_ticks.max(1),
            epoch,
        })
    }

    /// Every topic, by its number.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// The number of a topic from its name, without a table: nothing but the digits is looked at
    /// beyond the prefix.
    pub fn number_of(&self, topic: &[u8]) -> Option<u32> {
        self.number_of_symbol(topic.strip_prefix(b"bars:")?)
    }

    /// The number of the topic that a message of any form is about: of the channel, or of the symbol,
    /// that is named in it.
    pub fn number_in(&self, text: &[u8]) -> Option<u32> {
        let named = |before: &'static [u8]| {
            memchr::memmem::find_iter(text, before)
                .find_map(|at| self.number_of_symbol(&text[at + before.len()..]))
        };
        named(b"bars:").or_else(|| named(b"\"symbol\":\""))
    }

    /// The number of the topic whose symbol `text` begins with.
    fn number_of_symbol(&self, text: &[u8]) -> Option<u32> {
        let digits = text.strip_prefix(self.prefix.as_bytes())?.get(..DIGITS)?;
        let number = parse_digits(digits)?;
        (usize::try_from(number).ok()? < self.topics.len()).then_some(u32::try_from(number).ok()?)
    }

    /// Which bar, from 0, the message `seq` belongs to.
    fn bar_of(&self, seq: u64) -> u64 {
        seq.saturating_sub(1) / self.bar_ticks
    }

    /// Start of the bar that the message `seq` belongs to, ms since the epoch.
    pub fn time(&self, seq: u64) -> i64 {
        FIRST_BAR_MS + self.bar_of(seq).cast_signed() * RESOLUTION.nominal_ms()
    }

    /// Whether the message `seq` closes its bar.
    pub fn closes(&self, seq: u64) -> bool {
        seq.is_multiple_of(self.bar_ticks)
    }

    /// How many of the messages `from..=to` close their bar.
    pub fn closing(&self, from: u64, to: u64) -> u64 {
        to / self.bar_ticks - from.saturating_sub(1) / self.bar_ticks
    }

    /// The closing messages among `from..=to`.
    pub fn closing_seqs(&self, from: u64, to: u64) -> impl Iterator<Item = u64> {
        let step = self.bar_ticks;
        (from.div_ceil(step).max(1)..=to / step).map(move |bar| bar * step)
    }

    fn price(topic: u32, seq: u64) -> u64 {
        // SplitMix64's finalizer (Steele, Lea, Flood 2014): neighbours share no pattern.
        let mut n = (u64::from(topic) << 40) ^ seq;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        LOWEST_CENTS + (n ^ (n >> 31)) % SPAN_CENTS
    }

    /// The bar that the message `seq` of a topic carries.
    ///
    /// # Errors
    /// Never for the topics of this market; the rules of a bar are checked all the same.
    pub fn bar(&self, topic: u32, seq: u64) -> Result<Bar> {
        let opened = self.bar_of(seq) * self.bar_ticks;
        let prices = || (opened..=seq).map(|at| Self::price(topic, at));
        let cents = |cents: u64| {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            let cents = cents as f64;
            Number::Float(cents / 100.0)
        };
        let numbers = [
            cents(Self::price(topic, opened)),
            cents(prices().max().unwrap_or(LOWEST_CENTS)),
            cents(prices().min().unwrap_or(LOWEST_CENTS)),
            cents(Self::price(topic, seq)),
            Number::Unsigned((seq - opened) * 1_000),
        ];
        debug_assert_eq!(Field::ALL.len(), numbers.len());
        Ok(Bar::new(
            RESOLUTION,
            self.time(seq),
            numbers,
            self.closes(seq),
        )?)
    }

    /// The message `seq` of a topic, with `ts` (µs since the epoch) as its publish time.
    ///
    /// # Errors
    /// As [`bar`](Self::bar).
    pub fn message(&self, topic: u32, seq: u64, ts: u64) -> Result<Message> {
        let name = self
            .topics
            .get(usize::try_from(topic)?)
            .with_context(|| format!("topic {topic}"))?;
        let mut message = Message::new(*name, self.bar(topic, seq)?);
        message.seq = Some(seq);
        message.epoch = Some(self.epoch);
        message.ts = Some(ts);
        Ok(message)
    }
}

/// Decimal digits and nothing else.
pub fn parse_digits(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |n, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10)
            .then(|| n.checked_mul(10)?.checked_add(u64::from(digit)))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_change_close_and_step_on() {
        let market = Market::new("T", 3, 4, 1).unwrap();
        for topic in 0..3 {
            for seq in 1..40 {
                let (bar, next) = (
                    market.bar(topic, seq).unwrap(),
                    market.bar(topic, seq + 1).unwrap(),
                );
                assert_ne!(bar, next);
                assert_eq!(bar.closed, seq % 4 == 0);
                let step = next.time() - bar.time();
                assert_eq!(step, if bar.closed { 1_000 } else { 0 });
            }
        }
    }

    #[test]
    fn closing_messages_are_counted_as_they_are_listed() {
        let market = Market::new("T", 1, 5, 1).unwrap();
        for from in 1..14 {
            for to in from - 1..20 {
                let listed: Vec<u64> = (from..=to).filter(|seq| market.closes(*seq)).collect();
                assert_eq!(market.closing_seqs(from, to).collect::<Vec<_>>(), listed);
                assert_eq!(market.closing(from, to), listed.len() as u64);
            }
        }
    }

    #[test]
    fn a_topics_number_is_read_from_its_name() {
        let market = Market::new("X-", 12, 1, 1).unwrap();
        for (number, topic) in market.topics().iter().enumerate() {
            let name = topic.to_string();
            assert_eq!(
                market.number_of(name.as_bytes()),
                Some(u32::try_from(number).unwrap())
            );
        }
        for other in [
            "bars:X-000012:1S",
            "bars:Y-000001:1S",
            "bars:X-1",
            "",
            "bars:X-0000a1:1S",
        ] {
            assert_eq!(market.number_of(other.as_bytes()), None, "{other}");
        }
    }
}
