//! The bus between processes: Redis Pub/Sub.
//!
//! Subscribing uses a RESP3 connection whose pushes go to a closure that runs inside the driver. It
//! is the only way of the redis crate whose memory is bounded: while the closure blocks nothing is
//! read, the socket fills, and Redis feels it. The other ways (`get_async_pubsub`,
//! `ConnectionManager`, a channel as the push sender) queue without limit. Such a connection dies
//! with its socket, so reconnecting and resubscribing are done here.

mod access;
pub(super) mod link;
mod past;
mod publish;
pub mod reply;
pub mod role;
pub(super) mod serving;
mod subscribe;
mod url;

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use access::Access;
pub use access::Settings;
pub use publish::RedisPublisher;
use serving::{UNFED_PATIENCE, UNFED_SOURCE_PATIENCE};

use super::prefix::Prefix;
use super::sink::lock;
use super::store::load::Load;
use super::{Bus, BusError, Sink};
use crate::ahead::MaxAhead;
use crate::bar::CHANNEL_PATTERN;

/// Longest wait for TCP, TLS and the login, and before that for the files that these need.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a reply. A pipeline of 10,000 publishes takes some 50 ms.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle time before TCP asks by itself; the ping is faster while this process runs well.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

type Reader = JoinHandle<Result<Client, String>>;

/// A Redis server by its settings. Clones share the address, not a connection.
#[derive(Debug, Clone)]
pub struct RedisBus {
    access: Arc<Access>,
    /// Reads the files of `access`, unless none is under way.
    reading: Arc<tokio::sync::Mutex<Option<Reader>>>,
    /// Before the names of our channels and keys.
    pub(super) prefix: Prefix,
    /// What a subscriber hears.
    pattern: Arc<str>,
    /// Closed bars of each topic that publishers keep in the store; none without it.
    keep: Option<usize>,
    /// How far ahead of the clock a stored bar may start and still be a topic's newest.
    max_ahead: MaxAhead,
    /// What subscribers read from the store; nothing without it.
    load: Option<Load>,
    /// How long a subscriber keeps a replica without its master.
    unfed_patience: Duration,
}

impl RedisBus {
    /// Takes `redis://`, `rediss://` (TLS) and `unix:` URLs with user, password and database number.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn new(url: &str) -> Result<Self, BusError> {
        let url = url.to_owned();
        Self::open(&Settings {
            url,
            ..Settings::default()
        })
    }

    /// The server of these settings; their files are read and checked, and read again at each connect.
    ///
    /// # Errors
    /// [`BusError::Address`] when the URL cannot be used, [`BusError::Setting`] for the other settings. The
    /// message never holds the URL, which may hold a password.
    pub fn open(settings: &Settings) -> Result<Self, BusError> {
        let (access, prefix) = Access::new(settings)?;
        Ok(Self {
            access: Arc::new(access),
            reading: Arc::default(),
            pattern: prefix.name(CHANNEL_PATTERN).to_string().into(),
            prefix,
            keep: None,
            max_ahead: MaxAhead::default(),
            load: None,
            unfed_patience: UNFED_PATIENCE,
        })
    }

    /// The same server, but publishers also store what is to be kept: up to `bars` closed bars of each
    /// topic.
    #[must_use]
    pub fn keeping(self, bars: usize) -> Self {
        let keep = Some(bars);
        Self { keep, ..self }
    }

    /// The same server, but its publishers replace what is stored further ahead of the clock.
    #[must_use]
    pub fn refusing(self, max_ahead: MaxAhead) -> Self {
        Self { max_ahead, ..self }
    }

    /// The same server, but subscribers first read what is stored: up to `bars` closed bars of each of
    /// up to `topics` topics.
    #[must_use]
    pub fn loading(self, topics: usize, bars: usize) -> Self {
        let prefix = self.prefix;
        let load = Some(Load {
            prefix,
            topics,
            bars,
        });
        Self { load, ..self }
    }

    /// The same server, but its subscribers hear the channels of `pattern` (Redis command PSUBSCRIBE)
    /// instead of the topics. They are foreign: no prefix of ours is theirs.
    pub fn listening_to(&self, pattern: &str) -> Self {
        Self {
            access: Arc::clone(&self.access),
            reading: Arc::clone(&self.reading),
            prefix: Prefix::default(),
            pattern: pattern.into(),
            keep: None,
            max_ahead: MaxAhead::default(),
            load: None,
            unfed_patience: UNFED_SOURCE_PATIENCE,
        }
    }

    pub(super) async fn connect(
        &self,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        let config = config
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let client = match self.access.has_files() {
            true => timeout(CONNECT_TIMEOUT, self.read_files())
                .await
                .unwrap_or_else(|_| Err(self.access.hangs())),
            false => self.access.client(),
        };
        let client = client.map_err(|why| RedisError::from(io::Error::other(why)))?;
        let connected = client
            .get_multiplexed_async_connection_with_config(&config)
            .await;
        connected.map_err(|why| self.access.explained(why))
    }
}

impl RedisBus {
    /// A disk may be slow, and one in a network may hang: whoever comes then waits for the same thread.
    async fn read_files(&self) -> Result<Client, String> {
        let mut reading = self.reading.lock().await;
        let access = Arc::clone(&self.access);
        let of_old = reading.take().filter(|thread| !thread.is_finished());
        let thread = of_old.unwrap_or_else(|| spawn_blocking(move || access.client()));
        let read = reading.insert(thread).await;
        *reading = None;
        read.unwrap_or_else(|why| Err(why.to_string()))
    }
}

impl Bus for RedisBus {
    type Publisher = RedisPublisher;

    fn publisher(&self) -> RedisPublisher {
        RedisPublisher::new(self.clone())
    }

    async fn subscribe<S: Sink>(self, sink: S, stop: CancellationToken) {
        let sink = Arc::new(Mutex::new(sink));
        let past = self.load.filter(|load| load.bars > 0);
        let asked = past.and_then(|load| Some((load, lock(&sink).asked()?)));
        let subscription = AtomicU64::new(0);
        let feeds = self.feed_on(&sink, &stop, &subscription, asked.is_none());
        let Some((load, asked)) = asked else {
            return feeds.await;
        };
        tokio::select! {
            () = feeds => {}
            () = self.read_asked(&sink, load, &subscription, asked) => {}
        }
    }

    fn address(&self) -> String {
        let info = self.access.info();
        let mut address = info.addr().to_string();
        match info.redis_settings().db() {
            0 => {}
            database => address.push_str(&format!(" database {database}")),
        }
        match self.prefix() {
            "" => {}
            prefix => address.push_str(&format!(" prefix {prefix}")),
        }
        address
    }

    fn prefix(&self) -> &str {
        self.prefix.as_str()
    }
}
