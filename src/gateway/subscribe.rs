//! What happens on `bars.subscribe` and `bars.unsubscribe`.

use std::rc::Rc;
use std::sync::Arc;

use super::hub::SessionId;
use super::lag::GATHER_BYTES;
use super::node::Limit;
use super::protocol::{
    Answer, Refusal, Selection, Wishes, write_answer, write_gap, write_snapshot,
};
use super::registry::Entry;
use super::session::Connection;
use super::worker::{Holder, Worker};
use crate::bar::{Bar, Message, Pattern, write_update};
use crate::clock::now_ms;
use crate::history::{History, Hole};

/// Bars that one request may bring, over all its topics: bounds one answer to some 1.3 MB.
const MAX_SNAPSHOT_BARS: usize = 10_000;

/// Patterns with a `*` that one client may hold: each is looked up whenever a topic opens.
const MAX_PATTERNS_PER_CLIENT: usize = 64;

/// What a new subscriber is shown first.
enum First {
    Nothing,
    Current(Message),
    Bars {
        /// What may be missing beside the bars.
        gaps: Vec<Hole>,
        bars: Vec<Bar>,
    },
}

/// How many bars of a topic the wishes ask for.
fn asked_bars(history: &History, wishes: Wishes) -> usize {
    match (wishes.snapshot, wishes.since) {
        (Some(count), _) => history.newest(count).count(),
        (None, Some(since)) => history.since(since).count(),
        (None, None) => 0,
    }
}

impl Worker {
    /// Subscribes a session to all that is selected, or to nothing.
    ///
    /// # Errors
    /// A [`Refusal`] with code `limit`.
    pub fn subscribe(
        self: &Rc<Self>,
        id: SessionId,
        connection: &Connection,
        which: &Selection,
        wishes: Wishes,
        request: Option<String>,
    ) -> Result<(), Refusal> {
        let patterns = self.hold_patterns(id, connection, which, wishes.max_rate);
        match self.watch_selected(id, connection, which, wishes) {
            Ok(entries) => {
                self.set_pattern_rates(id, which, wishes.max_rate);
                // Joined before the answer goes out: whoever has it gets every bar from there on.
                let joined: Vec<_> = entries
                    .into_iter()
                    .map(|entry| (self.join_topic(id, &entry, wishes), entry))
                    .collect();
                let answer = self.text(|out| {
                    write_answer(out, Answer::Subscribed, which, request.as_deref());
                });
                // Gathered: a pattern would cost a write for each of its topics.
                let mut frames = Vec::from(answer);
                for (first, entry) in joined {
                    self.show(&mut frames, &entry, first);
                    if frames.len() >= GATHER_BYTES {
                        self.send(id, std::mem::take(&mut frames).into());
                    }
                }
                if !frames.is_empty() {
                    self.send(id, frames.into());
                }
                Ok(())
            }
            Err((limit, message)) => {
                for pattern in patterns {
                    self.release_pattern(id, connection, pattern);
                }
                self.node.metrics.limited(limit.label()).inc();
                Err(Refusal {
                    id: request,
                    code: "limit",
                    message,
                })
            }
        }
    }

    /// Notes the patterns with a `*` that the session did not hold before. Done before the topics are
    /// looked through, so that none can open unseen in between.
    fn hold_patterns(
        &self,
        id: SessionId,
        connection: &Connection,
        which: &Selection,
        max_rate: Option<f64>,
    ) -> Vec<Pattern> {
        let mut added = Vec::new();
        let holder = Holder {
            session: id,
            max_rate,
        };
        let mut held = connection.patterns.take().into_vec();
        for &pattern in which.patterns.iter().filter(|p| p.topic().is_none()) {
            if held.contains(&pattern) {
                continue;
            }
            let mut patterns = self.patterns.borrow_mut();
            patterns.entry(pattern).or_default().push(holder);
            held.push(pattern);
            added.push(pattern);
            self.node.registry.add_pattern(pattern);
        }
        connection.patterns.replace(held.into());
        added
    }

    /// Gives the patterns that the session held before their new rate, for topics to come. Done when
    /// nothing can refuse the request any more.
    fn set_pattern_rates(&self, id: SessionId, which: &Selection, max_rate: Option<f64>) {
        let mut patterns = self.patterns.borrow_mut();
        for pattern in &which.patterns {
            let holders = patterns.get_mut(pattern).into_iter().flatten();
            for holder in holders.filter(|holder| holder.session == id) {
                holder.max_rate = max_rate;
            }
        }
    }

    fn release_pattern(&self, id: SessionId, connection: &Connection, pattern: Pattern) {
        let mut held = connection.patterns.take().into_vec();
        if let Some(at) = held.iter().position(|p| *p == pattern) {
            held.swap_remove(at);
            self.forget_pattern(id, pattern);
        }
        connection.patterns.replace(held.into());
    }

