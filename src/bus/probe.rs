//! Questions to a Redis server about itself, for `barcast check`.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisError, cmd};

use super::redis::reply::told;
use super::redis::role::{Role, hello, role};
use super::{BusError, RedisBus};

/// A connection for questions; each is bounded by the bus's own time-outs.
pub struct Probe(MultiplexedConnection);

impl RedisBus {
    /// Connects.
    ///
    /// # Errors
    /// [`BusError::NotConnected`]
    pub async fn probe(&self) -> Result<Probe, BusError> {
        let connected = self.connect(AsyncConnectionConfig::new()).await;
        connected.map(Probe).map_err(not_connected)
    }
}

fn not_connected(why: RedisError) -> BusError {
    match why.code() {
        Some(_) => BusError::Refused(told(&why)),
        None => BusError::NotConnected(told(&why)),
    }
}

impl Probe {
    async fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> Result<T, BusError> {
        let mut command = cmd(words.first().copied().unwrap_or_default());
        command.arg(words.get(1..).unwrap_or_default());
        let answer = command.query_async(&mut self.0).await;
        answer.map_err(not_connected)
    }

    /// Redis command PING.
    ///
    /// # Errors
    /// [`BusError::NotConnected`], as all here.
    pub async fn ping(&mut self) -> Result<(), BusError> {
        self.ask::<String>(&["PING"]).await.map(|_| ())
    }

    /// Who serves there, and whether it is a node of a cluster.
    ///
    /// # Errors
    /// Also when this user may not ask.
    pub async fn role(&mut self) -> Result<(Role, bool), BusError> {
        let role = role(&mut self.0).await.map_err(not_connected)?;
        let hello = hello(&mut self.0).await;
        Ok((role, hello.is_ok_and(|(_, is_cluster)| is_cluster)))
    }

    /// Redis command INFO: the fields of one section.
    ///
    /// # Errors
    /// Also when this user may not ask.
    pub async fn info(&mut self, section: &str) -> Result<HashMap<String, String>, BusError> {
        let text: String = self.ask(&["INFO", section]).await?;
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Ok(fields
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect())
    }

    /// Redis command CONFIG GET.
    ///
    /// # Errors
    /// Also when this user may not ask, as with many who rent Redis.
    pub async fn setting(&mut self, name: &str) -> Result<Option<String>, BusError> {
        let mut found: HashMap<String, String> = self.ask(&["CONFIG", "GET", name]).await?;
        Ok(found.remove(name))
    }

    /// Redis command PUBSUB NUMPAT: patterns that anybody listens to. A gateway listens to one.
    ///
    /// # Errors
    /// Also when this user may not ask.
    pub async fn patterns(&mut self) -> Result<u64, BusError> {
        self.ask(&["PUBSUB", "NUMPAT"]).await
    }

    /// Redis command PUBLISH; tells how many clients got it.
    ///
    /// # Errors
    /// Also when this user may not publish.
    pub async fn publish(&mut self, channel: &str, payload: &[u8]) -> Result<u64, BusError> {
        let mut command = cmd("PUBLISH");
        command.arg(channel).arg(payload);
        let answer = command.query_async(&mut self.0).await;
        answer.map_err(|why| BusError::Publish(told(&why)))
    }
}
