//! What one client that fell behind has yet to get. Exists only while its socket is full.
//!
//! The rules, in the order in which they are applied to a new frame:
//! 1. An update of the bar that is already waiting as forming replaces it, in its place: a bar
//!    carries its whole state, so nothing is lost (conflation).
//! 2. Within the bound everything else is queued: a bar that closed, or that was followed by a newer
//!    one, is never replaced.
//! 3. At the bound the topic's newest waiting frame gives way to the new one, and the client is told
//!    by one `bars.gap` before it which bars' final states are missing.
//!
//! So the memory is bounded by the limit plus one frame for each subscribed topic.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use super::batch::{Head, Kind, TopicId};

/// What an answer that waits takes up beside its own bytes: its place in a queue that may be twice as
/// long as it needs to be, and an allocation. Without it millions of empty pongs would fit the bound.
const ANSWER_OVERHEAD: usize = 192;

/// One thing in the queue.
#[derive(Debug)]
enum Item {
    /// An answer, a snapshot, a control frame.
    Answer(Bytes),
    Bar(Waiting),
}

#[derive(Debug)]
struct Waiting {
    topic: TopicId,
    time: i64,
    kind: Kind,
    bytes: Bytes,
    /// Bars lost right before this one, first and last.
    gap: Option<(i64, i64)>,
}

/// What happened to a frame that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Queued,
    /// It replaced an older update of the same bar, which will not be sent.
    Conflated,
    /// The bound is reached: an update was lost and its client will be told.
    Gapped,
}

/// What leaves the outbox next.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    Answer(Bytes),
    /// A bar or an upstream notice; `counted` tells them apart.
    Frame {
        bytes: Bytes,
        counted: bool,
    },
    Gap {
        topic: TopicId,
        from: i64,
        to: i64,
    },
}

/// Frames and answers that wait for one socket.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Item>,
    /// Items that ever left the queue: positions in `newest` are counted from the first item ever.
    left: u64,
    /// Where each topic's newest waiting frame is.
    newest: HashMap<TopicId, u64>,
    /// Bytes of bars waiting.
    bar_bytes: usize,
    /// Bytes of answers waiting, with what else they take up.
    answer_bytes: usize,
    /// When the bound was first reached since the outbox was last empty.
    over_since: Option<Instant>,
}

impl Outbox {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of bars waiting.
    pub fn bar_bytes(&self) -> usize {
        self.bar_bytes
    }

    /// Bytes of answers waiting, with what else they take up.
    pub fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// When the bound was first reached since the outbox was last empty.
    pub fn over_since(&self) -> Option<Instant> {
        self.over_since
    }

    /// Bars waiting, notices not counted.
    pub fn bars(&self) -> u64 {
        let counted = |item: &&Item| matches!(item, Item::Bar(bar) if bar.kind != Kind::Gap);
        self.queue.iter().filter(counted).count() as u64
    }

    /// Queues an answer behind everything else.
    pub fn push_answer(&mut self, bytes: Bytes) {
        self.answer_bytes += bytes.len() + ANSWER_OVERHEAD;
        self.queue.push_back(Item::Answer(bytes));
    }

    /// Offers a frame; `limit` bounds the bytes of bars. What is kept of it is copied.
    pub fn push(&mut self, head: &Head, bytes: &[u8], limit: usize, now: Instant) -> Taken {
        let fits = self.bar_bytes + bytes.len() <= limit;
        let waiting = self
            .newest
            .get(&head.topic)
            .and_then(|at| usize::try_from(at - self.left).ok())
            .and_then(|at| self.queue.get_mut(at));
        if let Some(Item::Bar(bar)) = waiting {
            let same_forming = bar.kind == Kind::Forming && bar.time == head.time;
            if same_forming && head.kind != Kind::Gap {
                self.bar_bytes = self.bar_bytes - bar.bytes.len() + bytes.len();
                bar.kind = head.kind;
                bar.bytes = Bytes::copy_from_slice(bytes);
                return Taken::Conflated;
            }
            // A notice is never replaced: there is one a loss of the bus, so they stay few.
            if !fits && bar.kind != Kind::Gap {
                self.over_since.get_or_insert(now);
                let lost = if head.time < bar.time {
                    // A revision of the past that there is no room for.
                    head.time
                } else {
                    bar.time
                };
                let (from, to) = bar.gap.unwrap_or((lost, lost));
                bar.gap = Some((from.min(lost), to.max(lost)));
                if head.time >= bar.time {
                    self.bar_bytes = self.bar_bytes - bar.bytes.len() + bytes.len();
                    bar.time = head.time;
                    bar.kind = head.kind;
                    bar.bytes = Bytes::copy_from_slice(bytes);
                }
                return Taken::Gapped;
            }
        }
        self.bar_bytes += bytes.len();
        self.newest
            .insert(head.topic, self.left + self.queue.len() as u64);
        self.queue.push_back(Item::Bar(Waiting {
            topic: head.topic,
            time: head.time,
            kind: head.kind,
            bytes: Bytes::copy_from_slice(bytes),
            gap: None,
        }));
        Taken::Queued
    }

    /// What comes of this topic from now on stands behind all that waits, and replaces none of it.
    pub fn fence(&mut self, topic: TopicId) {
        self.newest.remove(&topic);
    }

    /// Takes the next thing out.
    pub fn pop(&mut self) -> Option<Out> {
        if let Some(Item::Bar(bar)) = self.queue.front_mut()
            && let Some((from, to)) = bar.gap.take()
        {
            return Some(Out::Gap {
                topic: bar.topic,
                from,
                to,
            });
        }
        let item = self.queue.pop_front()?;
        let at = self.left;
        self.left += 1;
        let out = match item {
            Item::Answer(bytes) => {
                self.answer_bytes -= bytes.len() + ANSWER_OVERHEAD;
                Out::Answer(bytes)
            }
            Item::Bar(bar) => {
                self.bar_bytes -= bar.bytes.len();
                if self.newest.get(&bar.topic) == Some(&at) {
                    self.newest.remove(&bar.topic);
                }
                Out::Frame {
                    bytes: bar.bytes,
                    counted: bar.kind != Kind::Gap,
                }
            }
        };
        if self.queue.is_empty() {
            self.over_since = None;
        }
        Some(out)
    }
}
