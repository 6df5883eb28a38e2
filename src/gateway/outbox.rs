//! What one client that fell behind has yet to get. Exists only while its socket is full.
//!
//! The rules, in the order in which they are applied to a new frame:
//! 1. An update of the bar that is already waiting as forming replaces it, in its place: a bar
//!    carries its whole state, so nothing is lost (conflation).
//! 2. Within the bound everything else is queued: a bar that closed, or that was followed by a newer
//!    one, is never replaced.
//! 3. At the bound the topic's newest waiting frame gives way to the new one, and the client is told
//!    by one `bars.gap` before it which bars' final states are missing. A notice of a gap that gives way
//!    gives its whole range to that one.
//!
//! So the memory is bounded by the limit plus one frame for each subscribed topic. Memory, not bytes
//! on the wire: what a frame takes up beside its bytes counts, too ([`taken_up`]), and what waits is
//! copied into allocations of its own size.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::batch::{Head, Kind, TopicId};

/// Bytes that one thing in the queue takes up beside its own: its place in the queue (56, half as much
/// again for places not in use), its topic's in `newest` (up to 31), its allocation's rounding.
/// Without it millions of empty pongs would fit the bound. `tests/outbox_memory.rs` weighs it.
const PLACE_BYTES: usize = 128;

/// Places that the queue takes at once at least, and may have left over however short it is.
const SPARE_PLACES: usize = 4;

/// What a frame or an answer of `len` bytes takes up in memory. An eighth more than its length:
/// allocators have four to eight sizes for each power of two.
const fn taken_up(len: usize) -> usize {
    len + len / 8 + PLACE_BYTES
}

/// One thing in the queue.
#[derive(Debug)]
enum Item {
    /// An answer, a snapshot, a control frame.
    Answer(Box<[u8]>),
    Bar(Waiting),
}

#[derive(Debug)]
struct Waiting {
    topic: TopicId,
    time: i64,
    /// Where a gap begins; for a bar its time.
    from: i64,
    kind: Kind,
    bytes: Box<[u8]>,
    /// Bars lost right before this one, first and last.
    gap: Option<(i64, i64)>,
}

impl Waiting {
    /// Takes a newer frame of its topic in at the bound. One of the two is lost, and added to the range
    /// that the client will be told: the older one, or a revision of the past.
    fn give_way(&mut self, head: &Head, bytes: &[u8]) -> Taken {
        let revision = self.kind != Kind::Gap && head.time < self.time;
        let (from, to, kind) = if revision {
            (head.from, head.time, head.kind)
        } else {
            (self.from, self.time, self.kind)
        };
        let (first, last) = self.gap.unwrap_or((from, to));
        self.gap = Some((first.min(from), last.max(to)));
        if !revision {
            self.time = head.time;
            self.from = head.from;
            self.kind = head.kind;
            self.bytes = bytes.into();
        }
        if kind == Kind::Gap {
            Taken::Merged
        } else {
            Taken::Gapped
        }
    }
}

/// What happened to a frame that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Queued,
    /// It replaced an older update of the same bar, which will not be sent.
    Conflated,
    /// The bound is reached: a notice of a gap became part of another. It was due to nobody, so nothing
    /// is lost.
    Merged,
    /// The bound is reached: an update was lost and its client will be told.
    Gapped,
}

/// What leaves the outbox next.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    Answer(Box<[u8]>),
    /// A bar or an upstream notice; `counted` tells them apart.
    Frame {
        bytes: Box<[u8]>,
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
    /// Items that ever left the queue: positions in `newest` are counted from the first item ever. May
    /// wrap, since only differences matter, and half the memory of 64 bits.
    left: u32,
    /// Where each topic's newest waiting frame is.
    newest: HashMap<TopicId, u32>,
    /// Memory that bars waiting take up, in bytes.
    bar_bytes: usize,
    /// Likewise of answers.
    answer_bytes: usize,
    /// Since when something has not fitted, and nothing has left.
    over_since: Option<Instant>,
}

