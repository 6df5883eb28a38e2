//! From the intake to all lanes: what comes live, and what the store owes each of them.

use std::sync::Arc;

use super::inlet::Inlet;
use super::intake::BATCH_BARS;
use super::owing::{Owing, Refused};
use super::{Batch, Closed};
use crate::bar::Topic;
use crate::clock::now_ms;

pub(super) struct Inlets {
    inlets: Vec<Inlet>,
    owing: Arc<Owing>,
}

impl Inlets {
    pub fn new(inlets: Vec<Inlet>, owing: Arc<Owing>) -> Self {
        Self { inlets, owing }
    }

    /// Hands on what came live. Blocks while a lane is busy, so that the bus feels it.
    pub fn put(&mut self, live: &[Closed]) {
        let arrived_ms = Some(now_ms());
        for bars in live.chunks(BATCH_BARS) {
            for (at, inlet) in self.inlets.iter_mut().enumerate() {
                let batch = Batch {
                    arrived_ms,
                    bars: bars.to_vec(),
                    gaps: Vec::new(),
                };
                if !inlet.put(batch) {
                    inlet.refused(bars.len());
                    let refused = |bar: &Closed| (bar.topic, Some(Refused::at(bar.bar.time())));
                    self.owing.owe(at, bars.iter().map(refused));
                }
            }
        }
    }

    /// Hands bars of the store to all that have room now.
    pub fn give(&mut self, stored: &[Closed]) {
        for at in 0..self.inlets.len() {
            self.give_one(at, stored, None);
        }
    }

    /// Hands bars of the store to one output, which may have no room for all: then it is owed their topics. Where
    /// it refused what came live, they are as good as that.
    fn give_one(&mut self, at: usize, stored: &[Closed], refused: Option<Refused>) -> bool {
        let give = |closed: &Closed| {
            let time = closed.bar.time();
            match refused.is_some_and(|refused| (refused.from..=refused.to).contains(&time)) {
                true => *closed,
                false => closed.stored(),
            }
        };
        for bars in stored.chunks(BATCH_BARS) {
            let batch = Batch {
                bars: bars.iter().map(give).collect(),
                ..Batch::default()
            };
            if !self.inlets[at].offer(batch) {
                // Until the lane says so again, or it would be asked for again and again.
                self.owing.set_room(at, false);
                let topics = stored.iter().map(|closed| (closed.topic, None));
                self.owing.owe(at, topics);
                return false;
            }
        }
        true
    }

    /// Hands the past of one topic, oldest first, to the outputs that were owed it; or owes it on when it
    /// `is_whole` no longer.
    pub fn give_past(&mut self, topic: &Topic, past: &[Closed], is_whole: bool) {
        let oldest = past.first().map(|closed| closed.bar.time());
        for (at, refused) in self.owing.answered(topic) {
            if !is_whole || !self.give_one(at, past, refused) {
                self.owing.owe(at, [(*topic, refused)]);
            } else if let Some(refused) = refused {
                self.tell_lost(at, *topic, refused, oldest);
            }
        }
    }

    /// What was refused of a topic and is older than all that the store has is lost.
    fn tell_lost(&mut self, at: usize, topic: Topic, refused: Refused, oldest: Option<i64>) {
        let Refused { from, to } = refused;
        if oldest.is_none_or(|oldest| from < oldest) {
            let to = oldest.map_or(to, |oldest| to.min(oldest));
            self.inlets[at].lost(topic, from, to);
        }
    }

    /// The store has these topics.
    pub fn found(&self, topics: &[Topic]) {
        self.owing.found(topics);
    }

    /// The past of a topic could not be read, and is tried again.
    pub fn unread(&self, topic: &Topic) {
        self.owing.unread(topic);
    }

    /// Looks whether lanes that took nothing do again.
    pub fn look(&mut self) {
        self.inlets.iter_mut().for_each(Inlet::look);
    }
}
