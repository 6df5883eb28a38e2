use std::time::Duration;

use clap::Args;

use super::values;
use crate::bar::{Resolution, Symbol};
use crate::generator::Config;
use crate::generator::pack::Form;

/// Most bars filled back over all topics: some 200 MB of messages and a few seconds.
const MAX_BACKFILL_BARS: usize = 1_000_000;

/// Settings of the synthetic market, wherever its bars go.
#[derive(Debug, Clone, Args)]
pub struct MarketArgs {
    /// Symbols, separated by commas; repeated ones count once
    #[arg(
        long,
        env = "BAR_GENERATOR_SYMBOLS",
        default_value = "AAPL,GOOGL,MSFT",
        value_delimiter = ',',
        value_parser = values::symbol
    )]
    symbols: Vec<Symbol>,
    /// Resolutions, separated by commas; repeated ones count once
    #[arg(
        long,
        env = "BAR_GENERATOR_RESOLUTIONS",
        default_value = "1,5,D",
        value_delimiter = ',',
        value_parser = values::resolution
    )]
    resolutions: Vec<Resolution>,
    /// Seconds between ticks
    #[arg(long, env = "BAR_GENERATOR_INTERVAL", default_value = "2.0", value_parser = values::interval)]
    interval: Duration,
    /// Seed of the prices: the same seed gives the same market
    #[arg(long, env = "BARCAST_GENERATOR_SEED", default_value = "1", value_parser = values::whole::<u64>, allow_negative_numbers = true)]
    seed: u64,
    /// Closed bars of every topic to publish before the first tick [default: 0; dev: 300]
    #[arg(long, env = "BARCAST_GENERATOR_BACKFILL", value_parser = values::whole::<usize>, allow_negative_numbers = true)]
    backfill: Option<usize>,
}

impl MarketArgs {
    /// The generator's settings, with `backfill` where none is given.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed.
    pub fn validate(self, form: Form, backfill: usize) -> Result<Config, String> {
        let symbols = unique(self.symbols);
        let resolutions = unique(self.resolutions);
        let backfill = self.backfill.unwrap_or(backfill);
        let topics = symbols.len() * resolutions.len();
        let most = MAX_BACKFILL_BARS / topics.max(1);
        if backfill > most {
            return Err(format!(
                "--backfill (BARCAST_GENERATOR_BACKFILL) = {backfill}: allowed: up to {most} with {topics} topics"
            ));
        }
        Ok(Config {
            symbols,
            resolutions,
            interval: self.interval,
            form,
            seed: self.seed,
            backfill,
        })
    }
}

/// Without repetitions, in the order given.
fn unique<T: PartialEq>(list: Vec<T>) -> Vec<T> {
    let mut kept = Vec::with_capacity(list.len());
    for item in list {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}