impl Outbox {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Memory that bars waiting take up, in bytes.
    pub fn bar_bytes(&self) -> usize {
        self.bar_bytes
    }

    /// Memory that answers waiting take up, in bytes.
    pub fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// Since when the outbox has been at its bound: something did not fit, and nothing has left since.
    pub fn over_since(&self) -> Option<Instant> {
        self.over_since
    }

    /// Bars waiting, notices not counted.
    pub fn bars(&self) -> u64 {
        let counted = |item: &&Item| matches!(item, Item::Bar(bar) if bar.kind != Kind::Gap);
        self.queue.iter().filter(counted).count() as u64
    }

    /// Queues an answer behind everything else. It is copied: it may be a part of something larger.
    pub fn push_answer(&mut self, bytes: &[u8]) {
        self.answer_bytes += taken_up(bytes.len());
        self.push_back(Item::Answer(bytes.into()));
    }

    /// Offers a frame; `limit` bounds the memory of bars, in bytes. What is kept of it is copied.
    pub fn push(&mut self, head: &Head, bytes: &[u8], limit: usize, now: Instant) -> Taken {
        let fits = self.bar_bytes + taken_up(bytes.len()) <= limit;
        let waiting = self
            .newest
            .get(&head.topic)
            .and_then(|at| self.queue.get_mut(at.wrapping_sub(self.left) as usize));
        if let Some(Item::Bar(bar)) = waiting {
            let same_forming = bar.kind == Kind::Forming && bar.time == head.time;
            if same_forming && head.kind != Kind::Gap {
                self.bar_bytes -= taken_up(bar.bytes.len());
                self.bar_bytes += taken_up(bytes.len());
                bar.kind = head.kind;
                bar.bytes = bytes.into();
                return Taken::Conflated;
            }
            if !fits {
                self.over_since.get_or_insert(now);
                let before = self.bar_bytes - taken_up(bar.bytes.len());
                let taken = bar.give_way(head, bytes);
                self.bar_bytes = before + taken_up(bar.bytes.len());
                return taken;
            }
        }
        if !fits {
            self.over_since.get_or_insert(now);
        }
        self.bar_bytes += taken_up(bytes.len());
        // The bounds let far fewer than 2^32 wait.
        let behind = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        self.newest
            .insert(head.topic, self.left.wrapping_add(behind));
        self.push_back(Item::Bar(Waiting {
            topic: head.topic,
            time: head.time,
            from: head.from,
            kind: head.kind,
            bytes: bytes.into(),
            gap: None,
        }));
        Taken::Queued
    }

    /// Queues in a place that is there, or makes a quarter more: doubling would hold as much again as
    /// is in use.
    fn push_back(&mut self, item: Item) {
        let len = self.queue.len();
        if len == self.queue.capacity() {
            self.queue.reserve_exact(SPARE_PLACES.max(len / 4));
        }
        self.queue.push_back(item);
    }

    /// Gives places back that are no longer in use, so that the memory falls with what waits.
    fn shrink(&mut self) {
        let len = self.queue.len();
        if self.queue.capacity() > len + len / 2 + SPARE_PLACES {
            self.queue.shrink_to(len + len / 4);
            self.newest.shrink_to_fit();
        }
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
        self.left = self.left.wrapping_add(1);
        let out = match item {
            Item::Answer(bytes) => {
                self.answer_bytes -= taken_up(bytes.len());
                Out::Answer(bytes)
            }
            Item::Bar(bar) => {
                self.bar_bytes -= taken_up(bar.bytes.len());
                if self.newest.get(&bar.topic) == Some(&at) {
                    self.newest.remove(&bar.topic);
                }
                Out::Frame {
                    bytes: bar.bytes,
                    counted: bar.kind != Kind::Gap,
                }
            }
        };
        self.over_since = None;
        self.shrink();
        Some(out)
    }
}
