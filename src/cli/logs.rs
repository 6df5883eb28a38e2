use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::output::{self, LogLine};

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// What is logged to stderr, and how.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Form of the log lines on stderr
    #[arg(
        long,
        global = true,
        env = "BARCAST_LOG_FORMAT",
        value_enum,
        default_value = "text"
    )]
    log_format: LogFormat,
    /// Level or filter: error, warn, info, debug, trace, or as `barcast=debug,hyper=info`.
    #[arg(long, global = true, env = "RUST_LOG", default_value = "info", value_parser = filter)]
    log_level: String,
}

fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|why| {
            format!("{why}; allowed: error, warn, info, debug, trace, or target=level pairs")
        })
}

impl LogArgs {
    /// Starts logging. Colours only on a terminal, and not where `NO_COLOR` is set.
    pub fn start(&self) {
        output::take_panics();
        let builder = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(&self.log_level))
            .with_writer(|| LogLine)
            // It would tell of a log that cannot be written on stderr, which is that log: a panic in
            // whatever task had something to say.
            .log_internal_errors(false)
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
        match self.log_format {
            LogFormat::Text => builder.init(),
            LogFormat::Json => builder.json().flatten_event(true).init(),
        }
    }
}
