//! What happens on `bars.subscribe` and `bars.unsubscribe`.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::hub::SessionId;
use super::lag::GATHER_BYTES;
use super::node::Limit;
use super::protocol::{
    Answer, Refusal, Selection, Wishes, write_answer, write_gap, write_snapshot,
};
use super::registry::Entry;
use super::session::Connection;
use super::worker::Worker;
use crate::bar::{Bar, Message, Pattern, Topic, write_update};
use crate::clock::now_ms;
use crate::history::{History, Hole};

/// Bars that one request may bring, over all its topics: bounds one answer to some 1.3 MB.
const MAX_SNAPSHOT_BARS: usize = 10_000;

/// Patterns with a `*` that one client may hold: each is looked up whenever a topic opens.
const MAX_PATTERNS_PER_CLIENT: usize = 64;

/// What a new subscriber is shown first.
pub(super) enum First {
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

/// What a request for subscriptions comes to, before anything is done about it.
struct Judged {
    /// Named one by one, without repetitions.
    names: Vec<Topic>,
    /// With a `*`, and not held before.
    patterns: Vec<Pattern>,
    /// Topics that patterns mean and that are not named, held before or not.
    meant: Vec<Arc<Entry>>,
    /// How many topics each of `patterns` meant.
    counts: Vec<usize>,
    /// Bars that it brings.
    bars: usize,
}

/// A limit that is in the way, and what to say of it.
type Limited = (Limit, String);

/// What is selected, without repetitions: topics by their names, and patterns with a `*`.
fn distinct(which: &Selection) -> (Vec<Topic>, Vec<Pattern>) {
    let mut patterns = which.patterns.clone();
    patterns.sort_unstable();
    patterns.dedup();
    let names = patterns.iter().filter_map(Pattern::topic).collect();
    patterns.retain(|pattern| pattern.topic().is_none());
    (names, patterns)
}

impl Worker {
    /// How many topics a request makes this worker look at.
    pub fn touched(&self, id: SessionId, which: &Selection, subscribes: bool) -> usize {
        let limit = self.node.config.limits.max_topics_per_client;
        let of = |pattern: &Pattern| match pattern.topic() {
            Some(_) => 1,
            None if !subscribes => self.hub().count_of(id),
            // One that means more is refused for that.
            None => Some(self.node.registry.count(pattern))
                .filter(|count| *count <= limit)
                .unwrap_or(0),
        };
        which.patterns.iter().map(of).sum()
    }

    /// Subscribes a session to all that is selected, or to nothing; tells how many bars it is shown.
    ///
    /// # Errors
    /// A [`Refusal`] with code `limit`.
    pub fn subscribe(
        self: &Rc<Self>,
        id: SessionId,
        connection: &Connection,
        which: &Selection,
        wishes: Wishes,
        request: Option<&str>,
    ) -> Result<usize, Refusal> {
        let judged = self.judge(id, connection, which, wishes);
        let watched = judged.and_then(|judged| Ok((self.watch_names(&judged.names)?, judged)));
        let (mut entries, judged) = watched.map_err(|(limit, message)| {
            self.node.metrics.limited(limit.label()).inc();
            Refusal {
                id: request.map(str::to_owned),
                code: "limit",
                message,
            }
        })?;
        for entry in &judged.meant {
            self.watching.borrow_mut().watch_open(entry);
        }
        entries.extend_from_slice(&judged.meant);
        self.set_pattern_rates(id, which, wishes.max_rate);
        for (pattern, count) in judged.patterns.iter().zip(judged.counts) {
            self.hold_pattern(id, connection, *pattern, wishes.max_rate, count);
        }
        // Joined before the answer goes out: whoever has it gets every bar from there on.
        let mut firsts: Vec<_> = entries
            .iter()
            .map(|entry| self.join_topic(id, entry, wishes))
            .collect();
        self.add_placeholders(id, &entries);
        // What opened since the request was judged.
        for pattern in judged.patterns {
            for entry in self.take_lacking(id, pattern) {
                firsts.push(self.join_topic(id, &entry, wishes));
                entries.push(entry);
            }
        }
        let answer = self.text(|out| write_answer(out, Answer::Subscribed, which, request));
        // Gathered: a pattern would cost a write for each of its topics.
        let mut frames = Vec::from(answer);
        for (first, entry) in firsts.into_iter().zip(&entries) {
            self.show(&mut frames, entry, first);
            if frames.len() >= GATHER_BYTES {
                self.send(id, std::mem::take(&mut frames).into());
            }
        }
        if !frames.is_empty() {
            self.send(id, frames.into());
        }
        self.evict_placeholders();
        Ok(judged.bars)
    }

