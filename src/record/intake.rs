//! From the bus to batches of closed bars.
//!
//! What comes live is handed on at once. Of the store only the newest message of every topic is read when the
//! subscription stands; its past is asked for as the outputs have room for it ([`Inlets`]).

use std::collections::HashMap;

use tokio::sync::mpsc;

use super::Closed;
use super::fresh::Fresh;
use super::inlets::Inlets;
use super::owing::questions;
use crate::ahead::{Ahead, FUTURE, MaxAhead};
use crate::bar::{Decoder, Message, Topic};
use crate::bus::{Bus, Doubt, Sink};
use crate::health::Concern;
use crate::limited::{Refusals, Repeated};
use crate::metrics::RecordMetrics;

/// Topics whose forming bars are remembered, some 20 MB: beyond them only bars that say that they are
/// closed are taken.
pub(super) const MAX_TOPICS: usize = 100_000;
/// Bars handed over at once.
pub(super) const BATCH_BARS: usize = 500;
/// The sink of the bus on a recorder.
pub(super) struct Intake {
    outputs: Inlets,
    questions: Option<mpsc::Receiver<Topic>>,
    /// Topics that the store has, as they are read.
    found: Vec<Topic>,
    metrics: RecordMetrics,
    address: String,
    decoder: Decoder,
    closing: Closing,
    live: Vec<Closed>,
    stored: Vec<Closed>,
    fresh: Fresh,
    warnings: Refusals,
    /// What keeps bars of the future out.
    ahead: Ahead,
    /// Warnings about the bus and its store.
    away: Repeated,
    /// The last attempt to read the store did not come to its end.
    is_unread: bool,
    /// What is in doubt of who serves the subscription.
    served_by: Option<String>,
}

/// Which bars are closed, as DESIGN's words have it: those that say so, those behind which a newer one
/// opened, and revisions of the past.
#[derive(Default)]
struct Closing {
    topics: HashMap<Topic, Open>,
}

struct Open {
    /// Time of the newest bar.
    newest: i64,
    /// The newest bar while it is not closed.
    forming: Option<Message>,
}

impl Closing {
    /// Takes in one bar; what is closed by it goes to `out`. `false` when there is no room for its topic.
    fn apply(&mut self, message: &Message, out: &mut Vec<Closed>) -> bool {
        let Message { topic, bar, .. } = *message;
        if self.topics.len() >= MAX_TOPICS && !self.topics.contains_key(&topic) {
            out.extend(bar.closed.then(|| Closed::of(message)));
            return bar.closed;
        }
        let open = self.topics.entry(topic).or_insert(Open {
            newest: bar.time(),
            forming: None,
        });
        if bar.time() < open.newest {
            out.push(Closed::of(message));
            return true;
        }
        if bar.time() > open.newest {
            open.newest = bar.time();
            // More of it may have come while the bus was lost.
            let last = open.forming.take();
            out.extend(last.map(|last| Closed::of(&last).stored()));
        }
        open.forming = (!bar.closed).then_some(*message);
        out.extend(bar.closed.then(|| Closed::of(message)));
        true
    }

    /// Takes in one bar of the store. A forming one of the past says nothing.
    fn restore(&mut self, message: &Message, out: &mut Vec<Closed>) -> bool {
        let Message { topic, bar, .. } = *message;
        let newest = self.topics.get(&topic).map(|open| open.newest);
        if !bar.closed && newest.is_some_and(|newest| bar.time() < newest) {
            return true;
        }
        self.apply(message, out)
    }
}

impl Intake {
    /// And the way on which it is to be asked for the past.
    pub fn new<B: Bus>(
        outputs: Inlets,
        metrics: RecordMetrics,
        bus: &B,
    ) -> (Self, mpsc::Sender<Topic>) {
        let (asks, questions) = questions();
        let intake = Self {
            outputs,
            questions: Some(questions),
            found: Vec::new(),
            metrics,
            address: bus.address(),
            decoder: Decoder::default(),
            closing: Closing::default(),
            live: Vec::new(),
            stored: Vec::new(),
            fresh: Fresh::default(),
            warnings: Refusals::of(bus.prefix()),
            ahead: Ahead::default(),
            away: Repeated::default(),
            is_unread: false,
            served_by: None,
        };
        (intake, asks)
    }

