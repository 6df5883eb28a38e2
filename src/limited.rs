//! Warnings at a bounded rate, so that a stream of bad input cannot fill a disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::bar::Malformed;

/// Warnings of one kind that are let through in one period.
const BURST: u32 = 5;
const PERIOD: Duration = Duration::from_secs(10);
/// Warnings about messages of all channels and reasons in one period.
const MAX_LINES: u32 = 50;
/// Channels whose warnings are bounded apart; of more the one longest silent is forgotten.
const MAX_CHANNELS: usize = 1_000;
/// Bytes of a malformed payload that are logged.
const LOGGED_BYTES: usize = 120;

/// Lets the first few warnings of each period through and counts the others.
#[derive(Debug, Default)]
pub struct Limited {
    since: Option<Instant>,
    said: u32,
    left_out: u64,
}

impl Limited {
    /// Calls `say` with the number of warnings left out before it, or counts one more.
    pub fn say(&mut self, say: impl FnOnce(u64)) {
        self.up_to(BURST, say);
    }

    fn up_to(&mut self, burst: u32, say: impl FnOnce(u64)) {
        if self.since.is_none_or(|since| since.elapsed() >= PERIOD) {
            self.since = Some(Instant::now());
            self.said = 0;
        }
        if self.said < burst {
            self.said += 1;
            say(std::mem::take(&mut self.left_out));
        } else {
            self.left_out += 1;
        }
    }
}

/// How often what stays the same is said again.
const SAID_AGAIN: Duration = Duration::from_secs(30);

/// Lets through what is news, and the same again only once in a while: for attempts that go on for hours.
#[derive(Debug, Default)]
pub struct Repeated {
    last: Option<(String, Instant)>,
    left_out: u64,
    news: Limited,
}

impl Repeated {
    /// Calls `say` with how often it was not said since the last time, or counts one more.
    pub fn say(&mut self, what: &str, say: impl FnOnce(u64)) {
        let is_known = self
            .last
            .as_ref()
            .is_some_and(|(known, at)| known == what && at.elapsed() < SAID_AGAIN);
        let left_out = &mut self.left_out;
        *left_out += 1;
        if is_known {
            return;
        }
        self.last = Some((what.to_owned(), Instant::now()));
        // Words that change with every attempt are bounded, too.
        self.news.say(|_| say(std::mem::take(left_out) - 1));
    }

    /// It is over: when it comes again, it is news.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

/// Warnings about messages, at a bounded rate for each channel and reason: a producer that is wrong a
/// thousand times a second hides nobody else.
#[derive(Debug, Default)]
pub struct Refusals {
    /// What channels have in Redis before their names.
    prefix: Box<str>,
    channels: HashMap<Box<str>, Channel>,
    all: Limited,
    turn: u64,
}

/// What is known of one channel.
#[derive(Debug, Default)]
struct Channel {
    reasons: Vec<(&'static str, Limited)>,
    /// When it was last heard of, in messages that were dropped.
    last: u64,
}

impl Refusals {
    /// Of channels that have `prefix` before their names.
    pub fn of(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
            ..Self::default()
        }
    }

    /// Calls `say` with the number of warnings of this channel and reason that were left out before it, or
    /// counts one more.
    pub fn say(&mut self, channel: &str, reason: &'static str, say: impl FnOnce(u64)) {
        self.turn += 1;
        if !self.channels.contains_key(channel) && self.channels.len() >= MAX_CHANNELS {
            self.forget_oldest();
        }
        let of = self.channels.entry(channel.into()).or_default();
        of.last = self.turn;
        let at = of.reasons.iter().position(|(known, _)| *known == reason);
        let at = at.unwrap_or_else(|| {
            of.reasons.push((reason, Limited::default()));
            of.reasons.len() - 1
        });
        let all = &mut self.all;
        of.reasons[at].1.say(|left_out| {
            // Very many channels at once are bounded, too.
            all.up_to(MAX_LINES, |beyond| say(left_out + beyond));
        });
    }

    fn forget_oldest(&mut self) {
        let oldest = self.channels.iter().min_by_key(|(_, of)| of.last);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.channels.remove(&name);
        }
    }

    /// A channel's name in Redis, as far as it is logged.
    pub fn name(&self, channel: &str) -> String {
        let name = self.prefix.chars().chain(channel.chars());
        name.take(LOGGED_BYTES).collect()
    }

    /// Tells of a message that was dropped, with its channel and first bytes.
    pub fn malformed(&mut self, channel: &str, payload: &[u8], why: &Malformed) {
        let name = self.name(channel);
        self.say(&name, why.reason(), |left_out| {
            let start = &payload[..payload.len().min(LOGGED_BYTES)];
            tracing::warn!(
                channel = name,
                payload = %start.escape_ascii(),
                bytes = payload.len(),
                %why,
                left_out,
                "malformed message dropped"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_a_few_and_counts_the_rest() {
        let mut limited = Limited::default();
        let mut said = Vec::new();
        for _ in 0..20 {
            limited.say(|left_out| said.push(left_out));
        }
        assert_eq!(said, [0; BURST as usize]);
        limited.since = Instant::now().checked_sub(PERIOD);
        limited.say(|left_out| said.push(left_out));
        assert_eq!(said.last(), Some(&15));
    }

    #[test]
    fn what_stays_the_same_is_said_once_in_a_while() {
        let mut repeated = Repeated::default();
        let mut said = Vec::new();
        for what in ["refused", "refused", "refused", "late", "late"] {
            repeated.say(what, |left_out| said.push((what, left_out)));
        }
        assert_eq!(said, [("refused", 0), ("late", 2)]);
        let long_ago = Instant::now().checked_sub(SAID_AGAIN).unwrap();
        repeated.last = Some(("late".to_owned(), long_ago));
        repeated.say("late", |left_out| said.push(("again", left_out)));
        assert_eq!(said.last(), Some(&("again", 1)));
        repeated.forget();
        repeated.say("late", |left_out| said.push(("anew", left_out)));
        assert_eq!(said.last(), Some(&("anew", 0)));
    }

    #[test]
    fn one_channel_hides_no_other() {
        let mut refusals = Refusals::default();
        let mut said = Vec::new();
        for n in 0..1_000 {
            refusals.say("noisy", "price", |_| said.push("noisy"));
            if n == 999 {
                refusals.say("noisy", "time", |_| said.push("another reason"));
                refusals.say("quiet", "price", |_| said.push("quiet"));
            }
        }
        let noisy = ["noisy"; BURST as usize];
        assert_eq!(said, [&noisy[..], &["another reason", "quiet"]].concat());
    }

    #[test]
    fn channels_and_lines_are_bounded() {
        let mut refusals = Refusals::default();
        let mut said = 0;
        for n in 0..2 * MAX_CHANNELS {
            refusals.say(&format!("{n}"), "price", |_| said += 1);
        }
        assert_eq!(refusals.channels.len(), MAX_CHANNELS);
        assert_eq!(said, MAX_LINES);
    }
}
