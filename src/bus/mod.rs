//! The bus: how messages get from producers to gateways.
//!
//! One trait, two twins: [`memory`] inside one process, [`redis`] between processes. Both deliver at
//! most once, in order per publisher, to every subscriber of [`CHANNEL_PATTERN`](crate::bar::CHANNEL_PATTERN).
//! [`stream`] reads what others put into a Redis stream. [`store`] is what outlives both sides: the bars
//! that a publisher keeps in Redis beside publishing them, and that a subscriber reads when it comes.

pub mod backoff;
pub mod memory;
pub mod prefix;
pub mod probe;
pub mod redis;
mod sink;
pub mod store;
pub mod stream;

use std::future::Future;

use tokio_util::sync::CancellationToken;

use crate::health::{Concern, Health};
pub use memory::MemoryBus;
pub use redis::RedisBus;
pub use sink::{Doubt, Sink};
pub use store::{Kept, Owed, Refused};

/// One message on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub channel: String,
    pub payload: Vec<u8>,
}

/// Why something was not published.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The address cannot be used at all.
    #[error("{0}")]
    Address(String),
    /// Another of its settings cannot be used: which, and why.
    #[error("{0}")]
    Setting(String),
    /// There is no connection just now; it is being made in the background.
    #[error("not connected: {0}")]
    NotConnected(String),
    /// Redis answers, but not what was asked for: its words. Nothing of it was done.
    #[error("{0}")]
    Refused(String),
    /// The write or its confirmation failed: some of the messages may have gone out.
    #[error("publish failed: {0}")]
    Publish(String),
}

/// Puts messages on the bus.
pub trait Publisher: Send + 'static {
    /// Publishes all messages, in order, with as few writes as there can be, and waits until the bus
    /// has them.
    ///
    /// Never waits for a lost connection to come back: that is [`ready`](Self::ready)'s.
    fn publish(
        &mut self,
        messages: &[Outgoing],
    ) -> impl Future<Output = Result<(), BusError>> + Send {
        async { self.publish_and_keep(messages, &[]).await.map(|_| ()) }
    }

    /// Publishes as [`publish`](Self::publish) does, and before that stores what is to be kept, in the
    /// same write. Tells what the store refused: that is no reason not to publish. Closed bars that were not
    /// stored, for whatever reason, wait: [`tend`](Self::tend) stores them later.
    fn publish_and_keep(
        &mut self,
        messages: &[Outgoing],
        kept: &[Kept],
    ) -> impl Future<Output = Result<Option<Refused>, BusError>> + Send;

    /// Stores some of what waits for it, if it is time to; `true` when there is more to do at once. To be
    /// called every second or so.
    fn tend(&mut self) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// What the store has not taken yet.
    fn owed(&self) -> Owed {
        Owed::default()
    }

    /// Says from now on in this list what keeps it from publishing and storing.
    fn report_to(&mut self, health: &Health) {
        health.clear(Concern::Publisher);
    }

    /// Whether it keeps anything at all: if not, nothing needs to be prepared.
    fn keeps(&self) -> bool {
        false
    }

    /// Waits until there is a connection.
    fn ready(&mut self) -> impl Future<Output = ()> + Send;

    /// Whether the last that was heard of the connection was good.
    fn is_connected(&self) -> bool;
}

/// A bus that one can subscribe to and publish on.
pub trait Bus: Clone + Send + Sync + 'static {
    type Publisher: Publisher;

    /// A new publisher with a connection of its own.
    fn publisher(&self) -> Self::Publisher;

    /// Feeds `sink` until `stop` is cancelled, reconnecting and resubscribing by itself.
    fn subscribe<S: Sink>(
        self,
        sink: S,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send;

    /// Where the bus is, for logs: never holds a secret.
    fn address(&self) -> String;

    /// What channels have before the names that a sink gets.
    fn prefix(&self) -> &str {
        ""
    }
}
