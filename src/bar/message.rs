use super::{Bar, Topic};

/// What travels over the bus: one bar of one topic, with what its producer added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    pub topic: Topic,
    pub bar: Bar,
    /// Counts the messages of this topic in this epoch, +1 each, from 1.
    pub seq: Option<u64>,
    /// Which run of the publisher `seq` counts in; any number that differs between runs.
    pub epoch: Option<u64>,
    /// Publish time in µs since the epoch, UTC. In a load test the planned one.
    pub ts: Option<u64>,
    /// How often this bar was revised after it closed.
    pub rev: Option<u64>,
}

impl Message {
    /// A bar with nothing beside it, as the simplest producer sends it.
    pub fn new(topic: Topic, bar: Bar) -> Self {
        Self {
            topic,
            bar,
            seq: None,
            epoch: None,
            ts: None,
            rev: None,
        }
    }
}
