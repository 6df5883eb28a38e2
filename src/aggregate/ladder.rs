//! One symbol's bars of all resolutions.

use super::candle::{Candle, Trade};
use super::level::{Level, divides};
use super::{Empty, MAX_FILL, MAX_SILENT_FILL, Rules, Session};
use crate::bar::{Bar, Message, Resolution, Symbol, Topic};

/// Levels between the leaf and what is wanted, so that no bar is folded from very many.
const STEPS: [Resolution; 7] = [
    Resolution::S1,
    Resolution::M1,
    Resolution::M5,
    Resolution::M15,
    Resolution::M60,
    Resolution::M240,
    Resolution::Day,
];

/// What became of a trade or a bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It counts in every bar it belongs to.
    In,
    /// It came later than the rules allow, and counts nowhere.
    Late,
}

/// Which forming bars are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forming {
    /// Those that changed.
    Changed,
    /// All of them.
    All,
}

/// Why there can be no such ladder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bars of resolution {wanted} cannot be made of those of {leaf}")]
pub struct LadderError {
    pub wanted: Resolution,
    pub leaf: Resolution,
}

/// The bars of one symbol.
#[derive(Debug)]
pub struct Ladder {
    rules: Rules,
    /// Finest first; a level's source stands before it.
    levels: Vec<Level>,
    /// The newest time there is: a row's, or what [`Ladder::advance`] was told.
    now: Option<i64>,
    /// The newest time of a row: what is late is so by this alone, whatever a clock says.
    newest: Option<i64>,
    /// When the interval after that of the newest row begins: then something may be forgotten.
    newest_edge: i64,
    /// Nothing before can be changed any more, since it is forgotten.
    settled: i64,
    /// When the leaf's next interval begins: nothing closes before.
    edge: i64,
    /// Times of each level's changed bars, while something is taken in.
    changed: Vec<Vec<i64>>,
}

impl Ladder {
    /// The newest time of a row that was taken, ms since the epoch: what is late is so behind it.
    pub fn newest(&self) -> Option<i64> {
        self.newest
    }

    /// Bars of the resolutions in `wanted`, made of trades.
    pub fn of_trades(symbol: Symbol, wanted: &[Resolution], rules: Rules) -> Self {
        let leaf = match wanted.iter().min() {
            Some(finest) if *finest < Resolution::M1 => Resolution::S1,
            _ => Resolution::M1,
        };
        // Seconds divide every other resolution, and minutes all but those of seconds.
        Self::build(symbol, wanted, leaf, rules)
    }

    /// Bars of the resolutions in `wanted`, made of bars of the resolution `leaf`.
    ///
    /// # Errors
    /// When one of them is no multiple of the leaf.
    pub fn of_bars(
        symbol: Symbol,
        wanted: &[Resolution],
        leaf: Resolution,
        rules: Rules,
    ) -> Result<Self, LadderError> {
        let session = rules.session.as_ref();
        let fits = |wanted: Resolution| {
            divides(leaf, wanted)
                && (wanted < Resolution::Day || source_fits(leaf, Resolution::Day, session))
        };
        match wanted.iter().find(|wanted| !fits(**wanted)) {
            Some(&wanted) => Err(LadderError { wanted, leaf }),
            None => Ok(Self::build(symbol, wanted, leaf, rules)),
        }
    }

    fn build(symbol: Symbol, wanted: &[Resolution], leaf: Resolution, rules: Rules) -> Self {
        let coarsest = wanted.iter().copied().max().unwrap_or(leaf);
        let steps = STEPS
            .iter()
            .filter(|step| divides(leaf, **step) && divides(**step, coarsest));
        let mut all: Vec<Resolution> = wanted.iter().chain(steps).copied().collect();
        all.push(leaf);
        all.sort_unstable();
        all.dedup();
        let session = rules.session.as_ref();
        let source = |at: usize| {
            let finer = all[..at].iter();
            finer
                .rev()
                .position(|finer| source_fits(*finer, all[at], session))
        };
        let levels: Vec<Level> = (0..all.len())
            .map(|at| {
                let resolution = all[at];
                let topic = Topic { symbol, resolution };
                let is_session_day = resolution == Resolution::Day && leaf < resolution;
                let session = session.filter(|_| is_session_day);
                let source = source(at).map(|back| at - 1 - back);
                Level::new(topic, wanted.contains(&resolution), source, session)
            })
            .collect();
        Self {
            changed: vec![Vec::new(); levels.len()],
            rules,
            levels,
            now: None,
            newest: None,
            newest_edge: i64::MIN,
            settled: i64::MIN,
            edge: i64::MIN,
        }
    }

