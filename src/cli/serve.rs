use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::{AheadArgs, RedisArgs, Store, values};
use crate::bus::RedisBus;
use crate::gateway::base_path::BasePath;
use crate::gateway::config::{HTTP_LIFETIME, PROOF_WAIT};
use crate::gateway::cors::Cors;
use crate::gateway::udf::Listings;
use crate::gateway::{Config, Limits};
use crate::networks::Network;

/// Settings of a gateway, wherever its bars come from.
#[derive(Debug, Clone, Args)]
pub struct GatewayArgs {
    /// Address and port for clients, pages and probes; port 0 takes a free one
    #[arg(long, env = "BARCAST_LISTEN", default_value = "127.0.0.1:8000", value_parser = values::address)]
    listen: SocketAddr,
    /// Threads that own clients [default: one a core]
    #[arg(long, env = "BARCAST_WORKERS", value_parser = values::workers)]
    workers: Option<usize>,
    /// Clients of this node
    #[arg(long, env = "BARCAST_MAX_CLIENTS", default_value_t = Limits::default().max_clients, value_parser = values::positive)]
    max_clients: usize,
    /// Clients from one IP address, or one /64 of IPv6; 0 is no limit, as is right behind a proxy that is not trusted
    #[arg(long, env = "BARCAST_MAX_CLIENTS_PER_ADDRESS", default_value_t = Limits::default().max_clients_per_address, value_parser = values::whole::<usize>)]
    max_clients_per_address: usize,
    /// Topics that one client gets, patterns expanded
    #[arg(long, env = "BARCAST_MAX_TOPICS_PER_CLIENT", default_value_t = Limits::default().max_topics_per_client, value_parser = values::positive)]
    max_topics_per_client: usize,
    /// Topics of this node
    #[arg(long, env = "BARCAST_MAX_TOPICS", default_value_t = Limits::default().max_topics, value_parser = values::positive)]
    max_topics: usize,
    /// Largest message of a client, in bytes
    #[arg(long, env = "BARCAST_MAX_MESSAGE_BYTES", default_value_t = Limits::default().max_message_bytes, value_parser = values::positive)]
    max_message_bytes: usize,
    /// Messages per second of one client, control frames and fragments counted; ten seconds' worth may come at once
    #[arg(long, env = "BARCAST_MAX_MESSAGES_PER_SECOND", default_value_t = Limits::default().max_messages_per_second, value_parser = values::positive_u32)]
    max_messages_per_second: u32,
    /// Seconds from the TCP connection to the end of the handshake
    #[arg(long, env = "BARCAST_HANDSHAKE_TIMEOUT", default_value = "10", value_parser = values::seconds)]
    handshake_timeout: Duration,
    /// Seconds that an HTTP connection may be idle between two requests; longer than proxies keep theirs, mostly 60
    #[arg(long, env = "BARCAST_HTTP_IDLE_TIMEOUT", default_value = "75", value_parser = values::idle_seconds)]
    http_idle_timeout: Duration,
    /// Seconds between pings; a client silent for two intervals is closed with 4408
    #[arg(long, env = "BARCAST_PING_INTERVAL", default_value = "25", value_parser = values::whole_seconds)]
    ping_interval: Duration,
    /// Memory, in bytes, of bars that may wait for one slow client
    #[arg(long, env = "BARCAST_OUTBOX_BYTES", default_value_t = Limits::default().outbox_bytes, value_parser = values::positive)]
    outbox_bytes: usize,
    /// Seconds in which a client at that bound must take 1 KiB, or it is closed with 4503
    #[arg(long, env = "BARCAST_SLOW_GRACE", default_value = "10", value_parser = values::seconds)]
    slow_grace: Duration,
    /// Bytes that may wait on this node, over all clients and answers; beyond it the largest is closed with 4503
    #[arg(long, env = "BARCAST_WAITING_BYTES", default_value_t = Limits::default().waiting_bytes, value_parser = values::positive)]
    waiting_bytes: usize,
    /// Names that clients subscribe to and that no bar came for yet; when full, the client with most loses one
    #[arg(long, env = "BARCAST_MAX_PLACEHOLDERS", default_value_t = Limits::default().max_placeholders, value_parser = values::positive)]
    max_placeholders: usize,
    /// Compress what clients get who offer permessage-deflate: less traffic for more processor time [default: off]
    #[arg(long, env = "BARCAST_COMPRESSION", value_parser = BoolishValueParser::new())]
    compression: bool,
    /// Closed bars kept in memory for each topic
    #[arg(long, env = "BARCAST_HISTORY_BARS", default_value_t = Config::default().history_bars, value_parser = values::whole::<usize>)]
    history_bars: usize,
    /// Memory, in bytes, of the bars of all topics together; what the store can give again goes first, then the oldest [default: a quarter of what the cgroup or machine has]
    #[arg(long, env = "BARCAST_HISTORY_BYTES", value_parser = values::positive)]
    history_bytes: Option<usize>,
    #[command(flatten)]
    ahead: AheadArgs,
    /// File with the names, exchanges, sessions and scales of symbols, for charts; none without it
    #[arg(long, env = "BARCAST_SYMBOLS_FILE", value_name = "FILE", value_parser = values::symbols_file)]
    symbols_file: Option<Arc<Listings>>,
    /// Origins whose pages may read /udf/ and /api/v1/: * or a comma-separated list; none without it
    #[arg(long, env = "BARCAST_CORS_ORIGIN", value_parser = values::cors)]
    cors_origin: Option<Cors>,
    /// Path below which pages, API, UDF and WebSocket are, as /bars; probes and /metrics stay at the root, too [default: the root]
    #[arg(long, env = "BARCAST_BASE_PATH", value_parser = values::base_path)]
    base_path: Option<BasePath>,
    /// Proxies whose X-Forwarded-For, Forwarded or PROXY header counts: addresses and networks, comma-separated; none without it
    #[arg(long, env = "BARCAST_TRUSTED_PROXIES", value_name = "CIDR", value_delimiter = ',', num_args = 1.., value_parser = values::network)]
    trusted_proxies: Vec<Network>,
    /// Connections of trusted proxies begin with a PROXY header (version 1 or 2) [default: off]
    #[arg(long, env = "BARCAST_PROXY_PROTOCOL", value_parser = BoolishValueParser::new())]
    proxy_protocol: bool,
    /// Serve neither the chart page nor the operator's page: /, /ops and /ui/ are not found [default: off]
    #[arg(long, env = "BARCAST_NO_UI", value_parser = BoolishValueParser::new())]
    no_ui: bool,
    /// Seconds that draining may take after SIGTERM
    #[arg(long, env = "BARCAST_DRAIN_GRACE", default_value = "10", value_parser = values::seconds)]
    drain_grace: Duration,
    /// Seconds over which a drain spreads its closes, half of the grace at most; few clients are closed at once
    #[arg(long, env = "BARCAST_DRAIN_SPREAD", default_value = "5", value_parser = values::seconds)]
    drain_spread: Duration,
}

