//! What the store gives: the newest message of every topic, and the past of those that are asked for.

use std::collections::{HashMap, HashSet};

use super::{Frames, Ingest, over_limit};
use crate::ahead::FUTURE;
use crate::bar::{Bar, Message, Topic};
use crate::gateway::batch::TopicId;
use crate::gateway::past::Past;
use crate::gateway::registry::{Entry, Registry};
use crate::gateway::state::Stored;
use crate::history::Hole;

/// Bars noted as fresh while the store is read, some 16 MB: beyond them nothing more of it is taken.
const MAX_FRESH_BARS: usize = 500_000;

/// Topics whose watchers are told when their past is read after all, if it could not be before.
const MAX_UNRECALLED: usize = 10_000;

/// Bars that come over the bus while the store is read: they are better than what it gives.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    /// Of all topics, while the store is read for all of them.
    all: Option<HashSet<(TopicId, i64)>>,
    /// Of those whose past was asked for.
    recalls: HashMap<TopicId, Recall>,
}

/// A past that is being read.
#[derive(Debug, Default)]
struct Recall {
    fresh: HashSet<i64>,
    /// How often the bus had stood when it was begun.
    times: u64,
    /// What the store gave so far.
    stored: Option<Stored>,
    /// What changed of it that watchers may have seen otherwise.
    changed: Option<Hole>,
    /// There was no room for all of it.
    is_crowded: bool,
    /// No bar was known when it was begun: the store's newest one is ahead of the clock.
    was_empty: bool,
    news: u64,
}

impl Frames {
    /// Notes a live bar while the store is being read, and tells whether that is for all topics.
    pub(super) fn is_fresh(&mut self, entry: &Entry, message: &Message) -> bool {
        let Some(fresh) = &mut self.fresh else {
            return false;
        };
        let time = message.bar.time();
        if let Some(recall) = fresh.recalls.get_mut(&entry.id)
            && recall.fresh.len() < MAX_FRESH_BARS
        {
            recall.fresh.insert(time);
        }
        let Some(all) = &mut fresh.all else {
            return false;
        };
        if all.len() < MAX_FRESH_BARS {
            all.insert((entry.id, time));
        }
        true
    }

    pub(super) fn tell_later(&mut self, topic: Topic, hole: Hole) {
        let told = self.untold.entry(topic).or_insert(hole);
        *told = told.with(hole);
    }

    /// One message of the store, which is read for all topics. Tells whether it was news.
    pub(super) fn restore(
        &mut self,
        registry: &Registry,
        entry: &Entry,
        message: &Message,
        is_lazy: bool,
    ) -> bool {
        let Some(fresh) = self.fresh.as_ref().and_then(|fresh| fresh.all.as_ref()) else {
            return false;
        };
        if fresh.len() >= MAX_FRESH_BARS {
            return false;
        }
        let is_fresh = fresh.contains(&(entry.id, message.bar.time()));
        let hole = {
            let mut state = entry.lock();
            if state.history.last().is_none() {
                self.batch.opened.push((entry.id, entry.topic));
                registry.watched_by(entry, &mut self.workers);
            }
            if is_lazy {
                state.past = Past::Stored;
            }
            let stored = self.stored.entry(entry.topic);
            let stored = stored.or_insert_with(|| Stored::new(&state, &message.bar));
            stored.add(&message.bar);
            let stored = *stored;
            let last = state.history.last().map(Bar::time);
            if self.memory.is_full() && last.is_some_and(|last| message.bar.time() < last) {
                self.crowded = true;
                return false;
            }
            let before = state.history.bytes();
            let hole = state.restore(message, is_fresh, &stored);
            self.memory.resized(before, state.history.bytes());
            hole
        };
        // Also when nobody watches: who comes before all is read does not get all.
        if let Some(hole) = hole {
            self.tell_later(entry.topic, hole);
        }
        hole.is_some()
    }

    /// From now on live bars of all topics are noted.
    pub(super) fn begin_fresh(&mut self) {
        self.fresh.get_or_insert_default().all = Some(HashSet::new());
        self.times += 1;
    }

