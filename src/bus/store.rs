//! What outlives publisher and gateway: bars kept in Redis.
//!
//! Closed bars of a topic are in a sorted set of their messages by bar time, the newest message of every
//! topic in one hash. A publisher writes both before it publishes, so that whoever subscribes first and
//! reads then misses nothing: what it does not hear is stored by that time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, Value, cmd};

use super::redis::{PIPELINE_COMMANDS, lock};
use super::{Outgoing, Sink};
use crate::bar::{Decoder, Topic};

/// The hash of every topic's newest message.
pub const LAST_KEY: &str = "barcast:last";
/// Before a topic's name: the sorted set of its closed bars' messages.
pub const HISTORY_PREFIX: &str = "barcast:history:";
/// Topics that one step of the scan asks for.
const SCAN_TOPICS: usize = 1_000;
/// Bars of one read: some 2 MB, and some ten milliseconds that live bars wait for them.
pub(super) const READ_BARS: usize = 10_000;

/// A bar to keep beside publishing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub topic: Topic,
    /// Start of the bar, ms since the epoch.
    pub time: i64,
    /// Whether it belongs into the history; the newest message is kept in either case.
    pub closed: bool,
    /// The message as it is published.
    pub payload: Vec<u8>,
}

/// What the store did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Messages that are not stored where they belong.
    pub messages: u64,
    /// What Redis said of the first of them.
    pub why: String,
}

/// The sorted set of a topic.
fn history_key(topic: &Topic) -> String {
    format!("{HISTORY_PREFIX}{topic}")
}

/// What a reply means.
#[derive(Debug, Clone, Copy)]
enum Role {
    Publish,
    /// Inside a transaction, whose end tells what became of it.
    Step,
    /// The only or last reply of a write of so many messages.
    Store(u64),
}

/// Commands of one write, and what their replies mean.
#[derive(Default)]
pub(super) struct Write {
    pub pipeline: Pipeline,
    roles: Vec<Role>,
}

impl Write {
    fn add(&mut self, command: Cmd, role: Role) {
        self.pipeline.add_command(command);
        self.roles.push(role);
    }

    /// Sends it and waits for the replies.
    pub async fn send(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Vec<Value>, RedisError> {
        let count = self.roles.len();
        connection
            .req_packed_commands(&self.pipeline, 0, count)
            .await
    }

    /// Adds what the store refused.
    ///
    /// # Errors
    /// What Redis said when it did not publish.
    pub fn check(&self, replies: &[Value], refused: &mut Option<Refused>) -> Result<(), String> {
        let mut first = None;
        for (role, reply) in self.roles.iter().zip(replies) {
            let Some(why) = fault(reply) else { continue };
            match role {
                Role::Publish => return Err(why),
                // Says more than the end, which only says that something was wrong before.
                Role::Step => first = first.or(Some(why)),
                Role::Store(messages) => {
                    let why = first.take().unwrap_or(why);
                    let refused = refused.get_or_insert(Refused { messages: 0, why });
                    refused.messages += messages;
                }
            }
        }
        Ok(())
    }
}

/// What Redis said is wrong, if it did.
fn fault(reply: &Value) -> Option<String> {
    match reply {
        Value::ServerError(error) => Some(RedisError::from(error.clone()).to_string()),
        Value::Array(replies) => replies.iter().find_map(fault),
        _ => None,
    }
}

/// Commands in as few writes as their bound allows.
#[derive(Default)]
pub(super) struct Writes(pub Vec<Write>);

impl Writes {
    /// Where the next command, or transaction, goes.
    fn next(&mut self) -> &mut Write {
        let is_full = |write: &Write| write.roles.len() >= PIPELINE_COMMANDS;
        if self.0.last().is_none_or(is_full) {
            self.0.push(Write::default());
        }
        let at = self.0.len() - 1;
        &mut self.0[at]
    }

    pub fn publish(&mut self, messages: &[Outgoing]) {
        for message in messages {
            let mut publish = cmd("PUBLISH");
            publish
                .arg(&message.channel)
                .arg(message.payload.as_slice());
            self.next().add(publish, Role::Publish);
        }
    }
}

/// A publisher's side.
pub(super) struct Keeper {
    /// Closed bars kept of each topic.
    bars: usize,
    /// The time of each topic's newest message as far as it is known.
    newest: HashMap<Topic, i64>,
}

impl Keeper {
    pub fn new(bars: usize) -> Self {
        Self {
            bars,
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
        get.arg(LAST_KEY);
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
            set.arg(LAST_KEY);
            for kept in kept {
                set.arg(kept.topic.to_string()).arg(kept.payload.as_slice());
            }
            writes.next().add(set, Role::Store(kept.len() as u64));
        }
    }

