//! Patterns with a `*`: who holds them, and the topics that open while they are held.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use super::batch::TopicId;
use super::holders::Held;
use super::hub::SessionId;
use super::lag::GATHER_BYTES;
use super::node::Limit;
use super::protocol::{Refusal, Selection, Wishes, write_refusal};
use super::registry::Entry;
use super::session::Connection;
use super::worker::Worker;
use crate::bar::{Pattern, Topic};

impl Worker {
    /// Notes a pattern that the session did not hold before, and the first `taken` of whose topics it was
    /// is being subscribed to. Those that opened meanwhile, which nobody tells of, are still to be taken.
    pub(super) fn hold_pattern(
        &self,
        id: SessionId,
        connection: &Connection,
        pattern: Pattern,
        max_rate: Option<f64>,
        taken: usize,
    ) {
        let mut held = connection.patterns.take().into_vec();
        held.push(pattern);
        connection.patterns.replace(held.into());
        let mut patterns = self.patterns.borrow_mut();
        let holders = patterns.entry(pattern).or_default();
        if !holders.has_room() {
            self.node.registry.hold(pattern, self.at);
        }
        let held = Held {
            max_rate,
            lacks_from: Some(taken),
            told: false,
        };
        holders.insert(id, held);
    }

    /// Gives the patterns that the session held before their new rate, for topics to come. Done when
    /// nothing can refuse the request any more.
    pub(super) fn set_pattern_rates(
        &self,
        id: SessionId,
        which: &Selection,
        max_rate: Option<f64>,
    ) {
        let mut patterns = self.patterns.borrow_mut();
        for pattern in &which.patterns {
            if let Some(held) = patterns.get_mut(pattern).and_then(|h| h.get_mut(id)) {
                held.max_rate = max_rate;
            }
        }
    }

    pub(super) fn release_pattern(&self, id: SessionId, connection: &Connection, pattern: Pattern) {
        let mut held = connection.patterns.take().into_vec();
        if let Some(at) = held.iter().position(|p| *p == pattern) {
            held.swap_remove(at);
            self.forget_pattern(id, pattern);
        }
        connection.patterns.replace(held.into());
    }

    pub(super) fn forget_pattern(&self, id: SessionId, pattern: Pattern) {
        let mut patterns = self.patterns.borrow_mut();
        if let Some(holders) = patterns.get_mut(&pattern) {
            let had_room = holders.has_room();
            holders.remove(id);
            if had_room && !holders.has_room() {
                self.node.registry.release(pattern, self.at);
            }
            if holders.is_empty() {
                patterns.remove(&pattern);
            }
        }
    }

    /// Subscribes the holders of patterns to topics whose first bar is about to be delivered.
    pub(super) fn expand(self: &Rc<Self>, opened: &[(TopicId, Topic)]) {
        for &(id, topic) in opened {
            for pattern in Pattern::covering(&topic) {
                let holders: Vec<_> = match self.patterns.borrow().get(&pattern) {
                    Some(holders) => holders.with_room().collect(),
                    None => continue,
                };
                // The topic just had a bar, so it is there and stays.
                let entry = self.watching.borrow().get(&topic);
                if let Some(entry) = entry.filter(|entry| entry.id == id) {
                    for (session, held) in holders {
                        self.expand_one(session, pattern, held, &entry);
                    }
                }
            }
        }
    }

    fn expand_one(
        self: &Rc<Self>,
        id: SessionId,
        pattern: Pattern,
        held: Held,
        entry: &Arc<Entry>,
    ) {
        if held.lacks_from.is_some() {
            return self.complete(id, pattern);
        }
        if self.hub().is_subscribed(id, entry.id) {
            return;
        }
        if self.room_of(id) > 0 {
            self.watching.borrow_mut().watch_open(entry);
            // Its first bar is in the batch that opened it, so there is nothing to join.
            self.hub().subscribe(id, entry, 0, held.max_rate);
        } else {
            let place = self.node.registry.place(&pattern, entry.id);
            self.lack(id, pattern, place.unwrap_or(0));
        }
    }

    /// How many topics more a session may get.
    pub(super) fn room_of(&self, id: SessionId) -> usize {
        let limit = self.node.config.limits.max_topics_per_client;
        limit.saturating_sub(self.hub().count_of(id))
    }

