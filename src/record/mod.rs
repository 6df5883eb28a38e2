//! The long run: closed bars from the bus into PostgreSQL, into Parquet files by day, or both.
//!
//! [`intake`] subscribes as a gateway does and tells which bars are closed. Every output has a [`lane`],
//! which keeps what waits in a [`log`] — on disk in a [`spool`] if there is one — and writes it in batches to
//! [`postgres`] (its table is in [`schema`]) or to the files of [`days`] (their form is in [`table`]). What is written may be written again: a bar
//! replaces the one of its symbol, resolution and time.

mod damage;
mod day;
pub mod days;
mod frame;
mod intake;
pub mod lane;
mod lock;
mod log;
pub mod postgres;
pub mod schema;
pub mod spool;
pub mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bar::{Bar, Topic};
use crate::bus::{Bus, RedisBus};
use crate::generator::health;
use crate::metrics::process::ProcessCollector;
use crate::metrics::{OutputMetrics, RecordMetrics};
use days::Days;
use intake::{Intake, MAX_TOPICS};
use lane::{Lane, Output, Pace};
use lock::{FolderLock, lock_all};
use log::Log;
use postgres::Postgres;
use spool::Spool;

/// Batches that wait between the bus and a lane.
const QUEUED_BATCHES: usize = 64;
/// Closed bars of each topic that are read from the store: more than publishers keep there.
const LOAD_BARS: usize = 10_000;
/// Bars of one write to PostgreSQL: some 100 ms.
const POSTGRES_BARS: usize = 5_000;

/// Bars of one write to Parquet files, some 20 MB: the fewer writes, the less is rewritten.
const PARQUET_BARS: usize = 200_000;

/// Closed bars that came together.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// When they came, ms since the epoch; none for those that were read from the store.
    pub arrived_ms: Option<i64>,
    pub bars: Vec<(Topic, Bar)>,
}

/// `barcast record`, validated.
#[derive(Debug, Clone)]
pub struct Record {
    pub bus: RedisBus,
    /// Whether what the bus keeps is read at the start and after each break.
    pub load: bool,
    pub postgres: Option<postgres::Address>,
    pub parquet: Option<PathBuf>,
    /// Between two writes of the files.
    pub parquet_interval: Duration,
    pub spool: Option<PathBuf>,
    /// Bytes of each output's spool.
    pub spool_bytes: u64,
    pub health_listen: Option<SocketAddr>,
}

/// Why a recorder does not run.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A folder cannot be used, or another recorder uses it.
    #[error("{0}")]
    Folder(String),
    /// The database's table cannot take bars until its owner changes it.
    #[error("--postgres-url (BARCAST_RECORD_POSTGRES_URL): {0}")]
    Table(String),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl Record {
    /// Keeps every other recorder out of the folders, before anything is read from them.
    fn lock(&self) -> Result<Vec<FolderLock>, RecordError> {
        let flags = [
            ("--spool (BARCAST_RECORD_SPOOL)", &self.spool),
            ("--parquet (BARCAST_RECORD_PARQUET)", &self.parquet),
        ];
        let folders = flags.iter();
        let folders = folders.filter_map(|(flag, folder)| Some((*flag, folder.as_deref()?)));
        lock_all(&folders.collect::<Vec<_>>()).map_err(RecordError::Folder)
    }
}

