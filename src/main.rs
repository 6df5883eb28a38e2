//! Parses, starts what was asked for, waits for a signal; nothing else.

use std::process::ExitCode;

use barcast::cli::{self, Command};
use barcast::replay::ReplayError;
use barcast::{generator, replay};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let cli = cli::parse();
    cli.logs.start();
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let signalled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        signalled.cancel();
    });
    match cli.command() {
        Command::Generate(args) => {
            let settings = args.validate().unwrap_or_else(|why| cli::fail(&why));
            if let Err(why) = generator::generate(settings, stop).await {
                cli::fail(&why.to_string());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Replay(args) => {
            let settings = args.validate().unwrap_or_else(|why| cli::fail(&why));
            match replay::replay(settings, stop).await {
                Ok(totals) => Ok(totals.exit_code()),
                Err(ReplayError::Files(why)) => cli::fail(&why),
                Err(ReplayError::Read(why)) => {
                    eprintln!("error: {why}");
                    Ok(ExitCode::FAILURE)
                }
            }
        }
        Command::Dev(_) | Command::Serve(_) => Ok(ExitCode::SUCCESS),
    }
}
