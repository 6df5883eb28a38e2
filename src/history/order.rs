//! What `seq` and `epoch` say of a topic's messages: which one is next, and which bars were missed before it.
//!
//! One rule for all who listen: gateways and recorders.

use super::Hole;
use crate::bar::Message;

/// Where a producer was when it sent a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its run, if it says so.
    pub epoch: Option<u64>,
    pub seq: u64,
}

/// What `seq` says of a message beside the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
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
    /// Whether the message comes after those that are known.
    pub fn is_ahead(self) -> bool {
        matches!(self, Self::Next | Self::Jump)
    }
}

impl Place {
    /// That of a message, if its producer counts.
    pub fn of(message: &Message) -> Option<Self> {
        let epoch = message.epoch;
        message.seq.map(|seq| Self { epoch, seq })
    }

    /// What the place of a message says beside the furthest before it.
    pub fn order(before: Option<Self>, now: Option<Self>) -> Order {
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

/// How far one topic was heard.
#[derive(Debug, Default, Clone, Copy)]
pub struct Heard {
    /// The furthest that its producer came, if that counts its messages.
    place: Option<Place>,
    /// How often the bus had been lost when this topic was last known to be without a hole.
    pub losses: u64,
}

impl Heard {
    /// Nothing was heard yet, and nothing was to be before so many losses of the bus.
    pub fn since(losses: u64) -> Self {
        Self::at(None, losses)
    }

    /// This far when the bus had been lost so often.
    pub fn at(place: Option<Place>, losses: u64) -> Self {
        Self { place, losses }
    }

    /// Takes in a message that came when the bus had been lost so often, and tells its order and whether bars
    /// were missed before it: a jump of `seq` within an epoch, or a loss of the bus since the last message that
    /// `seq` does not clear. A repetition neither shows a hole nor clears a loss: the furthest `seq` still counts.
    #[inline]
    pub fn hear(&mut self, message: &Message, losses: u64) -> (Order, bool) {
        let suspect = self.losses < losses;
        let place = Place::of(message);
        let order = Place::order(self.place, place);
        if order != Order::Repeat {
            self.place = place;
            self.losses = losses;
        }
        let is_missed = match order {
            Order::Jump => true,
            Order::Unknown => suspect,
            Order::Next | Order::Repeat => false,
        };
        (order, is_missed)
    }

    /// Takes in a message of the store, which has all that was published up to there.
    pub fn learn(&mut self, message: &Message) -> (Order, bool) {
        let place = Place::of(message).filter(|place| place.epoch.is_some());
        let order = Place::order(self.place, place);
        let is_further = self.place.is_none() || order.is_ahead();
        if is_further {
            self.place = place.or(self.place);
        }
        (order, is_further)
    }

    /// The furthest that its producer came, if that counts.
    pub fn place(&self) -> Option<Place> {
        self.place
    }
}

/// What may be missing between the bar that was the newest and a message that came after a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    /// As it is told: from the bar that was the newest to that of the message, or to now.
    pub hole: Hole,
    /// Before which time bars are not proven.
    pub until: i64,
    /// Whether the message says how far its producer is. A revision of the past does not.
    pub goes_on: bool,
}

impl Missed {
    /// Behind a bar that started at `from` and may have been closed.
    pub fn before(message: &Message, from: i64, was_closed: bool, now: i64) -> Self {
        let time = message.bar.time();
        let goes_on = (time > from || (time == from && !was_closed)) && message.rev.is_none();
        if goes_on {
            let hole = Hole { from, to: time };
            return Self {
                hole,
                until: time,
                goes_on,
            };
        }
        let to = message.topic.resolution.floor(now).max(from).max(time);
        Self {
            hole: Hole { from, to },
            until: to + 1,
            goes_on,
        }
    }
}

/// Whether a message proves its own bar, which it carries whole. A repetition may be older than what was
/// missed, unless it is the bar's final state.
pub fn proves_its_bar(message: &Message, order: Order) -> bool {
    order != Order::Repeat || message.bar.closed
}
