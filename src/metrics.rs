//! Every counter, its name and its help, in one place; a recorder's, and what is read at a scrape instead
//! of counted, are in the modules below.

mod counts;
mod feed;
mod format;
pub mod process;
mod record;
mod topics;
pub mod workers;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::health::Health;
pub use counts::{Counts, WorkerCounter, WorkerCounts, WorkerLag};
pub use feed::FeedMetrics;
pub use format::Format;
pub use record::{OutputMetrics, RecordMetrics};
pub use topics::TopicSubscribers;

/// The text of everything registered.
pub fn render(registry: &Registry, format: Format) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail; a metric that refuses to encode leaves what came before.
    let _ = encode(&mut text, registry);
    format.of_openmetrics(text)
}

/// What a generator or a replay counts.
#[derive(Debug, Default, Clone)]
pub struct GeneratorMetrics {
    pub published: Counter,
    pub unpublished: Counter,
    pub unstored: Counter,
    /// Closed bars that wait to be published.
    pub late: Gauge,
    /// Closed bars that wait to be stored.
    pub store_waiting: Gauge,
    pub ticks: Counter,
    pub ticks_late: Counter,
    pub bus_connected: Gauge,
    pub publish_seconds: Gauge<f64, AtomicU64>,
    /// What keeps it from publishing and storing.
    pub health: Health,
}

impl GeneratorMetrics {
    /// Registers all under their names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "barcast_published_bars",
            "Bars that the bus confirmed",
            self.published.clone(),
        );
        registry.register(
            "barcast_unpublished_bars",
            "Bars whose publish was not confirmed, mostly because the bus was lost",
            self.unpublished.clone(),
        );
        registry.register(
            "barcast_unstored_bars",
            "Closed bars that the store never took, and that were given up",
            self.unstored.clone(),
        );
        registry.register(
            "barcast_unpublished_waiting_bars",
            "Closed bars that wait to be published later",
            self.late.clone(),
        );
        registry.register(
            "barcast_unstored_waiting_bars",
            "Closed bars that wait to be stored later",
            self.store_waiting.clone(),
        );
        registry.register("barcast_ticks", "Ticks generated", self.ticks.clone());
        registry.register(
            "barcast_ticks_late",
            "Ticks left out because the one before took longer than the interval",
            self.ticks_late.clone(),
        );
        registry.register(
            "barcast_publisher_connected",
            "1 while the publisher's connection stands",
            self.bus_connected.clone(),
        );
        registry.register(
            "barcast_publish_seconds",
            "How long the last tick's publish took until it was confirmed",
            self.publish_seconds.clone(),
        );
    }
}

