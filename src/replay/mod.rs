//! Replay: bars of the past from CSV files, or as [`record`](crate::record) wrote them to Parquet files or
//! PostgreSQL, or trades made into bars, out to the bus at any speed.
//!
//! The sources are merged by bar time and read row by row. What the bus does not confirm is published
//! again (at least once), so a lost bus costs time, not bars.

mod database;
mod file;
mod input;
mod market;
mod merge;
mod name;
mod progress;
mod rebase;
mod recorded;
pub mod verify;
mod wanted;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use file::BadRow;
use input::Input;
pub use market::Market;
use merge::Merge;
use progress::Progress;
use rebase::{Extent, Rebase};
pub use wanted::Wanted;

use crate::ahead::{Ahead, MaxAhead};
use crate::bar::{Bar, Message, Resolution, Symbol, Topic};
use crate::bus::{Bus, Publisher, RedisBus};
use crate::clock::now_us;
use crate::generator::numbering::Numbering;
use crate::generator::outlet::Outlet;
use crate::generator::pack::Form;
use crate::limited::Refusals;
use crate::metrics::GeneratorMetrics;
use crate::record::postgres::Address;

/// Bars of one write, at most: bounds the memory for payloads and what is published again after the
/// bus was lost.
const CHUNK_BARS: usize = 2_000;
/// Longest wait for a bar that is due later, so that no speed overflows the clock: a century.
const LONGEST_WAIT: Duration = Duration::from_secs(100 * 365 * 86_400);

/// How fast bars go out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many times as fast as they happened.
    Times(f64),
    /// As fast as the bus confirms.
    Max,
}

impl Speed {
    /// Whether time runs faster than it did.
    fn is_fast(self) -> bool {
        match self {
            Self::Times(factor) => factor > 1.0,
            Self::Max => true,
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(factor) => write!(f, "{factor}x"),
            Self::Max => f.write_str("max"),
        }
    }
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        text.strip_suffix('x')
            .and_then(|factor| factor.parse::<f64>().ok())
            .filter(|factor| factor.is_finite() && *factor > 0.0)
            .map(Self::Times)
            .ok_or_else(|| "allowed: max, or a factor above zero with x, as 1x or 60x".to_owned())
    }
}

/// What to replay.
#[derive(Debug, Clone)]
pub struct Config {
    /// CSV files, Parquet files and folders of these.
    pub files: Vec<PathBuf>,
    /// Databases that hold recorded bars.
    pub postgres: Vec<Address>,
    pub wanted: Wanted,
    /// Instead of what the files' names say.
    pub symbol: Option<Symbol>,
    /// Instead of what the files' names say.
    pub resolution: Option<Resolution>,
    pub speed: Speed,
    /// Whether the bars are given times of now.
    pub rebase: bool,
    /// The files hold trades, to be made into these bars.
    pub trades: Option<Market>,
    pub form: Form,
    /// How far a bar may start ahead of the clock.
    pub max_ahead: MaxAhead,
}

/// `barcast replay`, validated but for its files.
#[derive(Debug, Clone)]
pub struct Replay {
    pub config: Config,
    pub bus: RedisBus,
}

/// How a replay ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Bars that the bus confirmed.
    pub published: u64,
    /// Rows that gave no bar.
    pub bad_rows: u64,
    /// Bars, or trades, that were refused since they start ahead of the clock.
    pub future: u64,
    pub elapsed: Duration,
    /// Whether it was stopped before the end.
    pub stopped: bool,
}

impl Totals {
    /// 1 when nothing at all was published, 0 otherwise.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(u8::from(self.published == 0))
    }
}

/// Why a replay could not start or go on. One line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A file is missing, has no usable columns or no known topic: nothing was published. Exit code 2.
    #[error("{0}")]
    Files(String),
    /// A file or database could not be read to its end. Exit code 1.
    #[error("{0}")]
    Read(String),
}

/// Runs `barcast replay` to its end, or until `stop`.
///
/// # Errors
/// [`ReplayError`].
pub async fn replay(settings: Replay, stop: CancellationToken) -> Result<Totals, ReplayError> {
    let publisher = settings.bus.publisher();
    let handle = Handle::current();
    // On a thread that may block: a database may be slow, and signals must be heard meanwhile.
    let work = move || handle.block_on(run(settings.config, publisher, stop));
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|why| Err(ReplayError::Read(format!("the replay panicked: {why}"))))
}

