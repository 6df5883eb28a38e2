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

mod pacing;
mod topics;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use slab::Slab;

use super::batch::{Batch, Frame, Kind, TopicId};
use super::lag::{Lag, Progress};
use super::registry::Entry;
use crate::metrics::Tally;
use topics::{Subscription, TopicTable};

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
    /// Updates that wait for their turn, soonest first. One that was sent meanwhile is found stale.
    turns: BinaryHeap<Reverse<(Instant, SessionId, TopicId)>>,
    /// Counts fan-outs.
    round: u64,
    // Kept from round to round for their memory.
    notes: Notes,
    gathered: Gathered,
}

/// Which frames are due to which sessions in this round: a linked list a session, all in one vector.
#[derive(Debug, Default)]
struct Notes {
    list: Vec<Note>,
    sessions: Vec<SessionId>,
}

impl Notes {
    fn add<S>(&mut self, members: &mut Slab<Member<S>>, session: SessionId, frame: u32) {
        let member = &mut members[session as usize];
        let note = index(self.list.len());
        self.list.push(Note { frame, next: NONE });
        if member.first_note == NONE {
            member.first_note = note;
            self.sessions.push(session);
        } else {
            self.list[member.last_note as usize].next = note;
        }
        member.last_note = note;
    }
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
            turns: BinaryHeap::new(),
            round: 0,
            notes: Notes::default(),
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

    // ---- fan-out -------------------------------------------------------------------------------

    /// Sends a batch to all subscribers: one write a session.
    pub fn fan_out(&mut self, batch: &Batch, now: Instant) {
        self.round += 1;
        for (at, frame) in batch.frames.iter().enumerate() {
            let Some(Some(table)) = self.topics.get_mut(frame.topic.index()) else {
                continue;
            };
            table.position = frame.version;
            if !table.joining.is_empty() {
                table.promote(frame.version, &mut self.members);
            }
            if frame.kind != Kind::Gap {
                self.tally.due += (table.live.len() + table.paced.len()) as u64;
            }
            for subscriber in &table.live {
                self.notes
                    .add(&mut self.members, subscriber.session, index(at));
            }
            if !table.paced.is_empty() {
                self.pace(frame, index(at), now);
            }
            if self.notes.list.len() >= MAX_NOTES {
                self.write_noted(&batch.frames, now);
            }
        }
        self.write_noted(&batch.frames, now);
    }

    /// Notes a frame for the subscribers with a `max_rate` whose turn it is.
    #[cold]
    fn pace(&mut self, frame: &Frame, at: u32, now: Instant) {
        let Some(Some(table)) = self.topics.get_mut(frame.topic.index()) else {
            return;
        };
        // Of an earlier batch, so it goes out before all that is noted of this one.
        let mut earlier = Vec::new();
        for paced in &mut table.paced {
            let session = paced.subscriber.session;
            let decision = paced.pace.offer(frame, self.round, at, now);
            self.tally.conflated += decision.conflated;
            match decision.before {
                Some(waiting) if waiting.round == self.round => {
                    self.notes.add(&mut self.members, session, waiting.at);
                }
                Some(waiting) => earlier.push((session, waiting.frame)),
                None => {}
            }
            if decision.now {
                self.notes.add(&mut self.members, session, at);
            }
            if let Some(due) = decision.due {
                self.turns.push(Reverse((due, session, frame.topic)));
            }
        }
        for (session, frame) in earlier {
            self.send_frame(session, &frame, now);
        }
    }

    /// When the next update that waits for its turn is due.
    pub fn next_turn(&self) -> Option<Instant> {
        self.turns.peek().map(|Reverse((due, _, _))| *due)
    }

    /// Sends the updates whose turn has come.
    pub fn take_turns(&mut self, now: Instant) {
        while let Some(Reverse((due, session, topic))) = self.turns.peek().copied()
            && due <= now
        {
            self.turns.pop();
            let Some(Some(table)) = self.topics.get_mut(topic.index()) else {
                continue;
            };
            let mut of_session = table.paced.iter_mut();
            let Some(paced) = of_session.find(|p| p.subscriber.session == session) else {
                continue;
            };
            match paced.pace.take_due(now) {
                Ok(Some(frame)) => self.send_frame(session, &frame, now),
                Ok(None) => {}
                Err(later) => self.turns.push(Reverse((later, session, topic))),
            }
        }
    }

    /// Sends one frame to one session.
    fn send_frame(&mut self, session: SessionId, frame: &Frame, now: Instant) {
        let Some(member) = self.members.get_mut(session as usize) else {
            return;
        };
        let bar = u64::from(frame.kind != Kind::Gap);
        let mut written = 0;
        if member.lag.is_none() {
            self.tally.writes += 1;
            written = match member.socket.try_write(&frame.bytes) {
                Ok(written) => written,
                Err(why) if would_block(&why) => 0,
                Err(_) => {
                    self.tally.gapped_left += bar;
                    return self.todo.dead.push(session);
                }
            };
            self.tally.bytes += written as u64;
        }
        if written == frame.bytes.len() {
            self.tally.delivered += bar;
        } else {
            self.gathered.wanted.clear();
            self.gathered.wanted.push(0);
            self.queue(session, std::slice::from_ref(frame), written, now);
        }
    }

    /// Writes every session that has notes, once.
    fn write_noted(&mut self, frames: &[Frame], now: Instant) {
        let mut noted = std::mem::take(&mut self.notes.sessions);
        self.gathered.frames.clear();
        for &session in &noted {
            let member = &mut self.members[session as usize];
            let wanted = &mut self.gathered.wanted;
            wanted.clear();
            let mut at = member.first_note;
            while at != NONE {
                let note = self.notes.list[at as usize];
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
        self.notes.sessions = noted;
        self.notes.list.clear();
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
