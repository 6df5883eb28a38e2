//! What a node knows of one topic, and what its next message changes: bars, order, holes.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::past::Past;
use crate::bar::{Bar, Message, Resolution, Topic};
use crate::clock::now_ms;
use crate::history::order::{Heard, Missed, Order, Place, proves_its_bar};
use crate::history::{History, Hole};

/// The part that changes with every bar.
#[derive(Debug)]
pub struct State {
    /// Messages of this topic so far, gaps among them.
    pub version: u64,
    pub history: History,
    /// The last message, for what its producer put beside the bar.
    pub last: Option<Message>,
    /// How far it was heard.
    pub heard: Heard,
    /// Time of the first bar that came over the bus.
    heard_from: Option<i64>,
    /// Where the past is that is not kept.
    pub past: Past,
    /// When somebody last asked for it, ms since the epoch.
    pub asked: i64,
    /// Before which bar the store has what is kept.
    pub stored_until: i64,
    /// How often kept bars were revised as it was heard, by their times; none where that was never.
    revs: BTreeMap<i64, u64>,
}

/// What was read from the store of one topic.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Time of the oldest bar that was kept before.
    known_from: Option<i64>,
    /// Times of the oldest and the newest bar that the store gave.
    oldest: i64,
    newest: i64,
    /// How far its producer was heard before the store gave anything.
    heard: Option<Place>,
}

impl Stored {
    /// Of a topic in this state, a first bar.
    pub fn new(state: &State, bar: &Bar) -> Self {
        Self {
            known_from: state.history.known_from(),
            heard: state.heard.place(),
            oldest: bar.time(),
            newest: bar.time(),
        }
    }

    /// The bar that starts at `next` is in the store, too, and was not taken: all before it was.
    pub fn reach(&mut self, resolution: Resolution, next: i64) {
        self.newest = self.newest.max(resolution.previous(next));
    }

    /// Another bar.
    pub fn add(&mut self, bar: &Bar) {
        self.oldest = self.oldest.min(bar.time());
        self.newest = self.newest.max(bar.time());
    }

    /// Time of the oldest bar that was kept before.
    pub fn known_from(&self) -> Option<i64> {
        self.known_from
    }

    /// From the oldest bar that the store gave to the newest.
    pub fn hole(&self) -> Hole {
        Hole {
            from: self.oldest,
            to: self.newest,
        }
    }

    /// Time of the newest bar that the store gave.
    pub fn newest(&self) -> i64 {
        self.newest
    }
}

impl State {
    /// Nothing known yet; up to `history_bars` closed bars will be kept.
    pub fn new(history_bars: usize) -> Self {
        Self {
            version: 0,
            history: History::new(history_bars),
            last: None,
            heard: Heard::default(),
            heard_from: None,
            past: Past::default(),
            asked: 0,
            stored_until: i64::MIN,
            revs: BTreeMap::new(),
        }
    }

    /// Takes in a message and tells whether bars were missed before it.
    pub fn apply(&mut self, message: &Message, losses: u64) -> Option<Hole> {
        self.last = Some(*message);
        let (order, is_missed) = self.heard.hear(message, losses);
        let last = self.history.last().map(|bar| (bar.time(), bar.closed));
        let time = message.bar.time();
        if last.is_some_and(|(last, _)| time < last) {
            self.revise(message);
        } else {
            self.history.apply(message.bar);
        }
        self.heard_from.get_or_insert(message.bar.time());
        self.version += 1;
        let mut beyond = None;
        if self.history.has_holes() {
            beyond = self.beyond(last, message, order);
            self.settle(message, order);
        }
        if message.rev.is_some() {
            self.note_rev(message, last.is_none());
        }
        match last.filter(|_| is_missed) {
            Some(last) => Some(self.miss(last, message)),
            None => beyond,
        }
    }

