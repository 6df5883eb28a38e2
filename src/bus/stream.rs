//! Entries of a Redis stream, from a place on and in order (XREAD).
//!
//! Who serves is asked at connecting and on a timer, as a subscriber does, and so is the stream itself: it may
//! have been begun anew, or trimmed faster than it was read.

mod known;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamRangeReply, StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, AsyncConnectionConfig, FromRedisValue, RedisError, Value, cmd};

use super::redis::reply::{Meaning, Purpose, meaning, told};
use super::redis::serving::{ASK_INTERVAL, Place};
use super::{Doubt, RedisBus};
use known::{Found, Known, Mark, mark};
pub use known::{Id, News};

/// Entries of one reply: bounds its memory.
pub const ENTRIES: usize = 500;
/// Longest wait of the server for an entry: well below the longest wait for a reply.
const BLOCK: Duration = Duration::from_secs(1);

/// Fields of entries.
pub type Fields = HashMap<String, String>;

/// What one read gave.
#[derive(Debug, Default)]
pub struct Read {
    /// Entries in their order.
    pub entries: Vec<(Id, Fields)>,
    /// What there is to be said of the stream before them.
    pub news: Vec<News>,
    /// What is in doubt of who serves.
    pub doubt: Option<Doubt<'static>>,
}

/// A place in a stream.
pub struct Stream {
    bus: RedisBus,
    key: String,
    /// None before it is known which entry is the newest one.
    known: Option<Known>,
    connection: Option<MultiplexedConnection>,
    place: Place,
    doubt: Option<Doubt<'static>>,
    /// When it was last asked who serves, and how the stream is; never over this connection without it.
    looked: Option<Instant>,
    /// More may have come than was read.
    is_behind: bool,
    /// What was found out and not yet told.
    news: Vec<News>,
}

impl RedisBus {
    /// The entries after the id `from`; `$` is the newest one at the first read, `0` the beginning.
    pub fn stream(&self, key: String, from: &str) -> Stream {
        Stream {
            bus: self.clone(),
            key,
            known: Id::parse(from).map(Known::new),
            connection: None,
            // Nothing comes from a replica without its master, and nothing is missed without a connection.
            place: Place::with(Duration::ZERO),
            doubt: None,
            looked: None,
            is_behind: true,
            news: Vec::new(),
        }
    }
}

impl Stream {
    /// Its key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The id of the last entry read, or where it begins.
    pub fn from(&self) -> String {
        let known = self.known.as_ref();
        known.map_or_else(|| "$".to_owned(), |known| known.from.to_string())
    }

