//! What the table knows: a row a topic, and how the connection stands.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::bar::Topic;
use crate::client::clock::GatewayTime;
use crate::client::follow::Event;
use crate::client::message::{Update, View};

/// Bars of a topic that the spark line is drawn of, at most.
pub const MAX_SPARK_BARS: usize = 30;
/// Nothing came for so long although the bar's interval is over.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// How long a row shows that a gap was told.
const GAP_SHOWN: Duration = Duration::from_secs(10);
/// More decimals than this are noise in a table.
const MAX_DECIMALS: usize = 8;

/// How a topic stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Forming,
    Closed,
    /// The bar's interval is over, and nothing comes.
    Stale,
    /// Bars may be missing.
    Gap,
}

/// One topic.
#[derive(Debug)]
pub struct Row {
    newest: View,
    /// Times and closes of the newest bars that have one.
    closes: VecDeque<(i64, f64)>,
    /// Decimals of the closes so far.
    pub decimals: usize,
    /// When something last happened; what the table began with did not happen just now.
    pub heard: Option<Instant>,
    gap: Option<Instant>,
}

impl Row {
    fn new(view: View) -> Self {
        Self {
            newest: view,
            closes: VecDeque::new(),
            decimals: 0,
            heard: None,
            gap: None,
        }
    }

    fn take(&mut self, update: &Update, now: Instant) {
        let view = update.view;
        if view.time >= self.newest.time {
            self.newest = view;
        }
        if !update.is_history {
            self.heard = Some(now);
        }
        let Some(close) = view.close else { return };
        self.decimals = self.decimals.max(decimals(close));
        let place = self
            .closes
            .binary_search_by_key(&view.time, |(time, _)| *time);
        match place {
            Ok(at) => self.closes[at].1 = close,
            Err(0) if self.closes.len() >= MAX_SPARK_BARS => {}
            Err(at) => {
                self.closes.insert(at, (view.time, close));
                if self.closes.len() > MAX_SPARK_BARS {
                    self.closes.pop_front();
                }
            }
        }
    }

    /// Close of the newest bar that has one.
    pub fn last(&self) -> Option<f64> {
        self.closes.back().map(|(_, close)| *close)
    }

    /// From the close of the bar before, or from the open where none is known, as a part of it.
    pub fn change(&self) -> Option<f64> {
        let mut closes = self.closes.iter().rev();
        let (_, last) = closes.next()?;
        let before = closes.next().map(|(_, close)| *close);
        let before = before.or(self.newest.open)?;
        (before != 0.0).then(|| (last - before) / before.abs())
    }

    /// Closes, oldest first.
    pub fn closes(&self) -> impl ExactSizeIterator<Item = f64> {
        self.closes.iter().map(|(_, close)| *close)
    }

    pub fn volume(&self) -> Option<f64> {
        self.newest.volume
    }

    /// How it stands at `now`, where it is `now_ms` at the gateway.
    pub fn state(&self, topic: Topic, now: Instant, now_ms: i64) -> State {
        let is_over = topic.resolution.next(self.newest.time) <= now_ms;
        let is_silent = self.heard.is_none_or(|heard| now - heard >= STALE_AFTER);
        if self.gap.is_some_and(|gap| now - gap < GAP_SHOWN) {
            State::Gap
        } else if is_over && is_silent {
            State::Stale
        } else if self.newest.closed {
            State::Closed
        } else {
            State::Forming
        }
    }
}

fn decimals(value: f64) -> usize {
    let text = value.to_string();
    let digits = text.split_once('.').map_or(0, |(_, digits)| digits.len());
    digits.min(MAX_DECIMALS)
}

/// How the connection stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Link {
    Connecting,
    Up,
    /// The next attempt comes at `again`.
    Down {
        why: String,
        again: Instant,
    },
}

/// All of it.
#[derive(Debug)]
pub struct Table {
    pub address: String,
    pub rows: BTreeMap<Topic, Row>,
    pub link: Link,
    pub gaps: u64,
    pub round_trip: Option<Duration>,
    /// What time it is at the gateway, or here before any told.
    pub time: GatewayTime,
    /// Live bars in the last whole second.
    pub rate: u64,
    bars: u64,
}

