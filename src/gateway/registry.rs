//! The topics of this node: names to dense numbers, who watches, and what is known of each.
//!
//! Looked at once per bar by ingest and once per subscription by a worker; never per delivery. The one
//! owner of what is watched: a bit for each worker in each topic, and in each pattern with a `*` that a
//! client holds. A topic is watched by the workers of its own bits and of the three patterns that mean it,
//! so that to hold a pattern touches no topic.
//!
//! A name that a client made up, or that just has no bar yet, is a *placeholder* and no topic: not listed,
//! not counted as one, bounded apart, and gone with its last watcher. Its first bar makes it a topic, for
//! good.

use std::cmp::Reverse;
use std::ops::ControlFlow;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use dashmap::DashMap;

use super::batch::TopicId;
use super::interest::{AtomicWorkers, Workers};
use super::state::State;
use crate::bar::{Pattern, Topic};
use crate::metrics::{MAX_LABELLED_TOPICS, TopicSubscribers};

/// Placeholders beyond their bound while those who hold most are made to let some go: a few requests'
/// worth. With more a new name is refused.
const MAX_EXCESS_PLACEHOLDERS: usize = 1_024;
/// Topics that are shown at a time while the list of all is held.
const SHOWN_AT_ONCE: usize = 1_024;

/// What this node knows of one topic. Shared by ingest and the workers.
#[derive(Debug)]
pub struct Entry {
    pub id: TopicId,
    pub topic: Topic,
    /// Clients of this node that get it, for metrics and `/api/v1/topics`.
    pub subscribers: AtomicU32,
    /// Workers that watch it by its name.
    watchers: AtomicWorkers,
    /// Who holds the patterns that mean it; from its first bar on.
    patterns: OnceLock<[Arc<AtomicWorkers>; 3]>,
    state: Mutex<State>,
}

impl Entry {
    /// The changing part. Held for a few dozen nanoseconds, never across an await.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside would have to come from a plain assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it had a bar, and so is no placeholder.
    pub fn is_open(&self) -> bool {
        self.patterns.get().is_some()
    }
}

/// There are as many topics as this node may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node already holds {0} topics, its limit")]
pub struct TopicLimit(pub usize);

/// There are as many names without a bar as this node may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node already holds {0} names that no bar came for, its limit")]
pub struct PlaceholderLimit(pub usize);

/// Names to entries. One for the node.
#[derive(Debug)]
pub struct Registry {
    topics: DashMap<Topic, Arc<Entry>>,
    /// Patterns with a `*`: who holds them, and the topics that they mean. Those without either are not
    /// there.
    patterns: DashMap<Pattern, Meaning>,
    /// How many bits are set in all of them: with none, no bar looks at them.
    held: AtomicUsize,
    /// Locked only to make a name, and to give its number back.
    ids: Mutex<Ids>,
    max_topics: usize,
    max_placeholders: usize,
    history_bars: usize,
    workers: usize,
    count: AtomicUsize,
    placeholders: AtomicUsize,
}

/// One pattern with a `*`.
#[derive(Debug)]
struct Meaning {
    holders: Arc<AtomicWorkers>,
    /// In the order in which they opened; none ever leaves.
    topics: Vec<Arc<Entry>>,
}

#[derive(Debug, Default)]
struct Ids {
    next: u32,
    /// Those of names that are gone, and the version that each had: the next name goes on from there, so
    /// that no notice that is still on its way is taken for one of its own.
    free: Vec<(u32, u64)>,
    /// How often names were made.
    makings: u64,
}

impl Registry {
    /// A registry of at most `max_topics`, each with `history_bars` closed bars, for up to 64 workers.
    pub fn new(max_topics: usize, history_bars: usize) -> Self {
        Self {
            topics: DashMap::new(),
            patterns: DashMap::new(),
            held: AtomicUsize::new(0),
            ids: Mutex::default(),
            max_topics,
            max_placeholders: usize::MAX,
            history_bars,
            workers: 1,
            count: AtomicUsize::new(0),
            placeholders: AtomicUsize::new(0),
        }
    }

    /// Of so many workers.
    #[must_use]
    pub fn for_workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// With at most so many names that no bar came for.
    #[must_use]
    pub fn with_placeholders(mut self, max: usize) -> Self {
        self.max_placeholders = max;
        self
    }

