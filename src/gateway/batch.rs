use bytes::Bytes;

use crate::bar::Topic;

/// A topic's dense number on this node: an index into every worker's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u32);

impl TopicId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a frame carries, which decides what may happen to it when a client is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A forming bar: a newer update of the same bar replaces it.
    Forming,
    /// A bar that its producer called closed: never replaced by anything newer.
    Closed,
    /// Notice of bars that were missed upstream.
    Gap,
}

/// One message, encoded once for all who watch its topic.
#[derive(Clone, Debug)]
pub struct Frame {
    pub topic: TopicId,
    /// Counts the messages of the topic on this node; joins snapshots and the live stream.
    pub version: u64,
    /// The bar's time; for a gap, where it ends.
    pub time: i64,
    pub kind: Kind,
    /// Publish time in µs since the epoch, when the producer gave one.
    pub ts: Option<u64>,
    /// The whole WebSocket frame.
    pub bytes: Bytes,
}

/// What ingest hands to every worker at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// Topics whose first bar is among the frames, for those who subscribed to a pattern.
    pub opened: Vec<(TopicId, Topic)>,
    /// In the order in which they came.
    pub frames: Vec<Frame>,
    /// Sum of the frames' sizes.
    pub bytes: usize,
}

impl Batch {
    /// Adds one frame.
    pub fn push(&mut self, frame: Frame) {
        self.bytes += frame.bytes.len();
        self.frames.push(frame);
    }

    /// Whether there is nothing to hand over.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.opened.is_empty()
    }
}
