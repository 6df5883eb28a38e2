//! `barcast check`: is everything well, from Redis to a delivered bar? Each step with its measured time, and
//! with what to do next where it fails.

mod delivery;
mod gateway;
mod redis;
pub mod report;

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::bus::RedisBus;
use crate::client::Address;
use report::{Report, Reporter, Step};

/// The symbol of the bars that a check publishes, with the resolution `1S`. No exchange's: it shows in lists
/// of topics wherever a check was run, and is not put into the store.
pub const SYMBOL: &str = "BARCAST.CHECK";

/// What to check.
#[derive(Debug, Clone)]
pub struct Config {
    pub address: Address,
    pub bus: RedisBus,
    /// Publish bars of [`SYMBOL`], or wait for somebody else's.
    pub publish: bool,
    /// How long each step may take.
    pub limit: Duration,
}

/// Takes every step, and hands each over as soon as it is done.
pub async fn check(config: &Config, tell: impl FnMut(&Step)) -> Report {
    let mut report = Reporter::new(tell);
    let mut probe = redis::check(config, &mut report).await;
    gateway::check(config, &mut report).await;
    delivery::check(config, probe.as_mut(), &mut report).await;
    report.end()
}

/// What something gave, and how long it took.
async fn timed<T, E: ToString>(
    work: impl Future<Output = Result<T, E>>,
) -> (Result<T, String>, Duration) {
    let began = Instant::now();
    let done = work.await.map_err(|why| why.to_string());
    (done, began.elapsed())
}

/// Likewise of what has no bound of its own: as long as the step may take.
async fn measured<T, E: ToString>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> (Result<T, String>, Duration) {
    timed(async {
        match timeout(limit, work).await {
            Ok(done) => done.map_err(|why| why.to_string()),
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    })
    .await
}