/// Runs `barcast record` until `stop`; tells how many bars were lost by the end.
///
/// # Errors
/// When the address cannot be bound, a folder cannot be used or a thread cannot be made.
pub async fn record(settings: Record, stop: CancellationToken) -> Result<usize, RecordError> {
    let _locks = settings.lock()?;
    let metrics = RecordMetrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    registry.register_collector(Box::new(ProcessCollector));
    let mut lanes = Lanes {
        settings: &settings,
        metrics: &metrics,
        inputs: Vec::new(),
        ends: Vec::new(),
        health: Vec::new(),
    };
    if let Some(address) = &settings.postgres {
        tracing::info!(postgres = %address, "recording");
        let pace = Pace {
            interval: Duration::ZERO,
            bars: POSTGRES_BARS,
        };
        let output = Postgres::new(address.clone()).await;
        lanes.start(output.map_err(RecordError::Table)?, pace)?;
    }
    if let Some(folder) = &settings.parquet {
        tracing::info!(parquet = %folder.display(), interval = ?settings.parquet_interval, "recording");
        let pace = Pace {
            interval: settings.parquet_interval,
            bars: PARQUET_BARS,
        };
        lanes.start(Days::new(folder.clone()), pace)?;
    }
    let Lanes {
        inputs,
        ends,
        health: outputs,
        ..
    } = lanes;
    if let Some(address) = settings.health_listen {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("--health-listen (BARCAST_RECORD_HEALTH_LISTEN) = {address}")
        })?;
        let probed = Recording {
            metrics: metrics.clone(),
            outputs,
        };
        health::start(listener, registry, probed, stop.clone());
    }
    let bus = match settings.load {
        true => settings.bus.clone().loading(MAX_TOPICS, LOAD_BARS),
        false => settings.bus.clone(),
    };
    let sink = Intake::new(inputs, metrics, &bus);
    subscribe(bus, sink, stop).await?;
    let mut lost = 0;
    for end in ends {
        lost += end.await.context("a lane panicked")?;
    }
    Ok(lost)
}

/// What probes are answered.
struct Recording {
    metrics: RecordMetrics,
    outputs: Vec<(&'static str, OutputMetrics)>,
}

impl health::Probed for Recording {
    fn unready(&self) -> Option<String> {
        let outputs = self.outputs.iter();
        let outputs = outputs.filter_map(|(_, output)| output.health.unready());
        let whys: Vec<_> = self
            .metrics
            .health
            .unready()
            .into_iter()
            .chain(outputs)
            .collect();
        (!whys.is_empty()).then(|| whys.join("; "))
    }

    fn healthz(&self) -> String {
        self.metrics.health_json(&self.outputs)
    }
}

/// What is started for each output.
struct Lanes<'a> {
    settings: &'a Record,
    metrics: &'a RecordMetrics,
    inputs: Vec<mpsc::Sender<Batch>>,
    ends: Vec<JoinHandle<usize>>,
    health: Vec<(&'static str, OutputMetrics)>,
}

impl Lanes<'_> {
    fn start<O: Output>(&mut self, output: O, pace: Pace) -> anyhow::Result<()> {
        let spool = match &self.settings.spool {
            Some(folder) => {
                let folder = folder.join(O::NAME);
                let opened = Spool::open(&folder, self.settings.spool_bytes);
                Some(opened.with_context(|| {
                    format!("--spool (BARCAST_RECORD_SPOOL): {}", folder.display())
                })?)
            }
            None => None,
        };
        let metrics = self.metrics.output(O::NAME);
        self.health.push((O::NAME, metrics.clone()));
        let lane = Lane::new::<O>(Log::new(spool), pace, metrics);
        let (input, batches) = mpsc::channel(QUEUED_BATCHES);
        self.inputs.push(input);
        self.ends.push(tokio::spawn(lane.run(output, batches)));
        Ok(())
    }
}

/// Feeds the sink on a thread of its own, which may block, until `stop`.
async fn subscribe<B: Bus>(bus: B, sink: Intake, stop: CancellationToken) -> anyhow::Result<()> {
    let (ended, end) = oneshot::channel();
    let work = move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let subscribed = runtime.map(|runtime| {
            runtime.block_on(bus.subscribe(sink, stop));
            // A name server that is silent may still be waited for: not here.
            runtime.shutdown_background();
        });
        // Who waits for it is there until it came.
        let _ = ended.send(subscribed);
    };
    thread::Builder::new()
        .name("intake".to_owned())
        .spawn(work)
        .context("a thread for the bus")?;
    end.await
        .context("the intake panicked")?
        .context("a runtime for the bus")
}
