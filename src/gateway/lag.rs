//! A session whose socket is full: what the kernel took a part of, and the outbox behind it.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::batch::{Head, TopicId};
use super::hub::would_block;
use super::outbox::{Out, Outbox, Taken};
use super::protocol::write_gap;
use super::ws::FrameBuilder;
use crate::bar::Topic;
use crate::metrics::Tally;

/// Bytes gathered into one write when a slow client can be written again, or is shown many topics.
pub const GATHER_BYTES: usize = 16 << 10;

/// Bytes that a client at its bound must take within `--slow-grace`: fewer are no progress. A handful of
/// bars, which the slowest line carries in a second.
pub const PROGRESS_BYTES: usize = 1 << 10;

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Empty,
    Full,
    Dead,
}

/// What one slow session has yet to get.
#[derive(Debug, Default)]
pub struct Lag {
    /// Bytes that must go next, whatever comes: a frame was begun, so it must be finished.
    begun: Bytes,
    /// Where in `begun` a bar's frame ends, counted from its end so that it holds while it shrinks.
    bar_ends: Vec<usize>,
    outbox: Outbox,
    /// Bytes that the socket took since `looked_at`.
    taken: usize,
    /// When progress was last seen, or first looked for.
    looked_at: Option<Instant>,
}

impl Lag {
    /// The rest of a frame of which the socket took the first part. Copied: it is a part of something
    /// larger.
    pub fn begin(&mut self, rest: &[u8], bar: bool) {
        if bar {
            self.bar_ends.push(0);
        }
        self.begun = Bytes::copy_from_slice(rest);
    }

    /// Offers a frame to the outbox and counts what became of it.
    pub fn offer(
        &mut self,
        head: &Head,
        bytes: &[u8],
        limit: usize,
        now: Instant,
        tally: &mut Tally,
    ) {
        match self.outbox.push(head, bytes, limit, now) {
            Taken::Queued | Taken::Merged => {}
            Taken::Conflated => tally.conflated += 1,
            Taken::Gapped => tally.gapped_slow += 1,
        }
    }

    /// Queues an answer.
    pub fn push_answer(&mut self, bytes: &[u8]) {
        self.outbox.push_answer(bytes);
    }

    /// What comes of this topic from now on stands behind all that waits.
    pub fn fence(&mut self, topic: TopicId) {
        self.outbox.fence(topic);
    }

    /// Bars that wait.
    pub fn bars(&self) -> u64 {
        self.outbox.bars() + self.bar_ends.len() as u64
    }

    /// Memory that waits, answers and bars, in bytes.
    pub fn bytes(&self) -> usize {
        self.begun.len() + self.outbox.bar_bytes() + self.outbox.answer_bytes()
    }

    /// Memory of answers that wait, in bytes.
    pub fn answer_bytes(&self) -> usize {
        self.outbox.answer_bytes()
    }

    /// Bytes of a frame that was begun, which must be finished before anything else can be sent.
    pub fn begun_bytes(&self) -> usize {
        self.begun.len()
    }

    /// Whether so much waits that only progress keeps the client: bars or answers are at the bound of
    /// `limit` bytes.
    pub fn is_at_bound(&self, limit: usize) -> bool {
        self.outbox.over_since().is_some() || self.outbox.answer_bytes() >= limit
    }

    /// Whether the client made no progress for `grace` while so much waited, where `now` is of a clock that may be
    /// [behind](crate::running) the one of [`Lag::offer`]. Looked at once a second;
    /// `always` counts what waits as too much, whatever it is.
    pub fn is_stalled(
        &mut self,
        limit: usize,
        always: bool,
        grace: Duration,
        now: Instant,
    ) -> bool {
        if !always && !self.is_at_bound(limit) {
            self.looked_at = None;
            self.taken = 0;
            return false;
        }
        // At the first look it may have been at its bound for a while, with what it took since counted.
        let full = self.outbox.over_since().map_or(now, |since| since.min(now));
        let since = *self.looked_at.get_or_insert(full);
        if self.taken >= PROGRESS_BYTES {
            self.looked_at = Some(now);
            self.taken = 0;
            return false;
        }
        now.saturating_duration_since(since) >= grace
    }

    /// Forgets all but the frame that was begun; tells how many bars went.
    pub fn forget_bars(&mut self) -> u64 {
        std::mem::take(&mut self.outbox).bars()
    }

    /// Writes as much as the socket takes.
    pub fn flush(
        &mut self,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
        name: impl Fn(TopicId) -> Option<Topic>,
        tally: &mut Tally,
    ) -> Progress {
        loop {
            if self.begun.is_empty() && !self.gather(&name) {
                return Progress::Empty;
            }
            tally.writes += 1;
            let written = match write(&self.begun) {
                Ok(0) => return Progress::Dead,
                Ok(written) => written,
                Err(why) if would_block(&why) => return Progress::Full,
                Err(_) => return Progress::Dead,
            };
            tally.bytes += written as u64;
            self.taken = self.taken.saturating_add(written);
            self.begun = self.begun.slice(written..);
            let left = self.begun.len();
            let before = self.bar_ends.len();
            self.bar_ends.retain(|from_end| *from_end < left);
            tally.delivered += (before - self.bar_ends.len()) as u64;
        }
    }

    /// Moves what is next from the outbox to `begun`; `false` when there is nothing.
    fn gather(&mut self, name: &impl Fn(TopicId) -> Option<Topic>) -> bool {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        while bytes.len() < GATHER_BYTES
            && let Some(out) = self.outbox.pop()
        {
            match out {
                Out::Answer(answer) => bytes.extend_from_slice(&answer),
                Out::Frame {
                    bytes: frame,
                    counted,
                } => {
                    bytes.extend_from_slice(&frame);
                    if counted {
                        ends.push(bytes.len());
                    }
                }
                Out::Gap { topic, from, to } => {
                    // A topic that was unsubscribed meanwhile needs no notice.
                    if let Some(topic) = name(topic) {
                        let gap = FrameBuilder::default()
                            .text(|out| write_gap(out, &topic, from, to, "slow_client"));
                        bytes.extend_from_slice(&gap);
                    }
                }
            }
        }
        let len = bytes.len();
        self.bar_ends = ends.into_iter().map(|end| len - end).collect();
        // Exactly as long as needed: it may lie here for as long as the client does not read.
        self.begun = bytes.into_boxed_slice().into();
        !self.begun.is_empty()
    }
}
