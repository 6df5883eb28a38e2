//! What a recorder counts.

use std::fmt::Write;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::ahead::FUTURE;
use crate::bar::Malformed;
use crate::health::{Concern, Health, quoted};

/// From a quarter of a second, which bars are gathered for, to the hour that a database may be away.
const RECORD_LAG_BUCKETS: [f64; 12] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0,
];

type ByOutput<M> = Family<[(&'static str, &'static str); 1], M, fn() -> M>;
type Dropped = Family<[(&'static str, String); 1], Counter>;

fn lag() -> Histogram {
    Histogram::new(RECORD_LAG_BUCKETS)
}

/// What a recorder counts.
#[derive(Debug, Clone)]
pub struct RecordMetrics {
    pub closed: Counter,
    pub stored: Counter,
    pub store_failures: Counter,
    pub bus_connected: Gauge,
    /// What keeps bars from coming, or from being written.
    pub health: Health,
    dropped: Dropped,
    recorded: ByOutput<Counter>,
    refused: ByOutput<Counter>,
    known: ByOutput<Counter>,
    set_aside: ByOutput<Counter>,
    failures: ByOutput<Counter>,
    waiting: ByOutput<Gauge>,
    owed: ByOutput<Gauge>,
    spool_bars: ByOutput<Gauge>,
    spool_bytes: ByOutput<Gauge>,
    spool_damaged: ByOutput<Counter>,
    spool_failures: ByOutput<Counter>,
    spool_failing: ByOutput<Gauge>,
    connected: ByOutput<Gauge>,
    write_lag: ByOutput<Histogram>,
    close_lag: ByOutput<Histogram>,
}

impl Default for RecordMetrics {
    fn default() -> Self {
        let counters = || ByOutput::new_with_constructor(Counter::default as fn() -> Counter);
        let gauges = || ByOutput::new_with_constructor(Gauge::default as fn() -> Gauge);
        let lags = || ByOutput::new_with_constructor(lag as fn() -> Histogram);
        let health = Health::default();
        health.set(Concern::Bus, "the bus is not connected yet");
        Self {
            health,
            closed: Counter::default(),
            stored: Counter::default(),
            store_failures: Counter::default(),
            bus_connected: Gauge::default(),
            dropped: Dropped::default(),
            recorded: counters(),
            refused: counters(),
            known: counters(),
            set_aside: counters(),
            failures: counters(),
            waiting: gauges(),
            owed: gauges(),
            spool_bars: gauges(),
            spool_bytes: gauges(),
            spool_damaged: counters(),
            spool_failures: counters(),
            spool_failing: gauges(),
            connected: gauges(),
            write_lag: lags(),
            close_lag: lags(),
        }
    }
}

/// What is counted of one output.
#[derive(Debug, Clone)]
pub struct OutputMetrics {
    pub recorded: Counter,
    pub refused: Counter,
    pub known: Counter,
    pub set_aside: Counter,
    pub failures: Counter,
    pub waiting: Gauge,
    pub owed: Gauge,
    pub spool_bars: Gauge,
    pub spool_bytes: Gauge,
    pub spool_damaged: Counter,
    pub spool_failures: Counter,
    pub spool_failing: Gauge,
    pub connected: Gauge,
    pub write_lag: Histogram,
    pub close_lag: Histogram,
    /// What keeps it from being written.
    pub health: Health,
}

/// Label of bars whose topic would be one more than a recorder remembers.
const TOPIC_LIMIT: &str = "topic_limit";

impl RecordMetrics {
    /// Those of one output.
    pub fn output(&self, name: &'static str) -> OutputMetrics {
        let label = [("output", name)];
        let health = Health::default();
        health.set(Concern::Output, format!("{name}: nothing was written yet"));
        OutputMetrics {
            health,
            recorded: self.recorded.get_or_create(&label).clone(),
            refused: self.refused.get_or_create(&label).clone(),
            known: self.known.get_or_create(&label).clone(),
            set_aside: self.set_aside.get_or_create(&label).clone(),
            failures: self.failures.get_or_create(&label).clone(),
            waiting: self.waiting.get_or_create(&label).clone(),
            owed: self.owed.get_or_create(&label).clone(),
            spool_bars: self.spool_bars.get_or_create(&label).clone(),
            spool_bytes: self.spool_bytes.get_or_create(&label).clone(),
            spool_damaged: self.spool_damaged.get_or_create(&label).clone(),
            spool_failures: self.spool_failures.get_or_create(&label).clone(),
            spool_failing: self.spool_failing.get_or_create(&label).clone(),
            connected: self.connected.get_or_create(&label).clone(),
            write_lag: self.write_lag.get_or_create(&label).clone(),
            close_lag: self.close_lag.get_or_create(&label).clone(),
        }
    }

    /// Messages that gave no bar, by why they were malformed.
    pub fn dropped(&self, reason: &str) -> Counter {
        let label = [("reason", reason.to_owned())];
        self.dropped.get_or_create(&label).clone()
    }

    /// Bars whose topic would be one too many.
    pub fn over_limit(&self) -> Counter {
        self.dropped(TOPIC_LIMIT)
    }

    /// `ok`, or `degraded: ` and why.
    fn status(&self, outputs: &[(&'static str, OutputMetrics)]) -> String {
        let mut whys = Vec::new();
        whys.extend(self.health.wrong());
        for (name, output) in outputs {
            whys.extend(output.health.wrong());
            if output.spool_failing.get() != 0 {
                whys.push(format!(
                    "{name}: the spool's disk refuses bars; they wait in memory"
                ));
            } else if output.spool_damaged.get() != 0 {
                whys.push(format!("{name}: the spool was damaged"));
            }
        }
        match whys.is_empty() {
            true => "ok".to_owned(),
            false => format!("degraded: {}", whys.join("; ")),
        }
    }

    /// What `/healthz` answers: alive, with each side's state. A recorder without its database goes on,
    /// and restarting it would not help; that it is not well is said all the same.
    pub fn health_json(&self, outputs: &[(&'static str, OutputMetrics)]) -> String {
        let state = |up: bool| if up { "connected" } else { "disconnected" };
        let bus = self.bus_connected.get() != 0;
        let is_up = |(_, output): &(_, OutputMetrics)| output.connected.get() != 0;
        let status = quoted(&self.status(outputs));
        let mut text = format!("{{\"status\":{status},\"bus\":\"{}\"", state(bus));
        for output in outputs {
            let (name, metrics) = output;
            let (waiting, refused) = (metrics.waiting.get(), metrics.refused.get());
            let state = state(is_up(output));
            // Writing into a String cannot fail.
            let _ = write!(
                text,
                ",\"{name}\":{{\"state\":\"{state}\",\"waiting\":{waiting},\"refused\":{refused}"
            );
            if metrics.spool_failing.get() != 0 {
                text += ",\"spool\":\"failing\"";
            }
            let damaged = metrics.spool_damaged.get();
            if damaged > 0 {
                let _ = write!(text, ",\"spool_damaged\":{damaged}");
            }
            let aside = metrics.set_aside.get();
            if aside > 0 {
                let _ = write!(text, ",\"set_aside\":{aside}");
            }
            text.push('}');
        }
        text + "}\n"
    }

    /// Registers all under their names.
    pub fn register(&self, registry: &mut Registry) {
        for reason in Malformed::REASONS.into_iter().chain([TOPIC_LIMIT, FUTURE]) {
            self.dropped(reason);
        }
        let mut counter =
            |name, help, metric: &Counter| registry.register(name, help, metric.clone());
        counter(
            "barcast_record_closed_bars",
            "Closed bars that came live",
            &self.closed,
        );
        counter(
            "barcast_record_stored_bars",
            "Closed bars read from the store, most of which are recorded already",
            &self.stored,
        );
        counter(
            "barcast_store_failures",
            "Times the store could not be read to its end",
            &self.store_failures,
        );
        registry.register(
            "barcast_bus_connected",
            "1 while the subscription to the bus stands",
            self.bus_connected.clone(),
        );
        registry.register(
            "barcast_dropped_messages",
            "Messages that gave no bar",
            self.dropped.clone(),
        );
        self.register_outputs(registry);
    }

    fn register_outputs(&self, registry: &mut Registry) {
        let mut counter =
            |name, help, metric: &ByOutput<Counter>| registry.register(name, help, metric.clone());
        counter(
            "barcast_recorded_bars",
            "Bars written durably, repeated ones included",
            &self.recorded,
        );
        counter(
            "barcast_refused_bars",
            "Bars for which no room was left; what the store has of them is read again",
            &self.refused,
        );
        counter(
            "barcast_record_known_bars",
            "Bars from the store that the output has already and that are not written again",
            &self.known,
        );
        counter(
            "barcast_record_set_aside_bars",
            "Bars refused for what they are, put aside in barcast_refused_bars or _refused.ndjson",
            &self.set_aside,
        );
        counter(
            "barcast_record_failures",
            "Writes that failed and are tried again",
            &self.failures,
        );
        counter(
            "barcast_record_spool_damaged",
            "Damaged places of the spool that were skipped",
            &self.spool_damaged,
        );
        counter(
            "barcast_record_spool_failures",
            "Batches that the spool's disk refused and that wait in memory",
            &self.spool_failures,
        );
        self.register_states(registry);
    }

    fn register_states(&self, registry: &mut Registry) {
        let mut gauge =
            |name, help, metric: &ByOutput<Gauge>| registry.register(name, help, metric.clone());
        gauge(
            "barcast_record_waiting_bars",
            "Bars that wait for the output, on disk or in memory",
            &self.waiting,
        );
        gauge(
            "barcast_record_owed_topics",
            "Topics whose past is still to be read from the store for the output",
            &self.owed,
        );
        gauge(
            "barcast_record_spool_bars",
            "Those of them that are on disk",
            &self.spool_bars,
        );
        gauge(
            "barcast_record_spool_bytes",
            "Bytes of the spool on disk",
            &self.spool_bytes,
        );
        gauge(
            "barcast_record_spool_failing",
            "1 while bars wait in memory because the spool's disk refused them",
            &self.spool_failing,
        );
        gauge(
            "barcast_record_output_connected",
            "1 after a write that succeeded, 0 after one that failed",
            &self.connected,
        );
        let mut lag = |name, help, metric: &ByOutput<Histogram>| {
            registry.register(name, help, metric.clone());
        };
        lag(
            "barcast_record_write_lag_seconds",
            "From a bar's arrival to its durable write",
            &self.write_lag,
        );
        lag(
            "barcast_record_close_lag_seconds",
            "From a bar's end to its durable write",
            &self.close_lag,
        );
    }
}
