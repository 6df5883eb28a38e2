//! What topics may lack after the bus was lost or the store was read: noted, and told to their watchers.

use std::sync::atomic::Ordering;

use super::Ingest;
use crate::clock::now_ms;
use crate::gateway::registry::Entry;
use crate::history::Hole;

impl Ingest {
    /// Notes and tells the watchers of every topic that is still suspect; with `unproven`, of those whose
    /// `seq` may yet prove that nothing was missed, too.
    pub(super) fn tell_gaps(&mut self, unproven: bool) {
        // Whoever waits for a topic's first bar may have missed that, too.
        for entry in self.registry.all_names() {
            if let Some((hole, version)) = self.suspect(&entry, unproven) {
                self.tell(&entry, hole, version);
            }
        }
        self.hand_over();
    }

    /// What is to be told of a topic that is still suspect, and with which version.
    fn suspect(&mut self, entry: &Entry, unproven: bool) -> Option<(Hole, u64)> {
        let losses = self.bus.losses.load(Ordering::Relaxed);
        let resolution = entry.topic.resolution;
        let mut state = entry.lock();
        let is_empty = state.history.last().is_none();
        let is_suspect = match self.frames.unheard_since {
            // Whoever waits for its first bar may have missed that.
            Some(_) if is_empty => !unproven,
            _ => state.heard.losses < losses && (unproven || !state.provable()),
        };
        if !is_suspect {
            return None;
        }
        state.heard.losses = losses;
        let hole = match self.frames.unheard_since {
            Some(since) if is_empty => Hole {
                from: resolution.floor(since),
                to: resolution.floor(now_ms().max(since)),
            },
            _ => state.doubt(resolution, now_ms())?,
        };
        state.version += 1;
        let watched = self.registry.watched_by(entry, &mut self.frames.workers);
        watched.then_some((hole, state.version))
    }

    /// Tells the watchers of what history got while the store was read, and of holes found meanwhile.
    pub(super) fn tell_loaded(&mut self) {
        let is_whole = !std::mem::take(&mut self.frames.is_partial);
        for (topic, stored) in std::mem::take(&mut self.frames.stored) {
            if let Some(entry) = self.registry.get(&topic) {
                entry.lock().stored(topic.resolution, &stored, is_whole);
            }
        }
        for (topic, hole) in std::mem::take(&mut self.frames.untold) {
            if let Some(entry) = self.registry.get(&topic) {
                self.tell_late(&entry, hole);
            }
        }
        self.hand_over();
    }

    /// Tells the watchers of a topic what history got, or lacks, of bars that they saw later ones of.
    pub(super) fn tell_late(&mut self, entry: &Entry, hole: Hole) {
        let version = {
            let mut state = entry.lock();
            state.told_late(hole);
            let workers = &mut self.frames.workers;
            let watched = self.registry.watched_by(entry, workers);
            watched.then(|| {
                state.version += 1;
                state.version
            })
        };
        if let Some(version) = version {
            self.tell(entry, hole, version);
        }
    }

    /// Tells the watchers of one topic. What is told of all topics is no batch of as many frames.
    fn tell(&mut self, entry: &Entry, hole: Hole, version: u64) {
        self.frames.gap(entry, hole, version);
        self.metrics.gaps_upstream.inc();
        self.outlet.hand_over_full(&mut self.frames);
    }
}
