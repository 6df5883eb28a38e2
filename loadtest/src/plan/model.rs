//! The model: what a load asks for, as formulas over what is stated and measured.
//!
//! What a delivery costs depends most on how many bars share one write to a client's socket. A write
//! costs `write_us` whatever is in it, and `bar_us` for each bar in it. A client is written once for
//! each burst of updates that has something for it: when all topics are published together, that is
//! once a tick with all its bars; when updates come one by one, it is once a bar.
//!
//! Clients that ask for `max_rate` are written at turns instead: the gateway keeps the newest update of
//! each topic, and the turns of one rate meet, so that all a client's topics share a write. Closed bars
//! do not wait for a turn.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::formula::compute;
use super::report::{Answer, Figure, Limit, Source};

/// `(name, unit, what it is, formula)`, each over figures before it.
type Step = (&'static str, &'static str, &'static str, &'static str);

/// From the load to the answer.
#[rustfmt::skip]
const STEPS: [Step; 64] = [
    ("usable", "", "share of everything that may be used", "1 - headroom"),
    ("users_then", "", "users connected at once, in that year", "users * (1 + growth) ^ year"),
    ("peak_rate", "1/s", "updates of a topic at the busiest moment", "rate * peak"),
    ("messages", "1/s", "bars published", "topics * peak_rate"),
    // Redis to gateways.
    ("ingest_us", "µs", "gateway CPU to take in a bar", "max(0.001, batch * ingest_batch_us + (1 - batch) * ingest_single_us)"),
    ("redis_in_us", "µs", "Redis CPU to take in a bar", "batch * redis_in_batch_us + (1 - batch) * redis_in_single_us"),
    ("redis_out_us", "µs", "Redis CPU to send a bar to one gateway", "max(0.001, batch * redis_out_batch_us + (1 - batch) * redis_out_single_us)"),
    ("upstream_bytes", "B", "a bar from Redis to one gateway, on the wire", "(message_bytes + (1 - batch) * push_bytes) * (1 + packet_bytes / segment_bytes)"),
    ("ingest_carries", "1/s", "bars that one ingest thread takes in; a gateway with one core leaves half of it to its worker", "usable * min(1, cores / 2) * 1e6 / ingest_us"),
    ("redis_carries", "1/s", "bars that one Redis passes on to two others", "usable * 1e6 / (redis_in_us + 2 * redis_out_us)"),
    ("wire_carries", "1/s", "bars that the network of one Redis passes on to two others", "usable * egress_gbit * 1e9 / 8 / (2 * upstream_bytes)"),
    ("shards", "", "parts that the topics are split into", "max(1, ceil(messages / min(min(ingest_carries, redis_carries), wire_carries)))"),
    ("shard_messages", "1/s", "bars published in one shard", "messages / shards"),
    // Clients.
    ("connections", "", "a user has one for each shard that has a topic of theirs", "users_then * shards * (1 - (1 - 1 / shards) ^ per_client)"),
    ("topics_each", "", "topics of one connection", "users_then * per_client / connections"),
    ("in_place", "", "share of closed bars that come last before a turn of max_rate: in its place, and the next bar does not wait", "min(1, max_rate / peak_rate)"),
    ("paced", "", "1 when clients ask for less than all updates, so that these wait for turns", "ceil(1 - in_place)"),
    ("kept", "", "share of updates that max_rate lets through: the newest at each turn, and closed bars", "min(1, (max_rate + rate / bar_ticks * (1 - in_place)) / peak_rate)"),
    ("deliveries", "1/s", "bars to clients", "users_then * per_client * peak_rate * kept"),
    ("burst_share", "", "share of the topics that one burst updates", "rate / bursts"),
    ("touched", "", "share of the bursts that have something for a client", "1 - (1 - burst_share) ^ topics_each"),
    ("phases", "", "groups of topics whose turns fall apart: turns of a rate meet, where it is below 1/s those that began in the same second", "min(max(1, min(ceil(1 / max_rate), 1 / rate)), bursts / rate)"),
    ("turns", "1/s", "moments at which turns fall", "max_rate * phases"),
    ("closings", "1/s", "moments at which bars close", "bursts / bar_ticks"),
    ("alone", "", "share of the bursts for a client that have all its topics", "burst_share ^ (topics_each - 1)"),
    ("closing_writes", "", "writes to a client for a burst of closed bars: one, and one for the bars that open and do not wait; all in place of two turns where there is nothing else", "1 + in_place * (1 - 2 * alone)"),
    ("paced_writes", "1/s", "writes to clients with max_rate: of turns, and of closed bars, that have something for the client", "connections * (turns * (1 - (1 - 1 / phases) ^ topics_each) + closings * touched * closing_writes)"),
    ("burst_writes", "1/s", "without: one for each burst that has something for the client", "connections * bursts * peak * touched"),
    ("writes", "1/s", "writes to clients", "min(burst_writes, paced * paced_writes + (1 - paced) * burst_writes)"),
    ("bars_a_write", "", "bars that share a write", "deliveries / writes"),
    ("frame_bytes", "B", "a bar to a client with its frame's head", "bar_bytes + head(bar_bytes)"),
    ("client_mb_s", "MB/s", "WebSocket frames to clients", "deliveries * frame_bytes / 1e6"),
    // CPU.
    ("bar_cpu_us", "µs", "CPU for a bar beside its share of the write; a larger bar costs more in proportion", "bar_us * max(1, frame_bytes / cost_bytes)"),
    ("pings", "1/s", "pings to clients", "connections / ping_seconds"),
    ("worker_cores", "cores", "busy with clients; a pong is taken to cost as much as the ping", "(writes * write_us + deliveries * bar_cpu_us + pings * 2 * write_us) / 1e6"),
    ("ingest_cores", "cores", "busy taking in, on every gateway", "shard_messages * ingest_us / 1e6"),
    ("gateways_cpu", "", "gateways of a shard that CPU asks for", "ceil(worker_cores / shards / (cores * usable - ingest_cores))"),
    // Memory.
    ("client_bytes", "B", "memory of a connection: the gateway's, the kernel's, and one write that waits for its acknowledgement", "session_kib * 1024 + topics_each * subscription_bytes + kernel_kib * 1024 + write_copies * bars_a_write * frame_bytes"),
    ("clients_gib", "GiB", "memory of all connections", "connections * client_bytes / 2 ^ 30"),
    ("node_gib", "GiB", "memory of a gateway without clients: itself and the history of its topics", "base_mib / 1024 + topics / shards * history_bars * history_bar_bytes / 2 ^ 30"),
    ("memory_left", "GiB", "of a gateway's memory, for clients", "memory_gib * usable - node_gib"),
    ("gateways_memory", "", "gateways of a shard that memory asks for", "ceil(clients_gib / shards / memory_left)"),
    // Egress.
    ("packets", "1/s", "TCP segments to clients", "writes * ceil(bars_a_write * frame_bytes / segment_bytes)"),
    ("egress_all", "Gbit/s", "to clients, on the wire", "(deliveries * frame_bytes + packets * packet_bytes) * 8 / 1e9"),
    ("acks_all", "Gbit/s", "acknowledgements from clients, one for each packet at most", "packets * ack_bytes * 8 / 1e9"),
    ("gateways_egress", "", "gateways of a shard that egress asks for", "ceil(egress_all / shards / (egress_gbit * usable))"),
    // Connections.
    ("gateways_clients", "", "gateways of a shard that the limit of clients asks for", "ceil(connections / shards / (max_clients * usable))"),
    ("gateways_files", "", "gateways of a shard that the limit of open files asks for", "ceil(connections / shards / (open_files * usable))"),
    // The answer.
    ("serving", "", "gateways of a shard that carry it", "max(max(max(gateways_cpu, gateways_memory), max(gateways_egress, gateways_clients)), max(gateways_files, 1))"),
    ("shard_gateways", "", "gateways of a shard with those that may fail", "serving + failures"),
    ("gateways", "", "all gateways", "shard_gateways * shards"),
    ("spare_gateways", "", "of them, there for when others fail", "failures * shards"),
    ("clients_per_gateway", "", "clients of one gateway after the failures", "connections / shards / serving"),
    ("burst_ms", "ms", "from a burst, or a turn, to the last client's write, when all cores share the work evenly", "(writes * write_us + deliveries * bar_cpu_us) / 1e3 / min(bursts * peak, paced * (turns + closings) + (1 - paced) * bursts * peak) / (serving * shards) / cores"),
    ("cores_all", "cores", "of all gateways", "gateways * cores"),
    ("busy_cores", "cores", "busy, of all gateways", "worker_cores + gateways * ingest_cores"),
    ("memory_all", "GiB", "in use, of all gateways", "clients_gib + gateways * node_gib"),
    // Redis.
    ("redis_feeds_cpu", "", "gateways that one Redis feeds, by its one thread", "(usable * 1e6 / shard_messages - redis_in_us) / redis_out_us"),
    ("redis_feeds_wire", "", "the same by its network", "usable * egress_gbit * 1e9 / 8 / (shard_messages * upstream_bytes)"),
    ("redis_feeds", "", "gateways, or replicas, that one Redis feeds", "max(2, floor(min(min(redis_feeds_cpu, redis_feeds_wire), redis_clients * usable)))"),
    ("redis_instances", "", "Redis servers: where one cannot feed all gateways, replicas do, in a tree below it", "shards * tree(shard_gateways, redis_feeds)"),
    ("redis_fed", "", "fed by the busiest Redis", "min(shard_gateways, redis_feeds)"),
    ("redis_cores", "cores", "busy on the busiest Redis", "shard_messages * (redis_in_us + redis_fed * redis_out_us) / 1e6"),
    ("redis_gbit", "Gbit/s", "from the busiest Redis, on the wire", "shard_messages * redis_fed * upstream_bytes * 8 / 1e9"),
];

