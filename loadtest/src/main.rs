//! Parses, runs what was asked for, prints and writes the report.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use loadtest::cli::{Cli, Command};
use loadtest::{floor, pair, run};

/// An update was lost or came wrongly.
const LOST: u8 = 1;
/// The experiment could not be done; clap's code for bad flags, too.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Floor(args) => floor::serve(&args).map(|()| true),
        Command::Run(args) => run::run(&args).and_then(|report| {
            print!("{}", report.table());
            write(args.load.json.as_deref(), &report)?;
            Ok(report.is_clean())
        }),
        Command::Pair(args) => pair::pair(&args).and_then(|report| {
            print!("{}", report.table());
            write(args.load.json.as_deref(), &report)?;
            Ok(report.is_clean())
        }),
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

fn write(path: Option<&Path>, report: &impl serde::Serialize) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let file = File::create(path).with_context(|| format!("--json {}", path.display()))?;
    serde_json::to_writer_pretty(BufWriter::new(file), report)?;
    Ok(())
}
