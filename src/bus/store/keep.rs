//! A publisher's side of the store: bars as commands, and those that the store has not taken yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Unbounded};

use redis::{RedisError, Value, cmd};

use super::{Kept, LAST_KEY, Owed, PIPELINE_COMMANDS, Role, Write, Writes, error, history_key};
use crate::ahead::{Ahead, MaxAhead, shown};
use crate::bar::{Decoder, Topic};
use crate::bus::prefix::Prefix;
use crate::bus::redis::reply::{Meaning, Purpose, meaning};
use crate::limited::Limited;

/// Closed bars that wait for a store that does not take them, some 30 MB: of more the oldest is given up.
const MAX_WAITING_BARS: usize = 100_000;
/// Topics whose newest message waits for it: of others the next message will do.
const MAX_WAITING_TOPICS: usize = 100_000;
/// Waiting bars of one write: some 10 ms, so that new bars have their turn.
const LATE_BARS: usize = 500;

/// A publisher's side.
pub struct Keeper {
    /// Closed bars kept of each topic.
    bars: usize,
    /// Before the keys.
    prefix: Prefix,
    /// The time of each topic's newest message as far as it is known.
    newest: HashMap<Topic, i64>,
    /// Messages of closed bars that the store is not known to have, oldest first.
    closed: BTreeMap<(i64, Topic), Vec<u8>>,
    /// The same of topics' newest messages, with their times.
    last: BTreeMap<Topic, (i64, Vec<u8>)>,
    /// Where the next late write begins, so that what is refused for ever holds up nothing else.
    next: Option<(i64, Topic)>,
    given_up: u64,
    /// What is stored further ahead of the clock is not what a topic stands at.
    ahead: Ahead,
    ahead_log: Limited,
}

/// What one write is to store.
#[derive(Default)]
pub struct Wanted {
    closed: Vec<(i64, Topic)>,
    topics: BTreeSet<Topic>,
}

impl Keeper {
    pub fn new(bars: usize, prefix: Prefix, max_ahead: MaxAhead) -> Self {
        Self {
            bars,
            prefix,
            newest: HashMap::new(),
            closed: BTreeMap::new(),
            last: BTreeMap::new(),
            next: None,
            given_up: 0,
            ahead: Ahead::new(max_ahead),
            ahead_log: Limited::default(),
        }
    }

    /// Others may have written meanwhile.
    pub fn forget(&mut self) {
        self.newest.clear();
    }

    pub fn owed(&self) -> Owed {
        Owed {
            waiting: self.closed.len(),
            given_up: self.given_up,
            rounds_refused: 0,
        }
    }

    /// Whether anything waits.
    pub fn owes(&self) -> bool {
        !self.closed.is_empty() || !self.last.is_empty()
    }

    /// Takes what is to be stored. It waits until the store is known to have it.
    pub fn note(&mut self, kept: &[Kept]) -> Wanted {
        let mut wanted = Wanted::default();
        for kept in kept {
            wanted.topics.insert(kept.topic);
            if kept.closed {
                let key = (kept.time, kept.topic);
                self.closed.insert(key, kept.payload.clone());
                wanted.closed.push(key);
            }
            // A revision of an older bar is not what a topic stands at.
            let known = self.newest.get(&kept.topic).copied();
            let waits = self.last.get(&kept.topic).map(|(time, _)| *time);
            if known.max(waits).is_none_or(|newest| newest <= kept.time)
                && (waits.is_some() || self.last.len() < MAX_WAITING_TOPICS)
            {
                let last = (kept.time, kept.payload.clone());
                self.last.insert(kept.topic, last);
            }
        }
        while self.closed.len() > MAX_WAITING_BARS {
            self.closed.pop_first();
            self.given_up += 1;
        }
        wanted
    }

    /// Some of what waits, beginning where the last call ended.
    pub fn late(&mut self) -> Wanted {
        let from = self.next.take().map_or(Unbounded, Excluded);
        let mut wanted = Wanted::default();
        if from == Unbounded {
            wanted.topics = self.last.keys().take(LATE_BARS).copied().collect();
        }
        let closed = self.closed.range((from, Unbounded)).take(LATE_BARS);
        wanted.closed = closed.map(|(key, _)| *key).collect();
        // With fewer the round is over.
        let is_full = wanted.closed.len() == LATE_BARS;
        self.next = wanted.closed.last().copied().filter(|_| is_full);
        wanted
    }

    /// Whether the last call of [`late`](Self::late) came to the end of what waits.
    pub fn is_round_over(&self) -> bool {
        self.next.is_none()
    }

