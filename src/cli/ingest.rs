use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{RedisArgs, StoreArgs, values};
use crate::aggregate::{Empty, Rules, Session};
use crate::bar::{CHANNEL_PATTERN, Resolution, Symbol};
use crate::bus::Bus;
use crate::feed::{Config, Feed, Format, Input, Source};
use crate::generator::pack::{Compress, Form, Publish};

/// What the rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Rows {
    /// Trades: symbol, time, price, size
    Trades,
    /// Bars of one resolution: symbol, time, open, high, low, close, volume
    Bars,
}

/// What trades become when nothing else is wanted.
pub(super) const DEFAULT_RESOLUTIONS: &str = "1,5,15,60,240,D,W,M";

/// `barcast ingest`.
#[derive(Debug, Clone, Args)]
pub struct IngestArgs {
    /// Files of rows, one after the other; - or none is standard input
    #[arg(value_name = "FILE", conflicts_with_all = ["channel", "stream"])]
    files: Vec<PathBuf>,
    /// Read from this Redis channel instead (or a pattern), a JSON object a line of each message; none without it
    #[arg(long, env = "BARCAST_INGEST_CHANNEL", conflicts_with = "stream")]
    channel: Option<String>,
    /// Read from this Redis stream instead, a row an entry; none without it
    #[arg(long, env = "BARCAST_INGEST_STREAM")]
    stream: Option<String>,
    /// Where in the stream to begin: an entry's id, 0 for all of it, $ for what comes from now on
    #[arg(long, env = "BARCAST_INGEST_STREAM_FROM", default_value = "$", value_parser = values::stream_id)]
    stream_from: String,
    /// What the rows are
    #[arg(
        long,
        env = "BARCAST_INGEST_INPUT",
        value_enum,
        default_value = "trades"
    )]
    input: Rows,
    /// How they are written [default: by the file's name, ndjson otherwise]
    #[arg(long, env = "BARCAST_INGEST_FORMAT", value_enum)]
    format: Option<Format>,
    /// Resolution of the bars that are read
    #[arg(long, env = "BARCAST_INGEST_INPUT_RESOLUTION", default_value = "1", value_parser = values::resolution)]
    input_resolution: Resolution,
    /// Symbol of rows that name none; none without it
    #[arg(long, env = "BARCAST_INGEST_SYMBOL", value_parser = values::symbol)]
    symbol: Option<Symbol>,
    /// Resolutions to publish, separated by commas
    #[arg(
        long,
        env = "BARCAST_INGEST_RESOLUTIONS",
        default_value = DEFAULT_RESOLUTIONS,
        value_delimiter = ',',
        value_parser = values::resolution
    )]
    resolutions: Vec<Resolution>,
    /// Seconds behind the newest row of its symbol that another may come and still revise closed bars
    #[arg(long, env = "BARCAST_INGEST_LATE", default_value = "10", value_parser = values::seconds)]
    late: Duration,
    /// What becomes of an interval without trades
    #[arg(long, env = "BARCAST_INGEST_EMPTY", value_enum, default_value = "skip")]
    empty: Empty,
    /// What makes a day, as "America/New_York 09:30-16:00 Mon-Fri" [default: the UTC day]
    #[arg(long, env = "BARCAST_INGEST_SESSION")]
    session: Option<Session>,
    /// Close bars by the clock too, a second after their end; always so with a channel or
    /// a stream [default: off]
    #[arg(long, env = "BARCAST_INGEST_LIVE")]
    live: bool,
    /// Longest delay of a feed, in seconds, that the clock waits for before it closes bars: data that is sold delayed
    #[arg(long, env = "BARCAST_INGEST_MAX_FEED_DELAY", default_value = "3600", value_parser = values::seconds)]
    max_feed_delay: Duration,
    /// Longest time in seconds until changed bars are published
    #[arg(long, env = "BARCAST_INGEST_FLUSH", default_value = "0.25", value_parser = values::interval)]
    flush: Duration,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// How bars are published
    #[arg(
        long,
        env = "BARCAST_INGEST_PUBLISH",
        value_enum,
        default_value = "single"
    )]
    publish: Publish,
    /// Compression of batches
    #[arg(
        long,
        env = "BARCAST_INGEST_COMPRESS",
        value_enum,
        default_value = "none"
    )]
    compress: Compress,
    /// Address for /healthz, /readyz and /metrics, as 127.0.0.1:9101; none without it
    #[arg(long, env = "BARCAST_INGEST_HEALTH_LISTEN", value_parser = values::address)]
    health_listen: Option<SocketAddr>,
}

impl IngestArgs {
    /// What to run.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed.
    pub fn validate(self) -> Result<Feed, String> {
        let bus = self.redis.bus()?;
        let live = self.live || self.channel.is_some() || self.stream.is_some();
        let source = match (self.channel, self.stream) {
            (Some(channel), _) if hears_topics(&channel, bus.prefix()) => {
                return Err(format!(
                    "--channel (BARCAST_INGEST_CHANNEL) = {channel:?}: allowed: channels other than {}{CHANNEL_PATTERN}, where the bars go",
                    bus.prefix()
                ));
            }
            (Some(channel), _) => Source::Channel(bus.clone(), channel),
            (None, Some(stream)) => Source::Stream(bus.clone(), stream, self.stream_from),
            (None, None) if self.files.is_empty() => Source::Files(vec!["-".into()]),
            (None, None) => Source::Files(self.files),
        };
        Ok(Feed {
            config: Config {
                source,
                format: self.format,
                input: match self.input {
                    Rows::Trades => Input::Trades,
                    Rows::Bars => Input::Bars(self.input_resolution),
                },
                symbol: self.symbol,
                resolutions: self.resolutions,
                rules: Rules {
                    late_ms: i64::try_from(self.late.as_millis()).unwrap_or(i64::MAX),
                    empty: self.empty,
                    session: self.session,
                },
                live,
                max_delay: self.max_feed_delay,
                flush: self.flush,
                form: Form::new(self.publish, self.compress)?,
                max_ahead: self.store.max_ahead(),
            },
            bus: self.store.keeping(bus),
            health_listen: self.health_listen,
        })
    }
}

/// Whether a pattern may hear the topics' channels, which begin with `prefix`: as far as it goes without a
/// wildcard, it agrees with them.
fn hears_topics(pattern: &str, prefix: &str) -> bool {
    let plain = pattern
        .split(['*', '?', '[', '\\'])
        .next()
        .unwrap_or_default();
    let topics = format!("{prefix}{}", CHANNEL_PATTERN.trim_end_matches('*'));
    plain.starts_with(&topics) || (plain.len() < pattern.len() && topics.starts_with(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_never_hears_what_it_publishes() {
        for pattern in ["bars:AAPL:1", "bars:*", "*", "b*", "[b]ars:*", "bars:"] {
            assert!(hears_topics(pattern, ""), "{pattern}");
        }
        for pattern in ["trades", "trades:*", "bar", "rawbars:*"] {
            assert!(!hears_topics(pattern, ""), "{pattern}");
        }
        for pattern in ["s:bars:AAPL:1", "s:*", "*"] {
            assert!(hears_topics(pattern, "s:"), "{pattern}");
        }
        for pattern in ["bars:*", "s:trades", "t:*"] {
            assert!(!hears_topics(pattern, "s:"), "{pattern}");
        }
    }
}
