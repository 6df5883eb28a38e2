//! The bus: how messages get from producers to gateways.
//!
//! One trait, two twins: [`memory`] inside one process, [`redis`] between processes. Both deliver at
//! most once, in order per publisher, to every subscriber of [`CHANNEL_PATTERN`](crate::bar::CHANNEL_PATTERN).
//! [`stream`] reads what others put into a Redis stream. [`store`] is what outlives both sides: the bars
//! that a publisher keeps in Redis beside publishing them, and that a subscriber reads when it comes.

pub mod backoff;
pub mod memory;
mod past;
pub mod probe;
pub mod redis;
pub mod store;
pub mod stream;

use std::future::Future;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use memory::MemoryBus;
pub use redis::RedisBus;
pub use store::{Kept, Refused};

use crate::bar::Topic;

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
    /// There is no connection just now; it is being made in the background.
    #[error("not connected: {0}")]
    NotConnected(String),
    /// The write or its confirmation failed: some of the messages may have gone out.
    #[error("publish failed: {0}")]
    Publish(String),
}

/// Where a subscriber's messages go. Called on the subscriber's own thread, never concurrently.
///
/// `message` may block: the bus then stops reading, so that backpressure reaches the publisher's
/// side instead of a queue that grows.
pub trait Sink: Send + 'static {
    /// The subscription stands (again). Messages may have come just before this call.
    fn connected(&mut self);
    /// The subscription is gone; whatever is published now is missed.
    fn lost(&mut self, why: &str);
    /// One message.
    fn message(&mut self, channel: &str, payload: &[u8]);
    /// Nothing more is waiting to be read just now.
    fn flush(&mut self);
    /// The subscription is about to stand, and what is stored will be read: until
    /// [`connected`](Self::connected) messages come between bars of the store.
    fn loading(&mut self) {}
    /// The newest message of a topic, or one of a closed bar, from the store: as fresh as the moment at
    /// which it was read, which was after [`loading`](Self::loading).
    fn stored(&mut self, _topic: &str, _payload: &[u8]) {}
    /// The way in which this sink will ask for the past of single topics: then only the newest message of
    /// every topic is read when the subscription stands. Without one all of the past is. Called once.
    fn asked(&mut self) -> Option<mpsc::Receiver<Topic>> {
        None
    }
    /// The past of these topics will now be read, since it was asked for.
    fn recalling(&mut self, _topics: &[Topic]) {}
    /// The past of one of them, as fresh as a moment after [`recalling`](Self::recalling): messages of closed
    /// bars, oldest first; or why it cannot be read.
    fn recalled(&mut self, _topic: &Topic, _bars: Result<Vec<&[u8]>, String>) {}
    /// The store could not be read to its end; what came of it is good.
    fn unloaded(&mut self, _why: &str) {}
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
    /// same write. Tells what the store refused: that is no reason not to publish.
    fn publish_and_keep(
        &mut self,
        messages: &[Outgoing],
        kept: &[Kept],
    ) -> impl Future<Output = Result<Option<Refused>, BusError>> + Send;

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
}