    /// The selected topics, each with one watcher more; or the limit that is in the way.
    fn watch_selected(
        &self,
        id: SessionId,
        connection: &Connection,
        which: &Selection,
        wishes: Wishes,
    ) -> Result<Vec<Arc<Entry>>, (Limit, String)> {
        let limit = self.node.config.limits.max_topics_per_client;
        let patterns = connection.patterns.borrow().len();
        let patterns_limit = limit.min(MAX_PATTERNS_PER_CLIENT);
        if patterns > patterns_limit {
            return Err((
                Limit::PatternsPerClient,
                format!("that would make {patterns} patterns, {patterns_limit} are allowed"),
            ));
        }
        let registry = &self.node.registry;
        let mut topics = Vec::new();
        for pattern in &which.patterns {
            match pattern.topic() {
                Some(topic) => topics.push(topic),
                None => topics.extend(registry.matching(pattern).iter().map(|e| e.topic)),
            }
        }
        topics.sort_unstable();
        topics.dedup();
        let held = self.hub().count_of(id);
        let new = topics
            .iter()
            .filter(|topic| {
                registry
                    .get(topic)
                    .is_none_or(|entry| !self.hub().is_subscribed(id, entry.id))
            })
            .count();
        if held + new > limit {
            return Err((
                Limit::TopicsPerClient,
                format!(
                    "{new} more topics would make {}, {limit} are allowed",
                    held + new
                ),
            ));
        }
        let bars: usize = topics
            .iter()
            .filter_map(|topic| registry.get(topic))
            .map(|entry| asked_bars(&entry.lock().history, wishes))
            .sum();
        if bars > MAX_SNAPSHOT_BARS {
            let count = topics.len();
            return Err((
                Limit::SnapshotBars,
                format!(
                    "{bars} bars of {count} topics, {MAX_SNAPSHOT_BARS} are allowed in one request"
                ),
            ));
        }
        let mut watched = Vec::with_capacity(topics.len());
        for topic in topics {
            match registry.watch(&topic) {
                Ok(entry) => watched.push(entry),
                Err(why) => {
                    for entry in watched {
                        registry.unwatch(&entry);
                    }
                    return Err((Limit::Topics, why.to_string()));
                }
            }
        }
        Ok(watched)
    }

    /// Lets a session in right behind what it is to be shown first: the version read under the topic's
    /// lock is where the live stream goes on. Nothing is sent in between, since all is one turn of the
    /// worker's thread.
    fn join_topic(&self, id: SessionId, entry: &Arc<Entry>, wishes: Wishes) -> First {
        let (first, version) = self.first(id, entry, wishes);
        let mut hub = self.hub();
        if matches!(first, First::Bars { .. }) {
            // Asked again: what is on its way to the old subscription is in the snapshot.
            hub.unsubscribe(id, entry.id);
        }
        if hub.is_watched(entry.id) {
            // The worker counts as one watcher, however many clients it has for the topic.
            self.node.registry.unwatch(entry);
        }
        if hub.is_subscribed(id, entry.id) {
            hub.set_rate(id, entry.id, wishes.max_rate);
        } else {
            hub.subscribe(id, entry, version, wishes.max_rate);
        }
        first
    }

    /// Appends the frames of what a new subscriber is shown first.
    fn show(&self, frames: &mut Vec<u8>, entry: &Entry, first: First) {
        match first {
            First::Nothing => {}
            First::Current(message) => {
                frames.extend_from_slice(&self.text(|out| write_update(out, &message)));
            }
            First::Bars { gaps, bars } => {
                for Hole { from, to } in gaps {
                    let gap = self.text(|out| write_gap(out, &entry.topic, from, to, "upstream"));
                    frames.extend_from_slice(&gap);
                }
                frames
                    .extend_from_slice(&self.text(|out| write_snapshot(out, &entry.topic, &bars)));
            }
        }
    }

    fn first(&self, id: SessionId, entry: &Arc<Entry>, wishes: Wishes) -> (First, u64) {
        let again = self.hub().is_subscribed(id, entry.id);
        let state = entry.lock();
        let (history, resolution) = (&state.history, entry.topic.resolution);
        let first = if let Some(count) = wishes.snapshot {
            let bars: Vec<Bar> = history.newest(count).copied().collect();
            let start = bars.first().map_or(i64::MAX, Bar::time);
            First::Bars {
                gaps: history.holes(resolution, start, i64::MAX).collect(),
                bars,
            }
        } else if let Some(since) = wishes.since {
            First::Bars {
                gaps: history.missing(resolution, since, now_ms()),
                bars: history.since(since).copied().collect(),
            }
        } else if again {
            // It has the current bar, and may only want another rate.
            First::Nothing
        } else {
            state
                .current(entry.topic)
                .map_or(First::Nothing, First::Current)
        };
        (first, state.version)
    }

    /// Ends the selected subscriptions, narrower patterns among them; what was not subscribed is no error.
    pub fn unsubscribe(
        &self,
        id: SessionId,
        connection: &Connection,
        which: &Selection,
        request: Option<&str>,
    ) {
        for pattern in &which.patterns {
            let held = connection.patterns.borrow().clone();
            for narrower in held.iter().filter(|held| pattern.includes(held)) {
                self.release_pattern(id, connection, *narrower);
            }
            let ended: Vec<_> = {
                let hub = self.hub();
                let meant = hub.topics_of(id).filter(|e| pattern.matches(&e.topic));
                meant.map(|entry| entry.id).collect()
            };
            for topic in ended {
                self.hub().unsubscribe(id, topic);
            }
        }
        self.answer(id, |out| {
            write_answer(out, Answer::Unsubscribed, which, request);
        });
    }
}
