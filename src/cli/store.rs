use clap::{Args, ValueEnum};

use super::{AheadArgs, values};
use crate::ahead::MaxAhead;
use crate::bus::RedisBus;

/// Closed bars of a topic that publishers keep by default, as many as a gateway does.
const STORE_BARS: usize = 1_000;

/// `--store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// In Redis, beside publishing
    Redis,
    /// Nowhere
    None,
}

/// Where bars outlive gateways, and how many.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Where closed bars are kept for gateways that come later
    #[arg(long, env = "BARCAST_STORE", value_enum, default_value = "redis")]
    store: Store,
    /// Closed bars kept there of each topic
    #[arg(long, env = "BARCAST_STORE_BARS", default_value_t = STORE_BARS, value_parser = values::positive)]
    store_bars: usize,
    #[command(flatten)]
    ahead: AheadArgs,
}

impl StoreArgs {
    /// How far a bar may start ahead of the clock.
    pub fn max_ahead(&self) -> MaxAhead {
        self.ahead.max_ahead
    }

    /// The bus, with publishers that keep what is wanted.
    pub fn keeping(&self, bus: RedisBus) -> RedisBus {
        match self.store {
            Store::Redis => bus.keeping(self.store_bars).refusing(self.max_ahead()),
            Store::None => bus,
        }
    }
}
