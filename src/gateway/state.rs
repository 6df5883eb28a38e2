//! What a node knows of one topic, and what its next message changes: bars, order, holes.

use crate::bar::{Bar, Message, Topic};
use crate::history::History;

/// The part that changes with every bar.
#[derive(Debug)]
pub struct State {
    /// Messages of this topic so far, gaps among them.
    pub version: u64,
    pub history: History,
    /// The last message, for what its producer put beside the bar.
    pub last: Option<Message>,
    /// The furthest that its producer came, if that counts its messages.
    place: Option<Place>,
    /// How often the bus had been lost when this topic was last known to be without a hole.
    pub losses_seen: u64,
    /// Time of the first bar that came over the bus.
    heard_from: Option<i64>,
}

/// Where a producer was when it sent a message.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Its run, if it says so.
    epoch: Option<u64>,
    seq: u64,
}

/// What `seq` says of a message beside the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The next one: nothing was missed.
    Next,
    /// Some were left out.
    Jump,
    /// Seen before, of the same run: a replay publishes again what the bus did not confirm. Says
    /// nothing of what comes behind.
    Repeat,
    /// Nothing: not counted, or another run. Without an epoch a step back may be one, too.
    Unknown,
}

impl Order {
    fn is_ahead(self) -> bool {
        matches!(self, Self::Next | Self::Jump)
    }
}

impl Place {
    fn of(message: &Message) -> Option<Self> {
        let epoch = message.epoch;
        message.seq.map(|seq| Self { epoch, seq })
    }

    fn order(before: Option<Self>, now: Option<Self>) -> Order {
        match (before, now) {
            (Some(before), Some(now)) if before.epoch == now.epoch => {
                match now.seq.checked_sub(before.seq) {
                    Some(1) => Order::Next,
                    Some(2..) => Order::Jump,
                    _ if now.epoch.is_some() => Order::Repeat,
                    _ => Order::Unknown,
                }
            }
            _ => Order::Unknown,
        }
    }
}

/// What must be told before a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    pub from: i64,
    pub to: i64,
}

impl Hole {
    /// Both, and what is between them.
    pub fn with(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        }
    }
}

impl State {
    /// Nothing known yet; up to `history_bars` closed bars will be kept.
    pub fn new(history_bars: usize) -> Self {
        Self {
            version: 0,
            history: History::new(history_bars),
            last: None,
            place: None,
            losses_seen: 0,
            heard_from: None,
        }
    }

    /// Takes in a message and tells whether bars were missed before it: a jump of `seq` within an
    /// epoch, or a loss of the bus since the last message that `seq` does not clear. A repetition
    /// neither shows a hole nor clears a loss: the furthest `seq` still counts.
    pub fn apply(&mut self, message: &Message, losses: u64) -> Option<Hole> {
        let suspect = self.losses_seen < losses;
        self.last = Some(*message);
        let place = Place::of(message);
        let order = Place::order(self.place, place);
        if order != Order::Repeat {
            self.place = place;
            self.losses_seen = losses;
        }
        let last = self.history.last().map(Bar::time);
        self.history.apply(message.bar);
        self.heard_from.get_or_insert(message.bar.time());
        self.version += 1;
        let from = last.filter(|_| match order {
            Order::Jump => true,
            Order::Unknown => suspect,
            Order::Next | Order::Repeat => false,
        })?;
        Some(Hole {
            from,
            to: message.bar.time().max(from),
        })
    }
}

impl State {
    /// Takes in a message of the store, unless what came over the bus is better, and tells which bars
    /// changed by it. `fresh`: this bar came over the bus after the store was asked.
    pub fn restore(&mut self, message: &Message, fresh: bool) -> Option<Hole> {
        let place = Place::of(message).filter(|place| place.epoch.is_some());
        // The store has all that was published up to there, and watchers are told of what changes.
        if self.place.is_none() || Place::order(self.place, place).is_ahead() {
            self.place = place.or(self.place);
        }
        let time = message.bar.time();
        let last = self.history.last().map(Bar::time);
        if !self.history.restore(message.bar, fresh) {
            return None;
        }
        // When it was revised is not known: at the latest when the newest stored bar was the newest. The
        // same goes for what was missed behind the first bar that was heard here.
        if message.rev.is_some() || self.heard_from.is_some_and(|heard| heard < time) {
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
        self.place.is_some()
    }
}