    /// Topics whose newest stored message is to be known first, and the question for it. With `anew`, also
    /// of those that were known.
    pub fn question(&self, wanted: &Wanted, anew: bool) -> Option<(Vec<Topic>, Write)> {
        let asked = |topic: &&Topic| {
            self.last.contains_key(topic) && (anew || !self.newest.contains_key(topic))
        };
        let topics: Vec<_> = wanted.topics.iter().filter(asked).copied().collect();
        if topics.is_empty() {
            return None;
        }
        let mut get = cmd("HMGET");
        get.arg(self.prefix.name(LAST_KEY));
        for topic in &topics {
            get.arg(topic.to_string());
        }
        let mut write = Write::default();
        write.add(get, Role::Step);
        Some((topics, write))
    }

    /// Takes the answer to that question. What cannot be read, now or by this user, will be replaced.
    ///
    /// # Errors
    /// What Redis said when it will answer later: until then these topics' newest messages wait.
    pub fn learn(&mut self, topics: &[Topic], replies: &[Value]) -> Result<(), RedisError> {
        let mut decoder = Decoder::default();
        let stored = match replies {
            [Value::Array(stored)] => stored.as_slice(),
            [reply] => match error(reply) {
                Some(why) if meaning(&why, Purpose::Read) != Some(Meaning::Mistake) => {
                    return Err(why);
                }
                _ => &[],
            },
            _ => &[],
        };
        for (at, topic) in topics.iter().enumerate() {
            let known = self.newest.get(topic).copied().unwrap_or(i64::MIN);
            let mut time = known;
            if let Some(Value::BulkString(payload)) = stored.get(at) {
                decoder.decode(&topic.to_string(), payload, |message| {
                    time = message.map_or(time, |message| message.bar.time());
                });
                if self.ahead.refuses(topic.resolution, time) {
                    let stored = shown(time);
                    self.ahead_log.say(|left_out| {
                        tracing::warn!(%topic, stored, left_out, "the stored newest bar starts ahead of this machine's clock; this one replaces it");
                    });
                    time = known;
                }
            }
            self.newest.insert(*topic, time);
            if self.last.get(topic).is_some_and(|(last, _)| *last < time) {
                self.last.remove(topic);
            }
        }
        Ok(())
    }

    pub fn write(&self, wanted: &Wanted, writes: &mut Writes) {
        let mut closed: BTreeMap<Topic, BTreeMap<i64, &[u8]>> = BTreeMap::new();
        for key in &wanted.closed {
            // It may have been given up.
            if let Some(payload) = self.closed.get(key) {
                closed.entry(key.1).or_default().insert(key.0, payload);
            }
        }
        for (topic, bars) in &closed {
            self.write_history(topic, bars, writes.next());
        }
        let is_known = |topic: &&Topic| self.newest.contains_key(topic);
        let topics = wanted.topics.iter().filter(is_known);
        let last = topics.filter_map(|topic| Some((*topic, &self.last.get(topic)?.1)));
        let last: Vec<_> = last.collect();
        for last in last.chunks(PIPELINE_COMMANDS) {
            let mut set = cmd("HSET");
            set.arg(self.prefix.name(LAST_KEY));
            for (topic, payload) in last {
                set.arg(topic.to_string()).arg(payload.as_slice());
            }
            let topics = last.iter().map(|(topic, _)| *topic).collect();
            writes.next().add(set, Role::Last(topics));
        }
    }

    /// Replaces bars by their times and trims, so that whoever reads finds each time once.
    fn write_history(&self, topic: &Topic, bars: &BTreeMap<i64, &[u8]>, write: &mut Write) {
        let key = history_key(self.prefix, topic);
        write.add(cmd("MULTI"), Role::Step);
        let mut add = cmd("ZADD");
        add.arg(&key);
        for (time, payload) in bars {
            let mut remove = cmd("ZREMRANGEBYSCORE");
            remove.arg(&key).arg(*time).arg(*time);
            write.add(remove, Role::Step);
            add.arg(*time).arg(*payload);
        }
        write.add(add, Role::Step);
        let mut trim = cmd("ZREMRANGEBYRANK");
        trim.arg(&key).arg(0).arg(format!("-{}", self.bars + 1));
        write.add(trim, Role::Step);
        let times = bars.keys().copied().collect();
        write.add(cmd("EXEC"), Role::History(*topic, times));
    }

    /// The store has what this command of [`write`](Self::write) held.
    pub(super) fn taken(&mut self, role: &Role) {
        match role {
            Role::History(topic, times) => {
                for time in times {
                    self.closed.remove(&(*time, *topic));
                }
            }
            Role::Last(topics) => {
                for topic in topics {
                    if let Some((time, _)) = self.last.remove(topic) {
                        self.newest.insert(*topic, time);
                    }
                }
            }
            Role::Publish | Role::Step | Role::Server => {}
        }
    }
}
