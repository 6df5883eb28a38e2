//! A subscriber: one connection after another, and the store at the beginning of each.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::RedisBus;
use super::reply::{CLUSTER, told};
use super::role::hello;
use super::serving::{ASK_INTERVAL, Place};
use crate::bus::backoff::Backoff;
use crate::bus::prefix::Prefix;
use crate::bus::sink::lock;
use crate::bus::store::load::{Reading, Unread};
use crate::bus::{Doubt, Sink};

/// The sink is flushed this often, also when nothing comes: it may have something that is due.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Topics whose stored bars cannot be read for what they are, as a key of another type, are tried again so often:
/// somebody has to put that right.
const WRONG_AGAIN: Duration = Duration::from_secs(10);
const ENDED: &str = "connection ended";

/// What one connection leaves to the next.
struct Connections {
    place: Place,
    /// Since when the subscription of this one stands.
    stood: Option<Instant>,
}

impl RedisBus {
    /// One connection's life: connects, subscribes, and returns why it ended. With `all`, all of the past is
    /// read before bars flow.
    async fn feed<S: Sink>(
        &self,
        sink: &Arc<Mutex<S>>,
        connections: &mut Connections,
        subscription: &AtomicU64,
        all: bool,
    ) -> String {
        let signals = Arc::new(Signals::default());
        let config = AsyncConnectionConfig::new().set_push_sender({
            let (sink, signals) = (Arc::clone(sink), Arc::clone(&signals));
            let prefix = self.prefix;
            move |push| {
                on_push(&sink, &signals, prefix, push);
                Ok::<(), redis::aio::SendError>(())
            }
        });
        let mut connection = match self.connect(config).await {
            Ok(connection) => connection,
            Err(why) => return told(&why),
        };
        let Connections { place, stood } = connections;
        place.anew();
        if let Err(why) = place.look(&mut connection, sink).await {
            return why.told();
        }
        if self.load.is_some() {
            lock(sink).loading();
        }
        if let Err(why) = connection.psubscribe(&*self.pattern).await {
            return told(&why);
        }
        *stood = Some(Instant::now());
        subscription.fetch_add(1, Ordering::Relaxed);
        // Beside the loop below, which must go on flushing what comes live.
        let mut loads = pin!(self.read_store(sink, all));
        let mut watch = pin!(place.watch(connection, sink, &signals, ASK_INTERVAL));
        let mut due = interval(FLUSH_INTERVAL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                never = &mut loads => match never {},
                why = &mut watch => return why,
                () = signals.arrived.notified() => lock(sink).flush(),
                () = signals.ended.notified() => return ENDED.to_owned(),
                _ = due.tick() => lock(sink).flush(),
            }
        }
    }

    /// Feeds the sink until `stop`, over one connection after another, and counts where one begins or ends.
    pub(super) async fn feed_on<S: Sink>(
        &self,
        sink: &Arc<Mutex<S>>,
        stop: &CancellationToken,
        subscription: &AtomicU64,
        all: bool,
    ) {
        let mut backoff = Backoff::default();
        let mut connections = Connections {
            place: Place::with(self.unfed_patience),
            stood: None,
        };
        loop {
            // Around all of it: connecting to a server that stays silent must end with `stop` too.
            let fed =
                stop.run_until_cancelled(self.feed(sink, &mut connections, subscription, all));
            let Some(why) = fed.await else { return };
            subscription.fetch_add(1, Ordering::Relaxed);
            lock(sink).lost(&why);
            backoff.ended(connections.stood.take());
            let wait = backoff.wait();
            tracing::debug!(?wait, "next attempt to subscribe");
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Says that the subscription stands once the store was read, or could not be; in that case reads it again
    /// until it was.
    async fn read_store<S: Sink>(&self, sink: &Mutex<S>, all: bool) -> Infallible {
        let Some(load) = self.load else {
            lock(sink).connected();
            return pending().await;
        };
        let mut backoff = Backoff::default();
        let mut reading = Reading::new(load, all);
        let mut is_first = true;
        loop {
            let read = self.read_once(sink, &mut reading).await;
            if let Err(Unread { why, flows }) = &read {
                let flows = *flows;
                lock(sink).unloaded(Doubt { why, flows });
            }
            if std::mem::take(&mut is_first) {
                lock(sink).connected();
            } else {
                lock(sink).loaded();
            }
            match read {
                Ok(()) => return pending().await,
                Err(Unread { flows: true, .. }) => sleep(WRONG_AGAIN).await,
                Err(_) => sleep(backoff.wait()).await,
            }
            lock(sink).loading();
        }
    }

    /// Reads the store over a connection of its own: answers on the subscription's would queue behind its
    /// messages.
    async fn read_once<S: Sink>(
        &self,
        sink: &Mutex<S>,
        reading: &mut Reading,
    ) -> Result<(), Unread> {
        let connected = self.connect(AsyncConnectionConfig::new()).await;
        let mut connection = connected.map_err(|why| Unread::all(told(&why)))?;
        // What a node of a cluster answers depends on whose keys it has: better to say what it is.
        if let Ok((_, true)) = hello(&mut connection).await {
            return Err(Unread::all(CLUSTER.to_owned()));
        }
        // No bound for all of it: each answer has its own, so that whoever makes progress is not cut.
        reading.go_on(&mut connection, sink).await
    }
}

#[derive(Default)]
pub(super) struct Signals {
    arrived: Notify,
    ended: Notify,
    /// +1 when the sink is called and +1 when it returns: odd while a push is in the sink.
    sink_steps: AtomicU64,
}

impl Signals {
    /// How far the sink is.
    pub fn steps(&self) -> u64 {
        self.sink_steps.load(Ordering::Relaxed)
    }

    /// Whether the sink took anything since it was so far, or is about to.
    pub fn went_on(&self, before: u64) -> bool {
        let after = self.steps();
        after != before || after % 2 == 1
    }
}

/// Runs in the driver, once per push.
fn on_push<S: Sink>(sink: &Mutex<S>, signals: &Signals, prefix: Prefix, push: PushInfo) {
    match push.kind {
        PushKind::PMessage => {
            if let [_, Value::BulkString(channel), Value::BulkString(payload)] =
                push.data.as_slice()
            {
                signals.sink_steps.fetch_add(1, Ordering::Relaxed);
                lock(sink).message(&prefix.strip(channel), payload);
                signals.sink_steps.fetch_add(1, Ordering::Relaxed);
                signals.arrived.notify_one();
            }
        }
        PushKind::Disconnection => signals.ended.notify_one(),
        _ => {}
    }
}
