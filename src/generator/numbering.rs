//! The place of each message among those of its topic.

use std::collections::HashMap;

use crate::bar::{Message, Topic};

/// Gives every topic's messages their `seq`, and all of them the `epoch` of this run.
#[derive(Debug)]
pub struct Numbering {
    epoch: u64,
    last: HashMap<Topic, u64>,
}

impl Numbering {
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            last: HashMap::new(),
        }
    }

    /// Numbers messages in the order in which they will be published.
    pub fn number(&mut self, messages: &mut [Message]) {
        for message in messages {
            let seq = self.last.entry(message.topic).or_default();
            *seq += 1;
            message.seq = Some(*seq);
            message.epoch = Some(self.epoch);
        }
    }
}