    /// Has the past read that a request asks for and that is left in the store; what to wait for.
    pub(super) fn ask_pasts(
        &self,
        id: SessionId,
        connection: &Connection,
        which: &Selection,
        wishes: Wishes,
    ) -> Vec<CancellationToken> {
        let pasts = &self.node.pasts;
        // The newest bar is always there.
        let shows_past = wishes.since.is_some() || wishes.snapshot.is_some_and(|count| count > 1);
        if !shows_past || !pasts.is_open() {
            return Vec::new();
        }
        // What will be refused costs the store nothing.
        let Ok(judged) = self.judge(id, connection, which, wishes) else {
            return Vec::new();
        };
        let watching = self.watching.borrow();
        let names = judged.names.iter().filter_map(|name| watching.get(name));
        let asked = names.chain(judged.meant);
        asked.filter_map(|entry| pasts.ask(&entry)).collect()
    }

    /// Looks whether a request is within the limits. Nothing is changed by it, and what is looked at grows
    /// with what the client may hold, not with what there is.
    fn judge(
        &self,
        id: SessionId,
        connection: &Connection,
        which: &Selection,
        wishes: Wishes,
    ) -> Result<Judged, Limited> {
        let registry = &self.node.registry;
        let (names, asked) = distinct(which);
        let mut patterns = asked.clone();
        patterns.retain(|pattern| !connection.patterns.borrow().contains(pattern));
        self.judge_patterns(connection, &asked, &patterns)?;
        let counts = patterns.iter().map(|p| registry.count(p)).collect();
        let known: Vec<_> = {
            let watching = self.watching.borrow();
            names.iter().map(|name| watching.get(name)).collect()
        };
        let meant = self.judge_topics(id, &known, &asked)?;
        let entries = known.iter().flatten().chain(&meant);
        let bars = entries
            .map(|entry| asked_bars(&entry.lock().history, wishes))
            .sum();
        if bars > MAX_SNAPSHOT_BARS {
            let count = names.len() + meant.len();
            let message = format!(
                "{bars} bars of {count} topics, {MAX_SNAPSHOT_BARS} are allowed in one request"
            );
            return Err((Limit::SnapshotBars, message));
        }
        Ok(Judged {
            names,
            patterns,
            meant,
            counts,
            bars,
        })
    }

    /// Whether a client may hold so many patterns, and any of them alone.
    fn judge_patterns(
        &self,
        connection: &Connection,
        asked: &[Pattern],
        new: &[Pattern],
    ) -> Result<(), Limited> {
        let limit = self.node.config.limits.max_topics_per_client;
        let count = connection.patterns.borrow().len() + new.len();
        let allowed = limit.min(MAX_PATTERNS_PER_CLIENT);
        if count > allowed {
            let message = format!("that would make {count} patterns, {allowed} are allowed");
            return Err((Limit::PatternsPerClient, message));
        }
        let counts = asked.iter().map(|p| self.node.registry.count(p));
        match counts.max() {
            Some(most) if most > limit => Err(self.too_many_topics(most)),
            _ => Ok(()),
        }
    }

