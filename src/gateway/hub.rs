//! The hot path: one worker's topics and sessions, and the fan-out of a batch to its clients.
//!
//! Everything here belongs to one thread, so a delivery costs no lock, no atomic and no wake-up; and
//! it is written so that it costs no allocation either. Per batch:
//!
//! 1. every frame is noted for its subscribers: one step in a linked list of plain indices
//!    ([`Hub::fan_out`]), in memory that is kept from batch to batch;
//! 2. every session that was noted is written once, all its frames together
//!    ([`Hub::write_noted`]): one frame goes out as it is, several are copied side by side into one
//!    buffer first, which costs tens of nanoseconds where a second `send` would cost microseconds;
//!    neighbours with the same frames share the copy;
//! 3. only if the socket is full is a frame cloned, into the session's outbox.
//!
//! Knows no socket library: a socket is whatever can [`try_write`](Socket::try_write).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use slab::Slab;

use super::batch::{Batch, Frame, Kind, TopicId};
use super::lag::{Lag, Progress};
use super::registry::Entry;
use crate::metrics::Tally;

/// Notes (frame × subscriber) held at once: 8 MiB. A batch with more is written in several rounds.
const MAX_NOTES: usize = 1 << 20;
/// End of a list of notes.
const NONE: u32 = u32::MAX;

/// Where frames go.
pub trait Socket {
    /// Writes what can be written without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when nothing can; anything else means that the socket is dead.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// A session's number on its worker. Used again after the session ended.
pub type SessionId = u32;

/// One subscriber in a topic's list.
#[derive(Debug, Clone, Copy)]
struct Subscriber {
    session: SessionId,
    /// Where the session keeps this subscription.
    slot: u32,
}

/// A subscriber whose snapshot is newer than what this worker has sent so far.
#[derive(Debug, Clone, Copy)]
struct Joining {
    subscriber: Subscriber,
    /// Frames up to this version are in the snapshot already.
    until: u64,
}

#[derive(Debug)]
struct TopicTable {
    entry: Arc<Entry>,
    live: Vec<Subscriber>,
    joining: Vec<Joining>,
    /// Version of the last frame that passed here.
    position: u64,
}

/// A session's side of a subscription.
#[derive(Debug, Clone, Copy)]
struct Subscription {
    topic: TopicId,
    /// Index in the topic's `live` or `joining`.
    at: u32,
    joining: bool,
}

#[derive(Debug)]
struct Member<S> {
    socket: S,
    subscriptions: Vec<Subscription>,
    /// Only while the socket is full.
    lag: Option<Box<Lag>>,
    /// The notes of the round: first and last index into `Hub::notes`.
    first_note: u32,
    last_note: u32,
}

#[derive(Debug, Clone, Copy)]
struct Note {
    frame: u32,
    next: u32,
}

/// What the worker must see to after a call.
#[derive(Debug, Default)]
pub struct Todo {
    /// Sessions that began to lag: flush them when their sockets can be written again.
    pub lagging: Vec<SessionId>,
    /// Sessions whose sockets are dead.
    pub dead: Vec<SessionId>,
    /// Topics that lost their last subscriber here.
    pub unwatched: Vec<Arc<Entry>>,
}

/// One worker's topics and sessions.
#[derive(Debug)]
pub struct Hub<S> {
    topics: Vec<Option<Box<TopicTable>>>,
    members: Slab<Member<S>>,
    outbox_limit: usize,
    tally: Tally,
    todo: Todo,
    // Kept from round to round for their memory.
    notes: Vec<Note>,
    noted: Vec<SessionId>,
    gathered: Gathered,
}

/// Frames copied side by side, and which they are.
#[derive(Debug, Default)]
struct Gathered {
    frames: Vec<u32>,
    wanted: Vec<u32>,
    bytes: Vec<u8>,
}

fn index(n: usize) -> u32 {
    // A worker holds fewer than 2^32 sessions, subscriptions and notes: memory ends long before.
    u32::try_from(n).unwrap_or(NONE)
}

impl<S: Socket> Hub<S> {
    /// A hub whose sessions may each have `outbox_limit` bytes of bars waiting.
    pub fn new(outbox_limit: usize) -> Self {
        Self {
            topics: Vec::new(),
            members: Slab::new(),
            outbox_limit,
            tally: Tally::default(),
            todo: Todo::default(),
            notes: Vec::new(),
            noted: Vec::new(),
            gathered: Gathered::default(),
        }
    }

