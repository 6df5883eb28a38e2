use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::ingest::{DEFAULT_RESOLUTIONS, Rows};
use super::{RedisArgs, StoreArgs, values};
use crate::aggregate::Rules;
use crate::bar::{Pattern, Resolution, Symbol};
use crate::generator::pack::{Compress, Form, Publish};
use crate::record::postgres::Address;
use crate::replay::{Config, Market, Replay, Speed, Wanted};

/// `barcast replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// CSV files of bars, as GOOG_D.csv: a header row with time (or date), open, high, low, close, volume;
    /// or files of trades as ingest reads them,
    /// or what record wrote: Parquet files, their folder, or a postgres:// URL
    #[arg(required_unless_present = "postgres_url", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Read recorded bars from this PostgreSQL database too, as FILE but not to be seen by others in a
    /// list of processes when it comes by the variable; none without it
    #[arg(long, env = "BARCAST_REPLAY_POSTGRES_URL", hide_env_values = true)]
    postgres_url: Option<String>,
    /// Only these topics, as bars:AAPL:1,bars:MSFT:* [default: all]
    #[arg(long, env = "BARCAST_REPLAY_TOPICS", value_delimiter = ',', value_parser = values::pattern)]
    topics: Vec<Pattern>,
    /// Only bars that start at this time or later, as 2026-11-23T09:30 [default: all]
    #[arg(long, env = "BARCAST_REPLAY_FROM", value_parser = values::time)]
    from: Option<i64>,
    /// Only bars that start before this time [default: all]
    #[arg(long, env = "BARCAST_REPLAY_TO", value_parser = values::time)]
    to: Option<i64>,
    /// What the rows are: trades become bars on the way
    #[arg(long, env = "BARCAST_REPLAY_INPUT", value_enum, default_value = "bars")]
    input: Rows,
    /// Resolutions of the bars made of trades, separated by commas [default: 1,5,15,60,240,D,W,M]
    #[arg(
        long,
        env = "BARCAST_REPLAY_RESOLUTIONS",
        value_delimiter = ',',
        value_parser = values::resolution
    )]
    resolutions: Vec<Resolution>,
    /// Seconds behind the newest trade that another may come and still revise closed bars
    #[arg(long, env = "BARCAST_REPLAY_LATE", default_value = "10", value_parser = values::seconds)]
    late: Duration,
    /// Symbol of the bars, or of trades that name none [default: from the file's name]
    #[arg(long, env = "BARCAST_REPLAY_SYMBOL", value_parser = values::symbol)]
    symbol: Option<Symbol>,
    /// Resolution of the bars [default: from the file's name]
    #[arg(long, env = "BARCAST_REPLAY_RESOLUTION", value_parser = values::resolution)]
    resolution: Option<Resolution>,
    /// How fast: 1x is as it happened, 60x an hour a minute, max as fast as Redis confirms
    #[arg(long, env = "BARCAST_REPLAY_SPEED", default_value = "1x")]
    speed: Speed,
    /// Give the bars times of now, the first one the interval that has just ended; and trades, the first
    /// one less than a minute ago. At more than 1x the last one ends when it is played instead, and files are
    /// read twice [default: off]
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
        let recorded = self.postgres_url.is_some()
            || !self.topics.is_empty()
            || self.from.is_some()
            || self.to.is_some();
        let trades = match self.input {
            Rows::Trades if recorded => {
                return Err(
                    "--input trades (BARCAST_REPLAY_INPUT): allowed: without --postgres-url, --topics, \
                     --from and --to, which choose recorded bars"
                        .to_owned(),
                );
            }
            Rows::Trades if self.resolution.is_some() => {
                return Err(
                    "--resolution (BARCAST_REPLAY_RESOLUTION): allowed: with --input bars; \
                     --resolutions tells what trades become"
                        .to_owned(),
                );
            }
            Rows::Bars if !self.resolutions.is_empty() => {
                return Err(
                    "--resolutions (BARCAST_REPLAY_RESOLUTIONS): allowed: with --input trades; \
                     barcast ingest makes bars of bars"
                        .to_owned(),
                );
            }
            Rows::Bars => None,
            Rows::Trades => Some(Market {
                resolutions: if self.resolutions.is_empty() {
                    let all = DEFAULT_RESOLUTIONS.split(',').map(values::resolution);
                    all.collect::<Result<_, _>>()?
                } else {
                    self.resolutions
                },
                rules: Rules {
                    late_ms: i64::try_from(self.late.as_millis()).unwrap_or(i64::MAX),
                    ..Rules::default()
                },
            }),
        };
        // A URL may stand among the files, or come by the variable where nobody else sees it.
        let is_url = |path: &PathBuf| path.to_str().is_some_and(Address::is_one);
        let (urls, files): (Vec<_>, Vec<_>) = self.files.into_iter().partition(is_url);
        let urls = urls.iter().filter_map(|url| url.to_str());
        let postgres: Result<Vec<_>, _> = urls
            .chain(self.postgres_url.as_deref())
            .map(Address::parse)
            .collect();
        let postgres = postgres
            .map_err(|why| format!("--postgres-url (BARCAST_REPLAY_POSTGRES_URL): {why}"))?;
        if trades.is_some() && !postgres.is_empty() {
            return Err("FILE: allowed: with --input trades, files of trades".to_owned());
        }
        Ok(Replay {
            config: Config {
                files,
                postgres,
                wanted: Wanted {
                    topics: self.topics,
                    from: self.from,
                    to: self.to,
                },
                symbol: self.symbol,
                resolution: self.resolution,
                speed: self.speed,
                rebase: self.rebase,
                trades,
                form: Form::new(self.publish, self.compress)?,
                max_ahead: self.store.max_ahead(),
            },
            bus: self.store.keeping(self.redis.bus()?),
        })
    }
}
