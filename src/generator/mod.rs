//! The generator: a synthetic market whose bars go out to the bus, one tick an interval.
//!
//! [`market`] makes the bars and knows no clock; the loop here does. [`numbering`] counts a topic's
//! messages, [`pack`] turns messages into
//! payloads, [`outlet`] publishes them, [`health`] answers who asks how it goes. The replay publishes
//! by the same way.

pub mod health;
pub mod market;
pub mod numbering;
pub mod outlet;
pub mod pack;
mod path;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::bar::{Message, Resolution, Symbol};
use crate::bus::{Bus, Publisher, RedisBus};
use crate::clock::{now_ms, now_us};
use crate::health::Concern;
use crate::metrics::GeneratorMetrics;
use market::Market;
use outlet::Outlet;
use pack::Form;

/// How long the first tick waits for the bus, which is usually there within milliseconds: the first
/// bars should not be lost to the handshake. Afterwards ticks go on without it.
const FIRST_CONNECT: Duration = Duration::from_secs(1);
/// Bars of one write while filling back: bounds the memory for payloads and what is published again
/// when the bus is lost in between.
const BACKFILL_CHUNK: usize = 2_000;
/// How often late ticks are logged, at most.
const LATE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What to generate.
#[derive(Debug, Clone)]
pub struct Config {
    pub symbols: Vec<Symbol>,
    pub resolutions: Vec<Resolution>,
    /// Time between ticks.
    pub interval: Duration,
    pub form: Form,
    /// Same seed, same market.
    pub seed: u64,
    /// Closed bars of every topic that are published before the first tick.
    pub backfill: usize,
}

/// `barcast generate`, validated.
#[derive(Debug, Clone)]
pub struct Generate {
    pub config: Config,
    pub bus: RedisBus,
    pub health_listen: Option<SocketAddr>,
}

/// Why a generator could not start. One line.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// Mostly: the port is taken.
    #[error("--health-listen (BARCAST_GENERATOR_HEALTH_LISTEN): cannot listen on {address}: {why}")]
    HealthListen {
        address: SocketAddr,
        why: std::io::Error,
    },
}

/// Runs `barcast generate` until `stop`.
///
/// # Errors
/// [`GenerateError`]; nothing was published then.
pub async fn generate(settings: Generate, stop: CancellationToken) -> Result<(), GenerateError> {
    let metrics = GeneratorMetrics::default();
    if let Some(address) = settings.health_listen {
        metrics.health.set(Concern::Publisher, "starting");
        let register = |registry: &mut _| metrics.register(registry);
        let listening = health::listen(address, register, metrics.clone(), stop.clone()).await;
        listening.map_err(|why| GenerateError::HealthListen { address, why })?;
    }
    tracing::info!(redis = settings.bus.address(), "publishing");
    run(settings.config, settings.bus.publisher(), metrics, stop).await;
    Ok(())
}

/// Publishes bars until `stop`.
///
/// A bus that is lost stops nothing: ticks go on, `seq` counts what could not be published, and closed bars
/// are published once it is back. Only the backfill waits for the bus, since a chart needs it.
pub async fn run<P: Publisher>(
    config: Config,
    publisher: P,
    metrics: GeneratorMetrics,
    stop: CancellationToken,
) {
    tracing::info!(
        symbols = ?config.symbols,
        resolutions = %list(&config.resolutions),
        interval = ?config.interval,
        form = ?config.form,
        seed = config.seed,
        backfill = config.backfill,
        "generator started"
    );
    let mut outlet = Outlet::new(publisher, config.form, metrics.clone());
    let epoch = now_us();
    let mut market = Market::new(&config.symbols, &config.resolutions, config.seed, epoch);
    // Not in time is no error: the ticks tell.
    let _ = timeout(FIRST_CONNECT, outlet.ready(&stop)).await;
    if config.backfill > 0 {
        backfill(&mut market, config.backfill, &mut outlet, &stop).await;
    }
    ticks(&mut market, config.interval, &mut outlet, &metrics, &stop).await;
    outlet.finish(&stop).await;
    tracing::info!(
        ticks = metrics.ticks.get(),
        ticks_late = metrics.ticks_late.get(),
        published = metrics.published.get(),
        unpublished = metrics.unpublished.get(),
        "generator stopped"
    );
}

async fn backfill<P: Publisher>(
    market: &mut Market,
    count: usize,
    outlet: &mut Outlet<P>,
    stop: &CancellationToken,
) {
    let mut bars = 0;
    for mut messages in market.backfill(now_ms(), count) {
        for chunk in messages.chunks_mut(BACKFILL_CHUNK) {
            if !outlet.deliver(chunk, stop).await {
                return;
            }
            bars += chunk.len();
        }
    }
    tracing::info!(bars, "filled back");
}

async fn ticks<P: Publisher>(
    market: &mut Market,
    interval: Duration,
    outlet: &mut Outlet<P>,
    metrics: &GeneratorMetrics,
    stop: &CancellationToken,
) {
    let mut late = LateLog::default();
    let mut messages: Vec<Message> = Vec::new();
    let mut due = Instant::now();
    while outlet.rest(due, stop).await {
        messages.clear();
        market.tick(now_ms(), &mut messages);
        outlet.offer(&mut messages, stop).await;
        metrics.ticks.inc();
        let (next, missed) = next_due(due, Instant::now(), interval);
        due = next;
        if missed > 0 {
            metrics.ticks_late.inc_by(missed);
            late.add(missed, interval);
        }
    }
}

/// When the next tick is due, on the grid that `due` lies on, and how many were missed before it.
/// Missed ticks are left out: catching up would send the same forming bars twice.
fn next_due(due: Instant, now: Instant, interval: Duration) -> (Instant, u64) {
    let behind = now.saturating_duration_since(due).as_nanos();
    let missed = behind / interval.as_nanos().max(1);
    let missed = u32::try_from(missed).unwrap_or(u32::MAX);
    let ahead = interval.saturating_mul(missed.saturating_add(1));
    (due + ahead, u64::from(missed))
}

/// Tells of late ticks at a bounded rate.
#[derive(Default)]
struct LateLog {
    told: Option<Instant>,
    missed: u64,
}

impl LateLog {
    fn add(&mut self, missed: u64, interval: Duration) {
        self.missed += missed;
        if self
            .told
            .is_none_or(|told| told.elapsed() >= LATE_LOG_INTERVAL)
        {
            tracing::warn!(
                left_out = self.missed,
                ?interval,
                "a tick took longer than the interval"
            );
            self.told = Some(Instant::now());
            self.missed = 0;
        }
    }
}

fn list(resolutions: &[Resolution]) -> String {
    let names: Vec<&str> = resolutions.iter().map(|r| r.as_str()).collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_ticks_are_counted_and_left_out() {
        let due = Instant::now();
        let interval = Duration::from_millis(100);
        for (behind, ahead, missed) in [(0, 100, 0), (99, 100, 0), (100, 200, 1), (350, 400, 3)] {
            let now = due + Duration::from_millis(behind);
            let expected = (due + Duration::from_millis(ahead), missed);
            assert_eq!(next_due(due, now, interval), expected, "{behind} ms");
        }
    }
}
