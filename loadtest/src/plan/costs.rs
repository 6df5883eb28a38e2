//! What things cost: the defaults that were measured once, and what is fitted to runs.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::fit::{Row, fit};
use super::model::Book;
use super::report::{Explained, Figure, Source};
use crate::figures::Spread;
use crate::outcome::Outcome;
use crate::publisher::{Burst, Publish};
use crate::report::RunReport;

/// Where the defaults were measured.
const ONCE: &str = "default, measured as PERF.md tells";

/// `(name, value, unit, what, source)` of each cost without runs.
#[rustfmt::skip]
const DEFAULTS: [(&str, f64, &str, &str, &str); 15] = [
    ("write_us", 8.2, "µs", "gateway CPU for a write to a client, whatever is in it", ONCE),
    ("bar_us", 0.051, "µs", "gateway CPU for each bar in it", ONCE),
    ("cost_bytes", 212.0, "B", "frames that these two were measured with", ONCE),
    ("ingest_single_us", 2.0, "µs", "gateway CPU to take in a bar that comes as a message of its own", ONCE),
    ("ingest_batch_us", 0.85, "µs", "gateway CPU to take in a bar of a batch", ONCE),
    ("redis_in_single_us", 0.61, "µs", "Redis CPU to take in a bar, pipelined", ONCE),
    ("redis_out_single_us", 0.24, "µs", "Redis CPU to send it to one subscriber", ONCE),
    ("redis_in_batch_us", 0.084, "µs", "Redis CPU to take in a bar of a batch", ONCE),
    ("redis_out_batch_us", 0.052, "µs", "Redis CPU to send it to one subscriber", ONCE),
    ("base_mib", 18.0, "MiB", "resident memory of a gateway at work, without clients", ONCE),
    ("session_kib", 1.5, "KiB", "resident memory of a gateway for a client", ONCE),
    ("subscription_bytes", 180.0, "B", "resident memory of a gateway for each topic of a client", ONCE),
    ("kernel_kib", 5.0, "KiB", "the kernel's memory for an open, idle TCP connection", ONCE),
    ("write_copies", 2.0, "", "the kernel's memory for a write that is not acknowledged yet, by its bytes", "assumed: buffers are filled by half"),
    ("history_bar_bytes", 64.0, "B", "memory of a bar that is kept for snapshots", "ARCHITECTURE.md: the size of its type"),
];

/// Costs of CPU that are fitted to runs, as the columns of [`Row`]s.
const CPU: [&str; 4] = ["write_us", "bar_us", "ingest_single_us", "ingest_batch_us"];
/// Costs of memory that are, likewise.
const MEMORY: [&str; 3] = ["base_mib", "session_kib", "subscription_bytes"];
const MIB: f64 = 1_048_576.0;
const KIB: f64 = 1_024.0;

/// A run, and where it comes from: its file or its command.
#[derive(Debug, Clone)]
pub struct Evidence {
    pub from: String,
    pub report: RunReport,
}

impl Evidence {
    /// Reads a report of `loadtest run`.
    ///
    /// # Errors
    /// When it is none, or one that no cost can be learned from.
    pub fn read(path: &Path) -> Result<Self> {
        match Outcome::read(path)? {
            Outcome::Run(report) => {
                ensure!(
                    report.scenario.max_rate.is_none(),
                    "{}: costs are learned from runs without --max-rate",
                    path.display()
                );
                Self::of(path.display().to_string(), report)
            }
            _ => bail!(
                "{}: costs are learned from reports of loadtest run",
                path.display()
            ),
        }
    }

    /// Takes a run, if it says what its load cost.
    ///
    /// # Errors
    /// When it was broken off, lost updates (other than what `max_rate` holds back) or does not know the
    /// server's CPU.
    pub fn of(from: String, report: RunReport) -> Result<Self> {
        ensure!(!report.ended_early, "{from}: this run ended early");
        let held_back = match report.scenario.max_rate {
            Some(_) => report.counts.conflated,
            None => 0,
        };
        ensure!(
            report.counts.delivered + held_back == report.expected && report.gone == 0,
            "{from}: not every update was delivered: such a run says nothing of what one costs"
        );
        ensure!(
            report.scenario.measured_ticks > 0,
            "{from}: nothing was measured"
        );
        ensure!(
            report.cpu.is_some(),
            "{from}: the server's CPU is not known (--server-pid)"
        );
        Ok(Self { from, report })
    }

    /// Seconds that what was measured took by the plan. With `max_rate` the first turn may come right
    /// after the first tick, and the last one comes after the last: on average, an interval of turns in
    /// place of one of ticks.
    #[expect(clippy::cast_precision_loss, reason = "a figure needs no more")]
    pub fn seconds(&self) -> f64 {
        let scenario = &self.report.scenario;
        let ends = scenario
            .max_rate
            .map_or(0.0, |rate| (1.0 / rate - 1.0 / scenario.rate).max(0.0));
        scenario.measured_ticks as f64 / scenario.rate + ends
    }

    /// Busy cores of the server: all CPU time from the first measured tick until the last update came, over the time
    /// that was planned for it.
    #[expect(clippy::cast_precision_loss, reason = "a figure needs no more")]
    pub fn cores(&self) -> f64 {
        let used = self.report.cpu.as_ref().map_or(0, |cpu| cpu.used.total_ns);
        used as f64 / 1e9 / self.seconds()
    }

