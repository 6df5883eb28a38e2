//! Who holds a pattern on one worker: those with room for what opens, and apart from them those without.

use std::collections::HashMap;

use super::hub::SessionId;

/// A pattern as one session holds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub max_rate: Option<f64>,
    /// What the session lacks begins at this place among the topics that the pattern means. All from there
    /// on are still to be taken.
    pub lacks_from: Option<usize>,
    /// It was told so: once is enough.
    pub told: bool,
}

/// The holders of one pattern. A topic that opens costs nothing for those that are at their limit.
#[derive(Debug, Default)]
pub(super) struct Holders {
    with_room: HashMap<SessionId, Held>,
    full: HashMap<SessionId, Held>,
}

impl Holders {
    /// Takes in a session that has room.
    pub fn insert(&mut self, id: SessionId, held: Held) {
        self.with_room.insert(id, held);
    }

    /// Forgets a session.
    pub fn remove(&mut self, id: SessionId) {
        self.with_room.remove(&id);
        self.full.remove(&id);
    }

    /// How a session holds the pattern.
    pub fn get(&self, id: SessionId) -> Option<Held> {
        let held = self.with_room.get(&id).or_else(|| self.full.get(&id));
        held.copied()
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Held> {
        match self.with_room.get_mut(&id) {
            Some(held) => Some(held),
            None => self.full.get_mut(&id),
        }
    }

    /// Whether nobody holds the pattern.
    pub fn is_empty(&self) -> bool {
        self.with_room.is_empty() && self.full.is_empty()
    }

    /// Whether anybody gets what opens.
    pub fn has_room(&self) -> bool {
        !self.with_room.is_empty()
    }

    /// Those who get what opens.
    pub fn with_room(&self) -> impl Iterator<Item = (SessionId, Held)> {
        self.with_room.iter().map(|(id, held)| (*id, *held))
    }

    /// Notes whether a session has room for more.
    pub fn set_full(&mut self, id: SessionId, is_full: bool) {
        let (from, to) = if is_full {
            (&mut self.with_room, &mut self.full)
        } else {
            (&mut self.full, &mut self.with_room)
        };
        if let Some(held) = from.remove(&id) {
            to.insert(id, held);
        }
    }
}