    /// What was missed beyond a hole that was told up to the time by the clock, when its producer's clock is
    /// ahead of this one: then the first bar that comes after it says how far it really reached.
    #[cold]
    fn beyond(
        &mut self,
        last: Option<(i64, bool)>,
        message: &Message,
        order: Order,
    ) -> Option<Hole> {
        let (last, _) = last.filter(|_| order == Order::Unknown)?;
        let (time, resolution) = (message.bar.time(), message.topic.resolution);
        if time <= resolution.floor(now_ms()) {
            return None;
        }
        let told = self.history.holes(resolution, last, i64::MAX).last()?;
        if told.from > last || told.to >= resolution.previous(time) {
            return None;
        }
        self.history.note_hole(told.to, time);
        Some(Hole {
            from: told.to,
            to: time,
        })
    }

    /// Takes in an earlier bar than the newest. One from before the first kept does not make the history
    /// begin there: what is between them is not known.
    #[cold]
    fn revise(&mut self, message: &Message) {
        let first = self.history.known_from();
        self.history.apply(message.bar);
        let time = message.bar.time();
        if let Some(first) = first.filter(|first| time < *first)
            && self.history.known_from() == Some(time)
        {
            self.history
                .note_hole(message.topic.resolution.next(time), first);
        }
    }

    /// Notes how often a bar was revised, for when the store has it, too.
    #[cold]
    fn note_rev(&mut self, message: &Message, is_first: bool) {
        let time = message.bar.time();
        if is_first {
            // Its producer is further than this, and was before it was heard.
            self.miss((time, true), message);
        }
        self.revs.insert(time, message.rev.unwrap_or(0));
        if self.revs.len() > self.history.count() {
            let first = self.history.known_from().unwrap_or(time);
            self.revs = self.revs.split_off(&first);
        }
    }

    /// Whether a kept bar is to stay as it was heard when the store has another state of it: `rev` decides, of
    /// which none is 0, or else the place in its producer's run. `heard`: as far as it was heard before.
    fn keeps(&self, message: &Message, heard: Option<Place>) -> bool {
        let time = message.bar.time();
        if !message.bar.closed || self.heard_from.is_none_or(|heard| time < heard) {
            return false;
        }
        let kept = self.revs.get(&time).copied();
        match message.rev.unwrap_or(0).cmp(&kept.unwrap_or(0)) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => {
                let place = Place::of(message).filter(|place| place.epoch.is_some());
                !Place::order(heard, place).is_ahead()
            }
        }
    }

    /// Notes the hole between the newest bar so far, which may have been closed, and a message that came
    /// after it.
    #[cold]
    fn miss(&mut self, (from, was_closed): (i64, bool), message: &Message) -> Hole {
        let missed = Missed::before(message, from, was_closed, now_ms());
        self.history.note_hole(from, missed.until);
        if !missed.goes_on {
            self.prove(message);
        }
        missed.hole
    }

    /// What a message proves of what was missed before.
    #[cold]
    fn settle(&mut self, message: &Message, order: Order) {
        match order {
            Order::Next => self.history.trust(),
            Order::Jump | Order::Unknown => self.history.trust_only_from(None),
            Order::Repeat => {}
        }
        if proves_its_bar(message, order) {
            self.prove(message);
        }
    }

    fn prove(&mut self, message: &Message) {
        let time = message.bar.time();
        self.history
            .prove(time, message.topic.resolution.next(time));
    }

    /// Notes that bars up to the one that starts at `now` may have been missed, if there is any bar that
    /// tells from which on.
    pub fn doubt(&mut self, resolution: Resolution, now: i64) -> Option<Hole> {
        let from = self.history.last()?.time();
        let to = resolution.floor(now).max(from);
        if self.provable() {
            self.history.doubt(from, to + 1);
        } else {
            self.history.note_hole(from, to + 1);
        }
        Some(Hole { from, to })
    }
}

