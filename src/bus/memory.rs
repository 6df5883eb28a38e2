//! The bus inside one process: what `barcast dev` runs on, with nothing else installed.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Bus, BusError, Kept, Outgoing, Publisher, Refused, Sink};

/// Publishes a subscriber may be behind before the publisher waits for it: bounds the memory, and is
/// the same backpressure that TCP gives the Redis twin.
const QUEUE_PUBLISHES: usize = 64;

type Queue = mpsc::Sender<Arc<[Outgoing]>>;

/// Clones are the same bus.
#[derive(Debug, Clone, Default)]
pub struct MemoryBus {
    subscribers: Arc<Mutex<Vec<Queue>>>,
}

impl Bus for MemoryBus {
    type Publisher = MemoryPublisher;

    fn publisher(&self) -> MemoryPublisher {
        MemoryPublisher { bus: self.clone() }
    }

    async fn subscribe<S: Sink>(self, mut sink: S, stop: CancellationToken) {
        let (queue, mut incoming) = mpsc::channel(QUEUE_PUBLISHES);
        self.lock().push(queue);
        sink.connected();
        loop {
            let messages = tokio::select! {
                () = stop.cancelled() => return,
                messages = incoming.recv() => messages,
            };
            // The sender lives in `self.subscribers`, so the queue cannot end before this does.
            let Some(messages) = messages else { return };
            for message in messages.iter() {
                sink.message(&message.channel, &message.payload);
            }
            if incoming.is_empty() {
                sink.flush();
            }
        }
    }

    fn address(&self) -> String {
        "in this process".to_owned()
    }
}

impl MemoryBus {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Queue>> {
        // A list of senders is whole after every step, so a panic elsewhere cannot have torn it.
        self.subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes to every subscriber there is at that moment.
#[derive(Debug)]
pub struct MemoryPublisher {
    bus: MemoryBus,
}

impl Publisher for MemoryPublisher {
    async fn publish_and_keep(
        &mut self,
        messages: &[Outgoing],
        _kept: &[Kept],
    ) -> Result<Option<Refused>, BusError> {
        let messages: Arc<[Outgoing]> = messages.into();
        let queues = self.bus.lock().clone();
        let mut ended = false;
        for queue in queues {
            ended |= queue.send(Arc::clone(&messages)).await.is_err();
        }
        if ended {
            self.bus.lock().retain(|queue| !queue.is_closed());
        }
        Ok(None)
    }

    async fn ready(&mut self) {}

    fn is_connected(&self) -> bool {
        true
    }
}
