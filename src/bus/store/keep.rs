//! A publisher's side of the store: bars as commands.

use std::collections::{BTreeMap, HashMap};

use redis::{Value, cmd};

use super::{Kept, LAST_KEY, PIPELINE_COMMANDS, Role, Write, Writes, history_key};
use crate::bar::{Decoder, Topic};
use crate::bus::prefix::Prefix;

/// A publisher's side.
pub struct Keeper {
    /// Closed bars kept of each topic.
    bars: usize,
    /// Before the keys.
    prefix: Prefix,
    /// The time of each topic's newest message as far as it is known.
    newest: HashMap<Topic, i64>,
}

impl Keeper {
    pub fn new(bars: usize, prefix: Prefix) -> Self {
        Self {
            bars,
            prefix,
            newest: HashMap::new(),
        }
    }

    /// Others may have written meanwhile.
    pub fn forget(&mut self) {
        self.newest.clear();
    }

    /// Topics whose newest stored message is not known yet, and the question for it.
    pub fn unknown(&self, kept: &[Kept]) -> Option<(Vec<Topic>, Write)> {
        let mut topics: Vec<_> = kept.iter().map(|kept| kept.topic).collect();
        topics.sort_unstable();
        topics.dedup();
        topics.retain(|topic| !self.newest.contains_key(topic));
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

    /// Takes the answer to that question. What cannot be read will be replaced.
    pub fn learn(&mut self, topics: &[Topic], replies: &[Value]) {
        let mut decoder = Decoder::default();
        let stored = match replies {
            [Value::Array(stored)] => stored.as_slice(),
            _ => &[],
        };
        for (at, topic) in topics.iter().enumerate() {
            let mut time = i64::MIN;
            if let Some(Value::BulkString(payload)) = stored.get(at) {
                decoder.decode(&topic.to_string(), payload, |message| {
                    time = message.map_or(time, |message| message.bar.time());
                });
            }
            self.newest.insert(*topic, time);
        }
    }

    pub fn write(&mut self, kept: &[Kept], writes: &mut Writes) {
        let mut closed: BTreeMap<Topic, BTreeMap<i64, &Kept>> = BTreeMap::new();
        let mut last: BTreeMap<Topic, &Kept> = BTreeMap::new();
        for kept in kept {
            if kept.closed {
                let bars = closed.entry(kept.topic).or_default();
                bars.insert(kept.time, kept);
            }
            let newest = self.newest.entry(kept.topic).or_insert(i64::MIN);
            // A revision of an older bar is not what a topic stands at.
            if *newest <= kept.time {
                *newest = kept.time;
                last.insert(kept.topic, kept);
            }
        }
        for (topic, bars) in &closed {
            self.write_history(topic, bars, writes.next());
        }
        let last: Vec<_> = last.into_values().collect();
        for kept in last.chunks(PIPELINE_COMMANDS) {
            let mut set = cmd("HSET");
            set.arg(self.prefix.name(LAST_KEY));
            for kept in kept {
                set.arg(kept.topic.to_string()).arg(kept.payload.as_slice());
            }
            writes.next().add(set, Role::Store(kept.len() as u64));
        }
    }

    /// Replaces bars by their times and trims, so that whoever reads finds each time once.
    fn write_history(&self, topic: &Topic, bars: &BTreeMap<i64, &Kept>, write: &mut Write) {
        let key = history_key(self.prefix, topic);
        write.add(cmd("MULTI"), Role::Step);
        let mut add = cmd("ZADD");
        add.arg(&key);
        for (time, kept) in bars {
            let mut remove = cmd("ZREMRANGEBYSCORE");
            remove.arg(&key).arg(*time).arg(*time);
            write.add(remove, Role::Step);
            add.arg(*time).arg(kept.payload.as_slice());
        }
        write.add(add, Role::Step);
        let mut trim = cmd("ZREMRANGEBYRANK");
        trim.arg(&key).arg(0).arg(format!("-{}", self.bars + 1));
        write.add(trim, Role::Step);
        write.add(cmd("EXEC"), Role::Store(bars.len() as u64));
    }
}
