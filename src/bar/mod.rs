//! The words of barcast: symbol, resolution, topic, bar, message, batch.
//!
//! Nothing here does I/O or knows a runtime, so that every other room, the load test included, can
//! speak these words. Parsing is the only way to make a [`Symbol`], [`Resolution`], [`Topic`] or
//! [`Bar`]: whoever holds one holds a valid one.

mod candle;
mod decode;
mod encode;
mod message;
mod number;
mod pattern;
mod resolution;
mod symbol;
mod topic;

pub use candle::{Bar, BarError, Field, TIME_RANGE};
pub use decode::{Decoder, MAX_BATCH_BYTES, MAX_PAYLOAD_BYTES, Malformed};
pub use encode::{
    BatchEncoder, ZSTD_LEVEL, write_bar, write_bar_fields, write_message, write_update,
};
pub use message::Message;
pub use number::{Number, NumberError};
pub use pattern::{Pattern, PatternError};
pub use resolution::{Resolution, ResolutionError};
pub use symbol::{MAX_SYMBOL_BYTES, Symbol, SymbolError};
pub use topic::{BATCH_CHANNEL, CHANNEL_PATTERN, Topic, TopicError};
