//! Who gets what: a topic's subscribers, and a session's subscriptions.
//!
//! Both sides are dense vectors that point at each other, so that leaving is a swap-remove and two
//! corrections, and the fan-out walks plain memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use slab::Slab;

use super::pacing::Pace;
use super::states::States;
use super::{Hub, Member, SessionId, Socket, index};
use crate::gateway::batch::TopicId;
use crate::gateway::missed::Settled;
use crate::gateway::registry::Entry;

/// One subscriber in a topic's list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscriber {
    pub session: SessionId,
    /// Where the session keeps this subscription.
    pub slot: u32,
}

/// A subscriber whose snapshot is newer than what this worker has sent so far.
#[derive(Debug)]
pub(super) struct Joining {
    subscriber: Subscriber,
    /// Frames up to this version are in the snapshot already.
    until: u64,
    pace: Option<Pace>,
}

/// A subscriber with a `max_rate`.
#[derive(Debug)]
pub(super) struct Paced {
    pub subscriber: Subscriber,
    pub pace: Pace,
}

/// A topic's subscribers on this worker. There is no table for a topic without any.
#[derive(Debug)]
pub(super) struct TopicTable {
    pub entry: Arc<Entry>,
    /// Those who get every frame.
    pub live: Vec<Subscriber>,
    pub paced: Vec<Paced>,
    pub joining: Vec<Joining>,
    /// What those with a rate wait for.
    pub states: States,
    /// Version of the last frame that passed here.
    pub position: u64,
    /// Time of the newest bar that passed here or that the first subscriber knew.
    pub newest: i64,
    /// Version that the first subscriber knew.
    start: u64,
}

/// Which of a topic's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Live,
    Paced,
    Joining,
}

/// A session's side of a subscription.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscription {
    pub topic: TopicId,
    /// Index in the list.
    at: u32,
    list: List,
}

impl TopicTable {
    fn new(entry: Arc<Entry>) -> Self {
        Self {
            entry,
            live: Vec::new(),
            paced: Vec::new(),
            joining: Vec::new(),
            states: States::default(),
            position: 0,
            newest: i64::MIN,
            start: 0,
        }
    }

    fn len(&self) -> usize {
        self.live.len() + self.paced.len() + self.joining.len()
    }

    fn subscribers(&self) -> impl Iterator<Item = Subscriber> {
        let paced = self.paced.iter().map(|p| p.subscriber);
        let joining = self.joining.iter().map(|j| j.subscriber);
        self.live.iter().copied().chain(paced).chain(joining)
    }

    fn subscriber_mut(&mut self, of: Subscription) -> Option<&mut Subscriber> {
        let at = of.at as usize;
        match of.list {
            List::Live => self.live.get_mut(at),
            List::Paced => self.paced.get_mut(at).map(|p| &mut p.subscriber),
            List::Joining => self.joining.get_mut(at).map(|j| &mut j.subscriber),
        }
    }

    /// Puts a subscriber into the list it belongs to.
    fn insert(&mut self, subscriber: Subscriber, until: u64, pace: Option<Pace>) -> (List, u32) {
        if until > self.position {
            self.joining.push(Joining {
                subscriber,
                until,
                pace,
            });
            (List::Joining, index(self.joining.len() - 1))
        } else if let Some(mut pace) = pace {
            pace.seen = self.states.stamp();
            self.paced.push(Paced { subscriber, pace });
            (List::Paced, index(self.paced.len() - 1))
        } else {
            self.live.push(subscriber);
            (List::Live, index(self.live.len() - 1))
        }
    }

    /// Takes a subscriber out: its rate if it was in the list of those, and who stands in its place now.
    fn remove(&mut self, list: List, at: u32) -> (Option<Paced>, Option<Subscriber>) {
        let at = at as usize;
        match list {
            List::Live => {
                self.live.swap_remove(at);
                (None, self.live.get(at).copied())
            }
            List::Paced => {
                let gone = self.paced.swap_remove(at);
                (Some(gone), self.paced.get(at).map(|p| p.subscriber))
            }
            List::Joining => {
                self.joining.swap_remove(at);
                (None, self.joining.get(at).map(|j| j.subscriber))
            }
        }
    }

