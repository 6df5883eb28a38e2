//! The synthetic market: one price path a symbol, folded into the bars of all its resolutions.
//!
//! No clock, no I/O: whoever calls says what time it is, so that the same seed and the same times
//! give the same messages.

use rust_decimal::Decimal;

use super::numbering::Numbering;
use super::path::Path;
use crate::aggregate::{Forming, Ladder, Rules, Trade};
use crate::bar::{Message, Number, Resolution, Symbol};

/// How far back a backfill reaches, in ms: more than a year of days. Resolutions of which fewer bars
/// fit get as many as fit.
const BACKFILL_SPAN_MS: i64 = 400 * 86_400_000;
/// Steps of the path within each bar of the finest resolution that is filled at that time: enough
/// for a candle with wicks.
const STEPS_PER_BAR: i64 = 8;

/// All symbols and their bars.
#[derive(Debug)]
pub struct Market {
    instruments: Vec<Instrument>,
    resolutions: Vec<Resolution>,
    numbering: Numbering,
}

#[derive(Debug)]
struct Instrument {
    path: Path,
    ladder: Ladder,
    /// The path's newest time, ms since the epoch.
    now: i64,
}

impl Market {
    /// A market whose messages carry `epoch`; the paths depend on `seed` and each symbol's name, not
    /// on the order or number of the symbols.
    pub fn new(symbols: &[Symbol], resolutions: &[Resolution], seed: u64, epoch: u64) -> Self {
        let instruments = symbols.iter().map(|&symbol| Instrument {
            path: Path::new(symbol, seed),
            ladder: Ladder::of_trades(symbol, resolutions, Rules::default()),
            now: i64::MIN,
        });
        Self {
            instruments: instruments.collect(),
            resolutions: resolutions.to_vec(),
            numbering: Numbering::new(epoch),
        }
    }

    /// Moves on to `now` (ms since the epoch, UTC) and appends what is to be published: of every
    /// topic the bar that ended, with `closed`, if one did, then the forming one.
    pub fn tick(&mut self, now: i64, out: &mut Vec<Message>) {
        let from = out.len();
        for instrument in &mut self.instruments {
            instrument.step(now);
            instrument.ladder.drain(Forming::All, out);
        }
        self.numbering.number(&mut out[from..]);
    }

    /// Before the first tick: the last `count` closed bars of every topic up to `now`, a symbol at a
    /// time, each topic's oldest first. The path goes on from there.
    ///
    /// At most 400 days back, and at most `8 * count` steps a resolution: far back, where only
    /// the coarse resolutions are filled, the steps are long.
    pub fn backfill(&mut self, now: i64, count: usize) -> impl Iterator<Item = Vec<Message>> {
        let windows: Vec<Window> = self
            .resolutions
            .iter()
            .map(|&resolution| Window {
                resolution,
                start: window_start(resolution, now, count),
            })
            .collect();
        let numbering = &mut self.numbering;
        self.instruments.iter_mut().map(move |instrument| {
            let mut messages = instrument.backfill(now, &windows);
            // A topic after the other, as charts are filled; stable, so that bars stay in order.
            messages.sort_by_key(|message| message.topic.resolution);
            numbering.number(&mut messages);
            messages
        })
    }
}

/// What is filled of one resolution: bars from `start` on.
#[derive(Debug, Clone, Copy)]
struct Window {
    resolution: Resolution,
    start: i64,
}

impl Instrument {
    /// The path moves on to `now`, and the bars with it. A clock that steps back stands still here.
    fn step(&mut self, now: i64) {
        self.now = self.now.max(now);
        let step = self.path.step(now);
        // A bar opens at the last close, not at the price that the step leads to.
        self.trade(step.last, 0);
        self.trade(step.price, step.volume);
    }

    fn trade(&mut self, price: f64, volume: u64) {
        let trade = Trade::new(self.now, Number::Float(price), Decimal::from(volume));
        self.ladder
            .trade(trade.expect("clocks show years below 9998, prices are finite"));
    }

    fn backfill(&mut self, now: i64, windows: &[Window]) -> Vec<Message> {
        let mut kept = Vec::new();
        let mut out = Vec::new();
        let mut at = windows.iter().map(|w| w.start).min().unwrap_or(now);
        loop {
            self.step(at);
            self.ladder.drain(Forming::Changed, &mut out);
            kept.extend(out.drain(..).filter(|message| {
                let mut of = windows.iter();
                let window = of.find(|w| w.resolution == message.topic.resolution);
                message.bar.closed && window.is_some_and(|w| message.bar.time() >= w.start)
            }));
            if at >= now {
                return kept;
            }
            // The last step is at `now` itself: a bar that ended since the step before closes too.
            at = next_step(at, windows).min(now);
        }
    }
}

/// When the path steps next: a part of the finest resolution filled at `at`, but never past the
/// start of a window, whose first bars would be missing.
fn next_step(at: i64, windows: &[Window]) -> i64 {
    let begun = windows.iter().filter(|window| window.start <= at);
    let length = begun
        .map(|window| window.resolution.nominal_ms() / STEPS_PER_BAR)
        .min();
    let later = windows.iter().map(|window| window.start);
    let next_window = later.filter(|start| *start > at).min();
    (at + length.unwrap_or(1)).min(next_window.unwrap_or(i64::MAX))
}

/// Start of the oldest bar to fill: `count` before the forming one, or the oldest that lies wholly
/// within the span.
fn window_start(resolution: Resolution, now: i64, count: usize) -> i64 {
    let oldest = now.saturating_sub(BACKFILL_SPAN_MS);
    let forming = resolution.floor(now);
    std::iter::successors(Some(forming), |start| Some(resolution.previous(*start)))
        .take(count.saturating_add(1))
        .take_while(|start| *start >= oldest)
        .last()
        .unwrap_or(forming)
}
