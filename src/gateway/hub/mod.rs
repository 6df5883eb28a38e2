//! The hot path: one worker's topics and sessions, and the fan-out of a batch to its clients.
//!
//! Everything here belongs to one thread, so a delivery costs no lock, no atomic and no wake-up; and
//! it is written so that it costs no allocation either. Per batch:
//!
//! 1. every frame is noted for its subscribers ([`Hub::fan_out`]): a two-byte index in the session's
//!    own two cache lines;
//! 2. every session that was noted is written once, all its frames together
//!    ([`Hub::write_noted`]). Frames that lie side by side in the batch are sent as they lie; others
//!    are copied side by side into one buffer first, which costs tens of nanoseconds where a second
//!    `send` would cost microseconds;
//! 3. only if the socket is full is a frame copied, into the session's outbox.
//!
//! What is left of the cost beside the kernel's is waiting for memory: each `send` empties the fast
//! caches, so the session's data is far away when its turn comes. Sessions are therefore taken in
//! groups of [`GROUP`], and their sockets are looked up for the whole group first: the loads do not
//! depend on each other, so the processor waits for them once.
//!
//! Knows no socket library: a socket is whatever is a [`Socket`].

mod answers;
mod gather;
mod members;
mod pacing;
mod states;
mod topics;
mod wheel;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use super::batch::{Batch, Frame, Kind};
use super::lag::Lag;
use super::registry::Entry;
use super::rendition::{Renderer, Rendition};
use crate::metrics::Tally;
use gather::{Round, bars, gather, gather_as};
use topics::{Subscription, TopicTable};
use wheel::Wheel;

/// Sessions whose sockets are looked up together. Enough to hide the memory's latency, few enough to
/// stay in registers and the nearest cache lines.
const GROUP: usize = 16;
/// Frames noted within the session itself: a usual watchlist. More go to a list.
const NOTED_WITHIN: usize = 36;
/// Frames of one round, so that two bytes number them.
const ROUND_FRAMES: usize = 1 << 15;
/// Overflowing notes held at once: 8 MiB. A round with more is written in several turns.
const MAX_NOTES: usize = 1 << 20;
/// End of a list of notes.
const NONE: u32 = u32::MAX;

/// Where frames go.
pub trait Socket {
    /// What a write needs, apart from the session's memory.
    type Handle<'a>: Copy
    where
        Self: 'a;

    /// Looks the socket up.
    fn handle(&self) -> Self::Handle<'_>;

    /// Writes what can be written without waiting, and nothing else: the hot path.
    ///
    /// # Errors
    /// `WouldBlock` when nothing can; anything else means that the socket is dead.
    fn send(handle: Self::Handle<'_>, bytes: &[u8]) -> io::Result<usize>;

    /// Likewise, and sees to it that whoever waits for the socket to take more is woken: for sessions
    /// that lag.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// A session's number on its worker. Used again after the session ended.
pub type SessionId = u32;

/// A session as the hub sees it. What the fan-out touches stands in the first two cache lines.
#[derive(Debug)]
#[repr(align(64))]
struct Member<S> {
    socket: S,
    /// Frames noted within `noted`.
    count: u16,
    /// Which bytes it gets.
    rendition: Rendition,
    noted: [u16; NOTED_WITHIN],
    /// First and last index into `Hub::notes` of those beyond.
    first_note: u32,
    last_note: u32,
    /// Only while the socket is full.
    lag: Option<Box<Lag>>,
    subscriptions: Vec<Subscription>,
}

#[derive(Debug, Clone, Copy)]
struct Note {
    frame: u16,
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
    /// Memory that waits for all sessions, in bytes: changed only where a lag changes.
    waiting: usize,
    tally: Tally,
    todo: Todo,
    renderer: Renderer,
    /// Where the wheel's time begins.
    started: Instant,
    wheel: Wheel,
    /// Subscriptions with a `max_rate`.
    paced: usize,
    /// States that are due now, as a batch of their own, and how many such batches there were.
    due_now: Batch,
    turns: u64,
    /// Counts rounds: a batch, or a part of a very long one.
    round: u64,
    // Kept from round to round for their memory.
    notes: Notes,
    wanted: Vec<u16>,
    gathered: Vec<u8>,
}

/// Which sessions have frames due in this round.
#[derive(Debug, Default)]
struct Notes {
    sessions: Vec<SessionId>,
    /// What did not fit into the sessions: a linked list each, all in one vector.
    list: Vec<Note>,
}

impl Notes {
    #[inline]
    fn add<S>(&mut self, members: &mut Slab<Member<S>>, session: SessionId, frame: u16) {
        let member = &mut members[session as usize];
        let count = usize::from(member.count);
        if count == 0 {
            self.sessions.push(session);
        }
        if let Some(place) = member.noted.get_mut(count) {
            *place = frame;
            member.count += 1;
        } else {
            self.add_beyond(member, frame);
        }
    }

    #[cold]
    fn add_beyond<S>(&mut self, member: &mut Member<S>, frame: u16) {
        let note = index(self.list.len());
        self.list.push(Note { frame, next: NONE });
        if member.first_note == NONE {
            member.first_note = note;
        } else {
            self.list[member.last_note as usize].next = note;
        }
        member.last_note = note;
    }

    /// The frames noted for a session, in order.
    fn read<S>(&self, member: &Member<S>, wanted: &mut Vec<u16>) {
        wanted.clear();
        wanted.extend_from_slice(&member.noted[..usize::from(member.count)]);
        let mut at = member.first_note;
        while at != NONE {
            let note = self.list[at as usize];
            wanted.push(note.frame);
            at = note.next;
        }
    }
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
            waiting: 0,
            tally: Tally::default(),
            todo: Todo::default(),
            renderer: Renderer::default(),
            started: Instant::now(),
            wheel: Wheel::default(),
            paced: 0,
            due_now: Batch::default(),
            turns: 0,
            round: 0,
            notes: Notes::default(),
            wanted: Vec::new(),
            gathered: Vec::new(),
        }
    }

