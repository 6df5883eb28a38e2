//! What an experiment leaves behind: one JSON file, whose `kind` says which experiment it was. Reports
//! and plans are made from such files.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::churn::report::ChurnReport;
use crate::compare_report::CompareReport;
use crate::pair_report::PairReport;
use crate::plan::report::PlanReport;
use crate::ramp::report::RampReport;
use crate::report::RunReport;

/// The report of any experiment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, or a handful"
)]
pub enum Outcome {
    Run(RunReport),
    Pair(PairReport),
    Compare(CompareReport),
    Ramp(RampReport),
    Churn(ChurnReport),
    Plan(PlanReport),
}

impl Outcome {
    /// The table for people.
    pub fn table(&self) -> String {
        match self {
            Self::Run(report) => report.table(),
            Self::Pair(report) => report.table(),
            Self::Compare(report) => report.table(),
            Self::Ramp(report) => report.table(),
            Self::Churn(report) => report.table(),
            Self::Plan(report) => report.table(),
        }
    }

    /// Whether every update came, was conflated, or was told of; of a plan, whether it agrees with its check.
    pub fn is_clean(&self) -> bool {
        match self {
            Self::Run(report) => report.is_clean(),
            Self::Pair(report) => report.is_clean(),
            Self::Compare(report) => report.is_clean(),
            Self::Ramp(report) => report.is_clean(),
            Self::Churn(report) => report.is_clean(),
            Self::Plan(report) => report.is_clean(),
        }
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let context = || format!("--json {}", path.display());
        let mut file = BufWriter::new(File::create(path).with_context(context)?);
        serde_json::to_writer_pretty(&mut file, self)?;
        writeln!(file)?;
        file.flush().with_context(context)
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// When there is no such file or something else in it.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        serde_json::from_reader(BufReader::new(file))
            .with_context(|| format!("{} is no report of loadtest", path.display()))
    }
}