    /// The next entries with their fields; none when none came for a while.
    ///
    /// # Errors
    /// Why Redis cannot be reached, or refuses, or is not one to read from; the next call reads on: over the
    /// same connection if it will work again by itself, else over a new one.
    pub async fn read(&mut self) -> Result<Read, String> {
        let connection = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.bus.connect(AsyncConnectionConfig::new()).await,
        };
        let mut connection = connection.map_err(|why| told(&why))?;
        if let Err(why) = self.look_if_due(&mut connection).await {
            self.looked = None;
            return Err(why);
        }
        let read = self.try_read(&mut connection).await;
        let stays = read.as_ref().err().is_none_or(|why| {
            let meaning = meaning(why, Purpose::Read);
            matches!(meaning, Some(Meaning::Alive | Meaning::TryAgain))
        });
        if stays {
            self.connection = Some(connection);
        } else {
            self.looked = None;
        }
        Ok(Read {
            entries: read.map_err(|why| told(&why))?,
            news: std::mem::take(&mut self.news),
            doubt: self.doubt,
        })
    }

    async fn look_if_due(&mut self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        if self.looked.is_some_and(|at| at.elapsed() < ASK_INTERVAL) {
            return Ok(());
        }
        if self.looked.is_none() {
            self.place.anew();
        }
        self.doubt = match self.place.judge(connection).await {
            Ok(doubt) => doubt,
            Err(why) => return Err(why.told()),
        };
        let is_first = self.looked.is_none();
        let looked = self.look(connection, is_first).await;
        looked.map_err(|why| told(&why))?;
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// Asks how the stream is.
    async fn look(
        &mut self,
        connection: &mut MultiplexedConnection,
        is_first: bool,
    ) -> Result<(), RedisError> {
        let found = self.find(connection).await?;
        let Some(known) = &mut self.known else {
            return Ok(());
        };
        let found = match found {
            Looked::Found(found) => found,
            Looked::Gone => {
                known.gone();
                return Ok(());
            }
            Looked::Refused => return Ok(()),
        };
        let looked_for = match known.doubted() {
            Some(id) => {
                let id = id.to_string();
                let entry = connection.xrange_count(&self.key, &id, &id, 1).await;
                match answered::<StreamRangeReply>(entry)? {
                    Some(entry) => newest(entry),
                    None => return Ok(()),
                }
            }
            None => None,
        };
        let is_behind = is_first || self.is_behind;
        for news in known.found(&found, looked_for, is_behind) {
            let last = self.news.pop();
            match last.and_then(|last| last.with(news)) {
                Some(both) => self.news.push(both),
                None => self.news.extend(last.into_iter().chain([news])),
            }
        }
        Ok(())
    }

    async fn find(&self, connection: &mut MultiplexedConnection) -> Result<Looked, RedisError> {
        let mut info = cmd("XINFO");
        info.arg("STREAM").arg(&self.key);
        match info.query_async::<Value>(connection).await {
            Ok(info) => return Ok(by_info(info).map_or(Looked::Refused, Looked::Found)),
            Err(why) if why.code().is_none() => return Err(why),
            Err(why) if why.detail().is_some_and(|why| why.contains("no such key")) => {
                return Ok(Looked::Gone);
            }
            // This user may not.
            Err(_) => {}
        }
        let last = connection.xrevrange_count(&self.key, "+", "-", 1).await;
        let last = answered::<StreamRangeReply>(last)?.and_then(newest);
        let first = connection.xrange_count(&self.key, "-", "+", 1).await;
        let first = answered::<StreamRangeReply>(first)?.and_then(newest);
        Ok(last.map_or(Looked::Refused, |last| {
            Looked::Found(Found {
                last: last.0,
                first: first.map(|first| first.0),
                newest: Some(last),
                counts: None,
            })
        }))
    }

    async fn try_read(
        &mut self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Vec<(Id, Fields)>, RedisError> {
        let known = match &mut self.known {
            Some(known) => known,
            none => {
                // Asked once: between two reads from `$` entries would be missed.
                let entries = connection.xrevrange_count(&self.key, "+", "-", ENTRIES);
                let entries: StreamRangeReply = entries.await?;
                let known = none.insert(Known::new(Id::default()));
                for entry in entries.ids.iter().rev() {
                    if let Some(id) = Id::parse(&entry.id) {
                        known.read(mark(id, &entry.map));
                    }
                }
                known
            }
        };
        let block = usize::try_from(BLOCK.as_millis()).unwrap_or(usize::MAX);
        let options = StreamReadOptions::default().count(ENTRIES).block(block);
        let reply: Option<StreamReadReply> = connection
            .xread_options(&[&self.key], &[known.from.to_string()], &options)
            .await?;
        let entries = reply.into_iter().flat_map(|reply| reply.keys);
        let mut read = Vec::new();
        for entry in entries.flat_map(|key| key.ids) {
            let Some(id) = Id::parse(&entry.id) else {
                continue;
            };
            known.read(mark(id, &entry.map));
            let text = |value| redis::from_redis_value::<String>(value).ok();
            let fields = entry.map.into_iter();
            let fields = fields.filter_map(|(name, value)| Some((name, text(value)?)));
            read.push((id, fields.collect()));
        }
        self.is_behind = read.len() >= ENTRIES;
        Ok(read)
    }
}

/// What a look at the stream gave.
enum Looked {
    Found(Found),
    Gone,
    /// This user may not, or there is nothing to see.
    Refused,
}

/// None for a refusal.
fn answered<T>(answer: Result<T, RedisError>) -> Result<Option<T>, RedisError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(why) if why.code().is_none() => Err(why),
        Err(_) => Ok(None),
    }
}

fn newest(entries: StreamRangeReply) -> Option<Mark> {
    let entry = entries.ids.into_iter().next()?;
    Some(mark(Id::parse(&entry.id)?, &entry.map))
}

/// What the answer to XINFO STREAM says.
fn by_info(info: Value) -> Option<Found> {
    let mut info: HashMap<String, Value> = HashMap::from_redis_value(info).ok()?;
    let number = |name: &str| u64::from_redis_value(info.get(name)?.clone()).ok();
    let added = number("entries-added");
    let counts = added.and_then(|added| Some((added, number("length")?)));
    let last = String::from_redis_value(info.remove("last-generated-id")?).ok()?;
    let mut entry = |name: &str| {
        let (id, fields) = <(String, Value)>::from_redis_value(info.remove(name)?).ok()?;
        let fields = HashMap::from_redis_value(fields).ok()?;
        Some(mark(Id::parse(&id)?, &fields))
    };
    let (first, newest) = (entry("first-entry"), entry("last-entry"));
    Some(Found {
        last: Id::parse(&last)?,
        first: first.map(|(id, _)| id),
        newest,
        counts,
    })
}