    /// Takes a session in.
    pub fn add(&mut self, socket: S) -> SessionId {
        index(self.members.insert(Member {
            socket,
            subscriptions: Vec::new(),
            lag: None,
            first_note: NONE,
            last_note: NONE,
        }))
    }

    /// Ends a session and gives its socket back. What still waited counts as lost with it.
    pub fn remove(&mut self, session: SessionId) -> Option<S> {
        self.unsubscribe_all(session);
        let member = self.members.try_remove(session as usize)?;
        if let Some(lag) = member.lag {
            self.tally.gapped_left += lag.bars();
        }
        Some(member.socket)
    }

    /// A session's socket.
    pub fn socket(&self, session: SessionId) -> Option<&S> {
        self.members.get(session as usize).map(|m| &m.socket)
    }

    /// The sockets of all sessions.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &S)> {
        self.members.iter().map(|(id, m)| (index(id), &m.socket))
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What became of deliveries since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// What the worker must see to since the last call.
    pub fn take_todo(&mut self) -> Todo {
        std::mem::take(&mut self.todo)
    }

    // ---- subscriptions -------------------------------------------------------------------------

    /// Topics that a session gets.
    pub fn topics_of(&self, session: SessionId) -> impl Iterator<Item = &Arc<Entry>> {
        let member = self.members.get(session as usize);
        member
            .into_iter()
            .flat_map(|m| &m.subscriptions)
            .filter_map(|s| self.table(s.topic).map(|t| &t.entry))
    }

    fn table(&self, topic: TopicId) -> Option<&TopicTable> {
        self.topics.get(topic.index())?.as_deref()
    }

    /// How many topics a session gets.
    pub fn count_of(&self, session: SessionId) -> usize {
        self.members
            .get(session as usize)
            .map_or(0, |m| m.subscriptions.len())
    }

    /// Whether a session gets a topic.
    pub fn is_subscribed(&self, session: SessionId, topic: TopicId) -> bool {
        self.members
            .get(session as usize)
            .is_some_and(|m| m.subscriptions.iter().any(|s| s.topic == topic))
    }

    /// Whether any session of this worker gets a topic.
    pub fn is_watched(&self, topic: TopicId) -> bool {
        self.table(topic).is_some()
    }