    /// The topics that patterns mean beside those that are named, unless that is more than the client may
    /// get.
    fn judge_topics(
        &self,
        id: SessionId,
        named: &[Option<Arc<Entry>>],
        asked: &[Pattern],
    ) -> Result<Vec<Arc<Entry>>, Limited> {
        let held = self.hub().count_of(id);
        let is_new = |entry: &Entry| !self.hub().is_subscribed(id, entry.id);
        let new = named
            .iter()
            .filter(|found| found.as_ref().is_none_or(|entry| is_new(entry)))
            .count();
        let Some(mut room) = self.room_of(id).checked_sub(new) else {
            return Err(self.too_many_topics(held + new));
        };
        let mut seen: HashSet<_> = named.iter().flatten().map(|entry| entry.id).collect();
        let mut meant = Vec::new();
        let mut is_beyond = false;
        for pattern in asked {
            self.node.registry.visit(pattern, 0, |entry| {
                if seen.insert(entry.id) {
                    let left = room.checked_sub(usize::from(is_new(entry)));
                    is_beyond = left.is_none();
                    room = left.unwrap_or(0);
                    meant.push(Arc::clone(entry));
                }
                if is_beyond {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            if is_beyond {
                let limit = self.node.config.limits.max_topics_per_client;
                return Err(self.too_many_topics(limit + 1));
            }
        }
        Ok(meant)
    }

    fn too_many_topics(&self, count: usize) -> Limited {
        let limit = self.node.config.limits.max_topics_per_client;
        let message = format!("that would make {count} topics or more, {limit} are allowed");
        (Limit::TopicsPerClient, message)
    }

    /// Watches all names, or none.
    fn watch_names(&self, names: &[Topic]) -> Result<Vec<Arc<Entry>>, Limited> {
        let mut watching = self.watching.borrow_mut();
        let mut watched: Vec<Arc<Entry>> = Vec::with_capacity(names.len());
        for name in names {
            match watching.watch(name) {
                Ok(entry) => watched.push(entry),
                Err(why) => {
                    let hub = self.hub();
                    for entry in watched.iter().filter(|entry| !hub.is_watched(entry.id)) {
                        watching.unwatch(entry);
                    }
                    return Err((Limit::Placeholders, why.to_string()));
                }
            }
        }
        Ok(watched)
    }

    /// Lets a session in right behind what it is to be shown first: the version read under the topic's
    /// lock is where the live stream goes on. Nothing is sent in between, since all is one turn of the
    /// worker's thread.
    pub(super) fn join_topic(&self, id: SessionId, entry: &Arc<Entry>, wishes: Wishes) -> First {
        let (first, version, newest) = self.first(id, entry, wishes);
        let mut hub = self.hub();
        if matches!(first, First::Bars { .. }) {
            // Asked again: what is on its way to the old subscription is in the snapshot.
            hub.unsubscribe(id, entry.id);
        }
        if hub.is_subscribed(id, entry.id) {
            hub.set_rate(id, entry.id, wishes.max_rate);
        } else {
            hub.subscribe(id, entry, version, wishes.max_rate);
            hub.start_at(entry.id, version, newest);
        }
        first
    }

    /// Appends the frames of what a new subscriber is shown first.
    pub(super) fn show(&self, frames: &mut Vec<u8>, entry: &Entry, first: First) {
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

    /// What a new subscriber is shown first, up to which version, and the newest bar's time.
    fn first(&self, id: SessionId, entry: &Arc<Entry>, wishes: Wishes) -> (First, u64, i64) {
        let again = self.hub().is_subscribed(id, entry.id);
        let state = entry.lock();
        let (history, resolution) = (&state.history, entry.topic.resolution);
        // The old subscription's frames that have yet to come here will not be sent: the bars are shown.
        let on_its_way = again.then(|| self.hub().on_its_way(entry.id, state.version));
        let on_its_way = match on_its_way.flatten() {
            // Its first bar is on its way.
            Some(i64::MIN) => history.known_from().unwrap_or(i64::MAX),
            from => from.unwrap_or(i64::MAX),
        };
        let first = if let Some(count) = wishes.snapshot {
            let newest = history.newest(count);
            let start = newest.clone().next().map_or(i64::MAX, Bar::time);
            let lacks = count.saturating_sub(newest.clone().count());
            let unread = state.unread_before(resolution, start, lacks);
            let older = history.since(on_its_way);
            let older = older.take_while(|bar| bar.time() < start);
            let known = if on_its_way < start {
                history.missing(resolution, on_its_way, now_ms())
            } else {
                history.holes(resolution, start, i64::MAX).collect()
            };
            First::Bars {
                bars: older.chain(newest).copied().collect(),
                gaps: unread.into_iter().chain(known).collect(),
            }
        } else if let Some(since) = wishes.since {
            let since = since.min(on_its_way);
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
        let newest = history.last().map_or(i64::MIN, Bar::time);
        (first, state.version, newest)
    }

    /// Ends the selected subscriptions, narrower patterns among them; what was not subscribed is no error.
    pub fn unsubscribe(
        self: &Rc<Self>,
        id: SessionId,
        connection: &Connection,
        which: &Selection,
        request: Option<&str>,
    ) {
        for pattern in &which.patterns {
            let ended: Vec<_> = if let Some(topic) = pattern.topic() {
                self.watching.borrow().get(&topic).into_iter().collect()
            } else {
                let held = connection.patterns.borrow().clone();
                for narrower in held.iter().filter(|held| pattern.includes(held)) {
                    self.release_pattern(id, connection, *narrower);
                }
                let hub = self.hub();
                let meant = hub.topics_of(id).filter(|e| pattern.matches(&e.topic));
                meant.map(Arc::clone).collect()
            };
            for entry in ended {
                self.hub().unsubscribe(id, entry.id);
            }
        }
        self.answer(id, |out| {
            write_answer(out, Answer::Unsubscribed, which, request);
        });
        self.end_placeholders(id);
        self.complete_all(id, connection);
    }
}