type Labelled = Family<[(&'static str, String); 1], Counter>;
type UdfRequests = Family<[(&'static str, &'static str); 2], Counter>;

/// Labels of [`GatewayMetrics::gapped`]: the outbox's bound was reached; the client left first.
pub const GAPPED_SLOW: &str = "slow_client";
pub const GAPPED_LEFT: &str = "disconnected";
/// The same: their worker was so far behind that history did not have them any more.
pub const GAPPED_GATEWAY: &str = "gateway";

/// What became of deliveries since the last call, counted by one worker without atomics.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Bars times subscribers.
    pub due: u64,
    /// The kernel has the whole frame.
    pub delivered: u64,
    /// Replaced by a newer update of the same bar before they could be sent.
    pub conflated: u64,
    /// Lost at the outbox's bound; the client is told.
    pub gapped_slow: u64,
    /// Still waiting when their client left.
    pub gapped_left: u64,
    /// Not to be had any more when the worker came to them; the client is told.
    pub gapped_gateway: u64,
    /// Still waiting for their turn when the client ended the subscription, and so not wanted.
    pub unsubscribed: u64,
    /// Bytes that the kernel took.
    pub bytes: u64,
    /// Writes that sockets were asked for.
    pub writes: u64,
    /// Times a socket was full.
    pub full: u64,
}

/// What a gateway counts. Clones count together.
///
/// A bar that is due to `n` subscribers counts `n` times in `due`, and
/// `due = delivered + conflated + gapped + unsubscribed + pending`. Before that, `received = broadcast + unwatched`: a
/// bar whose topic nobody watched is due to nobody.
#[derive(Debug, Clone)]
pub struct GatewayMetrics {
    pub received: Counter,
    pub broadcast: Counter,
    pub unwatched: Counter,
    pub due: WorkerCounter,
    pub delivered: WorkerCounter,
    pub conflated: WorkerCounter,
    gapped: Labelled,
    pub unsubscribed: WorkerCounter,
    pub gaps_upstream: Counter,
    dropped: Labelled,
    pub clients: Gauge,
    pub max_clients: Gauge,
    pub ready: Gauge,
    pub draining: Gauge,
    pub accepted: Counter,
    pub accept_failures: Counter,
    refused: Labelled,
    limited: Labelled,
    closed: Labelled,
    pub shed: Counter,
    udf_requests: UdfRequests,
    pub bus_connected: Gauge,
    pub bus_reconnects: Counter,
    pub stored: Counter,
    pub store_failures: Counter,
    pub history_bytes: Gauge,
    pub sent_bytes: WorkerCounter,
    pub writes: WorkerCounter,
    pub full: WorkerCounter,
    lag: WorkerLag,
    workers: WorkerCounts,
}

impl Default for GatewayMetrics {
    fn default() -> Self {
        let workers = WorkerCounts::default();
        Self {
            received: Counter::default(),
            broadcast: Counter::default(),
            unwatched: Counter::default(),
            due: workers.due(),
            delivered: workers.delivered(),
            conflated: workers.conflated(),
            gapped: Labelled::default(),
            unsubscribed: workers.unsubscribed(),
            gaps_upstream: Counter::default(),
            dropped: Labelled::default(),
            clients: Gauge::default(),
            max_clients: Gauge::default(),
            ready: Gauge::default(),
            draining: Gauge::default(),
            accepted: Counter::default(),
            accept_failures: Counter::default(),
            refused: Labelled::default(),
            limited: Labelled::default(),
            closed: Labelled::default(),
            shed: Counter::default(),
            udf_requests: UdfRequests::default(),
            bus_connected: Gauge::default(),
            bus_reconnects: Counter::default(),
            stored: Counter::default(),
            store_failures: Counter::default(),
            history_bytes: Gauge::default(),
            sent_bytes: workers.sent_bytes(),
            writes: workers.writes(),
            full: workers.full(),
            lag: workers.lag(),
            workers,
        }
    }
}

fn labelled(family: &Labelled, label: &'static str, value: &str) -> Counter {
    family.get_or_create(&[(label, value.to_owned())]).clone()
}

impl GatewayMetrics {
    /// Messages dropped before any client, by why they were malformed.
    pub fn dropped(&self, reason: &str) -> Counter {
        labelled(&self.dropped, "reason", reason)
    }

    /// Handshakes refused, by why.
    pub fn refused(&self, reason: &str) -> Counter {
        labelled(&self.refused, "reason", reason)
    }

    /// Requests refused, by which limit.
    pub fn limited(&self, limit: &str) -> Counter {
        labelled(&self.limited, "limit", limit)
    }

    /// Connections this gateway closed, by close code.
    pub fn closed(&self, code: u16) -> Counter {
        labelled(&self.closed, "code", &code.to_string())
    }

    /// Requests of charts by UDF, by route and how they ended.
    pub fn udf_request(&self, route: &'static str, status: &'static str) -> Counter {
        self.udf_requests
            .get_or_create(&[("route", route), ("status", status)])
            .clone()
    }

    /// Deliveries lost, by why.
    pub fn gapped(&self, reason: &str) -> Counter {
        labelled(&self.gapped, "reason", reason)
    }

    /// Counts of its own for one more worker.
    pub fn worker(&self) -> Arc<Counts> {
        self.workers.one_more()
    }

    /// Adds deliveries that a worker counted as lost. They are rare, so all workers share them.
    pub fn add_gapped(&self, tally: &Tally) {
        for (reason, count) in [
            (GAPPED_SLOW, tally.gapped_slow),
            (GAPPED_LEFT, tally.gapped_left),
            (GAPPED_GATEWAY, tally.gapped_gateway),
        ] {
            if count > 0 {
                self.gapped(reason).inc_by(count);
            }
        }
    }

    /// Registers what workers count.
    fn register_deliveries(&self, registry: &mut Registry) {
        let mut counter =
            |name, help, metric: &WorkerCounter| registry.register(name, help, metric.clone());
        counter(
            "barcast_due_bars",
            "Deliveries due: bars times subscribers",
            &self.due,
        );
        counter(
            "barcast_delivered_bars",
            "Deliveries whose whole frame the kernel took",
            &self.delivered,
        );
        counter(
            "barcast_conflated_bars",
            "Deliveries replaced by a newer update of the same bar",
            &self.conflated,
        );
        counter(
            "barcast_unsubscribed_bars",
            "Deliveries that waited for their turn when the client ended the subscription",
            &self.unsubscribed,
        );
        counter(
            "barcast_sent_bytes",
            "Bytes that client sockets took",
            &self.sent_bytes,
        );
        counter("barcast_writes", "Writes to client sockets", &self.writes);
        counter(
            "barcast_full_sockets",
            "Times a client's socket became full",
            &self.full,
        );
        registry.register(
            "barcast_lag_seconds",
            "From a bar's publish time to its last send by one worker",
            self.lag.clone(),
        );
    }

    /// Registers all under their names.
    pub fn register(&self, registry: &mut Registry) {
        self.register_deliveries(registry);
        let mut counter =
            |name, help, metric: &Counter| registry.register(name, help, metric.clone());
        counter(
            "barcast_shed_clients",
            "Clients closed because more waited on this node than --waiting-bytes allows",
            &self.shed,
        );
        counter(
            "barcast_received_bars",
            "Valid bars from the bus",
            &self.received,
        );
        counter(
            "barcast_broadcast_bars",
            "Bars encoded because somebody watches their topic",
            &self.broadcast,
        );
        counter(
            "barcast_unwatched_bars",
            "Bars not encoded because nobody watches their topic",
            &self.unwatched,
        );
        counter(
            "barcast_upstream_gaps",
            "Holes found in what came from the bus",
            &self.gaps_upstream,
        );
        counter(
            "barcast_accepted_clients",
            "WebSocket clients let in",
            &self.accepted,
        );
        counter(
            "barcast_accept_failures",
            "Times that no connection could be accepted, mostly for want of open files",
            &self.accept_failures,
        );
        counter(
            "barcast_bus_reconnects",
            "Times the bus was connected again",
            &self.bus_reconnects,
        );
        counter(
            "barcast_stored_bars",
            "Bars taken from the store because the gateway lacked them",
            &self.stored,
        );
        counter(
            "barcast_store_failures",
            "Times the store could not be read to its end",
            &self.store_failures,
        );
        let mut family =
            |name, help, metric: &Labelled| registry.register(name, help, metric.clone());
        family(
            "barcast_gapped_bars",
            "Deliveries lost: the client was too slow and is told, or it left first",
            &self.gapped,
        );
        family(
            "barcast_dropped_messages",
            "Messages dropped before any client",
            &self.dropped,
        );
        family(
            "barcast_refused_clients",
            "Handshakes refused by a limit or while draining",
            &self.refused,
        );
        family(
            "barcast_limited_requests",
            "Subscriptions refused by a limit",
            &self.limited,
        );
        family(
            "barcast_closed_clients",
            "Connections this gateway closed, by close code",
            &self.closed,
        );
        registry.register(
            "barcast_udf_requests",
            "Requests of charts by UDF, by route and how they ended",
            self.udf_requests.clone(),
        );
        let mut gauge = |name, help, metric: &Gauge| registry.register(name, help, metric.clone());
        gauge("barcast_clients", "WebSocket clients now", &self.clients);
        gauge(
            "barcast_max_clients",
            "WebSocket clients that are let in at once",
            &self.max_clients,
        );
        gauge(
            "barcast_ready",
            "1 while /readyz says that the gateway is ready",
            &self.ready,
        );
        gauge(
            "barcast_draining",
            "1 while the gateway drains",
            &self.draining,
        );
        gauge(
            "barcast_bus_connected",
            "1 while the subscription to the bus stands",
            &self.bus_connected,
        );
        gauge(
            "barcast_history_bytes",
            "Memory of the bars kept of all topics, in bytes",
            &self.history_bytes,
        );
    }
}

/// Topics named by `barcast_topic_subscribers`; the others are added up under `others`.
pub const MAX_LABELLED_TOPICS: usize = 100;