    /// Replaces bars by their times and trims, so that whoever reads finds each time once.
    fn write_history(&self, topic: &Topic, bars: &BTreeMap<i64, &Kept>, write: &mut Write) {
        let key = history_key(topic);
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

/// A subscriber's side: how much it reads at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub topics: usize,
    /// Closed bars of each topic.
    pub bars: usize,
}

impl Load {
    /// Topics whose past is read at once.
    pub fn topics_at_once(self) -> usize {
        (READ_BARS / self.bars.max(1)).max(1)
    }

    /// Hands the newest message of every topic to the sink, and then, with `all`, their past.
    ///
    /// # Errors
    /// Why it ended, or why single topics lack their past.
    pub async fn read<S: Sink>(
        self,
        connection: &mut MultiplexedConnection,
        sink: &Mutex<S>,
        all: bool,
    ) -> Result<(), String> {
        let topics = self.read_newest(connection, sink).await?;
        if self.bars == 0 || !all {
            return Ok(());
        }
        let mut wrong = None;
        for some in topics.chunks(self.topics_at_once()) {
            self.read_past(some, connection, sink, &mut wrong)
                .await
                .map_err(|why| why.to_string())?;
        }
        wrong.map_or(Ok(()), Err)
    }

    /// The newest message of every topic; tells their names.
    async fn read_newest<S: Sink>(
        self,
        connection: &mut MultiplexedConnection,
        sink: &Mutex<S>,
    ) -> Result<Vec<Box<[u8]>>, String> {
        let mut cursor = 0_u64;
        let mut names: Vec<Box<[u8]>> = Vec::new();
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(LAST_KEY).arg(cursor);
            scan.arg("COUNT").arg(SCAN_TOPICS);
            let page = scan.query_async::<(u64, Vec<Vec<u8>>)>(connection).await;
            let (next, page) = page.map_err(|why| format!("{LAST_KEY}: {why}"))?;
            let (topics, _) = page.as_chunks::<2>();
            let left = self.topics - names.len();
            let topics = &topics[..topics.len().min(left)];
            {
                let mut sink = lock(sink);
                for [topic, last] in topics {
                    sink.stored(&String::from_utf8_lossy(topic), last);
                    names.push(topic.as_slice().into());
                }
                sink.flush();
            }
            if next == 0 || names.len() >= self.topics {
                return Ok(names);
            }
            cursor = next;
        }
    }

    /// The closed bars of some topics.
    async fn read_past<S: Sink>(
        self,
        topics: &[Box<[u8]>],
        connection: &mut MultiplexedConnection,
        sink: &Mutex<S>,
        wrong: &mut Option<String>,
    ) -> Result<(), RedisError> {
        let replies = self.past_of(connection, topics).await?;
        for (topic, reply) in topics.iter().zip(&replies) {
            let topic = String::from_utf8_lossy(topic);
            let mut sink = lock(sink);
            match bars_of(reply) {
                Ok(bars) => bars.iter().for_each(|bar| sink.stored(&topic, bar)),
                Err(why) => {
                    wrong.get_or_insert_with(|| format!("{HISTORY_PREFIX}{topic}: {why}"));
                }
            }
        }
        lock(sink).flush();
        Ok(())
    }

    /// Asks for the closed bars of some topics: a reply each.
    pub async fn past_of(
        self,
        connection: &mut MultiplexedConnection,
        topics: &[impl AsRef<[u8]>],
    ) -> Result<Vec<Value>, RedisError> {
        let mut write = Write::default();
        for topic in topics {
            let mut range = cmd("ZRANGE");
            range.arg([HISTORY_PREFIX.as_bytes(), topic.as_ref()].concat());
            range.arg(format!("-{}", self.bars)).arg(-1);
            write.add(range, Role::Step);
        }
        write.send(connection).await
    }
}

/// The messages of a topic's past, oldest first.
///
/// # Errors
/// What Redis said instead.
pub(super) fn bars_of(reply: &Value) -> Result<Vec<&[u8]>, String> {
    if let Some(why) = fault(reply) {
        return Err(why);
    }
    let Value::Array(bars) = reply else {
        return Ok(Vec::new());
    };
    let bars = bars.iter().filter_map(|bar| match bar {
        Value::BulkString(payload) => Some(payload.as_slice()),
        _ => None,
    });
    Ok(bars.collect())
}
