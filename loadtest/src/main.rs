//! Parses, runs what was asked for, prints and writes the report.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use loadtest::cli::{Cli, Command};
use loadtest::outcome::Outcome;
use loadtest::swarm::crew;
use loadtest::{churn, floor, pair, ramp, run};

/// An update was lost or came wrongly.
const LOST: u8 = 1;
/// The experiment could not be done; clap's code for bad flags, too.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Floor(args) => floor::serve(&args).map(|()| true),
        Command::Run(args) => {
            run::run(&args).and_then(|report| tell(Outcome::Run(report), args.load.json.as_deref()))
        }
        Command::Pair(args) => pair::pair(&args)
            .and_then(|report| tell(Outcome::Pair(report), args.load.json.as_deref())),
        Command::Ramp(args) => ramp::ramp(&args)
            .and_then(|report| tell(Outcome::Ramp(report), args.load.json.as_deref())),
        Command::Churn(args) => churn::churn(&args)
            .and_then(|report| tell(Outcome::Churn(report), args.load.json.as_deref())),
        Command::Crew => crew::serve().map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(LOST),
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// Prints an outcome and writes it where it was asked for; says whether all is well.
fn tell(outcome: Outcome, json: Option<&Path>) -> Result<bool> {
    print!("{}", outcome.table());
    if let Some(path) = json {
        outcome.write(path)?;
    }
    Ok(outcome.is_clean())
}
