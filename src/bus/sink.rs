//! What a subscriber is made of.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::bar::Topic;
use crate::health::{Concern, Health};

/// Why bars may not come although the subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt<'a> {
    /// For people, with the words of the other side.
    pub why: &'a str,
    /// They come all the same.
    pub flows: bool,
}

impl Doubt<'_> {
    /// Puts it on the list behind a word of what it is about, or takes what was there from it.
    pub fn tell(doubt: Option<Self>, health: &Health, concern: Concern, what: &str) {
        match doubt {
            Some(Doubt { why, flows: true }) => health.warn(concern, format!("{what}: {why}")),
            Some(Doubt { why, .. }) => health.set(concern, format!("{what}: {why}")),
            None => health.clear(concern),
        }
    }
}

/// Where a subscriber's messages go. Called on the subscriber's own thread, never concurrently.
///
/// `message` may block: the bus then stops reading, so that backpressure reaches the publisher's
/// side instead of a queue that grows.
pub trait Sink: Send + 'static {
    /// The subscription stands (again), and an attempt was made to read the store. Messages may have come just
    /// before this call.
    fn connected(&mut self);
    /// The subscription is gone; whatever is published now is missed.
    fn lost(&mut self, why: &str);
    /// One message.
    fn message(&mut self, channel: &str, payload: &[u8]);
    /// Nothing more is waiting to be read just now.
    fn flush(&mut self);
    /// The subscription is about to stand, and what is stored will be read: until
    /// [`connected`](Self::connected), or [`loaded`](Self::loaded), messages come between bars of the store.
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
    /// The store could not be read to its end; what came of it is good. It will be read again, from
    /// [`loading`](Self::loading) to [`loaded`](Self::loaded), until it was.
    fn unloaded(&mut self, _doubt: Doubt) {}
    /// The store was read again while the subscription stood: to its end, unless
    /// [`unloaded`](Self::unloaded) said otherwise just before.
    fn loaded(&mut self) {}
    /// The past of single topics that were asked for cannot be read and will be tried again, or is (again)
    /// read as it is asked for.
    fn unrecalled(&mut self, _doubt: Option<Doubt>) {}
    /// Who serves the subscription may not have all bars, or (again) has.
    fn served(&mut self, _doubt: Option<Doubt>) {}
}

pub(super) fn lock<S>(sink: &Mutex<S>) -> MutexGuard<'_, S> {
    // A sink whose call panicked is still the only one there is; its next call may do better.
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}
