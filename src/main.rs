//! Parses, starts what was asked for, waits for a signal; nothing else.

use std::process::ExitCode;
use std::time::Duration;

use barcast::cli::{self, Cli, Command};
use barcast::feed::{self, FeedError};
use barcast::output;
use barcast::record::RecordError;
use barcast::replay::ReplayError;
use barcast::tail::tail;
use barcast::{generator, record, replay};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Memory per idle client is a target: this one packs the sizes of a session best (see PERF.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a shell reports for a process that SIGINT ended: 128 + 2.
const INTERRUPTED: i32 = 130;
/// How long threads of the runtime may take to end when all that was to be done is. One that waits for a
/// name server cannot be stopped, and would hold the end up for a minute.
const THREADS_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let code = start();
    output::flush();
    code
}

fn start() -> ExitCode {
    let cli = cli::parse();
    cli.logs.start();
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let ended = runtime.block_on(run(cli));
            runtime.shutdown_timeout(THREADS_TIMEOUT);
            ended
        }
        Err(why) => {
            output::say_error(&why.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> ExitCode {
    let stop = CancellationToken::new();
    let is_told = !cli.is_by_hand();
    let ended = match signals() {
        Ok(signals) => {
            tokio::spawn(cancel_on_signal(signals, stop.clone(), is_told));
            command(cli.command(), stop).await
        }
        Err(why) => Err(why.into()),
    };
    ended.unwrap_or_else(|why| {
        output::say_error(&format!("{why:#}"));
        ExitCode::FAILURE
    })
}

async fn command(command: Command, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    match command {
        Command::Dev(args) => {
            let (config, market) = args.validate().unwrap_or_else(|why| cli::fail(&why));
            barcast::run::dev(config, market, stop).await?;
        }
        Command::Serve(args) => {
            let (config, bus) = args.validate().unwrap_or_else(|why| cli::fail(&why));
            barcast::run::serve(config, bus, stop).await?;
        }
        Command::Generate(args) => {
            let settings = args.validate().unwrap_or_else(|why| cli::fail(&why));
            generator::generate(settings, stop).await?;
        }
        Command::Ingest(args) => {
            let settings = args.validate().unwrap_or_else(|why| cli::fail(&why));
            return match feed::ingest(settings, stop).await {
                Ok(totals) => Ok(totals.exit_code()),
                Err(FeedError::Input(why)) => cli::fail(&why),
                Err(why) => Err(why.into()),
            };
        }
        Command::Tail(args) => {
            let config = args.validate().unwrap_or_else(|why| cli::fail(&why));
            tail(config, stop).await?;
        }
        Command::Check(args) => {
            let (config, told) = args.validate().unwrap_or_else(|why| cli::fail(&why));
            return Ok(barcast::run::check(&config, told, stop).await);
        }
        Command::Record(args) => {
            let settings = args.validate().unwrap_or_else(|why| cli::fail(&why));
            return match record::record(settings, stop).await {
                Ok(lost) => Ok(ExitCode::from(u8::from(lost > 0))),
                Err(why @ (RecordError::Folder(_) | RecordError::Table(_))) => {
                    cli::fail(&why.to_string())
                }
                Err(why) => Err(why.into()),
            };
        }
        Command::Verify(args) => {
            let settings = args.validate().unwrap_or_else(|why| cli::fail(&why));
            return Ok(barcast::run::verify(settings, stop).await);
        }
        Command::Replay(args) => {
            let settings = args.validate().unwrap_or_else(|why| cli::fail(&why));
            return match replay::replay(settings, stop).await {
                Ok(totals) => Ok(totals.exit_code()),
                Err(ReplayError::Files(why)) => cli::fail(&why),
                Err(why) => Err(why.into()),
            };
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn signals() -> std::io::Result<[Signal; 2]> {
    Ok([
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    ])
}

/// The first signal stops in good order, the second at once. Not told where a person sees it end.
async fn cancel_on_signal(
    [mut interrupt, mut terminate]: [Signal; 2],
    stop: CancellationToken,
    is_told: bool,
) {
    for first in [true, false] {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        if first {
            if is_told {
                tracing::info!(signal = name, "stopping; a second signal ends at once");
            }
            stop.cancel();
        } else {
            tracing::warn!(signal = name, "ending at once");
            output::exit(INTERRUPTED);
        }
    }
}