    /// Keeps addresses for so many sessions. Memory is taken as they come; without this the list of
    /// sessions would be copied to a larger one each time it is full, and the smaller ones are not all
    /// given back: 0.2 to 0.5 KiB for each client.
    pub fn reserve(&mut self, sessions: usize) {
        self.members.reserve(sessions);
    }

    /// Frames that this worker compressed so far: only those that somebody is to get so.
    pub fn deflated(&self) -> u64 {
        self.renderer.made()
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
        for (nth, frames) in batch.frames.chunks(ROUND_FRAMES).enumerate() {
            self.round += 1;
            let round = Round {
                batch,
                frames,
                first: nth * ROUND_FRAMES,
            };
            if self.paced > 0 {
                self.send_finals(round, now);
            }
            for (at, frame) in (0_u16..).zip(frames) {
                self.note(round, frame, at, now);
                if self.notes.list.len() >= MAX_NOTES {
                    self.write_noted(round, now);
                }
            }
            self.write_noted(round, now);
        }
    }

    /// Notes a frame for all who are to get it in this round.
    fn note(&mut self, round: Round<'_>, frame: &Frame, at: u16, now: Instant) {
        let Some(Some(table)) = self.topics.get_mut(frame.head.topic.index()) else {
            return;
        };
        table.position = frame.head.version;
        if !table.joining.is_empty() {
            table.promote(frame.head.version, &mut self.members);
        }
        if frame.head.kind != Kind::Gap {
            table.newest = table.newest.max(frame.head.time);
            self.tally.due += (table.live.len() + table.paced.len()) as u64;
        }
        for subscriber in &table.live {
            self.notes.add(&mut self.members, subscriber.session, at);
        }
        if !table.paced.is_empty() {
            self.pace(round, frame, at, now);
        }
    }

    /// Writes every session that has notes, once.
    fn write_noted(&mut self, round: Round<'_>, now: Instant) {
        let mut noted = std::mem::take(&mut self.notes.sessions);
        for group in noted.chunks(GROUP) {
            let mut handles = [None; GROUP];
            for (&session, handle) in group.iter().zip(&mut handles) {
                let member = &self.members[session as usize];
                *handle = member.lag.is_none().then(|| member.socket.handle());
            }
            // What each session's socket took; `None` when it is dead.
            let mut taken = [Some(0); GROUP];
            let mut due = [0; GROUP];
            for (at, &session) in group.iter().enumerate() {
                let Some(handle) = handles[at] else { continue };
                let member = &self.members[session as usize];
                self.notes.read(member, &mut self.wanted);
                let bytes = match member.rendition {
                    Rendition::Plain => gather(round, &self.wanted, &mut self.gathered),
                    other => gather_as(
                        (other, &mut self.renderer),
                        round,
                        &self.wanted,
                        &mut self.gathered,
                    ),
                };
                self.tally.writes += 1;
                due[at] = bytes.len();
                taken[at] = match S::send(handle, bytes) {
                    Ok(written) => Some(written),
                    Err(why) if would_block(&why) => Some(0),
                    Err(_) => None,
                };
                if taken[at] == Some(bytes.len()) {
                    self.tally.bytes += bytes.len() as u64;
                    self.tally.delivered += bars(round, &self.wanted);
                }
            }
            for (at, &session) in group.iter().enumerate() {
                if due[at] == 0 || taken[at] != Some(due[at]) {
                    self.fell_short(session, round, taken[at], now);
                }
                let member = &mut self.members[session as usize];
                member.count = 0;
                member.first_note = NONE;
            }
        }
        noted.clear();
        self.notes.sessions = noted;
        self.notes.list.clear();
    }

    /// A session did not take all of its frames: it lags, its socket is full, or it is dead.
    #[cold]
    fn fell_short(
        &mut self,
        session: SessionId,
        round: Round<'_>,
        taken: Option<usize>,
        now: Instant,
    ) {
        let mut wanted = std::mem::take(&mut self.wanted);
        let member = &self.members[session as usize];
        let rendition = member.rendition;
        self.notes.read(member, &mut wanted);
        if let Some(mut written) = taken {
            self.tally.bytes += written as u64;
            for &at in &wanted {
                let frame = &round.frames[usize::from(at)];
                let kept = (
                    &frame.head,
                    round.bytes_for(at, rendition, &mut self.renderer),
                );
                written = self.queue(session, kept, written, now);
            }
        } else {
            self.tally.gapped_left += bars(round, &wanted);
            self.todo.dead.push(session);
        }
        self.wanted = wanted;
    }

    /// Puts one frame, of which the socket took up to `written` bytes, into the outbox; tells how many
    /// of those bytes belong to the frames after it.
    fn queue(
        &mut self,
        session: SessionId,
        (head, bytes): (&super::batch::Head, &[u8]),
        written: usize,
        now: Instant,
    ) -> usize {
        let bar = head.kind != Kind::Gap;
        if let Some(beyond) = written.checked_sub(bytes.len()) {
            self.tally.delivered += u64::from(bar);
            return beyond;
        }
        let member = &mut self.members[session as usize];
        let lag = member.lag.get_or_insert_with(|| {
            self.tally.full += 1;
            self.todo.lagging.push(session);
            Box::default()
        });
        self.waiting -= lag.bytes();
        if written > 0 {
            lag.begin(&bytes[written..], bar);
        } else {
            lag.offer(head, bytes, self.outbox_limit, now, &mut self.tally);
        }
        self.waiting += lag.bytes();
        0
    }
}

pub(super) fn would_block(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