impl State {
    /// Takes in a message of the store, unless what came over the bus is better, and tells which bars
    /// changed by it. `fresh`: this bar came over the bus after the store was asked.
    pub fn restore(&mut self, message: &Message, fresh: bool, stored: &Stored) -> Option<Hole> {
        let keeps = self.keeps(message, stored.heard);
        let (order, is_further) = self.heard.learn(message);
        // The store has all that was published up to there, and watchers are told of what changes.
        if is_further && self.history.has_holes() {
            self.history.trust_only_from(Some(message.bar.time()));
        }
        let time = message.bar.time();
        let last = self.history.last().map(Bar::time);
        // Until it is read to its end, nothing between them is known.
        if let Some(last) = last.filter(|last| *last < time && order != Order::Next) {
            self.history.note_hole(last, time);
        }
        if message.bar.closed && self.history.has_holes() {
            self.prove(message);
        }
        // A publisher whose writes were refused is further than what it stored.
        let fresh = fresh || keeps || (order == Order::Repeat && last == Some(time));
        if !self.history.restore(message.bar, fresh) {
            return None;
        }
        // When it was revised is not known: at the latest when the newest stored bar was the newest. The
        // same goes for what was missed from the first bar on that was heard here.
        if message.rev.is_some() || self.heard_from.is_some_and(|heard| heard <= time) {
            self.history.mark(time);
        }
        if last.is_none_or(|last| last <= time) {
            self.last = Some(*message);
        }
        Some(Hole {
            from: last.map_or(time, |last| last.min(time)),
            to: time,
        })
    }

    /// What was kept back while the store was read is told now.
    pub fn told_late(&mut self, hole: Hole) {
        if let Some(heard) = self.heard_from {
            self.history.told_late(hole, heard);
        }
    }

    /// Takes in a bar of the past that was asked for, and tells whether it was news. What is as new as what
    /// is known, or newer, comes over the bus.
    pub fn recall(&mut self, message: &Message, fresh: bool, stored: &Stored) -> bool {
        let time = message.bar.time();
        if self.history.last().is_none_or(|last| last.time() <= time) {
            return false;
        }
        if message.bar.closed && self.history.has_holes() {
            self.prove(message);
        }
        let fresh = fresh || self.keeps(message, stored.heard);
        let is_news = self.history.restore(message.bar, fresh);
        // As with restore.
        if is_news && (message.rev.is_some() || self.heard_from.is_some_and(|heard| heard <= time))
        {
            self.history.mark(time);
        }
        is_news
    }

    /// What of the past is left in the store, where so many bars more before `first` are asked for.
    pub fn unread_before(&self, resolution: Resolution, first: i64, bars: usize) -> Option<Hole> {
        let bars = bars.min(self.history.limit());
        if self.past != Past::Stored || bars == 0 || self.history.known_from() != Some(first) {
            return None;
        }
        let from = (0..bars).fold(first, |time, _| resolution.previous(time));
        let to = resolution.previous(first);
        Some(Hole { from, to })
    }

    /// Whether anything is kept that the store can give again: also what was read of it before the bus was
    /// lost, or only in part.
    pub fn can_let_go(&self) -> bool {
        let first = self.history.known_from();
        self.past != Past::Kept
            && self.history.count() > 1
            && first.is_some_and(|first| first < self.stored_until)
    }

    /// Lets go of that.
    pub fn let_go(&mut self) {
        if self.can_let_go() {
            self.history.let_go_before(self.stored_until);
            self.past = Past::Stored;
        }
    }

    /// Notes what the store proves, now that it is read, or that it could not be read whole.
    pub fn stored(&mut self, resolution: Resolution, stored: &Stored, is_whole: bool) {
        let history = &mut self.history;
        if is_whole {
            // Who publishes stores first: all from the oldest to the newest is there.
            if history.has_holes() {
                history.prove(stored.oldest, resolution.next(stored.newest));
            }
            return;
        }
        // Of what is not there nobody knows whether it was in the store. What came behind the newest bar so
        // far was noted when it came.
        let until = stored.known_from.unwrap_or(stored.newest);
        let bars = history.between(stored.oldest, until.saturating_add(1));
        let times: Vec<_> = bars.map(Bar::time).collect();
        for pair in times.windows(2) {
            history.note_hole(resolution.next(pair[0]), pair[1]);
        }
    }

    /// The newest bar, with what its producer put beside it as far as that is known.
    pub fn current(&self, topic: Topic) -> Option<Message> {
        let bar = self.history.last()?;
        match self.last {
            Some(last) if last.bar.time() == bar.time() => Some(last),
            _ => Some(Message::new(topic, *bar)),
        }
    }

    /// Whether the next message can prove by its `seq` that nothing was missed.
    pub fn provable(&self) -> bool {
        self.heard.place().is_some()
    }
}