    /// Lets those in whose snapshot ends before `version`.
    #[cold]
    pub fn promote<S>(&mut self, version: u64, members: &mut Slab<Member<S>>) {
        self.position = version;
        let mut at = 0;
        while let Some(joining) = self.joining.get(at) {
            if joining.until >= version {
                at += 1;
                continue;
            }
            let joined = self.joining.swap_remove(at);
            let (list, place) = self.insert(joined.subscriber, 0, joined.pace);
            set_place(members, joined.subscriber, list, place);
            if let Some(moved) = self.joining.get(at) {
                set_place(members, moved.subscriber, List::Joining, index(at));
            }
        }
    }
}

fn set_place<S>(members: &mut Slab<Member<S>>, of: Subscriber, list: List, at: u32) {
    let member = &mut members[of.session as usize];
    let subscription = &mut member.subscriptions[of.slot as usize];
    subscription.list = list;
    subscription.at = at;
}

impl<S: Socket> Hub<S> {
    pub(super) fn table(&self, topic: TopicId) -> Option<&TopicTable> {
        self.topics.get(topic.index())?.as_deref()
    }

    /// Topics that a session gets.
    pub fn topics_of(&self, session: SessionId) -> impl Iterator<Item = &Arc<Entry>> {
        let member = self.members.get(session as usize);
        member
            .into_iter()
            .flat_map(|m| &m.subscriptions)
            .filter_map(|s| self.table(s.topic).map(|t| &t.entry))
    }

    /// How many topics a session gets.
    pub fn count_of(&self, session: SessionId) -> usize {
        self.members
            .get(session as usize)
            .map_or(0, |m| m.subscriptions.len())
    }

    /// Whether a session gets a topic.
    pub fn is_subscribed(&self, session: SessionId, topic: TopicId) -> bool {
        self.find(session, topic).is_some()
    }

    /// Whether any session of this worker gets a topic.
    pub fn is_watched(&self, topic: TopicId) -> bool {
        self.table(topic).is_some()
    }

    /// A topic that any session of this worker gets.
    pub fn watched(&self, topic: TopicId) -> Option<Arc<Entry>> {
        self.table(topic).map(|table| Arc::clone(&table.entry))
    }

    /// Counts deliveries to all subscribers of a topic that will not be made.
    pub fn settle(&mut self, topic: TopicId, settled: Settled) {
        let subscribers = self
            .table(topic)
            .map_or(0, |t| t.live.len() + t.paced.len());
        let times = |count: u64| count * subscribers as u64;
        self.tally.due += times(settled.conflated + settled.gapped);
        self.tally.conflated += times(settled.conflated);
        self.tally.gapped_gateway += times(settled.gapped);
    }

    /// Subscribes a session that already knows the topic up to version `until`: it gets every frame
    /// after that, and none before; forming updates at most `max_rate` times a second, if given.
    /// Does nothing if it is subscribed.
    pub fn subscribe(
        &mut self,
        session: SessionId,
        entry: &Arc<Entry>,
        until: u64,
        max_rate: Option<f64>,
    ) {
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
        let table =
            self.topics[at].get_or_insert_with(|| Box::new(TopicTable::new(Arc::clone(entry))));
        let subscriber = Subscriber {
            session,
            slot: index(member.subscriptions.len()),
        };
        self.paced += usize::from(max_rate.is_some());
        let (list, at) = table.insert(subscriber, until, max_rate.map(Pace::new));
        member.subscriptions.push(Subscription {
            topic: entry.id,
            at,
            list,
        });
        entry.subscribers.fetch_add(1, Ordering::Relaxed);
    }

    /// The topic's subscribers, all of whom came just now, know it up to `version`, and this newest bar.
    pub fn start_at(&mut self, topic: TopicId, version: u64, newest: i64) {
        if let Some(Some(table)) = self.topics.get_mut(topic.index())
            && table.position == 0
            && table.start == 0
        {
            table.start = version;
            table.newest = newest;
        }
    }

    /// From which time on bars changed whose frames up to `version` are still on their way to here; `None`:
    /// nothing is.
    pub fn on_its_way(&self, topic: TopicId, version: u64) -> Option<i64> {
        let table = self.table(topic)?;
        (table.position.max(table.start) < version).then_some(table.newest)
    }

