//! The bus between processes: Redis Pub/Sub.
//!
//! Subscribing uses a RESP3 connection whose pushes go to a closure that runs inside the driver. It
//! is the only way of the redis crate whose memory is bounded: while the closure blocks nothing is
//! read, the socket fills, and Redis feels it. The other ways (`get_async_pubsub`,
//! `ConnectionManager`, a channel as the push sender) queue without limit. Such a connection dies
//! with its socket, so reconnecting and resubscribing are done here.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo,
    PushKind, RedisError, Value,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::store::{Keeper, Load, Write, Writes};
use super::{Bus, BusError, Kept, Outgoing, Publisher, Refused, Sink};
use crate::bar::CHANNEL_PATTERN;

/// Longest wait for TCP, TLS and the login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a reply. A pipeline of 10,000 publishes takes some 50 ms.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A subscriber that hears nothing asks this often whether the other side still lives.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Idle time before TCP asks by itself; the ping is faster while this process runs well.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// Commands in one pipelined write: bounds the memory for replies and the time that Redis spends on
/// one client.
pub(super) const PIPELINE_COMMANDS: usize = 2_000;

/// A Redis server by its URL. Clones share the address, not a connection.
#[derive(Debug, Clone)]
pub struct RedisBus {
    client: Client,
    /// What a subscriber hears.
    pattern: Arc<str>,
    /// Closed bars of each topic that publishers keep in the store; none without it.
    keep: Option<usize>,
    /// What subscribers read from the store; nothing without it.
    load: Option<Load>,
}

impl RedisBus {
    /// Takes `redis://`, `rediss://` (TLS) and `unix:` URLs with user, password and database number.
    ///
    /// # Errors
    /// [`BusError::Address`] when the URL cannot be used. The message never holds the URL, which may
    /// hold a password.
    pub fn new(url: &str) -> Result<Self, BusError> {
        let address = |why: RedisError| BusError::Address(why.to_string());
        let info: ConnectionInfo = url.into_connection_info().map_err(address)?;
        let resp3 = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(TCP_KEEPALIVE));
        let info = info.set_redis_settings(resp3).set_tcp_settings(tcp);
        if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
            // Ours is the only TLS of the process; a second call finds the first one's provider.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::open(info).map_err(address)?;
        Ok(Self {
            client,
            pattern: CHANNEL_PATTERN.into(),
            keep: None,
            load: None,
        })
    }

    /// The same server, but publishers also store what is to be kept: up to `bars` closed bars of each
    /// topic.
    #[must_use]
    pub fn keeping(self, bars: usize) -> Self {
        let keep = Some(bars);
        Self { keep, ..self }
    }

    /// The same server, but subscribers first read what is stored: up to `bars` closed bars of each of
    /// up to `topics` topics.
    #[must_use]
    pub fn loading(self, topics: usize, bars: usize) -> Self {
        let load = Some(Load { topics, bars });
        Self { load, ..self }
    }

    /// The same server, but its subscribers hear the channels of `pattern` (Redis command PSUBSCRIBE)
    /// instead of the topics.
    pub fn listening_to(&self, pattern: &str) -> Self {
        Self {
            client: self.client.clone(),
            pattern: pattern.into(),
            keep: None,
            load: None,
        }
    }

    pub(super) async fn connect(
        &self,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        let config = config
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

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
            move |push| {
                on_push(&sink, &signals, push);
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
}

impl RedisBus {
    /// Feeds the sink until `stop`, over one connection after another.
    async fn feed_on<S: Sink>(&self, sink: &Arc<Mutex<S>>, stop: &CancellationToken, all: bool) {
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

pub(super) fn lock<S>(sink: &Mutex<S>) -> std::sync::MutexGuard<'_, S> {
    // A sink whose call panicked is still the only one there is; its next call may do better.
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs in the driver, once per push.
fn on_push<S: Sink>(sink: &Mutex<S>, signals: &Signals, push: PushInfo) {
    match push.kind {
        PushKind::PMessage => {
            if let [_, Value::BulkString(channel), Value::BulkString(payload)] =
                push.data.as_slice()
            {
                signals.sink_steps.fetch_add(1, Ordering::Relaxed);
                lock(sink).message(&String::from_utf8_lossy(channel), payload);
                signals.sink_steps.fetch_add(1, Ordering::Relaxed);
                signals.arrived.notify_one();
            }
        }
        PushKind::Disconnection => signals.ended.notify_one(),
        _ => {}
    }
}

impl Bus for RedisBus {
    type Publisher = RedisPublisher;

    fn publisher(&self) -> RedisPublisher {
        RedisPublisher {
            keeper: self.keep.map(Keeper::new),
            bus: self.clone(),
            link: Link::Down,
            last_error: "no connection yet".to_owned(),
        }
    }

    async fn subscribe<S: Sink>(self, sink: S, stop: CancellationToken) {
        let sink = Arc::new(Mutex::new(sink));
        let past = self.load.filter(|load| load.bars > 0);
        let asked = past.and_then(|load| Some((load, lock(&sink).asked()?)));
        let feeds = self.feed_on(&sink, &stop, asked.is_none());
        let Some((load, asked)) = asked else {
            return feeds.await;
        };
        tokio::select! {
            () = feeds => {}
            () = self.read_asked(&sink, load, asked) => {}
        }
    }

    fn address(&self) -> String {
        let info = self.client.get_connection_info();
        match info.redis_settings().db() {
            0 => info.addr().to_string(),
            database => format!("{} database {database}", info.addr()),
        }
    }
}

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
        writes.publish(messages);
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
