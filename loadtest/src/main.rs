//! Parses, runs what was asked for, prints and writes the report.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use loadtest::cli::{Cli, Command};
use loadtest::outcome::Outcome;
use loadtest::swarm::crew;
use loadtest::{churn, compare, floor, html, pair, plan, ramp, run};

/// An update was lost or came wrongly, or a plan did not agree with its check.
const LOST: u8 = 1;
/// The experiment, or a part of it, could not be done; clap's code for bad flags, too.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Report(args) => html::report(&args).map(|()| ExitCode::SUCCESS),
        Command::Floor(args) => floor::serve(&args).map(|()| ExitCode::SUCCESS),
        Command::Run(args) => {
            run::run(&args).and_then(|report| tell(Outcome::Run(report), args.load.json.as_deref()))
        }
        Command::Pair(args) => pair::pair(&args)
            .and_then(|report| tell(Outcome::Pair(report), args.load.json.as_deref())),
        Command::Plan(args) => plan::plan(&args).and_then(|report| {
            if args.explain {
                println!("{}", report.explanation());
            }
            tell(Outcome::Plan(report), args.json.as_deref())
        }),
        Command::Compare(args) => compare::compare(&args)
            .and_then(|report| tell(Outcome::Compare(report), args.load.json.as_deref())),
        Command::Ramp(args) => ramp::ramp(&args)
            .and_then(|report| tell(Outcome::Ramp(report), args.load.json.as_deref())),
        Command::Churn(args) => churn::churn(&args)
            .and_then(|report| tell(Outcome::Churn(report), args.load.json.as_deref())),
        Command::Crew => crew::serve().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|why| {
        eprintln!("error: {why:#}");
        ExitCode::from(FAILED)
    })
}

/// Prints an outcome and writes it where it was asked for; the code says whether all is well.
fn tell(outcome: Outcome, json: Option<&Path>) -> Result<ExitCode> {
    print!("{}", outcome.table());
    if let Some(path) = json {
        outcome.write(path)?;
    }
    Ok(match &outcome {
        Outcome::Compare(report) if !report.failed.is_empty() => ExitCode::from(FAILED),
        outcome if outcome.is_clean() => ExitCode::SUCCESS,
        _ => ExitCode::from(LOST),
    })
}