    fn ids(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- names ---------------------------------------------------------------------------------

    /// Makes a placeholder, if the name is still unknown.
    fn make(&self, topic: Topic) {
        let mut ids = self.ids();
        ids.makings += 1;
        self.topics.entry(topic).or_insert_with(|| {
            let (id, version) = ids.free.pop().unwrap_or_else(|| {
                ids.next += 1;
                (ids.next - 1, 0)
            });
            let mut state = State::new(self.history_bars);
            state.version = version;
            self.placeholders.fetch_add(1, Ordering::Relaxed);
            Arc::new(Entry {
                id: TopicId(id),
                topic,
                subscribers: AtomicU32::new(0),
                watchers: AtomicWorkers::of(self.workers),
                patterns: OnceLock::new(),
                state: Mutex::new(state),
            })
        });
    }

    /// How often the lock was taken that only making a name needs.
    pub fn makings(&self) -> u64 {
        self.ids().makings
    }

    /// The topic of a bar that came in, made if it is new. What clients asked for is never in the way.
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
                self.open(&entry)?;
                return Ok(view(&entry));
            }
            if self.len() >= self.max_topics {
                return Err(TopicLimit(self.max_topics));
            }
            self.make(*topic);
        }
    }

    /// Makes a placeholder a topic.
    fn open(&self, entry: &Arc<Entry>) -> Result<(), TopicLimit> {
        if entry.is_open() {
            return Ok(());
        }
        if self.len() >= self.max_topics {
            return Err(TopicLimit(self.max_topics));
        }
        entry.patterns.get_or_init(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.placeholders.fetch_sub(1, Ordering::Relaxed);
            // Listed before any bar of it is looked at: whoever holds a pattern either finds the topic in
            // the list, or is seen when its first bar is handed out.
            Pattern::covering(&entry.topic).map(|pattern| {
                let mut meaning = self.meaning(pattern);
                meaning.topics.push(Arc::clone(entry));
                Arc::clone(&meaning.holders)
            })
        });
        Ok(())
    }

    /// The topic or placeholder, if the name is known.
    pub fn get(&self, topic: &Topic) -> Option<Arc<Entry>> {
        self.topics.get(topic).map(|entry| Arc::clone(&entry))
    }

    /// The name with this worker as a watcher, made if it is new: from here on its bars are handed to it.
    ///
    /// # Errors
    /// [`PlaceholderLimit`]
    pub fn watch(&self, topic: &Topic, worker: usize) -> Result<Arc<Entry>, PlaceholderLimit> {
        loop {
            // Within the table, too: it must not be forgotten in between.
            if let Some(entry) = self.topics.get(topic) {
                entry.watchers.set(worker);
                return Ok(Arc::clone(&entry));
            }
            let bound = self
                .max_placeholders
                .saturating_add(MAX_EXCESS_PLACEHOLDERS);
            if self.placeholders() >= bound {
                return Err(PlaceholderLimit(self.max_placeholders));
            }
            self.make(*topic);
        }
    }

    /// Likewise for a topic that is known, without a look at the table: an open one never leaves it.
    pub fn watch_open(&self, entry: &Entry, worker: usize) {
        entry.watchers.set(worker);
    }

    /// This worker watches it by its name no more. A placeholder that nobody watches is forgotten.
    pub fn unwatch(&self, entry: &Entry, worker: usize) {
        entry.watchers.clear(worker);
        if entry.is_open() {
            return;
        }
        let removed = self.topics.remove_if(&entry.topic, |_, found| {
            ptr::eq(Arc::as_ptr(found), entry) && !found.is_open() && found.watchers.is_empty()
        });
        if removed.is_some() {
            self.placeholders.fetch_sub(1, Ordering::Relaxed);
            let version = entry.lock().version;
            self.ids().free.push((entry.id.0, version));
        }
    }

    // ---- interest ------------------------------------------------------------------------------

    fn meaning(&self, pattern: Pattern) -> dashmap::mapref::one::RefMut<'_, Pattern, Meaning> {
        self.patterns.entry(pattern).or_insert_with(|| Meaning {
            holders: Arc::new(AtomicWorkers::of(self.workers)),
            topics: Vec::new(),
        })
    }

    /// Clients of this worker hold a pattern with a `*` from here on: what opens and is meant is handed
    /// to it.
    pub fn hold(&self, pattern: Pattern, worker: usize) {
        if self.meaning(pattern).holders.set(worker) {
            self.held.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// No client of this worker holds it any more.
    pub fn release(&self, pattern: Pattern, worker: usize) {
        let held = self.patterns.get(&pattern);
        if held.is_some_and(|meaning| meaning.holders.clear(worker)) {
            self.held.fetch_sub(1, Ordering::Relaxed);
        }
        self.patterns.remove_if(&pattern, |_, meaning| {
            meaning.topics.is_empty() && meaning.holders.is_empty()
        });
    }

    /// Adds the workers that watch a topic, by its name or a pattern, to `workers`; tells whether there
    /// are any. To miss none, it is asked while the topic is locked.
    pub fn watched_by(&self, entry: &Entry, workers: &mut Workers) -> bool {
        let mut any = entry.watchers.add_to(workers);
        if self.held.load(Ordering::Relaxed) > 0 {
            for holders in entry.patterns.get().into_iter().flatten() {
                any |= holders.add_to(workers);
            }
        }
        any
    }

    /// Whether any worker watches a topic.
    pub fn is_watched(&self, entry: &Entry) -> bool {
        let holders = entry.patterns.get().into_iter().flatten();
        !entry.watchers.is_empty() || holders.into_iter().any(|holders| !holders.is_empty())
    }

    /// How many topics a pattern with a `*` means.
    pub fn count(&self, pattern: &Pattern) -> usize {
        self.patterns
            .get(pattern)
            .map_or(0, |found| found.topics.len())
    }

    /// Shows the topics that a pattern with a `*` means, those that opened first before the others, from
    /// the one at `from` until `view` has enough. They are held meanwhile, so it should be short.
    pub fn visit(
        &self,
        pattern: &Pattern,
        from: usize,
        view: impl FnMut(&Arc<Entry>) -> ControlFlow<()>,
    ) {
        if let Some(found) = self.patterns.get(pattern) {
            let _ = found.topics.iter().skip(from).try_for_each(view);
        }
    }

    /// Where a topic that opened not long ago stands among those that a pattern means.
    pub fn place(&self, pattern: &Pattern, topic: TopicId) -> Option<usize> {
        let found = self.patterns.get(pattern)?;
        found.topics.iter().rposition(|entry| entry.id == topic)
    }

    // ---- all of them ---------------------------------------------------------------------------

    /// All topics, in the order in which they opened.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        let all = self.patterns.get(&Pattern::ALL);
        all.map_or_else(Vec::new, |found| found.topics.clone())
    }

    /// All topics, and the names that clients wait for a bar of, in no order.
    pub fn all_names(&self) -> Vec<Arc<Entry>> {
        self.topics.iter().map(|entry| Arc::clone(&entry)).collect()
    }

    /// Shows every topic, in the order in which they opened. Nothing is held for longer than a part of
    /// the list takes to copy.
    pub fn each(&self, mut view: impl FnMut(&Entry)) {
        let mut shown = Vec::with_capacity(SHOWN_AT_ONCE);
        for from in (0..).step_by(SHOWN_AT_ONCE) {
            shown.clear();
            if let Some(found) = self.patterns.get(&Pattern::ALL) {
                let part = found.topics.iter().skip(from).take(SHOWN_AT_ONCE);
                shown.extend(part.cloned());
            }
            if shown.is_empty() {
                return;
            }
            shown.iter().for_each(|entry| view(entry));
        }
    }

    /// The topics with the most subscribers, for a metric whose labels must stay few.
    pub fn topics_by_subscribers(&self) -> TopicSubscribers {
        let mut topics = Vec::new();
        self.each(|entry| {
            let count = entry.subscribers.load(Ordering::Relaxed);
            if count > 0 {
                topics.push((count, entry.topic));
            }
        });
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
            placeholders: self.placeholders(),
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

    /// How many names there are that clients asked for and that no bar came for.
    pub fn placeholders(&self) -> usize {
        self.placeholders.load(Ordering::Relaxed)
    }

    /// Whether some of them must go.
    pub fn has_too_many_placeholders(&self) -> bool {
        self.placeholders() > self.max_placeholders
    }
}
