//! What the workers and ingest of one gateway share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;
use prometheus_client::registry::Registry as MetricsRegistry;

use super::budget::Budget;
use super::config::Config;
use super::files::Files;
use super::http::answers::Answers;
use super::http::door::Lanes;
use super::http::holder::holder_of;
use super::http::places::Places;
use super::ingest::{BusState, DROPPED_AT_LIMIT};
use super::load::Load;
use super::past::Pasts;
use super::placeholders::Shares;
use super::registry::Registry;
use super::rendition::Rendition;
use super::udf;
use super::worker::{REFUSED_HTTP, REFUSED_PROXY_HEADER};
use super::ws::CloseCode;
use crate::ahead::FUTURE;
use crate::bar::Malformed;
use crate::health::{Concern, Health};
use crate::metrics::process::ProcessCollector;
use crate::metrics::workers::WorkerLoads;
use crate::metrics::{
    self, Format, GAPPED_GATEWAY, GAPPED_LEFT, GAPPED_SLOW, GatewayMetrics, GeneratorMetrics,
};

/// One gateway.
#[derive(Debug)]
pub struct Node {
    pub config: Config,
    pub registry: Arc<Registry>,
    pub metrics: GatewayMetrics,
    pub bus: Arc<BusState>,
    /// What keeps bars from coming.
    pub health: Health,
    /// Counters of a generator in the same process, shown beside the gateway's own.
    generator: OnceLock<GeneratorMetrics>,
    clients: AtomicUsize,
    per_address: DashMap<IpAddr, usize>,
    draining: AtomicBool,
    /// Whether it was told that clients may come through a proxy whose word does not count.
    pub(super) is_proxy_told: AtomicBool,
    /// What is known of each worker's load.
    pub loads: Box<[Load]>,
    /// What waits: one holder a worker, and behind them the HTTP thread's.
    pub budget: Budget,
    /// Connections that are no sessions.
    pub places: Arc<Places>,
    /// Between the workers and the thread `http`.
    pub lanes: Lanes,
    /// The thread that builds what grows with the topics.
    pub answers: Answers,
    /// The past that is left in the store.
    pub pasts: Arc<Pasts>,
    /// Who holds most of the names that no bar came for.
    pub(super) shares: Shares,
}

/// Why a client was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("this gateway is draining")]
    Draining,
    #[error("client limit reached")]
    Clients,
    #[error("too many clients from this address")]
    ClientsPerAddress,
}

/// A limit that a subscription can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    TopicsPerClient,
    PatternsPerClient,
    Placeholders,
    SnapshotBars,
}

impl Limit {
    const ALL: [Self; 4] = [
        Self::TopicsPerClient,
        Self::PatternsPerClient,
        Self::Placeholders,
        Self::SnapshotBars,
    ];

    /// The label it is counted under.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TopicsPerClient => "topics_per_client",
            Self::PatternsPerClient => "patterns_per_client",
            Self::Placeholders => "placeholders",
            Self::SnapshotBars => "snapshot_bars",
        }
    }
}

/// A client's place; given back when dropped.
#[derive(Debug)]
pub struct Admission {
    node: Arc<Node>,
    address: IpAddr,
    /// Which bytes the client gets.
    pub rendition: Rendition,
}

impl Refused {
    const ALL: [Self; 3] = [Self::Draining, Self::Clients, Self::ClientsPerAddress];

    /// The label it is counted under.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Clients => "max_clients",
            Self::ClientsPerAddress => "max_clients_per_address",
        }
    }
}

/// Makes every label value that can be foreseen, so that a rate over it has a beginning.
fn foresee(metrics: &GatewayMetrics) {
    let dropped = Malformed::REASONS.into_iter();
    for reason in dropped.chain([DROPPED_AT_LIMIT, FUTURE]) {
        metrics.dropped(reason);
    }
    for code in CloseCode::ALL {
        metrics.closed(code.code());
    }
    for reason in Refused::ALL
        .map(Refused::reason)
        .into_iter()
        .chain([REFUSED_HTTP, REFUSED_PROXY_HEADER])
    {
        metrics.refused(reason);
    }
    for reason in [GAPPED_SLOW, GAPPED_LEFT, GAPPED_GATEWAY] {
        metrics.gapped(reason);
    }
    for limit in Limit::ALL {
        metrics.limited(limit.label());
    }
    for (route, status) in udf::labels() {
        metrics.udf_request(route, status);
    }
}