    /// Subscribes a session that already knows the topic up to version `until`: it gets every frame
    /// after that, and none before. Does nothing if it is subscribed.
    pub fn subscribe(&mut self, session: SessionId, entry: &Arc<Entry>, until: u64) {
        if self.is_subscribed(session, entry.id) {
            return;
        }
        let Some(member) = self.members.get_mut(session as usize) else {
            return;
        };
        let at = entry.id.index();
        if self.topics.len() <= at {
            self.topics.resize_with(at + 1, || None);
        }
        let table = self.topics[at].get_or_insert_with(|| {
            Box::new(TopicTable {
                entry: Arc::clone(entry),
                live: Vec::new(),
                joining: Vec::new(),
                position: 0,
            })
        });
        let subscriber = Subscriber {
            session,
            slot: index(member.subscriptions.len()),
        };
        let joining = until > table.position;
        let at = if joining {
            table.joining.push(Joining { subscriber, until });
            table.joining.len() - 1
        } else {
            table.live.push(subscriber);
            table.live.len() - 1
        };
        member.subscriptions.push(Subscription {
            topic: entry.id,
            at: index(at),
            joining,
        });
        entry.subscribers.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends one subscription; tells whether there was one.
    pub fn unsubscribe(&mut self, session: SessionId, topic: TopicId) -> bool {
        let Some(member) = self.members.get_mut(session as usize) else {
            return false;
        };
        let Some(slot) = member.subscriptions.iter().position(|s| s.topic == topic) else {
            return false;
        };
        let gone = member.subscriptions.swap_remove(slot);
        if let Some(lag) = &mut member.lag {
            // A new subscription's snapshot comes behind these, and its bars behind the snapshot.
            lag.fence(topic);
        }
        // The one that took its place must be found again from the topic's side.
        if let Some(moved) = member.subscriptions.get(slot).copied()
            && let Some(Some(table)) = self.topics.get_mut(moved.topic.index())
        {
            table.subscriber_mut(moved).slot = index(slot);
        }
        self.leave_topic(gone);
        true
    }

    fn unsubscribe_all(&mut self, session: SessionId) {
        let Some(member) = self.members.get_mut(session as usize) else {
            return;
        };
        for gone in std::mem::take(&mut member.subscriptions) {
            self.leave_topic(gone);
        }
    }

    /// Takes a subscriber out of its topic's list.
    fn leave_topic(&mut self, gone: Subscription) {
        let Some(Some(table)) = self.topics.get_mut(gone.topic.index()) else {
            return;
        };
        let at = gone.at as usize;
        let moved = if gone.joining {
            table.joining.swap_remove(at);
            table.joining.get(at).map(|j| j.subscriber)
        } else {
            table.live.swap_remove(at);
            table.live.get(at).copied()
        };
        table.entry.subscribers.fetch_sub(1, Ordering::Relaxed);
        let empty = table.live.is_empty() && table.joining.is_empty();
        if let Some(moved) = moved {
            self.members[moved.session as usize].subscriptions[moved.slot as usize].at = gone.at;
        }
        if empty && let Some(table) = self.topics[gone.topic.index()].take() {
            self.todo.unwatched.push(table.entry);
        }
    }

    // ---- fan-out -------------------------------------------------------------------------------

    /// Sends a batch to all subscribers: one write a session.
    pub fn fan_out(&mut self, batch: &Batch, now: Instant) {
        for (at, frame) in batch.frames.iter().enumerate() {
            let Some(Some(table)) = self.topics.get_mut(frame.topic.index()) else {
                continue;
            };
            table.position = frame.version;
            if !table.joining.is_empty() {
                table.promote(frame.version, &mut self.members);
            }
            if frame.kind != Kind::Gap {
                self.tally.due += table.live.len() as u64;
            }
            for subscriber in &table.live {
                let member = &mut self.members[subscriber.session as usize];
                let note = index(self.notes.len());
                self.notes.push(Note {
                    frame: index(at),
                    next: NONE,
                });
                if member.first_note == NONE {
                    member.first_note = note;
                    self.noted.push(subscriber.session);
                } else {
                    self.notes[member.last_note as usize].next = note;
                }
                member.last_note = note;
            }
            if self.notes.len() >= MAX_NOTES {
                self.write_noted(&batch.frames, now);
            }
        }
        self.write_noted(&batch.frames, now);
    }

    /// Writes every session that has notes, once.
    fn write_noted(&mut self, frames: &[Frame], now: Instant) {
        let mut noted = std::mem::take(&mut self.noted);
        self.gathered.frames.clear();
        for &session in &noted {
            let member = &mut self.members[session as usize];
            let wanted = &mut self.gathered.wanted;
            wanted.clear();
            let mut at = member.first_note;
            while at != NONE {
                let note = self.notes[at as usize];
                wanted.push(note.frame);
                at = note.next;
            }
            member.first_note = NONE;
            if member.lag.is_some() {
                self.queue(session, frames, 0, now);
                continue;
            }
            let bytes: &[u8] = if let [one] = wanted.as_slice() {
                &frames[*one as usize].bytes
            } else {
                self.gathered.fill(frames);
                &self.gathered.bytes
            };
            self.tally.writes += 1;
            let written = match member.socket.try_write(bytes) {
                Ok(written) => written,
                Err(why) if would_block(&why) => 0,
                Err(_) => {
                    self.tally.gapped_left += bars(frames, &self.gathered.wanted);
                    self.todo.dead.push(session);
                    continue;
                }
            };
            self.tally.bytes += written as u64;
            if written == bytes.len() {
                self.tally.delivered += bars(frames, &self.gathered.wanted);
            } else {
                self.queue(session, frames, written, now);
            }
        }
        noted.clear();
        self.noted = noted;
        self.notes.clear();
    }

    /// The socket is full: what it did not take of the wanted frames goes to the outbox.
    #[cold]
    fn queue(&mut self, session: SessionId, frames: &[Frame], mut written: usize, now: Instant) {
        let member = &mut self.members[session as usize];
        let lag = member.lag.get_or_insert_with(|| {
            self.tally.full += 1;
            self.todo.lagging.push(session);
            Box::default()
        });
        for frame in self.gathered.wanted.iter().map(|at| &frames[*at as usize]) {
            let bar = frame.kind != Kind::Gap;
            if written >= frame.bytes.len() {
                written -= frame.bytes.len();
                self.tally.delivered += u64::from(bar);
            } else if written > 0 {
                lag.begin(frame.bytes.slice(written..), bar);
                written = 0;
            } else {
                lag.offer(frame, self.outbox_limit, now, &mut self.tally);
            }
        }
    }

    // ---- answers and the outbox ----------------------------------------------------------------

    /// Sends an answer, a snapshot or a control frame, behind whatever waits already.
    pub fn send(&mut self, session: SessionId, bytes: Bytes) {
        let Some(member) = self.members.get_mut(session as usize) else {
            return;
        };
        if let Some(lag) = &mut member.lag {
            lag.push_answer(bytes);
            return;
        }
        self.tally.writes += 1;
        let written = match member.socket.try_write(&bytes) {
            Ok(written) => written,
            Err(why) if would_block(&why) => 0,
            Err(_) => return self.todo.dead.push(session),
        };
        self.tally.bytes += written as u64;
        if written < bytes.len() {
            let mut lag = Box::<Lag>::default();
            lag.begin(bytes.slice(written..), false);
            member.lag = Some(lag);
            self.tally.full += 1;
            self.todo.lagging.push(session);
        }
    }

    /// Writes what waits for a session as far as its socket takes it; `true` when nothing is left.
    pub fn flush(&mut self, session: SessionId) -> bool {
        let Some(member) = self.members.get_mut(session as usize) else {
            return true;
        };
        let Some(lag) = &mut member.lag else {
            return true;
        };
        let topics = &self.topics;
        let name = |topic: TopicId| {
            let table = topics.get(topic.index())?.as_deref()?;
            Some(table.entry.topic)
        };
        match lag.flush(&member.socket, name, &mut self.tally) {
            Progress::Empty => {
                member.lag = None;
                true
            }
            Progress::Full => false,
            Progress::Dead => {
                self.todo.dead.push(session);
                true
            }
        }
    }

    /// What waits for a session, if anything does.
    pub fn lag(&self, session: SessionId) -> Option<&Lag> {
        self.members.get(session as usize)?.lag.as_deref()
    }

    /// Ends all subscriptions and forgets the bars that wait: only what the socket took a part of is
    /// still finished. For a session that is about to be closed.
    pub fn silence(&mut self, session: SessionId) {
        self.unsubscribe_all(session);
        if let Some(member) = self.members.get_mut(session as usize)
            && let Some(lag) = &mut member.lag
        {
            self.tally.gapped_left += lag.forget_bars();
        }
    }
}

impl TopicTable {
    fn subscriber_mut(&mut self, of: Subscription) -> &mut Subscriber {
        let at = of.at as usize;
        if of.joining {
            &mut self.joining[at].subscriber
        } else {
            &mut self.live[at]
        }
    }

