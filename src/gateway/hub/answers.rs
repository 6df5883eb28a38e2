//! What a session gets beside the fan-out: answers, snapshots, and what waited while its socket was full.

use std::io;

use bytes::Bytes;

use super::{Hub, SessionId, Socket, index, would_block};
use crate::gateway::batch::TopicId;
use crate::gateway::lag::{Lag, Progress};

impl<S: Socket> Hub<S> {
    /// Writes to a session that does not lag, and nothing to one that does; `None` if there is no
    /// such session or its socket is dead.
    pub(super) fn write(&mut self, session: SessionId, bytes: &[u8]) -> Option<usize> {
        let member = self.members.get(session as usize)?;
        if member.lag.is_some() {
            return Some(0);
        }
        self.tally.writes += 1;
        let written = match S::send(member.socket.handle(), bytes) {
            Ok(written) => written,
            Err(why) if would_block(&why) => 0,
            Err(_) => {
                self.todo.dead.push(session);
                return None;
            }
        };
        self.tally.bytes += written as u64;
        Some(written)
    }

    /// Sends an answer, a snapshot or a control frame, behind whatever waits already.
    pub fn send(&mut self, session: SessionId, bytes: Bytes) {
        let Some(written) = self.write(session, &bytes) else {
            return;
        };
        if written == bytes.len() {
            return;
        }
        let member = &mut self.members[session as usize];
        if let Some(lag) = &mut member.lag {
            self.waiting -= lag.bytes();
            lag.push_answer(&bytes);
            self.waiting += lag.bytes();
            return;
        }
        let mut lag = Box::<Lag>::default();
        lag.begin(&bytes[written..], false);
        self.waiting += lag.bytes();
        member.lag = Some(lag);
        self.tally.full += 1;
        self.todo.lagging.push(session);
    }

    /// Writes what waits for a session as far as its socket takes it; `true` when nothing is left.
    pub fn flush(&mut self, session: SessionId) -> bool {
        let Some(progress) = self.write_waiting(session, S::try_write) else {
            return true;
        };
        match progress {
            Progress::Empty => {
                self.members[session as usize].lag = None;
                true
            }
            Progress::Full => false,
            Progress::Dead => {
                self.todo.dead.push(session);
                true
            }
        }
    }

    /// Likewise, but asks the kernel itself: that wakes whoever waits for room only when a third of the
    /// socket's buffer is free, which may be minutes after a slow client took something. Whoever waits is
    /// still woken then, and sees to what is left.
    pub fn nudge(&mut self, session: SessionId) {
        self.write_waiting(session, |socket, bytes| S::send(socket.handle(), bytes));
    }

    fn write_waiting(
        &mut self,
        session: SessionId,
        write: impl Fn(&S, &[u8]) -> io::Result<usize>,
    ) -> Option<Progress> {
        let member = self.members.get_mut(session as usize)?;
        let lag = member.lag.as_deref_mut()?;
        let topics = &self.topics;
        let name = |topic: TopicId| {
            let table = topics.get(topic.index())?.as_deref()?;
            Some(table.entry.topic)
        };
        self.waiting -= lag.bytes();
        let write = |bytes: &[u8]| write(&member.socket, bytes);
        let progress = lag.flush(write, name, &mut self.tally);
        self.waiting += lag.bytes();
        Some(progress)
    }

    /// What waits for a session, if anything does.
    pub fn lag(&self, session: SessionId) -> Option<&Lag> {
        self.members.get(session as usize)?.lag.as_deref()
    }

    /// Ends all subscriptions and forgets the bars that wait: only what the socket took a part of is
    /// still finished. For a session that is about to be closed.
    pub fn silence(&mut self, session: SessionId) {
        self.retire(session);
        if let Some(member) = self.members.get_mut(session as usize)
            && let Some(lag) = &mut member.lag
        {
            self.waiting -= lag.bytes();
            self.tally.gapped_left += lag.forget_bars();
            self.waiting += lag.bytes();
        }
    }

    /// Ends all subscriptions; what waits is still sent. For a session whose client sends nothing more.
    pub fn retire(&mut self, session: SessionId) {
        self.unsubscribe_all(session);
    }

    /// Forgets all that waits, also the rest of a frame that was begun: nothing can be sent any more.
    pub fn abandon(&mut self, session: SessionId) {
        self.silence(session);
        if let Some(member) = self.members.get_mut(session as usize)
            && let Some(lag) = member.lag.take()
        {
            self.waiting -= lag.bytes();
            self.tally.gapped_left += lag.bars();
        }
    }

    /// Memory that waits for all sessions, in bytes.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting
    }

    /// The sessions for which something waits.
    pub fn laggards(&mut self) -> impl Iterator<Item = (SessionId, &S, &mut Lag)> {
        self.members.iter_mut().filter_map(|(id, member)| {
            let lag = member.lag.as_deref_mut()?;
            Some((index(id), &member.socket, lag))
        })
    }
}
