//! A publisher: a connection of its own, made again in the background.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{RESPONSE_TIMEOUT, RedisBus};
use crate::bus::backoff::Backoff;
use crate::bus::store::keep::Keeper;
use crate::bus::store::{Kept, Refused, Write, Writes};
use crate::bus::{Bus, BusError, Outgoing, Publisher};

enum Link {
    Down,
    Connecting(JoinHandle<MultiplexedConnection>),
    Up(MultiplexedConnection),
}

/// Publishes over a connection of its own, which it makes again in the background when it is lost.
pub struct RedisPublisher {
    bus: RedisBus,
    link: Link,
    last_error: String,
    keeper: Option<Keeper>,
}

impl RedisPublisher {
    pub(super) fn new(bus: RedisBus) -> Self {
        Self {
            keeper: bus.keep.map(|bars| Keeper::new(bars, bus.prefix)),
            bus,
            link: Link::Down,
            last_error: "no connection yet".to_owned(),
        }
    }

    /// Starts or takes over a connection attempt; `true` when the link is up.
    async fn advance(&mut self, wait: bool) -> bool {
        loop {
            match &mut self.link {
                Link::Up(_) => return true,
                Link::Down => {
                    let connect = connect_until_it_stands(self.bus.clone());
                    self.link = Link::Connecting(tokio::spawn(connect));
                    if !wait {
                        return false;
                    }
                }
                Link::Connecting(attempt) if wait || attempt.is_finished() => {
                    self.link = match attempt.await {
                        Ok(connection) => Link::Up(connection),
                        Err(why) => {
                            self.last_error = why.to_string();
                            Link::Down
                        }
                    };
                }
                Link::Connecting(_) => return false,
            }
        }
    }
}

async fn connect_until_it_stands(bus: RedisBus) -> MultiplexedConnection {
    let mut backoff = Backoff::default();
    loop {
        match bus.connect(AsyncConnectionConfig::new()).await {
            Ok(connection) => {
                tracing::info!(redis = bus.address(), "publisher connected");
                return connection;
            }
            Err(why) => {
                let wait = backoff.wait();
                tracing::warn!(redis = bus.address(), %why, ?wait, "publisher cannot connect");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

impl RedisPublisher {
    /// Sends one write and waits for its replies; gives the connection up when that fails.
    async fn send(&mut self, write: &Write) -> Result<Vec<Value>, BusError> {
        let Link::Up(connection) = &mut self.link else {
            return Err(BusError::NotConnected(self.last_error.clone()));
        };
        let why = match timeout(RESPONSE_TIMEOUT, write.send(connection)).await {
            Ok(Ok(replies)) => return Ok(replies),
            Ok(Err(why)) => {
                if why.is_io_error() || why.is_timeout() || why.is_unrecoverable_error() {
                    self.link = Link::Down;
                }
                why.to_string()
            }
            Err(_) => {
                self.link = Link::Down;
                format!("no reply within {RESPONSE_TIMEOUT:?}")
            }
        };
        if let Some(keeper) = &mut self.keeper {
            keeper.forget();
        }
        self.last_error.clone_from(&why);
        // Start reconnecting now, not at the next publish.
        self.advance(false).await;
        Err(BusError::Publish(why))
    }

    /// What is to be kept, as commands.
    async fn writes(&mut self, kept: &[Kept]) -> Result<Writes, BusError> {
        let unknown = self.keeper.as_ref().and_then(|keeper| keeper.unknown(kept));
        let learned = match unknown {
            Some((topics, question)) => Some((topics, self.send(&question).await?)),
            None => None,
        };
        let mut writes = Writes::default();
        if let Some(keeper) = &mut self.keeper {
            if let Some((topics, replies)) = learned {
                keeper.learn(&topics, &replies);
            }
            keeper.write(kept, &mut writes);
        }
        Ok(writes)
    }
}

impl Publisher for RedisPublisher {
    async fn publish_and_keep(
        &mut self,
        messages: &[Outgoing],
        kept: &[Kept],
    ) -> Result<Option<Refused>, BusError> {
        if !self.advance(false).await {
            return Err(BusError::NotConnected(self.last_error.clone()));
        }
        // Stored before it is published: see [`store`](super::store).
        let mut writes = self.writes(kept).await?;
        writes.publish(self.bus.prefix, messages);
        let mut refused = None;
        for write in writes.0 {
            let replies = self.send(&write).await?;
            if let Err(why) = write.check(&replies, &mut refused) {
                self.last_error.clone_from(&why);
                return Err(BusError::Publish(why));
            }
        }
        Ok(refused)
    }

    fn keeps(&self) -> bool {
        self.keeper.is_some()
    }

    async fn ready(&mut self) {
        self.advance(true).await;
    }

    fn is_connected(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }
}

impl Drop for RedisPublisher {
    fn drop(&mut self) {
        if let Link::Connecting(attempt) = &self.link {
            attempt.abort();
        }
    }
}