/// Numbers with their names and where they come from.
#[derive(Debug, Clone, Default)]
pub struct Book {
    figures: Vec<Figure>,
    values: HashMap<String, f64>,
}

impl Book {
    /// Writes a number down, in the place of an older one of that name.
    pub fn put(&mut self, figure: Figure) {
        self.values.insert(figure.name.clone(), figure.value);
        match self.figures.iter_mut().find(|old| old.name == figure.name) {
            Some(old) => *old = figure,
            None => self.figures.push(figure),
        }
    }

    /// This book with another value for one of its inputs, because of `why`.
    pub fn with(&self, name: &str, value: f64, why: &str) -> Self {
        let mut other = self.clone();
        if let Some(old) = self.figures.iter().find(|old| old.name == name) {
            other.put(Figure {
                value,
                source: Source::Stated(why.to_owned()),
                ..old.clone()
            });
        }
        other
    }

    /// A number that is known to be here.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }
}

/// A computed plan.
#[derive(Debug, Clone)]
pub struct Plan {
    book: Book,
    inputs: usize,
}

impl Plan {
    /// Computes it from the inputs.
    ///
    /// # Errors
    /// When an input is missing, or the load fits on no such gateway however many there are.
    pub fn of(inputs: &Book) -> Result<Self> {
        let mut book = inputs.clone();
        let given = book.figures.len();
        for (name, unit, what, formula) in STEPS {
            let value = compute(formula, &|name| book.get(name))?;
            ensure!(
                name != "memory_left" || value > 0.0,
                "a gateway needs {:.1} GiB before its first client, most of it history: more --memory, \
                 or less --history-bars",
                book.get("node_gib").unwrap_or_default()
            );
            book.put(Figure {
                name: name.to_owned(),
                value,
                unit: unit.to_owned(),
                what: what.to_owned(),
                source: Source::Computed(formula.to_owned()),
            });
        }
        Ok(Self {
            book,
            inputs: given,
        })
    }