    /// Refuses bars that start further ahead of the clock.
    pub fn refusing(mut self, max: MaxAhead) -> Self {
        self.ahead = Ahead::new(max).telling(self.metrics.health.clone());
        self
    }

    fn tell_store(&self) {
        if !self.is_unread {
            self.metrics.health.clear(Concern::Store);
        }
    }

    fn take(&mut self, channel: &str, payload: &[u8]) {
        let Self {
            decoder,
            closing,
            live,
            fresh,
            metrics,
            warnings,
            ahead,
            ..
        } = self;
        decoder.decode(channel, payload, |message| match message {
            Ok(message) if ahead.refuses(message.topic.resolution, message.bar.time()) => {
                metrics.dropped(FUTURE).inc();
                ahead.refused(message.topic, None, message.bar.time(), warnings);
            }
            Ok(message) => {
                let Message { topic, bar, .. } = message;
                fresh.note(topic, bar.time());
                if !closing.apply(&message, live) {
                    metrics.over_limit().inc();
                }
            }
            Err(why) => {
                metrics.dropped(why.reason()).inc();
                warnings.malformed(channel, payload, &why);
            }
        });
    }

    fn restore(&mut self, topic: &str, payload: &[u8]) {
        let Self {
            decoder,
            closing,
            stored,
            fresh,
            metrics,
            warnings,
            ahead,
            ..
        } = self;
        decoder.decode(topic, payload, |message| match message {
            Ok(message) if ahead.refuses(message.topic.resolution, message.bar.time()) => {
                metrics.dropped(FUTURE).inc();
                ahead.refused(message.topic, None, message.bar.time(), warnings);
            }
            Ok(message) => {
                let Message { topic, bar, .. } = message;
                let is_stale = fresh.is_newer(topic, bar.time());
                if !is_stale && !closing.restore(&message, stored) {
                    metrics.over_limit().inc();
                }
            }
            Err(why) => {
                metrics.dropped(why.reason()).inc();
                warnings.malformed(topic, payload, &why);
            }
        });
    }

    fn hand_over(&mut self) {
        self.outputs.found(&std::mem::take(&mut self.found));
        let stored = std::mem::take(&mut self.stored);
        self.metrics.stored.inc_by(stored.len() as u64);
        self.outputs.give(&stored);
        let live = std::mem::take(&mut self.live);
        self.metrics.closed.inc_by(live.len() as u64);
        self.outputs.put(&live);
    }
}

impl Sink for Intake {
    fn connected(&mut self) {
        self.fresh.read_all(false);
        self.hand_over();
        self.metrics.bus_connected.set(1);
        self.metrics.health.clear(Concern::Bus);
        self.tell_store();
        if self.is_unread {
            tracing::info!(
                bus = self.address,
                "bars flow, the store is still to be read"
            );
        } else {
            tracing::info!(bus = self.address, "bus connected");
        }
    }

    fn lost(&mut self, why: &str) {
        self.fresh.read_all(false);
        self.hand_over();
        let health = &self.metrics.health;
        health.set(Concern::Bus, format!("bus lost: {why}"));
        health.clear(Concern::Server);
        health.clear(Concern::Store);
        if self.metrics.bus_connected.set(0) != 0 {
            tracing::warn!(bus = self.address, why, "bus lost");
        } else {
            let bus = &self.address;
            let say = |left_out| tracing::warn!(bus, why, left_out, "bus cannot be reached");
            self.away.say(why, say);
        }
    }

    fn message(&mut self, channel: &str, payload: &[u8]) {
        self.take(channel, payload);
        if self.live.len() >= BATCH_BARS {
            self.hand_over();
        }
    }

    fn loading(&mut self) {
        self.fresh.read_all(true);
        self.is_unread = false;
    }

    fn asked(&mut self) -> Option<mpsc::Receiver<Topic>> {
        self.questions.take()
    }

    fn recalling(&mut self, topics: &[Topic]) {
        topics.iter().for_each(|topic| self.fresh.begin(*topic));
    }

    fn recalled(&mut self, topic: &Topic, bars: Result<Vec<&[u8]>, String>) {
        let Ok(bars) = bars else {
            self.fresh.end(topic);
            return self.outputs.unread(topic);
        };
        self.hand_over();
        let name = topic.to_string();
        bars.iter().for_each(|bar| self.restore(&name, bar));
        let is_whole = !self.fresh.is_full();
        self.fresh.end(topic);
        let stored = std::mem::take(&mut self.stored);
        self.metrics.stored.inc_by(stored.len() as u64);
        self.outputs.give_past(topic, &stored, is_whole);
    }