    /// Takes in one trade, in any order within the rules.
    pub fn trade(&mut self, trade: Trade) -> Taken {
        if self.is_late(trade.time()) {
            return Taken::Late;
        }
        self.reach(trade.time());
        let first = self.levels[0].first();
        self.levels[0].trade(&trade, &mut self.changed[0]);
        self.fill_to(first);
        self.propagate();
        Taken::In
    }

    /// Takes in the state of one bar of the leaf's resolution: it replaces what was known of its
    /// interval, as bars do. An empty one only says that its interval is over: what becomes of it is up
    /// to the rules.
    pub fn bar(&mut self, bar: &Bar) -> Taken {
        let resolution = self.levels[0].topic.resolution;
        let time = resolution.floor(bar.time());
        let end = resolution.next(time);
        if self.is_late(end - 1) {
            return Taken::Late;
        }
        self.reach(time);
        if !bar.is_empty() {
            let candle = Some(Candle::of(bar));
            let first = self.levels[0].first();
            self.levels[0].put(time, candle, bar.closed, &mut self.changed[0]);
            self.fill_to(first);
            self.propagate();
        }
        if bar.closed {
            self.reach(end);
        }
        Taken::In
    }

    /// A row of this time is there.
    fn reach(&mut self, time: i64) {
        if self.newest.is_some_and(|before| time <= before) {
            return;
        }
        self.newest = Some(time);
        self.advance(time);
        // Where time is ahead of the rows already, only this forgets what they have left behind.
        if time >= self.newest_edge {
            self.newest_edge = self.levels[0].topic.resolution.next(time);
            self.forget();
        }
    }

    /// Time goes on to `now` (ms since the epoch, UTC): what ended by then closes, and intervals
    /// without trades are filled by the rules. An earlier time than before changes nothing. Rows that
    /// come after it are not late for it: they revise what was closed.
    pub fn advance(&mut self, now: i64) {
        if self.now.is_some_and(|before| now <= before) {
            return;
        }
        self.now = Some(now);
        if now < self.edge {
            return;
        }
        self.edge = self.levels[0].topic.resolution.next(now);
        if self.rules.empty != Empty::Skip {
            let missing = self.missing(now);
            let flat = self.rules.empty == Empty::Flat;
            self.levels[0].fill(&missing, flat, &mut self.changed[0]);
            self.propagate();
        }
        let forming = self.bars_from(now);
        for (level, forming) in self.levels.iter_mut().zip(forming) {
            level.form(forming);
        }
        if self.rules.empty != Empty::Skip {
            // Else rows alone make intervals, and forget them.
            self.forget();
        }
    }

    /// Appends what changed since the last call, for each topic oldest first; `seq`, `epoch` and `ts`
    /// are left to who publishes.
    pub fn drain(&mut self, forming: Forming, out: &mut Vec<Message>) {
        for level in self.levels.iter_mut().filter(|level| level.wanted) {
            level.drain(forming == Forming::All, out);
        }
    }

    /// Bars that are kept because they can still change, or others of them.
    pub fn kept(&self) -> usize {
        self.levels.iter().map(|level| level.entries.len()).sum()
    }

    fn is_late(&self, time: i64) -> bool {
        let late_ms = self.rules.late_ms;
        let behind = |newest| time.saturating_add(late_ms) < newest;
        time < self.settled || self.newest.is_some_and(behind)
    }

    /// The leaf's intervals between the newest and `now`, as far as they are to be filled.
    fn missing(&mut self, now: i64) -> Vec<i64> {
        let end = self.levels[0].topic.resolution.floor(now);
        let newest = self.levels[0].entries.back().map(|entry| entry.time);
        newest.map_or_else(Vec::new, |newest| self.between(newest, end))
    }