    /// Gives a subscription another rate, or none. An update that waits is sent now.
    pub fn set_rate(&mut self, session: SessionId, topic: TopicId, max_rate: Option<f64>) {
        let Some((slot, old)) = self.find(session, topic) else {
            return;
        };
        let Some(Some(table)) = self.topics.get_mut(topic.index()) else {
            return;
        };
        let pace = max_rate.map(Pace::new);
        if old.list == List::Joining {
            self.paced += usize::from(pace.is_some());
            let before = std::mem::replace(&mut table.joining[old.at as usize].pace, pace);
            self.paced -= usize::from(before.is_some());
            return;
        }
        if let Some(mut paced) = self.take_from_list(old) {
            self.send_owed(topic, &mut paced, Instant::now());
        }
        let Some(Some(table)) = self.topics.get_mut(topic.index()) else {
            return;
        };
        self.paced += usize::from(pace.is_some());
        let subscriber = Subscriber { session, slot };
        let (list, at) = table.insert(subscriber, 0, pace);
        set_place(&mut self.members, subscriber, list, at);
    }

    /// Takes a subscriber out of its topic's list, and its turn from the wheel.
    fn take_from_list(&mut self, gone: Subscription) -> Option<Paced> {
        let table = self.topics.get_mut(gone.topic.index())?.as_deref_mut()?;
        if gone.list == List::Joining {
            let joining = table.joining.get(gone.at as usize);
            self.paced -= usize::from(joining.is_some_and(|j| j.pace.is_some()));
        }
        let (paced, moved) = table.remove(gone.list, gone.at);
        if let Some(moved) = moved {
            set_place(&mut self.members, moved, gone.list, gone.at);
        }
        let mut paced = paced?;
        self.paced -= 1;
        // First the one that moved up, so that a turn that is moved on the wheel finds its owner.
        self.move_turn(gone.topic, gone.at);
        self.free_turn(&mut paced.pace);
        Some(paced)
    }

    /// A subscription and its place in its session. Looked for on the shorter side, so that a pattern
    /// over many topics does not look through all of them for each.
    fn find(&self, session: SessionId, topic: TopicId) -> Option<(u32, Subscription)> {
        let subscriptions = &self.members.get(session as usize)?.subscriptions;
        let table = self.table(topic)?;
        let slot = if subscriptions.len() <= table.len() {
            index(subscriptions.iter().position(|s| s.topic == topic)?)
        } else {
            table.subscribers().find(|s| s.session == session)?.slot
        };
        Some((slot, subscriptions[slot as usize]))
    }

    /// Ends one subscription; tells whether there was one.
    pub fn unsubscribe(&mut self, session: SessionId, topic: TopicId) -> bool {
        let Some((slot, gone)) = self.find(session, topic) else {
            return false;
        };
        let member = &mut self.members[session as usize];
        member.subscriptions.swap_remove(slot as usize);
        if let Some(lag) = &mut member.lag {
            // A new subscription's snapshot comes behind these, and its bars behind the snapshot.
            lag.fence(topic);
        }
        // The one that took its place must be found again from the topic's side.
        if let Some(moved) = member.subscriptions.get(slot as usize).copied()
            && let Some(Some(table)) = self.topics.get_mut(moved.topic.index())
            && let Some(subscriber) = table.subscriber_mut(moved)
        {
            subscriber.slot = slot;
        }
        // The client does not want it any more: not lost to it.
        self.tally.unsubscribed += self.leave_topic(gone);
        true
    }

    /// Ends all subscriptions of a session that is on its way out: what waits is lost to it.
    pub(super) fn unsubscribe_all(&mut self, session: SessionId) {
        let Some(member) = self.members.get_mut(session as usize) else {
            return;
        };
        for gone in std::mem::take(&mut member.subscriptions) {
            self.tally.gapped_left += self.leave_topic(gone);
        }
    }

    /// Takes a subscriber out of its topic's list; returns how many updates waited for its turn.
    fn leave_topic(&mut self, gone: Subscription) -> u64 {
        let paced = self.take_from_list(gone);
        let Some(Some(table)) = self.topics.get_mut(gone.topic.index()) else {
            return 0;
        };
        table.entry.subscribers.fetch_sub(1, Ordering::Relaxed);
        let waited = paced.map_or(0, |mut paced| {
            table.states.take_owed(&mut paced.pace, |_| {})
        });
        if table.len() == 0
            && let Some(table) = self.topics[gone.topic.index()].take()
        {
            self.todo.unwatched.push(table.entry);
        }
        waited
    }
}
