//! Trades of the past as a market: bars of several resolutions form from them and close.
//!
//! The rows are those of `barcast ingest`, the bars those of [`aggregate`](crate::aggregate). All symbols
//! share one time, that of the newest trade, so that a bar closes when its interval is over, whoever
//! trades then.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::merge::MAX_REPORTED;
use super::rebase::{Extent, Rebase, can_be_read_twice};
use super::{CHUNK_BARS, Config, Door, Pace, ReplayError, Speed, Totals, count};
use crate::aggregate::{Forming, Ladder, Rules, Taken, Trade};
use crate::bar::{Message, Resolution, Symbol};
use crate::bus::Publisher;
use crate::clock::now_us;
use crate::feed::trades::{Next, Trades};
use crate::generator::numbering::Numbering;
use crate::generator::outlet::Outlet;
use crate::metrics::GeneratorMetrics;

/// Trades taken in before what they changed is published, at most.
const CHUNK_TRADES: usize = 2_000;

/// What trades become.
#[derive(Debug, Clone)]
pub struct Market {
    pub resolutions: Vec<Resolution>,
    pub rules: Rules,
}

/// Publishes the bars of the files' trades as these happen, until the last one.
///
/// # Errors
/// [`ReplayError`].
pub(super) async fn run<P: Publisher>(
    config: Config,
    market: Market,
    publisher: P,
    stop: CancellationToken,
) -> Result<Totals, ReplayError> {
    let is_fast = config.rebase && config.speed.is_fast();
    let mut files = Vec::new();
    for path in &config.files {
        if is_fast {
            can_be_read_twice(path).map_err(ReplayError::Files)?;
        }
        let trades = Trades::open(path.clone(), symbol(path, config.symbol), &stop);
        files.push(File {
            path: path.clone(),
            trades: trades.map_err(ReplayError::Files)?,
            head: None,
        });
        tracing::info!(file = %path.display(), speed = %config.speed, "replaying trades");
    }
    let mut outlet = Outlet::new(publisher, config.form, GeneratorMetrics::default());
    let is_ready = outlet.ready(&stop).await;
    let mut stage = Stage {
        files,
        market,
        ladders: HashMap::new(),
        rebase: Rebase::new(None, None, config.speed)?,
        door: Door::new(config.max_ahead),
        newest: None,
        bad_rows: 0,
        late: 0,
        stop,
    };
    // Waiting for rows blocks, and so does this thread: publishing is done by the runtime that waits here.
    let handle = Handle::current();
    let work = move || {
        let started = Instant::now();
        let mut published = 0;
        if config.rebase {
            stage.rebase = rebase(&config, &stage.stop)?;
        }
        let read = if is_ready {
            stage.play(config.speed, &mut outlet, &handle, &mut published)
        } else {
            Ok(())
        };
        handle.block_on(outlet.finish(&stage.stop));
        let totals = Totals {
            published,
            bad_rows: stage.bad_rows,
            future: stage.door.refused,
            elapsed: started.elapsed(),
            stopped: stage.stop.is_cancelled(),
        };
        let ended = if totals.stopped { "stopped" } else { "ended" };
        tracing::info!(published, bad_rows = totals.bad_rows, late = stage.late, future = totals.future, elapsed = ?totals.elapsed, "replay {ended}");
        read.map(|()| totals).map_err(ReplayError::Read)
    };
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|why| Err(ReplayError::Read(format!("the replay panicked: {why}"))))
}

/// The shift of all trades; where time runs faster than it did, all are read once for it.
fn rebase(config: &Config, stop: &CancellationToken) -> Result<Rebase, ReplayError> {
    let mut extent = None;
    let paths = config.files.iter().filter(|_| config.speed.is_fast());
    for path in paths {
        let trades = Trades::open(path.clone(), symbol(path, config.symbol), stop);
        let mut trades = trades.map_err(ReplayError::Files)?;
        loop {
            match trades.next(stop).map_err(ReplayError::Read)? {
                Next::Trade(_, trade) => Extent::add(&mut extent, Extent::of_trade(trade.time())),
                Next::Bad { .. } => {}
                Next::End => break,
            }
        }
    }
    Rebase::new(Some(Resolution::M1), extent, config.speed)
}

/// Of rows that name none: as told, or the file's name if it is a symbol.
fn symbol(path: &Path, told: Option<Symbol>) -> Option<Symbol> {
    told.or_else(|| path.file_stem()?.to_str()?.parse().ok())
}