    /// A late row may come before what was the first: then intervals between them are filled, too.
    fn fill_to(&mut self, first: Option<i64>) {
        let now_first = self.levels[0].first();
        if let (Some(earlier), Some(first)) = (now_first, first)
            && earlier < first
            && self.rules.empty != Empty::Skip
        {
            let missing = self.between(earlier, first);
            let flat = self.rules.empty == Empty::Flat;
            self.levels[0].fill_behind_first(&missing, flat, &mut self.changed[0]);
        }
    }

    /// The leaf's intervals behind `time` and before `end` in which the market is open; none of too many.
    fn between(&mut self, time: i64, end: i64) -> Vec<i64> {
        let resolution = self.levels[0].topic.resolution;
        let mut times = Vec::new();
        let mut time = resolution.next(time);
        while time < end {
            if let Some(session) = &mut self.rules.session
                && session.day_of(time).is_none()
            {
                let day = session.day_from(time);
                time = resolution.floor(session.hours(day).0.max(time + resolution.nominal_ms()));
                continue;
            }
            if times.len() == MAX_FILL {
                return Vec::new();
            }
            times.push(time);
            time = resolution.next(time);
        }
        times
    }

    /// Folds what changed upward.
    fn propagate(&mut self) {
        for at in 1..self.levels.len() {
            let (finer, rest) = self.levels.split_at_mut(at);
            let level = &mut rest[0];
            let Some(source) = level.source else {
                continue;
            };
            let (below, above) = self.changed.split_at_mut(at);
            let mut last = None;
            for time in &below[source] {
                let Some(bar) = level.bar_of(*time) else {
                    continue;
                };
                if last.replace(bar) == Some(bar) {
                    continue;
                }
                if let Some(candle) = finer[source].fold(level.hours(bar)) {
                    level.put(bar, candle, false, &mut above[0]);
                }
            }
        }
        self.changed.iter_mut().for_each(Vec::clear);
    }

    /// Forgets what nothing can change any more.
    fn forget(&mut self) {
        let (Some(newest), Some(now)) = (self.newest, self.now) else {
            return;
        };
        let settled = newest.saturating_sub(self.rules.late_ms);
        let settled = if self.rules.empty == Empty::Skip {
            settled
        } else {
            let leaf_ms = self.levels[0].topic.resolution.nominal_ms();
            let filled = now.saturating_sub(leaf_ms.saturating_mul(MAX_SILENT_FILL));
            self.settled = self.settled.max(filled.saturating_sub(self.rules.late_ms));
            settled.max(self.settled)
        };
        let count = self.levels.len();
        let bars = self.bars_from(settled);
        let hours = self.levels.iter().zip(&bars);
        let hours: Vec<_> = hours.map(|(level, bar)| level.hours(*bar)).collect();
        for (at, own) in bars.into_iter().enumerate() {
            let above = (at + 1..count).filter(|above| self.levels[*above].source == Some(at));
            let needed = above.map(|above| hours[above].start).min();
            self.levels[at].forget_before(needed.map_or(own, |needed| needed.min(own)));
        }
    }

    /// Of each level the bar that forms at `time`, or the next one that will.
    fn bars_from(&mut self, time: i64) -> Vec<i64> {
        // Weeks and months end with a day, whenever that ends.
        let mut day = time;
        let levels = self.levels.iter_mut().map(|level| {
            let resolution = level.topic.resolution;
            let bar = level.bar_from(if resolution > Resolution::Day {
                day
            } else {
                time
            });
            if resolution == Resolution::Day {
                day = bar;
            }
            bar
        });
        levels.collect()
    }
}

/// Whether a level can be folded from a finer one.
fn source_fits(fine: Resolution, coarse: Resolution, session: Option<&Session>) -> bool {
    match coarse {
        Resolution::Week | Resolution::Month => fine == Resolution::Day,
        Resolution::Day => {
            fine == coarse
                || session.map_or(divides(fine, coarse), |session| {
                    divides(fine, session.grid())
                })
        }
        _ => fine < coarse && divides(fine, coarse),
    }
}
