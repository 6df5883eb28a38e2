//! The long run: closed bars from the bus into PostgreSQL, into Parquet files by day, or both.
//!
//! [`intake`] subscribes as a gateway does and tells which bars are closed. What the store has is asked for as there
//! is room ([`owing`]). Every output has a [`lane`] and a [`writer`], each on a thread of its own; the lane
//! keeps what waits in a [`log`] — on disk in a [`spool`] if there is one — and writes it in batches to
//! [`postgres`] (its table is in [`schema`]) or to the files of [`days`] (their form is in [`table`]). What is written may be written again: a bar
//! replaces the one of its symbol, resolution and time.

mod apart;
mod closed;
mod damage;
mod day;
pub mod days;
mod frame;
mod fresh;
mod gather;
mod inlet;
mod inlets;
mod intake;
mod lag;
pub mod lane;
mod lanes;
mod lock;
mod log;
mod marks;
mod owing;
pub mod postgres;
pub mod schema;
pub mod spool;
pub mod table;
mod taken;
mod writer;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::ahead::MaxAhead;
use crate::bus::{Bus, RedisBus};
use crate::generator::health;
use crate::metrics::{OutputMetrics, RecordMetrics};
use apart::apart;
pub use closed::{Batch, Closed, Gap, Reason};
use days::Days;
use intake::{Intake, MAX_TOPICS};
use lane::{Output, Pace};
use lanes::Lanes;
use lock::{FolderLock, lock_all};
use postgres::Postgres;

/// Closed bars of each topic that are read from the store: more than publishers keep there.
const LOAD_BARS: usize = 10_000;
/// Bars of one write to PostgreSQL: some 100 ms.
const POSTGRES_BARS: usize = 5_000;

/// Bars of one write to Parquet files, some 20 MB: the fewer writes, the less is rewritten.
const PARQUET_BARS: usize = 200_000;

/// `barcast record`, validated.
#[derive(Debug, Clone)]
pub struct Record {
    pub bus: RedisBus,
    /// Whether what the bus keeps is read at the start and after each break.
    pub load: bool,
    /// How far a bar may start ahead of the clock.
    pub max_ahead: MaxAhead,
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
    let postgres = settings.postgres.as_ref().map(|_| Postgres::NAME);
    let parquet = settings.parquet.as_ref().map(|_| Days::NAME);
    let names = [postgres, parquet].into_iter().flatten();
    let outputs: Vec<_> = names.map(|name| (name, metrics.output(name))).collect();
    let probed = Recording {
        metrics: metrics.clone(),
        outputs: outputs.clone(),
    };
    if let Some(address) = settings.health_listen {
        let register = |registry: &mut _| metrics.register(registry);
        let listening = health::listen(address, register, probed, stop.clone()).await;
        listening.with_context(|| {
            format!("--health-listen (BARCAST_RECORD_HEALTH_LISTEN) = {address}")
        })?;
    }
    let mut lanes = Lanes::new(outputs, settings.load);
    start(&settings, &mut lanes)?;
    let opened = stop.run_until_cancelled(lanes.open()).await;
    opened.transpose()?;
    let bus = match settings.load {
        true => settings.bus.clone().loading(MAX_TOPICS, LOAD_BARS),
        false => settings.bus.clone(),
    };
    let owing = lanes.owing();
    let inlets = lanes.inlets(&stop);
    let (sink, asks) = Intake::new(inlets, metrics, &bus);
    let sink = sink.refusing(settings.max_ahead);
    let subscribed = apart("intake", move || async move {
        // On a thread that may block.
        tokio::select! {
            () = bus.subscribe(sink, stop) => {}
            () = owing.ask(asks) => {}
        }
    })?;
    let mut subscribed = std::pin::pin!(subscribed);
    tokio::select! {
        ended = &mut subscribed => ended.context("the intake panicked")?,
        opened = lanes.opened() => {
            opened?;
            subscribed.await.context("the intake panicked")?;
        }
    }
    Ok(lanes.end().await?)
}

/// Starts all outputs.
fn start(settings: &Record, lanes: &mut Lanes) -> anyhow::Result<()> {
    if let Some(address) = settings.postgres.clone() {
        tracing::info!(postgres = %address, "recording");
        let pace = Pace {
            interval: Duration::ZERO,
            bars: POSTGRES_BARS,
        };
        lanes.start(settings, pace, || async {
            let output = Postgres::new(address).await;
            output.map_err(RecordError::Table)
        })?;
    }
    if let Some(folder) = settings.parquet.clone() {
        let interval = settings.parquet_interval;
        tracing::info!(parquet = %folder.display(), ?interval, "recording");
        let pace = Pace {
            interval,
            bars: PARQUET_BARS,
        };
        lanes.start(settings, pace, || async { Ok(Days::new(folder)) })?;
    }
    Ok(())
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