    /// Not any more; tells how many came, if they were noted.
    pub(super) fn end_fresh(&mut self) -> Option<usize> {
        let fresh = self.fresh.as_mut()?;
        let all = fresh.all.take();
        if fresh.recalls.is_empty() {
            self.fresh = None;
        }
        all.map(|all| all.len())
    }

    fn end_recall(&mut self, topic: TopicId) -> Option<Recall> {
        let fresh = self.fresh.as_mut()?;
        let recall = fresh.recalls.remove(&topic);
        if fresh.recalls.is_empty() && fresh.all.is_none() {
            self.fresh = None;
        }
        recall
    }

    /// One message of a past that was asked for.
    fn recall(
        &mut self,
        registry: &Registry,
        entry: &Entry,
        message: &Message,
        recall: &mut Recall,
    ) {
        if recall.is_crowded {
            return;
        }
        // Before the topic is locked, since all are looked at.
        self.memory.make_room(registry);
        let time = message.bar.time();
        let mut state = entry.lock();
        let last = state.history.last().map(Bar::time);
        if let Some(last) = last.filter(|last| *last <= time && !recall.was_empty) {
            // Not taken, so it proves no more than that nothing is missing before what is known.
            if let Some(stored) = &mut recall.stored {
                stored.reach(entry.topic.resolution, last);
            }
            return;
        }
        let stored = recall
            .stored
            .get_or_insert_with(|| Stored::new(&state, &message.bar));
        stored.add(&message.bar);
        if self.memory.is_full() || recall.fresh.len() >= MAX_FRESH_BARS {
            recall.is_crowded = true;
            return;
        }
        if last.is_none() {
            self.batch.opened.push((entry.id, entry.topic));
            registry.watched_by(entry, &mut self.workers);
        }
        let before = state.history.bytes();
        let is_fresh = recall.fresh.contains(&time);
        let is_news = match recall.was_empty {
            true => state.restore(message, is_fresh, stored).is_some(),
            false => state.recall(message, is_fresh, stored),
        };
        self.memory.resized(before, state.history.bytes());
        recall.news += u64::from(is_news);
        // What lies before all that was known, nobody who watches has seen otherwise.
        if is_news && stored.known_from().is_some_and(|first| first <= time) {
            let hole = Hole {
                from: time,
                to: time,
            };
            recall.changed = Some(recall.changed.map_or(hole, |changed| changed.with(hole)));
        }
    }
}

impl Ingest {
    /// Whether the store was read for all topics with more live bars beside than could be noted.
    pub(super) fn end_load(&mut self) {
        let fresh = self.frames.end_fresh();
        if fresh.is_some_and(|bars| bars >= MAX_FRESH_BARS) {
            self.not_whole("too many bars came meanwhile");
        }
        if std::mem::take(&mut self.frames.crowded) {
            self.not_whole("no memory is left for more of it, see --history-bytes");
        }
    }

    fn not_whole(&mut self, why: &str) {
        self.frames.is_partial = true;
        self.say_unread(why);
    }

    /// Counts and says that not all of the store could be read.
    pub(super) fn say_unread(&mut self, why: &str) {
        self.metrics.store_failures.inc();
        let store = &self.address;
        self.store_log.say(why, |left_out| {
            tracing::warn!(
                store,
                why,
                left_out,
                "the store cannot be read; going on without what is missing"
            );
        });
    }

    /// The bus will stand again: what was read of the store before may have been revised there since.
    pub(super) fn forget_pasts(&self) {
        if self.pasts.is_open() {
            self.registry.each(|entry| {
                let mut state = entry.lock();
                if state.past == Past::Read {
                    state.past = Past::Stored;
                }
            });
        }
    }

    /// The past of these topics is about to be read.
    pub(super) fn begin_recalls(&mut self, topics: &[Topic]) {
        self.frames.memory.make_room(&self.registry);
        let has_room = !self.frames.memory.is_full();
        for topic in topics {
            let Some(entry) = self.registry.get(topic) else {
                continue;
            };
            let was_empty = {
                let mut state = entry.lock();
                if has_room {
                    state.history.take_older();
                }
                state.history.last().is_none()
            };
            let recall = Recall {
                was_empty,
                is_crowded: !has_room,
                times: self.frames.times,
                ..Recall::default()
            };
            let fresh = self.frames.fresh.get_or_insert_default();
            fresh.recalls.insert(entry.id, recall);
        }
    }