    fn unrecalled(&mut self, doubt: Option<Doubt>) {
        let health = &self.metrics.health;
        Doubt::tell(
            doubt,
            health,
            Concern::Past,
            "the past of topics is not read",
        );
        let Some(doubt) = doubt else { return };
        self.metrics.store_failures.inc();
        let (store, why) = (&self.address, doubt.why);
        self.away.say(why, |left_out| {
            tracing::warn!(
                store,
                why,
                left_out,
                "the past of topics cannot be read; it is tried again"
            );
        });
    }

    fn stored(&mut self, topic: &str, payload: &[u8]) {
        self.found.extend(topic.parse::<Topic>());
        self.restore(topic, payload);
        if self.stored.len() >= BATCH_BARS {
            self.hand_over();
        }
    }

    fn unloaded(&mut self, doubt: Doubt) {
        self.is_unread = true;
        self.metrics.store_failures.inc();
        let health = &self.metrics.health;
        Doubt::tell(Some(doubt), health, Concern::Store, "the store is not read");
        let (store, why) = (&self.address, doubt.why);
        self.away.say(why, |left_out| {
            tracing::warn!(
                store,
                why,
                left_out,
                "the store cannot be read; going on without what is missing, and trying again"
            );
        });
    }

    fn loaded(&mut self) {
        self.fresh.read_all(false);
        self.hand_over();
        self.tell_store();
        if !self.is_unread {
            tracing::info!(bus = self.address, "bus connected, the store can be read");
        }
    }

    fn served(&mut self, doubt: Option<Doubt>) {
        Doubt::tell(doubt, &self.metrics.health, Concern::Server, "the bus");
        let served_by = doubt.map(|doubt| doubt.why.to_owned());
        if served_by != self.served_by {
            let bus = &self.address;
            match &served_by {
                Some(why) => tracing::warn!(bus, why, "who serves the bus is in doubt"),
                None => tracing::info!(bus, "the bus is served by a master"),
            }
            self.served_by = served_by;
        }
    }

    fn flush(&mut self) {
        self.ahead.rest();
        self.outputs.look();
        self.hand_over();
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::{Bar, Number};

    fn bar(minute: i64, price: u64, closed: bool) -> (Topic, Bar) {
        let topic: Topic = "bars:A:1".parse().unwrap();
        let numbers = [Number::Unsigned(price); 5];
        let bar = Bar::new(topic.resolution, minute * 60_000, numbers, closed);
        (topic, bar.unwrap())
    }

    /// Minute and price of what is closed by each bar in turn.
    fn closed(bars: &[(Topic, Bar)], restored: bool) -> Vec<(i64, f64)> {
        let mut closing = Closing::default();
        let mut out = Vec::new();
        for (topic, bar) in bars {
            if restored {
                closing.restore(&Message::new(*topic, *bar), &mut out);
            } else {
                closing.apply(&Message::new(*topic, *bar), &mut out);
            }
        }
        assert!(out.iter().all(|one| one.bar.closed));
        let out = out.iter();
        out.map(|Closed { bar, .. }| (bar.time() / 60_000, bar.numbers()[0].value()))
            .collect()
    }

    #[test]
    fn a_bar_closes_by_its_word_or_by_a_newer_one() {
        let bars = [
            bar(0, 1, false),
            bar(0, 2, false),
            bar(1, 3, false),
            bar(1, 4, true),
            bar(2, 5, true),
            bar(0, 6, false),
            bar(3, 7, false),
            bar(2, 8, true),
        ];
        let expected = [(0, 2.0), (1, 4.0), (2, 5.0), (0, 6.0), (2, 8.0)];
        assert_eq!(closed(&bars, false), expected);
    }

    #[test]
    fn the_store_gives_its_newest_message_first() {
        // The last state of minute 1 was missed; the store has it.
        let bars = [
            bar(0, 1, true),
            bar(1, 2, false),
            bar(3, 9, false),
            bar(1, 3, true),
            bar(2, 4, true),
            bar(1, 7, false),
        ];
        let expected = [(0, 1.0), (1, 2.0), (1, 3.0), (2, 4.0)];
        assert_eq!(closed(&bars, true), expected);
    }
}