impl Table {
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            rows: BTreeMap::new(),
            link: Link::Connecting,
            gaps: 0,
            round_trip: None,
            time: GatewayTime::here(),
            rate: 0,
            bars: 0,
        }
    }

    /// Takes in what happened.
    pub fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Connected { time, .. } => {
                self.link = Link::Up;
                self.time = time.unwrap_or_else(GatewayTime::here);
            }
            Event::Lost { why, wait } => {
                let again = now + wait;
                self.round_trip = None;
                self.link = Link::Down { why, again };
            }
            Event::RoundTrip(took) => self.round_trip = Some(took),
            Event::Gap(gap) => {
                self.gaps += 1;
                if let Some(row) = self.rows.get_mut(&gap.topic) {
                    row.gap = Some(now);
                }
            }
            Event::Bar(update) => {
                self.bars += u64::from(!update.is_history);
                let row = self.rows.entry(update.topic);
                row.or_insert_with(|| Row::new(update.view))
                    .take(&update, now);
            }
        }
    }

    /// Another second is over.
    pub fn second(&mut self) {
        self.rate = std::mem::take(&mut self.bars);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::message::{Gap, Message, parse};

    const MINUTE: i64 = 60_000;

    fn bar(minute: i64, numbers: &str) -> Event {
        let time = minute * MINUTE;
        let text = format!(
            r#"{{"type":"bars.update","topic":"bars:A:1","payload":{{"time":{time},{numbers}}}}}"#
        );
        match parse(&text) {
            Ok(Message::Update(update)) => Event::Bar(update),
            other => panic!("{other:?}"),
        }
    }

    fn topic() -> Topic {
        "bars:A:1".parse().unwrap()
    }

    #[test]
    fn change_is_from_the_bar_before_or_the_open() {
        let now = Instant::now();
        let mut table = Table::new("");
        table.take(bar(0, r#""open":100,"close":110"#), now);
        assert_eq!(table.rows[&topic()].change(), Some(0.1));
        table.take(bar(1, r#""open":111,"close":121"#), now);
        assert_eq!(table.rows[&topic()].change(), Some(0.1));
        table.take(bar(0, r#""open":100,"close":242"#), now);
        assert_eq!(table.rows[&topic()].change(), Some(-0.5), "a revision");
        assert_eq!(table.rows[&topic()].last(), Some(121.0));
    }

    #[test]
    fn an_interval_without_prices_leaves_the_last_one() {
        let now = Instant::now();
        let mut table = Table::new("");
        table.take(bar(0, r#""open":null,"close":null,"volume":0"#), now);
        let row = &table.rows[&topic()];
        assert_eq!(
            (row.last(), row.change(), row.volume()),
            (None, None, Some(0.0))
        );
        table.take(bar(1, r#""open":1,"close":1.25,"volume":7"#), now);
        table.take(
            bar(2, r#""open":null,"close":null,"volume":0,"closed":true"#),
            now,
        );
        let row = &table.rows[&topic()];
        assert_eq!(
            (row.last(), row.volume(), row.decimals),
            (Some(1.25), Some(0.0), 2)
        );
        assert_eq!(row.state(topic(), now, 2 * MINUTE), State::Closed);
    }

    #[test]
    fn states() {
        let now = Instant::now();
        let mut table = Table::new("");
        table.take(bar(5, r#""open":1,"close":1"#), now);
        let later = now + STALE_AFTER;
        let row = &table.rows[&topic()];
        assert_eq!(
            row.state(topic(), now, 6 * MINUTE),
            State::Forming,
            "just came"
        );
        assert_eq!(
            row.state(topic(), later, 6 * MINUTE - 1),
            State::Forming,
            "not over"
        );
        assert_eq!(row.state(topic(), later, 6 * MINUTE), State::Stale);
        let (from, to, reason) = (0, 0, "upstream".to_owned());
        let topic = topic();
        table.take(
            Event::Gap(Gap {
                topic,
                from,
                to,
                reason,
            }),
            later,
        );
        let row = &table.rows[&topic];
        assert_eq!(row.state(topic, later, 6 * MINUTE), State::Gap);
        assert_eq!(
            row.state(topic, later + GAP_SHOWN, 6 * MINUTE),
            State::Stale
        );
        assert_eq!(table.gaps, 1);
    }

    #[test]
    fn a_row_keeps_so_many_closes() {
        let mut table = Table::new("");
        for minute in 0..100 {
            table.take(bar(minute, r#""open":1,"close":1"#), Instant::now());
        }
        assert_eq!(table.rows[&topic()].closes().len(), MAX_SPARK_BARS);
    }
}
