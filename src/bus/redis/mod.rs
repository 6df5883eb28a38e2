//! The bus between processes: Redis Pub/Sub.
//!
//! Subscribing uses a RESP3 connection whose pushes go to a closure that runs inside the driver. It
//! is the only way of the redis crate whose memory is bounded: while the closure blocks nothing is
//! read, the socket fills, and Redis feels it. The other ways (`get_async_pubsub`,
//! `ConnectionManager`, a channel as the push sender) queue without limit. Such a connection dies
//! with its socket, so reconnecting and resubscribing are done here.

pub(super) mod link;
mod past;
mod publish;
pub mod reply;
pub mod role;
mod serving;
mod subscribe;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisError,
};
use tokio_util::sync::CancellationToken;

pub use publish::RedisPublisher;

use super::sink::lock;
use super::store::load::Load;
use super::{Bus, BusError, Sink};
use crate::bar::CHANNEL_PATTERN;

/// Longest wait for TCP, TLS and the login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a reply. A pipeline of 10,000 publishes takes some 50 ms.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle time before TCP asks by itself; the ping is faster while this process runs well.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

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
            .set_protocol(ProtocolVersion::RESP3)
            // Of a server that refuses, the crate tells the words only when nothing else was asked.
            .set_skip_set_lib_name();
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
