//! A worker's sessions: who comes and who goes.

use crate::gateway::rendition::Rendition;

use super::{Hub, Member, NONE, NOTED_WITHIN, SessionId, Socket, index};

impl<S: Socket> Hub<S> {
    /// Takes a session in.
    pub fn add(&mut self, socket: S) -> SessionId {
        index(self.members.insert(Member {
            socket,
            count: 0,
            rendition: Rendition::Plain,
            noted: [0; NOTED_WITHIN],
            first_note: NONE,
            last_note: NONE,
            lag: None,
            subscriptions: Vec::new(),
        }))
    }

    /// From now on a session gets these bytes of each frame.
    pub fn set_rendition(&mut self, session: SessionId, rendition: Rendition) {
        if let Some(member) = self.members.get_mut(session as usize) {
            member.rendition = rendition;
        }
    }

    /// Ends a session and gives its socket back. What still waited counts as lost with it.
    pub fn remove(&mut self, session: SessionId) -> Option<S> {
        self.unsubscribe_all(session);
        let member = self.members.try_remove(session as usize)?;
        if let Some(lag) = member.lag {
            self.waiting -= lag.bytes();
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
}
