//! What a worker that is far behind has not been handed, and how it catches up.
//!
//! Of each topic the newest forming frame is kept, as it is; of all other bars only that they changed. Those
//! are in the topic's history: a bar that is closed, or behind a newer one, has its final state there. What
//! history does not have any more is told as a gap.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::batch::{Batch, Frame, Head, Kind, TopicId};
use super::hub::{Hub, Socket};
use super::protocol::write_gap;
use super::registry::Entry;
use super::state::State;
use super::ws::{FrameBuilder, payload_of};
use crate::bar::{Message, Topic, write_update};
use crate::history::Hole;

/// Bars of one topic that are noted, as many as are kept of it by default; of more the oldest are told as a
/// gap.
const MAX_MISSED_BARS: usize = 1_024;
/// Notices of one topic that are kept; of more the ranges are told as one gap.
const MAX_MISSED_NOTICES: usize = 16;
/// Frames after which others get their turn while a worker catches up.
const MAX_CAUGHT_UP: usize = 1_024;
/// Why, in `bars.gap`.
const REASON: &str = "gateway";

/// What one worker missed.
#[derive(Debug, Default)]
pub struct Missed {
    /// Topics that opened.
    pub opened: Vec<(TopicId, Topic)>,
    topics: HashMap<TopicId, OfTopic>,
}

/// The same of one topic.
#[derive(Debug, Default)]
struct OfTopic {
    newest: Option<Kept>,
    /// Other bars: the version that each last had.
    bars: BTreeMap<i64, u64>,
    notices: Vec<Kept>,
    /// What cannot be had back, how many bars that is, and the version that the last of it had: who knows
    /// the topic up to there lacks none.
    lost: Option<Hole>,
    lost_bars: u64,
    lost_version: u64,
    /// Frames of bars, all in all.
    frames: u64,
}

/// Deliveries of one topic, each to all who are subscribed, that will not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// A newer state of the same bar is.
    pub conflated: u64,
    /// They are told as a gap.
    pub gapped: u64,
}

/// A frame that outlives its batch. Copied out, so that it does not hold the whole batch.
#[derive(Clone, Debug)]
struct Kept {
    head: Head,
    bytes: Bytes,
}

impl Missed {
    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.opened.is_empty()
    }

    /// Notes all of a batch.
    pub fn note(&mut self, batch: &Batch) {
        self.opened.extend_from_slice(&batch.opened);
        for frame in &batch.frames {
            let of_topic = self.topics.entry(frame.head.topic).or_default();
            of_topic.note(batch, frame);
        }
    }

    /// Moves some of it into `batch`, for `hub` to send.
    pub fn catch_up<S: Socket>(&mut self, hub: &mut Hub<S>, batch: &mut Batch) {
        while batch.frames.len() < MAX_CAUGHT_UP {
            let Some(topic) = self.topics.keys().next().copied() else {
                return;
            };
            let of_topic = self.topics.remove(&topic).unwrap_or_default();
            if let Some(entry) = hub.watched(topic) {
                let settled = of_topic.recover(&entry, batch);
                hub.settle(topic, settled);
            }
        }
    }
}

impl OfTopic {
    fn note(&mut self, batch: &Batch, frame: &Frame) {
        let head = frame.head;
        let keep = || Kept {
            head,
            bytes: Bytes::copy_from_slice(batch.bytes_of(frame)),
        };
        match head.kind {
            Kind::Gap if self.notices.len() < MAX_MISSED_NOTICES => self.notices.push(keep()),
            Kind::Gap => self.lose(head.from, head.time, head.version),
            Kind::Closed => self.note_bar(head),
            Kind::Forming => match self.newest.as_ref().map(|newest| newest.head) {
                // A revision of the past.
                Some(newest) if newest.time > head.time => self.note_bar(head),
                Some(newest) => {
                    self.newest = Some(keep());
                    if newest.time < head.time {
                        self.insert(newest);
                    }
                }
                None => self.newest = Some(keep()),
            },
        }
        self.frames += u64::from(head.kind != Kind::Gap);
    }

    fn note_bar(&mut self, head: Head) {
        // What was kept of it as forming is not its newest state any more.
        if self
            .newest
            .as_ref()
            .is_some_and(|n| n.head.time == head.time)
        {
            self.newest = None;
        }
        self.insert(head);
    }

    fn insert(&mut self, head: Head) {
        self.bars.insert(head.time, head.version);
        if self.bars.len() > MAX_MISSED_BARS
            && let Some((time, version)) = self.bars.pop_first()
        {
            self.lose(time, time, version);
            self.lost_bars += 1;
        }
    }

    fn lose(&mut self, from: i64, to: i64, version: u64) {
        let hole = Hole { from, to };
        self.lost_version = self.lost_version.max(version);
        self.lost = Some(self.lost.map_or(hole, |lost| lost.with(hole)));
    }

    /// Appends what the topic's watchers lack, in the order of its versions: who has seen some of it in a
    /// snapshot gets only what is newer.
    fn recover(mut self, entry: &Entry, batch: &mut Batch) -> Settled {
        let mut frames: Vec<(u64, Kind, Option<Message>, Option<Kept>)> = Vec::new();
        {
            let state = entry.lock();
            for (time, version) in std::mem::take(&mut self.bars) {
                match kept_bar(&state, entry.topic, time) {
                    Some(message) => {
                        let kind = if message.bar.closed {
                            Kind::Closed
                        } else {
                            Kind::Forming
                        };
                        frames.push((version, kind, Some(message), None));
                    }
                    None => {
                        self.lose(time, time, version);
                        self.lost_bars += 1;
                    }
                }
            }
        }
        let bars = frames.len() as u64 + u64::from(self.newest.is_some());
        let kept = self.notices.into_iter().chain(self.newest);
        frames.extend(kept.map(|kept| (kept.head.version, kept.head.kind, None, Some(kept))));
        if let Some(Hole { from, to }) = self.lost {
            let head = Head {
                topic: entry.id,
                version: self.lost_version,
                time: to,
                from,
                kind: Kind::Gap,
                ts: None,
            };
            let bytes =
                FrameBuilder::default().text(|out| write_gap(out, &entry.topic, from, to, REASON));
            frames.push((head.version, head.kind, None, Some(Kept { head, bytes })));
        }
        // A notice stands before the bar that it came with.
        frames.sort_by_key(|(version, kind, _, _)| (*version, *kind != Kind::Gap));
        for (version, kind, message, kept) in frames {
            if let Some(Kept { head, bytes }) = kept {
                batch.push(head, |out| out.extend_from_slice(payload_of(&bytes)));
            } else if let Some(message) = message {
                let head = Head {
                    topic: entry.id,
                    version,
                    time: message.bar.time(),
                    from: message.bar.time(),
                    kind,
                    ts: message.ts,
                };
                batch.push(head, |out| write_update(out, &message));
            }
        }
        Settled {
            conflated: self.frames.saturating_sub(bars + self.lost_bars),
            gapped: self.lost_bars,
        }
    }
}

/// A bar as history has it, with what its producer put beside it as far as that is known.
fn kept_bar(state: &State, topic: Topic, time: i64) -> Option<Message> {
    let current = state.current(topic).filter(|m| m.bar.time() == time);
    let bar = state.history.between(time, time.saturating_add(1)).next();
    current.or_else(|| bar.map(|bar| Message::new(topic, *bar)))
}