impl Node {
    /// A gateway with nothing in it.
    pub fn new(config: Config, metrics: GatewayMetrics) -> Self {
        foresee(&metrics);
        let max_clients = i64::try_from(config.limits.max_clients);
        metrics.max_clients.set(max_clients.unwrap_or(i64::MAX));
        let loads = (0..config.workers).map(|_| Load::default()).collect();
        let registry = Registry::new(config.limits.max_topics, config.history_bars)
            .for_workers(config.workers)
            .with_placeholders(config.limits.max_placeholders);
        let health = Health::default();
        health.set(Concern::Bus, "the bus is not connected yet");
        let budget = Budget::new(config.limits.waiting_bytes, config.workers + 1);
        Self {
            budget,
            places: Arc::new(Places::of(config.http_connections())),
            lanes: Lanes::of(config.workers),
            answers: Answers::default(),
            pasts: Arc::default(),
            shares: Shares::of(config.workers),
            registry: Arc::new(registry),
            config,
            metrics,
            bus: Arc::default(),
            health,
            generator: OnceLock::new(),
            clients: AtomicUsize::new(0),
            per_address: DashMap::new(),
            draining: AtomicBool::new(false),
            is_proxy_told: AtomicBool::new(false),
            loads,
        }
    }

    /// Shows a generator's counters in `/metrics`, too. Only the first call counts.
    pub fn show_generator(&self, metrics: GeneratorMetrics) {
        let _ = self.generator.set(metrics);
    }

    /// The text of `/metrics`.
    pub fn render_metrics(&self, format: Format) -> String {
        let mut registry = MetricsRegistry::default();
        self.metrics.ready.set(i64::from(self.is_ready()));
        self.metrics.draining.set(i64::from(self.is_draining()));
        self.metrics.register(&mut registry);
        if let Some(generator) = self.generator.get() {
            generator.register(&mut registry);
        }
        registry.register_collector(Box::new(self.registry.topics_by_subscribers()));
        let loads = self.loads.iter().map(Load::read).collect();
        registry.register_collector(Box::new(WorkerLoads(loads)));
        registry.register_collector(Box::new(ProcessCollector));
        metrics::render(&registry, format)
    }

    /// From now on nobody is let in.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether this gateway is on its way out.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// What `/readyz` says: the bus stands, its server has all bars, the store was read as far as was asked, and
    /// the gateway does not drain.
    pub fn is_ready(&self) -> bool {
        self.unready().is_none()
    }

    /// Why it is not ready.
    pub fn unready(&self) -> Option<String> {
        let unready = self.health.unready();
        if self.is_draining() {
            return Some(
                unready.map_or_else(|| "draining".to_owned(), |why| format!("draining; {why}")),
            );
        }
        unready
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// What whoever is refused is told, with the remedy.
    pub fn refusal(&self, why: Refused) -> String {
        let limits = &self.config.limits;
        match (why, self.config.files) {
            (Refused::Draining, _) => why.to_string(),
            (
                Refused::Clients,
                Some(Files {
                    limit,
                    clients: Some(clients),
                    ..
                }),
            ) => format!(
                "{why}: {clients}, which is what an open-file limit of {limit} leaves; raise ulimit -n"
            ),
            (Refused::Clients, _) => {
                format!(
                    "{why}: --max-clients (BARCAST_MAX_CLIENTS) = {}",
                    limits.max_clients
                )
            }
            (Refused::ClientsPerAddress, _) => format!(
                "{why}: --max-clients-per-address (BARCAST_MAX_CLIENTS_PER_ADDRESS) = {}",
                limits.max_clients_per_address
            ),
        }
    }

    /// Lets one client in.
    ///
    /// # Errors
    /// [`Refused`], counted.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Admission, Refused> {
        let address = holder_of(address);
        let admitted = self.try_admit(address);
        if let Err(why) = admitted {
            self.metrics.refused(why.reason()).inc();
        }
        admitted.map(|()| Admission {
            node: Arc::clone(self),
            address,
            rendition: Rendition::Plain,
        })
    }

    fn try_admit(&self, address: IpAddr) -> Result<(), Refused> {
        let limits = &self.config.limits;
        if self.is_draining() {
            return Err(Refused::Draining);
        }
        if self.clients.fetch_add(1, Ordering::Relaxed) >= limits.max_clients {
            self.clients.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Clients);
        }
        if limits.max_clients_per_address > 0 {
            let mut count = self.per_address.entry(address).or_insert(0);
            if *count >= limits.max_clients_per_address {
                self.clients.fetch_sub(1, Ordering::Relaxed);
                return Err(Refused::ClientsPerAddress);
            }
            *count += 1;
        }
        self.metrics.clients.inc();
        self.metrics.accepted.inc();
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.node.clients.fetch_sub(1, Ordering::Relaxed);
        self.node.metrics.clients.dec();
        if self.node.config.limits.max_clients_per_address > 0
            && let Some(mut count) = self.node.per_address.get_mut(&self.address)
        {
            *count -= 1;
        }
        self.node
            .per_address
            .remove_if(&self.address, |_, count| *count == 0);
    }
}