    /// The past of one of them is read, or cannot be.
    pub(super) fn end_recall(&mut self, topic: &Topic, bars: Result<Vec<&[u8]>, String>) {
        if let Some(entry) = self.registry.get(topic)
            && let Some(recall) = self.frames.end_recall(entry.id)
        {
            match bars {
                Ok(bars) => self.recall(&entry, recall, &bars),
                Err(why) => {
                    if self.unrecalled.len() < MAX_UNRECALLED {
                        self.unrecalled.insert(*topic);
                    }
                    self.say_unread(&format!("{topic}: {why}"));
                }
            }
        }
        // Also after a failure: whoever waits is answered.
        self.pasts.done(topic);
    }

    fn recall(&mut self, entry: &Entry, mut recall: Recall, bars: &[&[u8]]) {
        let name = entry.topic.to_string();
        for payload in bars {
            let Self {
                registry,
                decoder,
                frames,
                metrics,
                malformed_log,
                ahead,
                ..
            } = self;
            decoder.decode(&name, payload, |message| match message {
                Ok(message) if ahead.refuses(message.topic.resolution, message.bar.time()) => {
                    metrics.dropped(FUTURE).inc();
                    ahead.refused(message.topic, None, message.bar.time(), malformed_log);
                }
                Ok(message) => frames.recall(registry, entry, &message, &mut recall),
                Err(why) => {
                    metrics.dropped(why.reason()).inc();
                    malformed_log.malformed(&name, payload, &why);
                }
            });
        }
        self.metrics.stored.inc_by(recall.news);
        let is_whole = !recall.is_crowded;
        {
            let mut state = entry.lock();
            if let Some(stored) = &recall.stored {
                state.stored(entry.topic.resolution, stored, is_whole);
            }
            if is_whole && recall.times == self.frames.times {
                state.past = Past::Read;
            }
            if let Some(stored) = &recall.stored {
                let until = entry.topic.resolution.next(stored.newest());
                state.stored_until = state.stored_until.max(until);
                self.frames.memory.was_read();
            }
        }
        if !is_whole {
            self.say_unread("no memory is left for more of it, see --history-bytes");
        }
        // Who asked for it when it could not be read was told that it is missing.
        if self.unrecalled.remove(&entry.topic)
            && let Some(stored) = &recall.stored
        {
            let all = stored.hole();
            let told = recall.changed.map_or(all, |changed| changed.with(all));
            recall.changed = Some(told);
        }
        if let Some(hole) = recall.changed {
            self.tell_late(entry, hole);
        }
    }

    /// One message of the store, which is read for all topics.
    pub(super) fn take_stored(&mut self, topic: &str, payload: &[u8]) {
        let Self {
            registry,
            metrics,
            decoder,
            frames,
            malformed_log,
            ahead,
            pasts,
            ..
        } = self;
        let is_lazy = pasts.is_open();
        decoder.decode(topic, payload, |message| match message {
            Ok(message) if ahead.refuses(message.topic.resolution, message.bar.time()) => {
                metrics.dropped(FUTURE).inc();
                ahead.refused(message.topic, None, message.bar.time(), malformed_log);
                // Its past is there all the same, for when a good bar comes.
                let mark = |entry: &Entry| entry.lock().past = Past::Stored;
                if is_lazy && let Err(why) = registry.of_bar(&message.topic, mark) {
                    over_limit(metrics, malformed_log, &message, why);
                }
            }
            Ok(message) => {
                let restore = |entry: &Entry| frames.restore(registry, entry, &message, is_lazy);
                match registry.of_bar(&message.topic, restore) {
                    Ok(is_news) => {
                        metrics.stored.inc_by(u64::from(is_news));
                    }
                    Err(why) => over_limit(metrics, malformed_log, &message, why),
                }
            }
            Err(why) => {
                metrics.dropped(why.reason()).inc();
                malformed_log.malformed(topic, payload, &why);
            }
        });
        frames.memory.trim(registry, 1);
    }
}
