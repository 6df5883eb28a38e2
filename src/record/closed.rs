//! What outputs are given: closed bars, and the gaps between them.

use serde_json::{Value, json};

use crate::bar::{Bar, Message, Topic};

/// A closed bar, with what its producer sent with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Closed {
    pub topic: Topic,
    pub bar: Bar,
    /// How often the bar was revised after it closed.
    pub rev: Option<u64>,
    /// The producer's run in which `seq` counts.
    pub epoch: Option<u64>,
    /// Of the message with this state of the bar.
    pub seq: Option<u64>,
    /// Whether it was read from the store, and not heard on the bus: such a bar replaces one that was heard only
    /// if it [is newer](Self::is_newer_than). So does what was heard of a bar without its end.
    pub is_stored: bool,
}

impl Closed {
    /// The bar of a message, which is known to be closed.
    pub fn of(message: &Message) -> Self {
        let mut bar = message.bar;
        bar.closed = true;
        Self {
            topic: message.topic,
            bar,
            rev: message.rev,
            epoch: message.epoch,
            seq: message.seq,
            is_stored: false,
        }
    }

    /// Whether this state of a bar is known to come after another one: by `rev`, of which none is 0, or by
    /// its place in one run of its producer.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        let revs = (self.rev.unwrap_or(0), other.rev.unwrap_or(0));
        revs.0 > revs.1
            || (revs.0 == revs.1
                && self.epoch.is_some()
                && self.epoch == other.epoch
                && self.seq > other.seq)
    }

    /// The same, as one that was read from the store.
    pub fn stored(&self) -> Self {
        Self {
            is_stored: true,
            ..*self
        }
    }

    /// As it would be published.
    pub fn message(&self) -> Message {
        Message {
            seq: self.seq,
            epoch: self.epoch,
            rev: self.rev,
            ..Message::new(self.topic, self.bar)
        }
    }

    /// The bar alone.
    pub fn row(&self) -> (Topic, Bar) {
        (self.topic, self.bar)
    }
}

impl From<(Topic, Bar)> for Closed {
    fn from((topic, bar): (Topic, Bar)) -> Self {
        Self::of(&Message::new(topic, bar))
    }
}

/// Why bars may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// `seq` jumped: messages were lost before or on the bus.
    Seq,
    /// The bus was lost, and nothing proves that no bar was.
    Bus,
    /// The recorder did not run.
    Restart,
}

impl Reason {
    pub const ALL: [Self; 3] = [Self::Seq, Self::Bus, Self::Restart];

    /// The name in tables, files and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seq => "seq",
            Self::Bus => "bus",
            Self::Restart => "restart",
        }
    }
}

/// The last states of the bars that start from `from` to `to` are not known to be recorded; or, once
/// healed, all gaps of its topic that lie within it and were noticed before are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub topic: Topic,
    /// Starts of its first and its last bar, ms since the epoch.
    pub from: i64,
    pub to: i64,
    pub reason: Reason,
    /// When it was noticed, ms since the epoch.
    pub noticed_ms: i64,
    /// When the bars were known to be recorded, if they are.
    pub healed_ms: Option<i64>,
}

impl Gap {
    /// One JSON object, in one line.
    pub fn json(&self) -> String {
        let value = json!({
            "symbol": self.topic.symbol.as_str(),
            "resolution": self.topic.resolution.as_str(),
            "from": self.from,
            "to": self.to,
            "reason": self.reason.as_str(),
            "noticed_at": self.noticed_ms,
            "healed_at": self.healed_ms,
        });
        value.to_string()
    }

    /// What [`json`](Self::json) wrote.
    pub fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name)?.as_str();
        let time = |name: &str| value.get(name)?.as_i64();
        let reason = text("reason")?;
        let name = format!("bars:{}:{}", text("symbol")?, text("resolution")?);
        Some(Self {
            topic: name.parse().ok()?,
            from: time("from")?,
            to: time("to")?,
            reason: Reason::ALL.into_iter().find(|r| r.as_str() == reason)?,
            noticed_ms: time("noticed_at")?,
            healed_ms: time("healed_at"),
        })
    }
}

/// Closed bars that came together, and the gaps noticed or healed with them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// When they came, ms since the epoch; none for those that were read from the store.
    pub arrived_ms: Option<i64>,
    pub bars: Vec<Closed>,
    /// Oldest first: of two with the same topic, `from` and `to` the later one counts.
    pub gaps: Vec<Gap>,
}

impl Batch {
    /// Bars and gaps: what counts against the bounds of what waits.
    pub fn items(&self) -> usize {
        self.bars.len() + self.gaps.len()
    }
}
