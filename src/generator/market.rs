//! The synthetic market: one price path a symbol, folded into the bars of all its resolutions.
//!
//! No clock, no I/O: whoever calls says what time it is, so that the same seed and the same times
//! give the same messages.

use super::path::{Path, Step};
use crate::bar::{Bar, Message, Number, Resolution, Symbol, Topic};

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
    epoch: u64,
}

#[derive(Debug)]
struct Instrument {
    path: Path,
    folds: Vec<Fold>,
}

/// One topic: what its bar is made of, and how many messages there were.
#[derive(Debug)]
struct Fold {
    topic: Topic,
    seq: u64,
    forming: Option<Candle>,
}

#[derive(Debug, Clone, Copy)]
struct Candle {
    time: i64,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    volume: u64,
}

impl Market {
    /// A market whose messages carry `epoch`; the paths depend on `seed` and each symbol's name, not
    /// on the order or number of the symbols.
    pub fn new(symbols: &[Symbol], resolutions: &[Resolution], seed: u64, epoch: u64) -> Self {
        let instruments = symbols.iter().map(|&symbol| Instrument {
            path: Path::new(symbol, seed),
            folds: resolutions
                .iter()
                .map(|&resolution| Fold::new(Topic { symbol, resolution }))
                .collect(),
        });
        Self {
            instruments: instruments.collect(),
            epoch,
        }
    }

    /// Moves on to `now` (ms since the epoch, UTC) and appends what is to be published: of every
    /// topic the bar that ended, with `closed`, if one did, then the forming one.
    pub fn tick(&mut self, now: i64, out: &mut Vec<Message>) {
        for instrument in &mut self.instruments {
            let step = instrument.path.step(now);
            for fold in &mut instrument.folds {
                if let Some(ended) = fold.apply(now, step) {
                    out.push(fold.message(&ended, true, self.epoch));
                }
                if let Some(forming) = fold.forming {
                    out.push(fold.message(&forming, false, self.epoch));
                }
            }
        }
    }

    /// Before the first tick: the last `count` closed bars of every topic up to `now`, a symbol at a
    /// time, each topic's oldest first. The path goes on from there.
    ///
    /// At most 400 days back, and at most `8 * count` steps a resolution: far back, where only
    /// the coarse resolutions are filled, the steps are long.
    pub fn backfill(&mut self, now: i64, count: usize) -> impl Iterator<Item = Vec<Message>> {
        let epoch = self.epoch;
        self.instruments
            .iter_mut()
            .map(move |instrument| instrument.backfill(now, count, epoch))
    }
}

impl Instrument {
    fn backfill(&mut self, now: i64, count: usize, epoch: u64) -> Vec<Message> {
        let windows: Vec<i64> = self
            .folds
            .iter()
            .map(|fold| window_start(fold.topic.resolution, now, count))
            .collect();
        let mut closed: Vec<Vec<Candle>> = vec![Vec::new(); windows.len()];
        let mut at = windows.iter().copied().min().unwrap_or(now);
        loop {
            let step = self.path.step(at);
            for ((fold, start), closed) in self.folds.iter_mut().zip(&windows).zip(&mut closed) {
                closed.extend(fold.apply(at, step).filter(|bar| bar.time >= *start));
            }
            if at >= now {
                break;
            }
            // The last step is at `now` itself: a bar that ended since the step before closes too.
            at = self.next_step(at, &windows).min(now);
        }
        let topics = self.folds.iter_mut().zip(&closed);
        topics
            .flat_map(|(fold, bars)| bars.iter().map(move |bar| fold.message(bar, true, epoch)))
            .collect()
    }

    /// When the path steps next: a part of the finest resolution filled at `at`, but never past the
    /// start of a window, whose first bars would be missing.
    fn next_step(&self, at: i64, windows: &[i64]) -> i64 {
        let resolutions = self.folds.iter().map(|fold| fold.topic.resolution);
        let length = resolutions
            .zip(windows)
            .filter(|(_, start)| **start <= at)
            .map(|(resolution, _)| resolution.nominal_ms() / STEPS_PER_BAR)
            .min()
            .unwrap_or(1);
        let next_window = windows.iter().copied().filter(|start| *start > at).min();
        (at + length).min(next_window.unwrap_or(i64::MAX))
    }
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

impl Fold {
    fn new(topic: Topic) -> Self {
        Self {
            topic,
            seq: 0,
            forming: None,
        }
    }

    /// Takes one step of the path into the bar; returns the bar that ended with it.
    fn apply(&mut self, now: i64, step: Step) -> Option<Candle> {
        let time = self.topic.resolution.floor(now);
        match &mut self.forming {
            // A clock that stepped back stays within the newest bar.
            Some(bar) if bar.time >= time => {
                bar.take(step);
                None
            }
            forming => {
                let mut opened = Candle::open(time, step.last);
                opened.take(step);
                forming.replace(opened)
            }
        }
    }

    /// The topic's next message.
    fn message(&mut self, candle: &Candle, closed: bool, epoch: u64) -> Message {
        self.seq += 1;
        let bar = Bar::new(
            self.topic.resolution,
            candle.time,
            [
                Number::Float(candle.open),
                Number::Float(candle.high),
                Number::Float(candle.low),
                Number::Float(candle.close),
                Number::Unsigned(candle.volume),
            ],
            closed,
        )
        .expect("on the grid by floor, low and high by min and max, in a year before 10000");
        Message {
            seq: Some(self.seq),
            epoch: Some(epoch),
            ..Message::new(self.topic, bar)
        }
    }
}

impl Candle {
    fn open(time: i64, price: f64) -> Self {
        Self {
            time,
            open: price,
            high: price,
            low: price,
            close: price,
            volume: 0,
        }
    }

    fn take(&mut self, step: Step) {
        self.high = self.high.max(step.price);
        self.low = self.low.min(step.price);
        self.close = step.price;
        self.volume = self.volume.saturating_add(step.volume);
    }
}
