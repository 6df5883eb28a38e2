use std::path::PathBuf;

use clap::Args;

use super::{RedisArgs, StoreArgs, values};
use crate::bar::{Resolution, Symbol};
use crate::generator::pack::{Compress, Form, Publish};
use crate::replay::{Config, Replay, Speed};

/// `barcast replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// CSV files of bars, as GOOG_D.csv: a header row with time (or date), open, high, low, close, volume
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Symbol of the bars [default: from the file's name]
    #[arg(long, env = "BARCAST_REPLAY_SYMBOL", value_parser = values::symbol)]
    symbol: Option<Symbol>,
    /// Resolution of the bars [default: from the file's name]
    #[arg(long, env = "BARCAST_REPLAY_RESOLUTION", value_parser = values::resolution)]
    resolution: Option<Resolution>,
    /// How fast: 1x is as it happened, 60x an hour a minute, max as fast as Redis confirms
    #[arg(long, env = "BARCAST_REPLAY_SPEED", default_value = "1x")]
    speed: Speed,
    /// Give the bars times of now, the first one the interval that has just ended [default: off]
    #[arg(long, env = "BARCAST_REPLAY_REBASE")]
    rebase: bool,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// How bars are published
    #[arg(
        long,
        env = "BARCAST_REPLAY_PUBLISH",
        value_enum,
        default_value = "single"
    )]
    publish: Publish,
    /// Compression of batches
    #[arg(
        long,
        env = "BARCAST_REPLAY_COMPRESS",
        value_enum,
        default_value = "none"
    )]
    compress: Compress,
}

impl ReplayArgs {
    /// What to run. The files are looked at when it runs.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed.
    pub fn validate(self) -> Result<Replay, String> {
        Ok(Replay {
            config: Config {
                files: self.files,
                symbol: self.symbol,
                resolution: self.resolution,
                speed: self.speed,
                rebase: self.rebase,
                form: Form::new(self.publish, self.compress)?,
            },
            bus: self.store.keeping(self.redis.bus()?),
        })
    }
}
