//! What one worker watches, by name.
//!
//! The registry is asked for a name only when the worker does not watch it yet: in a storm of
//! subscriptions, as after another node's drain, that is once for each topic and not for each client.

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::Arc;

use super::registry::{Entry, PlaceholderLimit, Registry};
use crate::bar::Topic;

/// A worker's bits in the registry.
#[derive(Debug)]
pub struct Watching {
    worker: usize,
    registry: Arc<Registry>,
    by_name: HashMap<Topic, Arc<Entry>>,
}

impl Watching {
    /// Nothing yet, for worker number `worker`.
    pub fn new(worker: usize, registry: Arc<Registry>) -> Self {
        Self {
            worker,
            registry,
            by_name: HashMap::new(),
        }
    }

    /// The topic or placeholder of a name, if it is known.
    pub fn get(&self, topic: &Topic) -> Option<Arc<Entry>> {
        let own = self.by_name.get(topic).map(Arc::clone);
        own.or_else(|| self.registry.get(topic))
    }

    /// Watches a name from here on, which is made if it is new.
    ///
    /// # Errors
    /// [`PlaceholderLimit`]
    pub fn watch(&mut self, topic: &Topic) -> Result<Arc<Entry>, PlaceholderLimit> {
        let entry = match self.by_name.entry(*topic) {
            hash_map::Entry::Occupied(found) => found.into_mut(),
            hash_map::Entry::Vacant(place) => {
                place.insert(self.registry.watch(topic, self.worker)?)
            }
        };
        Ok(Arc::clone(entry))
    }

    /// Watches a topic that had a bar.
    pub fn watch_open(&mut self, entry: &Arc<Entry>) {
        self.by_name.entry(entry.topic).or_insert_with(|| {
            self.registry.watch_open(entry, self.worker);
            Arc::clone(entry)
        });
    }

    /// Watches it no more.
    pub fn unwatch(&mut self, entry: &Entry) {
        self.by_name.remove(&entry.topic);
        self.registry.unwatch(entry, self.worker);
    }
}
