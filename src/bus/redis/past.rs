//! The past of single topics, read from the store when somebody asks for it.

use std::sync::Mutex;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, Value};
use tokio::sync::mpsc;
use tokio::task::yield_now;

use super::RedisBus;
use crate::bar::Topic;
use crate::bus::Sink;
use crate::bus::sink::lock;
use crate::bus::store::load::{Load, READ_BARS, bars_of};

impl RedisBus {
    /// Reads what is asked for, some topics at a time, over a connection of its own that is made when it is
    /// needed. Never ends.
    pub(super) async fn read_asked<S: Sink>(
        &self,
        sink: &Mutex<S>,
        load: Load,
        mut asked: mpsc::Receiver<Topic>,
    ) {
        let mut connection = None;
        let mut topics = Vec::new();
        while asked.recv_many(&mut topics, load.topics_at_once()).await > 0 {
            lock(sink).recalling(&topics);
            match self.read_some(&mut connection, load, &topics).await {
                Ok(replies) => {
                    for (topic, reply) in topics.iter().zip(&replies) {
                        lock(sink).recalled(topic, bars_of(reply));
                    }
                }
                Err(why) => {
                    connection = None;
                    // Whoever waits behind them would only wait longer to learn the same.
                    while topics.len() < READ_BARS
                        && let Ok(topic) = asked.try_recv()
                    {
                        topics.push(topic);
                    }
                    for topic in &topics {
                        lock(sink).recalled(topic, Err(why.to_string()));
                    }
                }
            }
            topics.clear();
            lock(sink).flush();
            // Live bars have their turn.
            yield_now().await;
        }
        std::future::pending().await
    }

    async fn read_some(
        &self,
        connection: &mut Option<MultiplexedConnection>,
        load: Load,
        topics: &[Topic],
    ) -> Result<Vec<Value>, RedisError> {
        let topics: Vec<_> = topics.iter().map(Topic::to_string).collect();
        if let Some(open) = connection {
            match load.past_of(open, &topics).await {
                // It may have ended long ago, while nobody asked.
                Err(why) if !why.is_timeout() => {}
                read => return read,
            }
        }
        let open = connection.insert(self.connect(AsyncConnectionConfig::new()).await?);
        load.past_of(open, &topics).await
    }
}
