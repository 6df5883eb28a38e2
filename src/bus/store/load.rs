//! A subscriber's side of the store: what it reads when it comes.

use std::sync::Mutex;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd};

use super::{HISTORY_PREFIX, LAST_KEY, Role, Write};
use crate::bus::Sink;
use crate::bus::prefix::Prefix;
use crate::bus::redis::reply::told;
use crate::bus::sink::lock;

/// Topics that one step of the scan asks for.
const SCAN_TOPICS: usize = 1_000;
/// Bars of one read: some 2 MB, and some ten milliseconds that live bars wait for them.
pub const READ_BARS: usize = 10_000;

/// A subscriber's side: how much it reads at most.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Before the keys.
    pub prefix: Prefix,
    pub topics: usize,
    /// Closed bars of each topic.
    pub bars: usize,
}

impl Load {
    /// Topics whose past is read at once.
    pub fn topics_at_once(self) -> usize {
        (READ_BARS / self.bars.max(1)).max(1)
    }

    /// The newest message of every topic; tells their names.
    async fn read_newest<S: Sink>(
        self,
        connection: &mut MultiplexedConnection,
        sink: &Mutex<S>,
    ) -> Result<Vec<Box<[u8]>>, Unread> {
        let key = self.prefix.name(LAST_KEY);
        let mut cursor = 0_u64;
        let mut names: Vec<Box<[u8]>> = Vec::new();
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(key).arg(cursor);
            scan.arg("COUNT").arg(SCAN_TOPICS);
            let page = scan.query_async::<(u64, Vec<Vec<u8>>)>(connection).await;
            let (next, page) = page.map_err(|why| Unread::all(format!("{key}: {}", told(&why))))?;
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

    /// Asks for the closed bars of some topics: a reply each.
    pub async fn past_of(
        self,
        connection: &mut MultiplexedConnection,
        topics: &[impl AsRef<[u8]>],
    ) -> Result<Vec<Value>, RedisError> {
        let mut write = Write::default();
        for topic in topics {
            let mut range = cmd("ZRANGE");
            let prefix = self.prefix.as_str().as_bytes();
            range.arg([prefix, HISTORY_PREFIX.as_bytes(), topic.as_ref()].concat());
            range.arg(format!("-{}", self.bars)).arg(-1);
            write.add(range, Role::Step);
        }
        write.send(connection).await
    }
}

/// Why the store is not read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Redis's words, and the remedy.
    pub why: String,
    /// Only single topics lack their past, for what their keys are.
    pub flows: bool,
}

impl Unread {
    /// Nothing can be read now.
    pub fn all(why: String) -> Self {
        Self { why, flows: false }
    }

    /// What Redis said of a topic's past.
    pub fn of(prefix: Prefix, topic: &str, why: &RedisError) -> Self {
        let key = format!("{HISTORY_PREFIX}{topic}");
        Self {
            why: format!("{}: {}", prefix.name(&key), told(why)),
            // Of another type: all others may be read.
            flows: why.code() == Some("WRONGTYPE"),
        }
    }
}

/// The reading of the store for all topics, which may take several attempts.
pub struct Reading {
    load: Load,
    /// Whether their past is read, too.
    all: bool,
    /// Topics whose past could not be read, when that is all that is missing.
    wrong: Vec<Box<[u8]>>,
}

impl Reading {
    /// Nothing is read yet.
    pub fn new(load: Load, all: bool) -> Self {
        Self {
            load,
            all: all && load.bars > 0,
            wrong: Vec::new(),
        }
    }

    /// Hands the newest message of every topic to the sink, and then, if wanted, their past; or only the past
    /// that was missing in the end the last time.
    ///
    /// # Errors
    /// Why it ended, or why single topics lack their past.
    pub async fn go_on<S: Sink>(
        &mut self,
        connection: &mut MultiplexedConnection,
        sink: &Mutex<S>,
    ) -> Result<(), Unread> {
        let mut topics = std::mem::take(&mut self.wrong);
        if topics.is_empty() {
            topics = self.load.read_newest(connection, sink).await?;
            if !self.all {
                return Ok(());
            }
        }
        let mut first = None;
        // Ours only in the end: an attempt that ends before has not seen the topics behind.
        let mut wrong = Vec::new();
        for some in topics.chunks(self.load.topics_at_once()) {
            let replies = self.load.past_of(connection, some).await;
            let replies = replies.map_err(|why| Unread::all(told(&why)))?;
            for (topic, reply) in some.iter().zip(&replies) {
                let name = String::from_utf8_lossy(topic);
                let mut sink = lock(sink);
                match bars_of(reply) {
                    Ok(bars) => bars.iter().for_each(|bar| sink.stored(&name, bar)),
                    Err(why) => {
                        let why = Unread::of(self.load.prefix, &name, &why);
                        if !why.flows {
                            return Err(why);
                        }
                        wrong.push(topic.clone());
                        first.get_or_insert(why);
                    }
                }
            }
            lock(sink).flush();
        }
        self.wrong = wrong;
        first.map_or(Ok(()), Err)
    }
}

/// The messages of a topic's past, oldest first.
///
/// # Errors
/// What Redis said instead.
pub fn bars_of(reply: &Value) -> Result<Vec<&[u8]>, RedisError> {
    let bars = match reply {
        Value::ServerError(error) => return Err(error.clone().into()),
        Value::Array(bars) => bars.as_slice(),
        _ => &[],
    };
    let bars = bars.iter().filter_map(|bar| match bar {
        Value::BulkString(payload) => Some(payload.as_slice()),
        _ => None,
    });
    Ok(bars.collect())
}
