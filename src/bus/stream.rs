//! Entries of a Redis stream, from a place on and in order (XREAD).

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamRangeReply, StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, AsyncConnectionConfig, RedisError};

use super::RedisBus;

/// Entries of one reply: bounds its memory.
pub const ENTRIES: usize = 500;
/// Longest wait of the server for an entry: well below the longest wait for a reply.
const BLOCK: Duration = Duration::from_secs(1);

/// A place in a stream.
pub struct Stream {
    bus: RedisBus,
    key: String,
    from: String,
    connection: Option<MultiplexedConnection>,
}

impl RedisBus {
    /// The entries after the id `from`; `$` is the newest one at the first read, `0` the beginning.
    pub fn stream(&self, key: String, from: String) -> Stream {
        Stream {
            bus: self.clone(),
            key,
            from,
            connection: None,
        }
    }
}

impl Stream {
    /// The id of the last entry read.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// The next entries with their fields; none when none came for a while.
    ///
    /// # Errors
    /// When Redis cannot be reached or refuses; the next call reads on, over a new connection unless this one
    /// gave an answer.
    pub async fn read(&mut self) -> Result<Vec<(String, HashMap<String, String>)>, RedisError> {
        let read = self.try_read().await;
        if read.as_ref().is_err_and(|why| why.code().is_none()) {
            self.connection = None;
        }
        read
    }

    async fn try_read(&mut self) -> Result<Vec<(String, HashMap<String, String>)>, RedisError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.bus.connect(AsyncConnectionConfig::new()).await?),
        };
        if self.from == "$" {
            // Asked once: between two reads from `$` entries would be missed.
            let newest: StreamRangeReply =
                connection.xrevrange_count(&self.key, "+", "-", 1).await?;
            let newest = newest.ids.into_iter().next();
            self.from = newest.map_or_else(|| "0-0".to_owned(), |entry| entry.id);
        }
        let block = usize::try_from(BLOCK.as_millis()).unwrap_or(usize::MAX);
        let options = StreamReadOptions::default().count(ENTRIES).block(block);
        let reply: Option<StreamReadReply> = connection
            .xread_options(&[&self.key], &[&self.from], &options)
            .await?;
        let entries = reply.into_iter().flat_map(|reply| reply.keys);
        let mut read = Vec::new();
        for entry in entries.flat_map(|key| key.ids) {
            let text = |value| redis::from_redis_value::<String>(value).ok();
            let fields = entry.map.into_iter();
            let fields = fields.filter_map(|(name, value)| Some((name, text(value)?)));
            self.from.clone_from(&entry.id);
            read.push((entry.id, fields.collect()));
        }
        Ok(read)
    }
}
