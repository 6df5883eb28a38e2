//! The topics of this node: names to dense numbers, who watches, and what is known of each.
//!
//! Looked at once per bar by ingest and once per subscription by a worker; never per delivery.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;

use super::batch::TopicId;
use super::state::State;
use crate::bar::{Pattern, Topic};
use crate::metrics::{MAX_LABELLED_TOPICS, TopicSubscribers};

/// What this node knows of one topic. Shared by ingest and the workers.
#[derive(Debug)]
pub struct Entry {
    pub id: TopicId,
    pub topic: Topic,
    /// Clients of this node that get it, for metrics and `/api/v1/topics`.
    pub subscribers: AtomicU32,
    state: Mutex<State>,
}

impl Entry {
    /// The changing part. Held for a few dozen nanoseconds, never across an await.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside would have to come from a plain assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There are as many topics as this node may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node already holds {0} topics, its limit")]
pub struct TopicLimit(pub usize);

/// Names to entries. One for the node.
#[derive(Debug)]
pub struct Registry {
    topics: DashMap<Topic, Arc<Entry>>,
    ids: Mutex<Ids>,
    /// Patterns with a `*` that clients hold now, and how many hold each. Locked before any topic
    /// is made or looked through for a pattern, so that a new topic knows its patterns.
    patterns: Mutex<HashMap<Pattern, u32>>,
    max_topics: usize,
    history_bars: usize,
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Ids {
    next: u32,
    free: Vec<u32>,
}

impl Registry {
    /// A registry of at most `max_topics`, each with `history_bars` closed bars.
    pub fn new(max_topics: usize, history_bars: usize) -> Self {
        Self {
            topics: DashMap::new(),
            ids: Mutex::default(),
            patterns: Mutex::default(),
            max_topics,
            history_bars,
            count: AtomicUsize::new(0),
        }
    }

    fn patterns(&self) -> MutexGuard<'_, HashMap<Pattern, u32>> {
        self.patterns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ids(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The topic, made if it is new.
    fn open(&self, topic: Topic, watchers: u32) -> Result<Arc<Entry>, TopicLimit> {
        let patterns = self.patterns();
        // With the pattern lock held nobody else makes topics.
        let entry = self.topics.entry(topic);
        if let dashmap::Entry::Occupied(found) = &entry {
            found.get().lock().watchers += watchers;
            return Ok(Arc::clone(found.get()));
        }
        if self.count.load(Ordering::Relaxed) >= self.max_topics {
            return Err(TopicLimit(self.max_topics));
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let matching: u32 = Pattern::covering(&topic)
            .iter()
            .filter_map(|pattern| patterns.get(pattern))
            .sum();
        let id = {
            let mut ids = self.ids();
            ids.free.pop().unwrap_or_else(|| {
                ids.next += 1;
                ids.next - 1
            })
        };
        let made = Arc::new(Entry {
            id: TopicId(id),
            topic,
            subscribers: AtomicU32::new(0),
            state: Mutex::new(State::new(self.history_bars, watchers + matching)),
        });
        entry.insert(Arc::clone(&made));
        Ok(made)
    }

    /// The topic of a bar that came in, made if it is new.
    ///
    /// # Errors
    /// [`TopicLimit`]
    pub fn of_bar<T>(
        &self,
        topic: &Topic,
        view: impl FnOnce(&Entry) -> T,
    ) -> Result<T, TopicLimit> {
        loop {
            // Looked at while it is held in the table: another thread may forget a topic that has no
            // bar yet, and its number would then be another's.
            if let Some(entry) = self.topics.get(topic) {
                return Ok(view(&entry));
            }
            self.open(*topic, 0)?;
        }
    }

    /// The topic, if it is known.
    pub fn get(&self, topic: &Topic) -> Option<Arc<Entry>> {
        self.topics.get(topic).map(|entry| Arc::clone(&entry))
    }

    /// The topic with one watcher more, made if it is new: from here on its bars are encoded.
    ///
    /// # Errors
    /// [`TopicLimit`]
    pub fn watch(&self, topic: &Topic) -> Result<Arc<Entry>, TopicLimit> {
        self.open(*topic, 1)
    }

    /// One watcher less. A topic that nobody watches and that never had a bar is forgotten, so that
    /// clients cannot fill the table with names.
    pub fn unwatch(&self, entry: &Entry) {
        let removed = self.topics.remove_if(&entry.topic, |_, found| {
            let mut state = found.lock();
            state.watchers = state.watchers.saturating_sub(1);
            state.watchers == 0 && state.history.last().is_none()
        });
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            self.ids().free.push(entry.id.0);
        }
    }

    /// Adds a holder of a pattern with a `*`; topics that match, now and later, count as watched.
    pub fn add_pattern(&self, pattern: Pattern) {
        let mut patterns = self.patterns();
        *patterns.entry(pattern).or_insert(0) += 1;
        for entry in self.topics.iter().filter(|e| pattern.matches(e.key())) {
            entry.lock().watchers += 1;
        }
    }

    /// Takes a holder of a pattern away.
    pub fn remove_pattern(&self, pattern: Pattern) {
        let mut patterns = self.patterns();
        if let Some(count) = patterns.get_mut(&pattern) {
            *count -= 1;
            if *count == 0 {
                patterns.remove(&pattern);
            }
        }
        for entry in self.matching(&pattern) {
            self.unwatch(&entry);
        }
    }

    /// The topics that match.
    pub fn matching(&self, pattern: &Pattern) -> Vec<Arc<Entry>> {
        self.topics
            .iter()
            .filter(|entry| pattern.matches(entry.key()))
            .map(|entry| Arc::clone(&entry))
            .collect()
    }

    /// All topics, in no order.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.topics.iter().map(|e| Arc::clone(&e)).collect()
    }

    /// Shows every topic, in no order, while it is held in the table: `view` should be short.
    pub fn each(&self, mut view: impl FnMut(&Entry)) {
        for entry in &self.topics {
            view(&entry);
        }
    }

    /// The topics with the most subscribers, for a metric whose labels must stay few.
    pub fn topics_by_subscribers(&self) -> TopicSubscribers {
        let mut topics: Vec<_> = self
            .topics
            .iter()
            .map(|entry| (entry.subscribers.load(Ordering::Relaxed), entry.topic))
            .filter(|(count, _)| *count > 0)
            .collect();
        topics.sort_unstable_by_key(|(count, topic)| (Reverse(*count), *topic));
        let others = topics
            .iter()
            .skip(MAX_LABELLED_TOPICS)
            .map(|(count, _)| u64::from(*count))
            .sum();
        topics.truncate(MAX_LABELLED_TOPICS);
        TopicSubscribers {
            named: topics
                .into_iter()
                .map(|(count, topic)| (topic.to_string(), u64::from(count)))
                .collect(),
            others,
            topics: self.len(),
        }
    }

    /// How many topics there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