    /// Lets those in whose snapshot ends before `version`.
    #[cold]
    fn promote<S>(&mut self, version: u64, members: &mut Slab<Member<S>>) {
        let mut at = 0;
        while let Some(joining) = self.joining.get(at) {
            if joining.until >= version {
                at += 1;
                continue;
            }
            let Subscriber { session, slot } = self.joining.swap_remove(at).subscriber;
            let subscription = &mut members[session as usize].subscriptions[slot as usize];
            subscription.joining = false;
            subscription.at = index(self.live.len());
            self.live.push(Subscriber { session, slot });
            if let Some(moved) = self.joining.get(at) {
                let Subscriber { session, slot } = moved.subscriber;
                members[session as usize].subscriptions[slot as usize].at = index(at);
            }
        }
    }
}

impl Gathered {
    /// Copies the wanted frames side by side, unless they already are.
    fn fill(&mut self, frames: &[Frame]) {
        if self.frames == self.wanted {
            return;
        }
        self.bytes.clear();
        for at in &self.wanted {
            self.bytes.extend_from_slice(&frames[*at as usize].bytes);
        }
        self.frames.clone_from(&self.wanted);
    }
}

/// How many of the wanted frames are bars: all, but for the rare notices.
fn bars(frames: &[Frame], wanted: &[u32]) -> u64 {
    let bar = |at: &&u32| frames[**at as usize].kind != Kind::Gap;
    wanted.iter().filter(bar).count() as u64
}

pub(super) fn would_block(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