struct File {
    path: PathBuf,
    trades: Trades,
    head: Option<(Symbol, Trade)>,
}

/// Where it all comes together.
struct Stage {
    files: Vec<File>,
    market: Market,
    ladders: HashMap<Symbol, Ladder>,
    /// With `--rebase`, the first trade becomes less than a minute ago, unless the last one becomes now.
    rebase: Rebase,
    door: Door,
    /// Time of the newest trade, as published.
    newest: Option<i64>,
    bad_rows: u64,
    late: u64,
    stop: CancellationToken,
}

impl Stage {
    /// Takes in what is due and publishes what it changed, until the files end or it is stopped.
    fn play<P: Publisher>(
        &mut self,
        speed: Speed,
        outlet: &mut Outlet<P>,
        handle: &Handle,
        published: &mut u64,
    ) -> Result<(), String> {
        let mut pace = Pace::new(speed);
        let mut numbering = Numbering::new(now_us());
        let mut messages: Vec<Message> = Vec::new();
        while !self.stop.is_cancelled() {
            let waits_until = self.take_due(&mut pace)?;
            for ladder in self.ladders.values_mut() {
                if let Some(newest) = self.newest {
                    ladder.advance(newest);
                }
                ladder.drain(Forming::Changed, &mut messages);
            }
            numbering.number(&mut messages);
            for chunk in messages.chunks_mut(CHUNK_BARS) {
                if !handle.block_on(outlet.deliver(chunk, &self.stop)) {
                    return Ok(());
                }
                *published += count(chunk.len());
            }
            messages.clear();
            match waits_until {
                Wait::Not => {}
                Wait::Until(at) => {
                    handle.block_on(outlet.rest(at, &self.stop));
                }
                Wait::End => break,
            }
        }
        Ok(())
    }

    /// Takes in the trades that are due, up to a chunk, and tells when the next one is.
    fn take_due(&mut self, pace: &mut Pace) -> Result<Wait, String> {
        let now = Instant::now();
        for _ in 0..CHUNK_TRADES {
            let Some((at, time)) = self.first()? else {
                return Ok(Wait::End);
            };
            let due = pace.due(time, now);
            if due > now {
                return Ok(Wait::Until(due));
            }
            if let Some((symbol, trade)) = self.files[at].head.take() {
                self.take(symbol, trade);
            }
        }
        Ok(Wait::Not)
    }

    fn take(&mut self, symbol: Symbol, trade: Trade) {
        let first = trade.time();
        let shift = self.rebase.shift(|now| now - first);
        // A time that leaves the calendar by it is as wrong as one that is not there.
        let Ok(trade) = trade.shifted(shift) else {
            self.bad_rows += 1;
            return;
        };
        // Of a trade's bars, the finest bounds how far it may be ahead.
        if !self.door.takes(symbol, Resolution::S1, trade.time()) {
            return;
        }
        let Market { resolutions, rules } = &self.market;
        let new = || Ladder::of_trades(symbol, resolutions, rules.clone());
        let ladder = self.ladders.entry(symbol).or_insert_with(new);
        if let Some(newest) = self.newest {
            ladder.advance(newest);
        }
        match ladder.trade(trade) {
            Taken::In => self.newest = self.newest.max(Some(trade.time())),
            Taken::Late => self.late += 1,
        }
    }

    /// Fills the heads; the file with the earliest one, and its time as recorded.
    fn first(&mut self) -> Result<Option<(usize, i64)>, String> {
        let mut at = 0;
        while at < self.files.len() {
            let file = &mut self.files[at];
            if file.head.is_none() {
                match file.trades.next(&self.stop)? {
                    Next::Trade(symbol, trade) => file.head = Some((symbol, trade)),
                    Next::Bad { at, reason } => {
                        self.bad_rows += 1;
                        if self.bad_rows <= MAX_REPORTED {
                            tracing::warn!(at, reason, "bad row left out");
                        }
                        continue;
                    }
                    Next::End => {
                        tracing::debug!(file = %file.path.display(), "read to its end");
                        self.files.remove(at);
                        continue;
                    }
                }
            }
            at += 1;
        }
        let heads = self.files.iter().enumerate();
        Ok(heads
            .filter_map(|(at, file)| Some((at, file.head?.1.time())))
            .min_by_key(|(at, time)| (*time, *at)))
    }
}

enum Wait {
    Not,
    /// Nothing is due before.
    Until(Instant),
    /// There is nothing more.
    End,
}
