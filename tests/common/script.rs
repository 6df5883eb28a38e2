//! A bus that does what a test says, call by call, so that nothing is waited for but the answers.

use std::sync::{Arc, Mutex, mpsc};

use barcast::bus::{Bus, MemoryBus, Sink};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

type Step = Box<dyn FnOnce(&mut dyn Sink) + Send>;

/// A bus whose subscriber is called by the test.
#[derive(Clone)]
pub struct Scripted {
    steps: UnboundedSender<Step>,
    taken: Arc<Mutex<Option<UnboundedReceiver<Step>>>>,
}

impl Scripted {
    pub fn new() -> Self {
        let (steps, taken) = unbounded_channel();
        Self {
            steps,
            taken: Arc::new(Mutex::new(Some(taken))),
        }
    }

    /// Calls the sink, and waits until that is done.
    pub fn call(&self, step: impl FnOnce(&mut dyn Sink) + Send + 'static) {
        let (done, until_done) = mpsc::channel();
        let step = move |sink: &mut dyn Sink| {
            step(sink);
            done.send(()).unwrap();
        };
        assert!(self.steps.send(Box::new(step)).is_ok());
        until_done.recv_timeout(super::DEADLINE).unwrap();
    }
}

impl Bus for Scripted {
    type Publisher = <MemoryBus as Bus>::Publisher;

    fn publisher(&self) -> Self::Publisher {
        MemoryBus::default().publisher()
    }

    async fn subscribe<S: Sink>(self, mut sink: S, stop: CancellationToken) {
        let mut steps = self.taken.lock().unwrap().take().unwrap();
        sink.connected();
        while let Some(Some(step)) = stop.run_until_cancelled(steps.recv()).await {
            step(&mut sink);
        }
    }

    fn address(&self) -> String {
        "a script".to_owned()
    }
}
