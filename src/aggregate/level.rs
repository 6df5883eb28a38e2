//! The bars of one resolution that can still change.

use std::collections::VecDeque;
use std::ops::Range;

use super::Session;
use super::candle::{Candle, Trade};
use crate::bar::{Bar, Message, Resolution, Topic};

/// One interval.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub time: i64,
    /// None while nothing was traded.
    pub candle: Option<Candle>,
    /// Made up for want of trades.
    filled: bool,
    /// Times of the first and the last trade within, where the level is made of trades.
    traded: Range<i64>,
    /// The interval is over.
    pub closed: bool,
    /// Closed, and published as such.
    announced: bool,
    changed: bool,
    /// How often it was published again since.
    rev: u64,
}

impl Entry {
    pub fn new(time: i64, candle: Option<Candle>, closed: bool) -> Self {
        Self {
            time,
            candle,
            filled: false,
            traded: time..time,
            closed,
            announced: false,
            changed: true,
            rev: 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct Level {
    pub topic: Topic,
    /// Whether its bars are published.
    pub wanted: bool,
    /// The level it is folded from; the leaf has none.
    pub source: Option<usize>,
    /// What makes a day, for the level of days that follows one.
    session: Option<Session>,
    /// In order of time.
    pub entries: VecDeque<Entry>,
    /// The bar that forms now, or the next one that will: those before it are over.
    forming: i64,
    /// Time of the oldest entry with something to publish.
    pending: Option<i64>,
}

impl Level {
    pub fn new(topic: Topic, wanted: bool, source: Option<usize>, rules: Option<&Session>) -> Self {
        Self {
            topic,
            wanted,
            source,
            session: rules.cloned(),
            entries: VecDeque::new(),
            forming: i64::MIN,
            pending: None,
        }
    }

    /// The bar that what the source has at `time` belongs to.
    pub fn bar_of(&mut self, time: i64) -> Option<i64> {
        match &mut self.session {
            Some(session) => session.day_of(time),
            None => Some(self.topic.resolution.floor(time)),
        }
    }

    /// The bar that is forming at `time`, or the next one that will.
    pub fn bar_from(&mut self, time: i64) -> i64 {
        match &mut self.session {
            Some(session) => session.day_from(time),
            None => self.topic.resolution.floor(time),
        }
    }

    /// From when to when the source's bars belong to the bar at `time`.
    pub fn hours(&self, time: i64) -> Range<i64> {
        match &self.session {
            Some(session) => {
                let (open, close) = session.hours(time);
                open..close
            }
            None => time..self.topic.resolution.next(time),
        }
    }

    fn find(&self, time: i64) -> Result<usize, usize> {
        // Nearly always the newest.
        match self.entries.back() {
            Some(last) if last.time == time => Ok(self.entries.len() - 1),
            Some(last) if last.time < time => Err(self.entries.len()),
            _ => self.entries.binary_search_by_key(&time, |entry| entry.time),
        }
    }

    fn mark(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        entry.changed = true;
        let time = entry.time;
        self.pending = Some(self.pending.map_or(time, |pending| pending.min(time)));
    }

    /// Takes a trade into the interval it belongs to. Appends the times of what changed.
    pub fn trade(&mut self, trade: &Trade, changed: &mut Vec<i64>) {
        let time = self.topic.resolution.floor(trade.time());
        let alone = trade.candle();
        let at = match self.find(time) {
            Ok(at) => {
                let entry = &mut self.entries[at];
                let known = entry.candle.filter(|_| !entry.filled);
                entry.filled = false;
                entry.candle = Some(match known {
                    None => {
                        entry.traded = trade.time()..trade.time();
                        alone
                    }
                    Some(known) if trade.time() < entry.traded.start => {
                        entry.traded.start = trade.time();
                        Candle {
                            open: alone.open,
                            ..known.spanning(alone)
                        }
                    }
                    Some(known) if trade.time() >= entry.traded.end => {
                        entry.traded.end = trade.time();
                        known.and(alone)
                    }
                    Some(known) => known.spanning(alone),
                });
                at
            }
            Err(at) => {
                let mut entry = Entry::new(time, Some(alone), time < self.forming);
                entry.traded = trade.time()..trade.time();
                self.entries.insert(at, entry);
                at
            }
        };
        self.mark(at);
        changed.push(time);
        self.refill(at + 1, changed);
    }

    /// Puts a candle in its place, whatever was there; it closes when `closed` says so, and when it is
    /// over. Appends the times of what changed.
    pub fn put(&mut self, time: i64, candle: Option<Candle>, closed: bool, changed: &mut Vec<i64>) {
        let closed = closed || time < self.forming;
        let at = match self.find(time) {
            Ok(at) => {
                let entry = &mut self.entries[at];
                let same = entry.candle == candle && (entry.closed || !closed);
                entry.filled = false;
                entry.closed |= closed;
                entry.candle = candle;
                if same {
                    return;
                }
                at
            }
            Err(at) => {
                self.entries.insert(at, Entry::new(time, candle, closed));
                at
            }
        };
        self.mark(at);
        changed.push(time);
        self.refill(at + 1, changed);
    }

    /// Intervals made up at the close of a changed one follow it.
    fn refill(&mut self, from: usize, changed: &mut Vec<i64>) {
        for at in from..self.entries.len() {
            let flat = self.entries[at - 1].candle.map(Candle::flat);
            let entry = &mut self.entries[at];
            if !entry.filled || entry.candle.is_none() || entry.candle == flat {
                break;
            }
            entry.candle = flat;
            changed.push(entry.time);
            self.mark(at);
        }
    }

    /// Makes up intervals behind the newest: at its close, or without prices.
    pub fn fill(&mut self, times: &[i64], flat: bool, changed: &mut Vec<i64>) {
        let Some(last) = self.entries.back() else {
            return;
        };
        let candle = last.candle.filter(|_| flat).map(Candle::flat);
        for time in times {
            let mut entry = Entry::new(*time, candle, false);
            entry.filled = true;
            self.entries.push_back(entry);
            self.mark(self.entries.len() - 1);
            changed.push(*time);
        }
    }

    /// The oldest interval that is kept.
    pub fn first(&self) -> Option<i64> {
        self.entries.front().map(|entry| entry.time)
    }

    /// Makes up closed intervals right behind the first: at its close, or without prices.
    pub fn fill_behind_first(&mut self, times: &[i64], flat: bool, changed: &mut Vec<i64>) {
        let Some(first) = self.entries.front() else {
            return;
        };
        let candle = first.candle.filter(|_| flat).map(Candle::flat);
        for (at, time) in (1..).zip(times) {
            let mut entry = Entry::new(*time, candle, *time < self.forming);
            entry.filled = true;
            self.entries.insert(at, entry);
            self.mark(at);
            changed.push(*time);
        }
    }

    /// What lies in a span of time as one candle; `Some(None)` when nothing was traded in it.
    pub fn fold(&self, span: Range<i64>) -> Option<Option<Candle>> {
        let from = self
            .entries
            .partition_point(|entry| entry.time < span.start);
        let within = self.entries.range(from..);
        within
            .take_while(|entry| entry.time < span.end)
            .map(|entry| entry.candle)
            .reduce(|one, later| match (one, later) {
                (Some(one), Some(later)) => Some(one.and(later)),
                (one, later) => one.or(later),
            })
    }

    /// The bar at `forming` forms from now on: what lies before it closes.
    pub fn form(&mut self, forming: i64) {
        self.forming = self.forming.max(forming);
        let ended = self.entries.iter().rev();
        let ended = ended.take_while(|entry| !entry.closed).count();
        for at in self.entries.len() - ended..self.entries.len() {
            if self.entries[at].time < self.forming {
                self.entries[at].closed = true;
                self.mark(at);
            }
        }
    }

    /// Forgets what lies before `time` and has nothing left to publish; never the newest, which the
    /// next interval may have to follow.
    pub fn forget_before(&mut self, time: i64) {
        while self.entries.len() > 1
            && self.entries[0].time < time
            && !(self.wanted && self.entries[0].changed)
        {
            self.entries.pop_front();
        }
    }

    /// Appends what changed since the last call as messages, oldest first; with `all` the forming bar
    /// even when it did not change.
    pub fn drain(&mut self, all: bool, out: &mut Vec<Message>) {
        let forming = self.entries.back().filter(|last| all && !last.closed);
        let from = match (self.pending.take(), forming.map(|last| last.time)) {
            (Some(a), Some(b)) => a.min(b),
            (Some(time), None) | (None, Some(time)) => time,
            (None, None) => return,
        };
        let from = self.entries.partition_point(|entry| entry.time < from);
        for entry in self.entries.range_mut(from..) {
            if entry.changed || (all && !entry.closed) {
                entry.changed = false;
                if entry.candle.is_none() && !entry.closed {
                    // Something may yet be traded: only what is over is said to be empty.
                    continue;
                }
                entry.rev += u64::from(entry.announced);
                entry.announced = entry.closed;
                out.extend(message(self.topic, entry));
            }
        }
    }
}

fn message(topic: Topic, entry: &Entry) -> Option<Message> {
    // Every rule of a bar holds here: floored times within the years, finite prices, high and low from
    // comparing them. The one way out is a volume whose sum left the range of doubles, which it cannot.
    let bar = match &entry.candle {
        Some(candle) => {
            let numbers = candle.numbers();
            Bar::new(topic.resolution, entry.time, numbers, entry.closed)
        }
        None => Bar::empty(topic.resolution, entry.time),
    };
    let bar = bar.ok()?;
    Some(Message {
        rev: (entry.rev > 0).then_some(entry.rev),
        ..Message::new(topic, bar)
    })
}

/// Whether the bars of `fine` never lie across the edge of one of `coarse`.
pub(super) fn divides(fine: Resolution, coarse: Resolution) -> bool {
    match coarse {
        Resolution::Week | Resolution::Month => {
            fine <= Resolution::Day && divides(fine, Resolution::Day)
        }
        _ => fine <= coarse && coarse.nominal_ms() % fine.nominal_ms() == 0,
    }
}