    /// What went in.
    pub fn inputs(&self) -> &[Figure] {
        &self.book.figures[..self.inputs]
    }

    /// What came out, in the order of computing.
    pub fn computed(&self) -> &[Figure] {
        &self.book.figures[self.inputs..]
    }

    /// A number of this plan; 0 for a name that it does not have, which tests rule out.
    pub fn get(&self, name: &str) -> f64 {
        let value = self.book.get(name);
        debug_assert!(value.is_some(), "there is no {name}");
        value.unwrap_or_default()
    }

    fn count(&self, name: &str) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole and positive; beyond 2^64 nothing is planned"
        )]
        let count = self.get(name).round() as u64;
        count
    }

    /// What has to be there.
    pub fn answer(&self) -> Answer {
        Answer {
            gateways: self.count("gateways"),
            spare_gateways: self.count("spare_gateways"),
            clients_per_gateway: self.get("clients_per_gateway"),
            cores: self.count("cores_all"),
            busy_cores: self.get("busy_cores"),
            memory_gib: self.get("memory_all"),
            egress_gbit_s: self.get("egress_all"),
            redis_instances: self.count("redis_instances"),
            shards: self.count("shards"),
        }
    }

    /// What runs out, the scarcest first.
    pub fn limits(&self) -> Vec<Limit> {
        let serving = self.get("serving") * self.get("shards");
        let ingest = self.get("ingest_cores");
        let of_gateway = |all: &str| self.get(all) / serving;
        let limit = |(name, used, there, unit): (&str, f64, f64, &str),
                     gateways: Option<&str>,
                     remedy: &str| Limit {
            name: name.to_owned(),
            used,
            there,
            unit: unit.to_owned(),
            share: used / there,
            gateways: gateways.map(|name| self.count(name) * self.count("shards")),
            remedy: remedy.to_owned(),
        };
        let (cpu, clients) = (
            of_gateway("worker_cores") + ingest,
            of_gateway("connections"),
        );
        let memory = of_gateway("clients_gib") + self.get("node_gib");
        let mut limits = vec![
            limit(
                ("gateway CPU", cpu, self.get("cores"), "cores"),
                Some("gateways_cpu"),
                "fewer writes: publish topics together, let clients ask for max_rate; or more gateways",
            ),
            limit(
                ("ingest thread", ingest, 1.0, "cores"),
                None,
                "publish batches; beyond that, split the topics into shards",
            ),
            limit(
                ("memory", memory, self.get("memory_gib"), "GiB"),
                Some("gateways_memory"),
                "less --history-bars, or more gateways",
            ),
            limit(
                (
                    "egress",
                    of_gateway("egress_all"),
                    self.get("egress_gbit"),
                    "Gbit/s",
                ),
                Some("gateways_egress"),
                "max_rate, --compression, or more gateways",
            ),
            limit(
                ("clients", clients, self.get("max_clients"), "clients"),
                Some("gateways_clients"),
                "a higher --max-clients of barcast, or more gateways",
            ),
            limit(
                ("open files", clients, self.get("open_files"), "files"),
                Some("gateways_files"),
                "a higher limit of open files, or more gateways",
            ),
            limit(
                ("Redis CPU", self.get("redis_cores"), 1.0, "cores"),
                None,
                "publish batches, replicas for the gateways; beyond that, shards",
            ),
            limit(
                (
                    "Redis egress",
                    self.get("redis_gbit"),
                    self.get("egress_gbit"),
                    "Gbit/s",
                ),
                None,
                "replicas for the gateways; beyond that, shards",
            ),
        ];
        limits.sort_by(|a, b| b.share.total_cmp(&a.share));
        limits
    }
}
