use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::base_path::BasePath;
use super::cors::Cors;
use super::files::Files;
use super::machine;
use super::udf::Listings;
use crate::ahead::MaxAhead;
use crate::networks::Network;

/// After the bus is back, a topic whose `seq` could prove that nothing was missed has this long to
/// do so by its next bar; then its watchers are told of a gap all the same.
pub const PROOF_WAIT: Duration = Duration::from_secs(10);

/// Longest life of a connection that stays HTTP: the next answer is the last, and proxies spread anew.
pub const HTTP_LIFETIME: Duration = Duration::from_secs(3_600);

/// Settings of a gateway, validated.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// Threads that own clients, each with its own listener.
    pub workers: usize,
    pub limits: Limits,
    /// What the limit of open files means for it; without it nothing is bounded for its sake.
    pub files: Option<Files>,
    /// Whether clients who offer it get compressed frames (RFC 7692).
    pub compression: bool,
    /// Closed bars kept in memory for each topic.
    pub history_bars: usize,
    /// Memory of the bars of all topics together, in bytes; the oldest go first.
    pub history_bytes: usize,
    /// How far a bar may start ahead of the clock.
    pub max_ahead: MaxAhead,
    /// What charts are told of symbols beside their bars.
    pub listings: Arc<Listings>,
    /// Whether the chart page and the operator's page are served.
    pub ui: bool,
    /// Below which path all is served but probes.
    pub base_path: BasePath,
    /// Proxies that are believed whose requests they hand on.
    pub trusted_proxies: Vec<Network>,
    /// Whether their connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Whose pages may read public JSON.
    pub cors: Cors,
    /// [`HTTP_LIFETIME`]; another in tests alone, so no flag sets it.
    pub http_lifetime: Duration,
    /// [`PROOF_WAIT`]; another in tests alone, so no flag sets it.
    pub proof_wait: Duration,
    /// How long draining may take before the remaining clients are cut.
    pub drain_grace: Duration,
    /// Over how much of that the closes are spread, so that clients do not all come back at once; half of
    /// it at most.
    pub drain_spread: Duration,
}

/// What strangers may use up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Clients of this node.
    pub max_clients: usize,
    /// Clients from one IP address, or one /64 of IPv6; 0 is no limit, as is right behind a proxy that is not trusted.
    pub max_clients_per_address: usize,
    /// Topics that one client gets, patterns expanded.
    pub max_topics_per_client: usize,
    /// Topics of this node.
    pub max_topics: usize,
    /// Names that clients subscribe to and that no bar came for yet; no topics, so bounded apart.
    pub max_placeholders: usize,
    /// Size of one client message, fragments added up, in bytes.
    pub max_message_bytes: usize,
    /// Messages per second of one client, control frames and fragments counted; ten seconds' worth
    /// may come at once.
    pub max_messages_per_second: u32,
    /// From the TCP connection to the end of the HTTP request's head.
    pub handshake_timeout: Duration,
    /// How long a connection that stays HTTP may be idle between two requests.
    pub http_idle_timeout: Duration,
    /// Time between pings; a client silent for two is closed.
    pub ping_interval: Duration,
    /// Memory of bars that may wait for one slow client, in bytes.
    pub outbox_bytes: usize,
    /// How long a client may make no progress, less than 1 KiB taken, while it is at that bound.
    pub slow_grace: Duration,
    /// Bytes that may wait on this node, over all clients and answers; the largest is shed first.
    pub waiting_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            limits: Limits::default(),
            files: None,
            compression: false,
            history_bars: 1_000,
            history_bytes: machine::history_bytes(),
            max_ahead: MaxAhead::default(),
            listings: Arc::default(),
            ui: true,
            base_path: BasePath::default(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            cors: Cors::default(),
            http_lifetime: HTTP_LIFETIME,
            proof_wait: PROOF_WAIT,
            drain_grace: Duration::from_secs(10),
            drain_spread: Duration::from_secs(5),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: 100_000,
            max_clients_per_address: 0,
            max_topics_per_client: 1_000,
            max_topics: 100_000,
            max_placeholders: 100_000,
            max_message_bytes: 4 << 10,
            max_messages_per_second: 100,
            handshake_timeout: Duration::from_secs(10),
            http_idle_timeout: Duration::from_secs(75),
            ping_interval: Duration::from_secs(25),
            outbox_bytes: 256 << 10,
            slow_grace: Duration::from_secs(10),
            waiting_bytes: 512 << 20,
        }
    }
}
