//! Aggregation: trades into bars, and lower bars into higher ones, as they come.
//!
//! A [`Ladder`] holds one symbol's bars of every resolution. The finest, its leaf, is made of trades or
//! of bars from outside; every other level is the fold of a finer one, so that all resolutions agree
//! with each other at every moment, forming or closed. Nothing here knows a clock or does I/O: time is
//! the newest trade's, or whatever [`Ladder::advance`] is told.

mod candle;
mod ladder;
mod level;
mod session;

pub use candle::{Candle, Trade, TradeError};
pub use ladder::{Forming, Ladder, LadderError, Taken};
pub use session::Session;

/// How bars are made where trades alone do not say it.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// So far behind the newest trade another may come and still count, in ms. It then revises
    /// bars that are closed already.
    pub late_ms: i64,
    pub empty: Empty,
    /// Which trades make a day; the UTC day when there is none.
    pub session: Option<Session>,
}

/// What becomes of an interval without trades, once it is over. Only between trades: nothing is made up
/// before the first, and nothing over a pause of more than [`MAX_FILL`] intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Empty {
    /// No bar
    #[default]
    Skip,
    /// A bar at the last close, without volume
    Flat,
    /// A bar without prices
    Null,
}

/// Most intervals of the leaf that are filled in one pause: a week of minutes. Behind a longer one the
/// market was closed rather than quiet, and memory stays bounded.
pub const MAX_FILL: usize = 10_000;

/// Intervals of the leaf, filled by a clock after a symbol's newest row, that a later row can still
/// change: ten minutes of seconds. A symbol that is silent for days takes no more memory.
pub const MAX_SILENT_FILL: i64 = 600;