/// Publishes the bars of the files in order of their times, each with `closed`.
///
/// Reads the files on the calling task: from a local disk that is faster than any bus.
///
/// # Errors
/// [`ReplayError`].
pub async fn run<P: Publisher>(
    config: Config,
    publisher: P,
    stop: CancellationToken,
) -> Result<Totals, ReplayError> {
    if let Some(market) = config.trades.clone() {
        return market::run(config, market, publisher, stop).await;
    }
    let inputs = input::open(&config)?;
    for input in &inputs {
        tracing::info!(source = input.name(), speed = %config.speed, "replaying");
    }
    let mut progress = Progress::start(&inputs);
    let mut rebase = rebase(&config, &inputs)?;
    let mut merge = Merge::new(inputs);
    let mut outlet = Outlet::new(publisher, config.form, GeneratorMetrics::default());
    let mut numbering = Numbering::new(now_us());
    let started = Instant::now();
    let mut pace = Pace::new(config.speed);
    let mut door = Door::new(config.max_ahead);
    let mut published = 0;
    let mut stopped = !outlet.ready(&stop).await;
    let mut unread = None;
    while !stopped {
        let mut report = |row: BadRow| progress.bad_row(&row);
        match due(&mut merge, &mut pace, &mut report) {
            Ok(Chunk::End) => break,
            Err(why) => {
                unread = Some(ReplayError::Read(why));
                break;
            }
            Ok(Chunk::Later(at)) => {
                stopped = !outlet.rest(at, &stop).await;
            }
            Ok(Chunk::Bars(bars)) => {
                let mut messages: Vec<_> = bars
                    .into_iter()
                    .map(|(topic, bar)| Message::new(topic, rebase.apply(topic, bar)))
                    .filter(|Message { topic, bar, .. }| {
                        door.takes(topic, topic.resolution, bar.time())
                    })
                    .collect();
                // Numbered without what is refused: nothing is missing for who follows.
                numbering.number(&mut messages);
                stopped = !outlet.deliver(&mut messages, &stop).await;
                published += if stopped { 0 } else { count(messages.len()) };
            }
        }
        progress.at(merge.position, published);
    }
    outlet.finish(&stop).await;
    progress.end();
    let totals = Totals {
        published,
        bad_rows: merge.bad_rows,
        future: door.refused,
        elapsed: started.elapsed(),
        stopped,
    };
    let ended = if stopped { "stopped" } else { "ended" };
    tracing::info!(published, bad_rows = totals.bad_rows, future = totals.future, elapsed = ?totals.elapsed, "replay {ended}");
    unread.map_or(Ok(totals), Err)
}

/// The shift of all bars.
fn rebase(config: &Config, inputs: &[Input]) -> Result<Rebase, ReplayError> {
    let (mut coarsest, mut extent) = (None, None);
    if config.rebase {
        for input in inputs {
            if config.speed.is_fast() {
                input.can_be_read_twice().map_err(ReplayError::Files)?;
                let of = input.extent().map_err(ReplayError::Read)?;
                if let Some(of) = of {
                    Extent::add(&mut extent, of);
                }
            } else {
                coarsest = coarsest.max(input.coarsest().map_err(ReplayError::Read)?);
            }
        }
    }
    let step = coarsest.max(extent.map(|extent| extent.coarsest));
    Rebase::new(step, extent, config.speed)
}

/// Refuses what starts ahead of the clock.
struct Door {
    ahead: Ahead,
    log: Refusals,
    refused: u64,
}

impl Door {
    fn new(max: MaxAhead) -> Self {
        Self {
            ahead: Ahead::new(max),
            log: Refusals::default(),
            refused: 0,
        }
    }

    fn takes(&mut self, of: impl fmt::Display, resolution: Resolution, time: i64) -> bool {
        if !self.ahead.refuses(resolution, time) {
            return true;
        }
        self.refused += 1;
        self.ahead.refused(of, None, time, &mut self.log);
        false
    }
}

enum Chunk {
    Bars(Vec<(Topic, Bar)>),
    /// Nothing is due before.
    Later(Instant),
    End,
}

/// The bars that are due now, up to a chunk.
fn due(
    merge: &mut Merge,
    pace: &mut Pace,
    report: &mut impl FnMut(BadRow),
) -> Result<Chunk, String> {
    let now = Instant::now();
    let mut bars = Vec::new();
    while bars.len() < CHUNK_BARS {
        let Some(time) = merge.peek(report)? else {
            break;
        };
        let at = pace.due(time, now);
        if at > now {
            if bars.is_empty() {
                return Ok(Chunk::Later(at));
            }
            break;
        }
        bars.extend(merge.next(report)?);
    }
    Ok(if bars.is_empty() {
        Chunk::End
    } else {
        Chunk::Bars(bars)
    })
}

/// When bars are due: at the scaled distance of their times from the first one's.
struct Pace {
    speed: Speed,
    first: Option<(i64, Instant)>,
}

impl Pace {
    fn new(speed: Speed) -> Self {
        Self { speed, first: None }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "exact up to 2^53 ms, which is 285,000 years"
    )]
    fn due(&mut self, time: i64, now: Instant) -> Instant {
        let (first, start) = *self.first.get_or_insert((time, now));
        let Speed::Times(factor) = self.speed else {
            return start;
        };
        let seconds = time.saturating_sub(first).max(0) as f64 / 1_000.0 / factor;
        start + Duration::from_secs_f64(seconds.min(LONGEST_WAIT.as_secs_f64()))
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_factors_or_max() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("60x".parse(), Ok(Speed::Times(60.0)));
        assert_eq!("0.5x".parse(), Ok(Speed::Times(0.5)));
        for text in ["", "x", "60", "-1x", "0x", "infx", "nanx", "MAX"] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }

    #[test]
    fn bars_are_due_at_the_scaled_distance_of_their_times() {
        let now = Instant::now();
        let mut pace = Pace::new(Speed::Times(60.0));
        assert_eq!(pace.due(1_000, now), now);
        assert_eq!(pace.due(61_000, now), now + Duration::from_secs(1));
        let mut endless = Pace::new(Speed::Times(1e-300));
        endless.due(0, now);
        assert_eq!(endless.due(i64::MAX, now), now + LONGEST_WAIT);
        let mut max = Pace::new(Speed::Max);
        max.due(0, now);
        assert_eq!(max.due(1_000_000, now), now);
    }
}
