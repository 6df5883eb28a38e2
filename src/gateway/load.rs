//! What one worker bears, for `/metrics`: set or asked for now and then, never per delivery.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::runtime::RuntimeMetrics;

use super::mailbox::Mailbox;
use crate::metrics::workers::WorkerLoad;

/// One worker as seen from other threads.
#[derive(Debug, Default)]
pub struct Load {
    /// Set when one comes or goes.
    pub clients: AtomicUsize,
    /// Since the worker runs: its runtime keeps the time that it is busy anyhow.
    running: OnceLock<(RuntimeMetrics, Arc<Mailbox>)>,
}

impl Load {
    /// From now on this runtime and this mailbox are the worker's.
    pub(super) fn watch(&self, runtime: RuntimeMetrics, mailbox: Arc<Mailbox>) {
        // A gateway runs but once.
        let _ = self.running.set((runtime, mailbox));
    }

    /// As it is now.
    pub fn read(&self) -> WorkerLoad {
        let clients = self.clients.load(Ordering::Relaxed);
        let running = self.running.get();
        running.map_or_else(WorkerLoad::default, |(runtime, mailbox)| WorkerLoad {
            clients,
            busy_seconds: runtime.worker_total_busy_duration(0).as_secs_f64(),
            waiting_bytes: mailbox.waiting_bytes(),
            wakes: mailbox.wakes(),
        })
    }
}