    /// Notes that a session does not get all that its pattern means, from a place on, and tells it once.
    pub(super) fn lack(&self, id: SessionId, pattern: Pattern, from: usize) {
        let label = Limit::TopicsPerClient.label();
        self.node.metrics.limited(label).inc();
        let was_told = {
            let mut patterns = self.patterns.borrow_mut();
            let Some(held) = patterns.get_mut(&pattern).and_then(|h| h.get_mut(id)) else {
                return;
            };
            held.lacks_from = Some(from);
            std::mem::replace(&mut held.told, true)
        };
        self.set_full(id, pattern, true);
        if !was_told {
            let limit = self.node.config.limits.max_topics_per_client;
            let message = format!(
                "{pattern} is not complete: topics that it means opened, and {limit} topics are allowed; \
                 they come when there is room"
            );
            let refusal = Refusal {
                id: None,
                code: "limit",
                message,
            };
            self.answer(id, |out| write_refusal(out, &refusal));
        }
    }

    /// Notes whether a session has room for more of what a pattern means. While nobody here has, this worker
    /// does not watch the pattern: nothing is encoded for it, and what opens costs nothing.
    fn set_full(&self, id: SessionId, pattern: Pattern, is_full: bool) {
        let mut patterns = self.patterns.borrow_mut();
        let Some(holders) = patterns.get_mut(&pattern) else {
            return;
        };
        let had_room = holders.has_room();
        holders.set_full(id, is_full);
        match (had_room, holders.has_room()) {
            (false, true) => self.node.registry.hold(pattern, self.at),
            (true, false) => self.node.registry.release(pattern, self.at),
            _ => {}
        }
    }

    /// Takes what the patterns of a session lack, as far as there is room.
    pub(super) fn complete_all(self: &Rc<Self>, id: SessionId, connection: &Connection) {
        let held = connection.patterns.borrow().clone();
        for pattern in held {
            self.complete(id, pattern);
        }
    }

    /// Topics that one pattern of a session lacks, as far as there is room: watched, and to be joined. Each is
    /// looked at once.
    pub(super) fn take_lacking(&self, id: SessionId, pattern: Pattern) -> Vec<Arc<Entry>> {
        let mut room = self.room_of(id);
        let mut entries = Vec::new();
        if room > 0 {
            // Before the topics are looked through, so that none can open unseen in between.
            self.set_full(id, pattern, false);
        }
        let held = self.held(id, pattern);
        let Some((from, told)) = held.and_then(|held| Some((held.lacks_from?, held.told))) else {
            return entries;
        };
        let mut next = from;
        let mut lacking = false;
        self.node.registry.visit(&pattern, from, |entry| {
            if !self.hub().is_subscribed(id, entry.id) {
                if room == 0 {
                    lacking = true;
                    return ControlFlow::Break(());
                }
                room -= 1;
                entries.push(Arc::clone(entry));
            }
            next += 1;
            ControlFlow::Continue(())
        });
        let mut patterns = self.patterns.borrow_mut();
        let holders = patterns.get_mut(&pattern);
        if let Some(held) = holders.and_then(|holders| holders.get_mut(id)) {
            held.lacks_from = lacking.then_some(next);
            // Whole again: when that ends its client is told again.
            held.told &= lacking;
        }
        drop(patterns);
        if lacking && !told {
            self.lack(id, pattern, next);
        }
        self.set_full(id, pattern, lacking);
        for entry in &entries {
            self.watching.borrow_mut().watch_open(entry);
        }
        entries
    }

    fn held(&self, id: SessionId, pattern: Pattern) -> Option<Held> {
        self.patterns.borrow().get(&pattern)?.get(id)
    }

    /// Takes what one pattern of a session lacks, as far as there is room, and shows it.
    fn complete(&self, id: SessionId, pattern: Pattern) {
        let wishes = Wishes {
            max_rate: self.held(id, pattern).and_then(|held| held.max_rate),
            ..Wishes::default()
        };
        let mut frames = Vec::new();
        for entry in self.take_lacking(id, pattern) {
            let first = self.join_topic(id, &entry, wishes);
            self.show(&mut frames, &entry, first);
            if frames.len() >= GATHER_BYTES {
                self.send(id, std::mem::take(&mut frames).into());
            }
        }
        if !frames.is_empty() {
            self.send(id, frames.into());
        }
    }
}