    /// Resident bytes of the server at the end of the run.
    #[expect(clippy::cast_precision_loss, reason = "a figure needs no more")]
    pub fn resident(&self) -> Option<f64> {
        let at_work = self
            .report
            .series
            .last()
            .and_then(|second| second.server_resident);
        let idle = self.report.memory.as_ref().map(|memory| memory.after_bytes);
        at_work.or(idle).map(|bytes| bytes as f64)
    }

    /// Writes, bars out, and bars in as single messages and in batches, a second. Every tick updates
    /// every topic: together each client is written once a tick, spread once for every bar.
    fn load(&self) -> [f64; 4] {
        let scenario = &self.report.scenario;
        let ticks = f64::from(scenario.clients) * scenario.rate;
        let bars = ticks * f64::from(scenario.per_client);
        let writes = match scenario.burst {
            Burst::Together => ticks,
            Burst::Spread => bars,
        };
        let messages = f64::from(scenario.topics) * scenario.rate;
        let (single, batch) = match scenario.publish {
            Publish::Single => (messages, 0.0),
            // Unpacking counts as taking in: `cargo bench -- ingest` takes 1.71 million bars a second of zstd
            // batches and 1.99 million of plain ones (PERF.md, Taking in).
            Publish::Batch | Publish::Zstd => (0.0, messages),
        };
        [writes, bars, single, batch]
    }

    /// A run of a single client is about taking in: the memory of its batches is no client's.
    fn is_ingest(&self) -> bool {
        self.report.scenario.clients == 1
    }
}

/// The costs without any run.
pub fn defaults() -> Book {
    let mut book = Book::default();
    for (name, value, unit, what, source) in DEFAULTS {
        book.put(Figure {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            what: what.to_owned(),
            source: Source::Stated(source.to_owned()),
        });
    }
    book
}

/// Puts a measured value in the place of a default.
pub fn measured(book: &mut Book, name: &str, value: f64, from: &str) {
    if let Some(old) = book.figures().iter().find(|old| old.name == name) {
        let figure = Figure {
            value,
            source: Source::Measured(from.to_owned()),
            ..old.clone()
        };
        book.put(figure);
    }
}

/// Fits the costs to runs and says how well they explain them. Runs that are too few or too much alike
/// to tell the costs apart scale the defaults of CPU, all by the same factor.
///
/// # Errors
/// When a cost is missing in the book.
pub fn learn(book: &mut Book, runs: &[Evidence]) -> Result<Vec<Explained>> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let from: Vec<&str> = runs.iter().map(|run| run.from.as_str()).collect();
    let from = from.join("; ");
    let rows: Vec<Row> = runs
        .iter()
        .map(|run| Row {
            load: run.load().to_vec(),
            // µs of CPU a second.
            measured: run.cores() * 1e6,
        })
        .collect();
    let costs = |book: &Book| -> Result<Vec<f64>> {
        let costs = CPU
            .iter()
            .map(|name| book.get(name).context("a cost is missing"));
        costs.collect()
    };
    if let Some(fitted) = fit(&rows) {
        for (name, value) in CPU.iter().zip(fitted) {
            if let Some(value) = value {
                measured(book, name, value, &format!("least squares over {from}"));
            }
        }
    } else {
        let defaults = costs(book)?;
        let factors = rows.iter().map(|row| row.measured / row.cost(&defaults));
        let factor = Spread::of(factors).median;
        for (name, value) in CPU.iter().zip(&defaults) {
            let why = format!("default {value} × {factor:.3}, the median ratio of {from}");
            measured(book, name, value * factor, &why);
        }
    }
    let bytes = Spread::of(runs.iter().map(|run| run.report.bytes_per_bar)).median;
    measured(book, "cost_bytes", bytes, &format!("median of {from}"));
    learn_memory(book, runs);
    let costs = costs(book)?;
    let explained = runs.iter().zip(&rows).map(|(run, row)| Explained {
        from: run.from.clone(),
        load: run.report.scenario.line(),
        measured_cores: run.cores(),
        fitted_cores: row.cost(&costs) / 1e6,
    });
    Ok(explained.collect())
}

fn learn_memory(book: &mut Book, runs: &[Evidence]) {
    let runs: Vec<&Evidence> = runs.iter().filter(|run| !run.is_ingest()).collect();
    let rows: Vec<Row> = runs
        .iter()
        .filter_map(|run| {
            let scenario = &run.report.scenario;
            let clients = f64::from(scenario.clients);
            let subscriptions = clients * f64::from(scenario.per_client);
            Some(Row {
                load: vec![MIB, clients * KIB, subscriptions],
                measured: run.resident()?,
            })
        })
        .collect();
    if let Some(fitted) = fit(&rows) {
        let from: Vec<&str> = runs.iter().map(|run| run.from.as_str()).collect();
        let from = format!("least squares over {}", from.join("; "));
        for (name, value) in MEMORY.iter().zip(fitted) {
            if let Some(value) = value {
                measured(book, name, value, &from);
            }
        }
    }
}
