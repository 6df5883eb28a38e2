//! A subscriber: one connection after another, and the store at the beginning of each.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError, Value};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::RedisBus;
use crate::bus::Sink;
use crate::bus::backoff::Backoff;
use crate::bus::prefix::Prefix;
use crate::bus::sink::lock;

/// A subscriber that hears nothing asks this often whether the other side still lives.
const PING_INTERVAL: Duration = Duration::from_secs(5);

impl RedisBus {
    /// One connection's life: connects, subscribes, and returns why it ended. With `all`, all of the past is
    /// read before bars flow.
    async fn feed<S: Sink>(
        &self,
        sink: &Arc<Mutex<S>>,
        backoff: &mut Backoff,
        all: bool,
    ) -> Result<Infallible, RedisError> {
        let signals = Arc::new(Signals::default());
        let config = AsyncConnectionConfig::new().set_push_sender({
            let (sink, signals) = (Arc::clone(sink), Arc::clone(&signals));
            let prefix = self.prefix;
            move |push| {
                on_push(&sink, &signals, prefix, push);
                Ok::<(), redis::aio::SendError>(())
            }
        });
        let mut connection = self.connect(config).await?;
        if self.load.is_some() {
            lock(sink).loading();
        }
        connection.psubscribe(&*self.pattern).await?;
        // Beside the loop below, which must go on flushing what comes live.
        let mut loads = pin!(self.load_into(sink, all));
        let mut loaded = false;
        let mut ping = interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut loads, if !loaded => {
                    loaded = true;
                    lock(sink).connected();
                    backoff.reset();
                }
                () = signals.arrived.notified() => lock(sink).flush(),
                () = signals.ended.notified() => return Err(ended()),
                _ = ping.tick() => {
                    // Also when nothing comes: the sink may have something that is due.
                    lock(sink).flush();
                    // Bounded by its own time-out, and apart from this task, which must go on
                    // flushing meanwhile.
                    let (connection, signals) = (connection.clone(), Arc::clone(&signals));
                    tokio::spawn(ping_once(connection, signals));
                }
            }
        }
    }

    /// Feeds the sink until `stop`, over one connection after another.
    pub(super) async fn feed_on<S: Sink>(
        &self,
        sink: &Arc<Mutex<S>>,
        stop: &CancellationToken,
        all: bool,
    ) {
        let mut backoff = Backoff::default();
        loop {
            // Around all of it: connecting to a server that stays silent must end with `stop` too.
            let fed = stop.run_until_cancelled(self.feed(sink, &mut backoff, all));
            let Some(Err(why)) = fed.await else { return };
            let why = why.to_string();
            lock(sink).lost(&why);
            let wait = backoff.wait();
            tracing::debug!(?wait, "next attempt to subscribe");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Reads the store, if that is wanted, over a connection of its own: answers on the subscription's
    /// would queue behind its messages.
    async fn load_into<S: Sink>(&self, sink: &Mutex<S>, all: bool) {
        let Some(load) = self.load else { return };
        let read = async {
            let connected = self.connect(AsyncConnectionConfig::new()).await;
            let mut connection = connected.map_err(|why| why.to_string())?;
            load.read(&mut connection, sink, all).await
        };
        // No bound for all of it: each answer has its own, so that whoever makes progress is not cut.
        if let Err(why) = read.await {
            lock(sink).unloaded(&why);
        }
    }
}

/// Ends the connection when the other side neither answers nor sends anything.
///
/// An answer queues behind all pushes, so while the sink is slow, or blocks, it comes late: that is
/// backpressure, and to cut the connection then would lose what Redis holds for it.
async fn ping_once(mut connection: MultiplexedConnection, signals: Arc<Signals>) {
    let before = signals.sink_steps.load(Ordering::Relaxed);
    let ping = redis::cmd("PING");
    let answer = ping.query_async::<Value>(&mut connection).await;
    let Err(why) = answer else { return };
    let after = signals.sink_steps.load(Ordering::Relaxed);
    let in_the_sink = after % 2 == 1;
    if why.is_timeout() && (before != after || in_the_sink) {
        return;
    }
    tracing::debug!(%why, "ping to Redis failed");
    signals.ended.notify_one();
}

fn ended() -> RedisError {
    std::io::Error::new(
        std::io::ErrorKind::ConnectionReset,
        "connection ended or stopped answering",
    )
    .into()
}

#[derive(Default)]
struct Signals {
    arrived: Notify,
    ended: Notify,
    /// +1 when the sink is called and +1 when it returns: odd while a push is in the sink.
    sink_steps: AtomicU64,
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