impl GatewayArgs {
    /// The settings; every value was checked when it was parsed.
    ///
    /// # Errors
    /// One line that names the flags that do not go together.
    pub fn config(&self) -> Result<Config, String> {
        if self.proxy_protocol && self.trusted_proxies.is_empty() {
            return Err("--proxy-protocol (BARCAST_PROXY_PROTOCOL) is read from trusted proxies alone: name them with --trusted-proxies (BARCAST_TRUSTED_PROXIES), as 10.0.0.0/8".to_owned());
        }
        Ok(Config {
            listen: self.listen,
            workers: self.workers.unwrap_or(Config::default().workers),
            files: None,
            limits: Limits {
                max_clients: self.max_clients,
                max_clients_per_address: self.max_clients_per_address,
                max_topics_per_client: self.max_topics_per_client,
                max_topics: self.max_topics,
                max_message_bytes: self.max_message_bytes,
                max_messages_per_second: self.max_messages_per_second,
                handshake_timeout: self.handshake_timeout,
                http_idle_timeout: self.http_idle_timeout,
                ping_interval: self.ping_interval,
                outbox_bytes: self.outbox_bytes,
                slow_grace: self.slow_grace,
                waiting_bytes: self.waiting_bytes,
                max_placeholders: self.max_placeholders,
            },
            compression: self.compression,
            history_bars: self.history_bars,
            history_bytes: self
                .history_bytes
                .unwrap_or(Config::default().history_bytes),
            max_ahead: self.ahead.max_ahead,
            listings: self.symbols_file.clone().unwrap_or_default(),
            ui: !self.no_ui,
            base_path: self.base_path.clone().unwrap_or_default(),
            trusted_proxies: self.trusted_proxies.clone(),
            proxy_protocol: self.proxy_protocol,
            cors: self.cors_origin.clone().unwrap_or_default(),
            http_lifetime: HTTP_LIFETIME,
            drain_grace: self.drain_grace,
            drain_spread: self.drain_spread,
            proof_wait: PROOF_WAIT,
        })
    }
}

/// `barcast serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    redis: RedisArgs,
    /// Where bars from before this gateway's time are read
    #[arg(long, env = "BARCAST_STORE", value_enum, default_value = "redis")]
    store: Store,
}

impl ServeArgs {
    /// What to run.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed.
    pub fn validate(self) -> Result<(Config, RedisBus), String> {
        let (config, bus) = (self.gateway.config()?, self.redis.bus()?);
        let bus = match self.store {
            Store::Redis => bus.loading(config.limits.max_topics, config.history_bars),
            Store::None => bus,
        };
        Ok((config, bus))
    }
}
