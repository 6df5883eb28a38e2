//! Flags and variables: what can be set, what is allowed, and how a bad value is told.
//!
//! Everything is validated here, before anything binds or connects; the flag wins over the variable.

mod address;
mod ahead;
mod check;
mod dev;
mod generate;
mod ingest;
mod logs;
mod market;
mod record;
mod redis;
mod replay;
mod serve;
mod store;
mod tail;
pub mod values;
mod verify;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use address::AddressArgs;
pub use ahead::AheadArgs;
pub use check::{CheckArgs, Told};
pub use dev::DevArgs;
pub use generate::GenerateArgs;
pub use ingest::IngestArgs;
pub use logs::LogArgs;
pub use market::MarketArgs;
pub use record::RecordArgs;
pub use redis::RedisArgs;
pub use replay::ReplayArgs;
pub use serve::{GatewayArgs, ServeArgs};
pub use store::{Store, StoreArgs};
pub use tail::TailArgs;
pub use verify::VerifyArgs;

use crate::output;

/// Streams OHLCV bars from any number of producers, through Redis Pub/Sub, to very many WebSocket
/// clients.
///
/// Without a command, and as `dev`: generator, gateway and chart page in one process, no Redis.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    dev: DevArgs,
    #[command(flatten)]
    pub logs: LogArgs,
}

/// What to run, with its settings.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Generator, gateway and chart page in one process, on the in-process bus
    Dev(DevArgs),
    /// Gateway: Redis in, WebSockets out
    Serve(ServeArgs),
    /// Generator: synthetic bars out to Redis
    Generate(GenerateArgs),
    /// A real feed: trades or lower bars in, bars of all resolutions out to Redis
    Ingest(IngestArgs),
    /// Historical bars from files out to Redis, at any speed
    Replay(ReplayArgs),
    /// Closed bars from Redis into PostgreSQL, or Parquet files, for the long run
    Record(RecordArgs),
    /// Topics of a running gateway: a live table on a terminal, JSON lines in a pipe
    Tail(TailArgs),
    /// Is everything well, from Redis to a delivered bar? With measured times
    Check(CheckArgs),
    /// Compare two sources of recorded bars and print what differs
    Verify(VerifyArgs),
}

impl Cli {
    /// Whether a person runs it by hand: logs are not what they look at.
    pub fn is_by_hand(&self) -> bool {
        matches!(self.command, Some(Command::Tail(_) | Command::Check(_)))
    }

    /// The command, `dev` when none was given.
    pub fn command(self) -> Command {
        self.command.unwrap_or(Command::Dev(self.dev))
    }
}

/// Parses the process's arguments. `--help` and `--version` print and end with code 0; a bad value is
/// one line on stderr and ends with code 2.
pub fn parse() -> Cli {
    let parsed = matches().and_then(|found| Cli::from_arg_matches(&found));
    parsed.unwrap_or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
        _ => fail(&one_line(&error)),
    })
}

/// The arguments as clap finds them. Without a command the flags of `dev` are also the program's own;
/// with one, their variables are left alone, or a bad value would count even where the command's flag
/// overrides it.
fn matches() -> Result<ArgMatches, clap::Error> {
    let root = <Cli as CommandFactory>::command();
    let quiet = root.clone().mut_args(|arg| {
        let is_setting = !arg.is_global_set();
        if is_setting {
            arg.env(Resettable::Reset)
        } else {
            arg
        }
    });
    match quiet.try_get_matches() {
        Ok(found) if found.subcommand().is_some() => Ok(found),
        _ => root.try_get_matches(),
    }
}

/// Says what is wrong with the configuration, in one line, and ends with code 2.
pub fn fail(message: &str) -> ! {
    output::say_error(message);
    output::exit(2)
}

/// clap's error as one line that names the flag, its variable, the value and what is allowed.
fn one_line(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let (Some(flag), Some(value)) = (
        text(ContextKind::InvalidArg),
        text(ContextKind::InvalidValue),
    ) else {
        if let (ErrorKind::MissingRequiredArgument, Some(missing)) =
            (error.kind(), text(ContextKind::InvalidArg))
        {
            return format!("{missing} is missing (see --help)");
        }
        // Unknown flags and the like: clap's first line says it; its usage lines are in --help.
        let rendered = error.render().to_string();
        let line = rendered.lines().next().unwrap_or_default();
        return format!(
            "{} (see --help)",
            line.strip_prefix("error: ").unwrap_or(line)
        );
    };
    let name = flag.split_whitespace().next().unwrap_or(&flag).to_owned();
    let variable = variable_of(&name).map_or_else(String::new, |v| format!(" ({v})"));
    let allowed = text(ContextKind::ValidValue)
        .filter(|values| !values.is_empty())
        .map(|values| format!("allowed: {values}"))
        .or_else(|| std::error::Error::source(error).map(ToString::to_string))
        .unwrap_or_else(|| "a value is needed".to_owned());
    format!("{name}{variable} = {value:?}: {allowed}")
}

/// The environment variable that sets `flag` (`--listen`), in whichever command has it.
fn variable_of(flag: &str) -> Option<String> {
    let root = <Cli as CommandFactory>::command();
    std::iter::once(&root)
        .chain(root.get_subcommands())
        .flat_map(clap::Command::get_arguments)
        .find(|arg| {
            arg.get_long()
                .is_some_and(|long| flag == format!("--{long}"))
        })
        .and_then(|arg| arg.get_env())
        .map(|name| name.to_string_lossy().into_owned())
}
