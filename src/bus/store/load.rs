//! A subscriber's side of the store: what it reads when it comes.

use std::sync::Mutex;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd};

use super::{HISTORY_PREFIX, LAST_KEY, Role, Write, fault};
use crate::bus::Sink;
use crate::bus::prefix::Prefix;
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
        let key = self.prefix.name(LAST_KEY);
        let mut cursor = 0_u64;
        let mut names: Vec<Box<[u8]>> = Vec::new();
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(key).arg(cursor);
            scan.arg("COUNT").arg(SCAN_TOPICS);
            let page = scan.query_async::<(u64, Vec<Vec<u8>>)>(connection).await;
            let (next, page) = page.map_err(|why| format!("{key}: {why}"))?;
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
                    let key = format!("{HISTORY_PREFIX}{topic}: {why}");
                    wrong.get_or_insert_with(|| self.prefix.name(&key).to_string());
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
            let prefix = self.prefix.as_str().as_bytes();
            range.arg([prefix, HISTORY_PREFIX.as_bytes(), topic.as_ref()].concat());
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
pub fn bars_of(reply: &Value) -> Result<Vec<&[u8]>, String> {
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
