//! `loadtest report`: what experiments found, as one page for people, and its plots as files.
//!
//! The page needs no network and no script. Whatever comes from a file is escaped by `maud`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::outcome::Outcome;
use page::{Page, Section};

mod chart;
mod churn;
mod compare;
mod course;
mod lines;
mod page;
mod pair;
mod plan;
mod ramp;
mod rows;
mod run;
mod scale;
mod setting;
mod unit;

/// `loadtest report`.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// What --json of run, pair, ramp, churn, compare and plan wrote; runs are laid over each other
    #[arg(required = true, value_name = "FILE.json")]
    pub files: Vec<PathBuf>,
    /// The page
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,
    /// Write each plot to this folder, too, as an SVG file
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
}

/// An outcome and what it is called.
#[derive(Debug, Clone)]
pub struct Named {
    /// From the file's name; no other has the same.
    pub name: String,
    pub outcome: Outcome,
}

/// Writes the page, and says where.
///
/// # Errors
/// When a file cannot be read or written, or is no report of ours.
pub fn report(args: &ReportArgs) -> Result<()> {
    let page = page_of(&read(&args.files)?);
    write(&args.output, &page.html())?;
    println!("{}", args.output.display());
    if let Some(folder) = &args.svg {
        fs::create_dir_all(folder).with_context(|| format!("--svg {}", folder.display()))?;
        for chart in page.charts() {
            let path = folder.join(format!("{}.svg", chart.name));
            write(&path, &chart.file())?;
            println!("{}", path.display());
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn read(files: &[PathBuf]) -> Result<Vec<Named>> {
    let mut taken = BTreeSet::new();
    let mut read = Vec::new();
    for file in files {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        // The same name in two folders, or names that make the same file name.
        let name = (1..)
            .map(|nth: usize| match nth {
                1 => stem.clone().into_owned(),
                nth => format!("{stem} {nth}"),
            })
            .find(|name| taken.insert(slug(name)))
            .unwrap_or_default();
        read.push(Named {
            name,
            outcome: Outcome::read(file)?,
        });
    }
    Ok(read)
}

/// As it can be in a file's name and in an `id`.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_end_matches('-').to_owned()
}

fn page_of(all: &[Named]) -> Page {
    let mut runs = Vec::new();
    let mut pairs = Vec::new();
    let mut others: Vec<Section> = Vec::new();
    for named in all {
        let name = named.name.as_str();
        match &named.outcome {
            Outcome::Run(report) => runs.push((name, report)),
            Outcome::Pair(report) => pairs.push((name, report)),
            Outcome::Compare(report) => others.push(compare::section(name, report)),
            Outcome::Ramp(report) => others.push(ramp::section(name, report)),
            Outcome::Plan(report) => others.push(plan::section(name, report)),
            Outcome::Churn(report) => others.push(churn::section(name, report)),
        }
    }
    let mut sections = Vec::new();
    sections.extend(run::section(&runs));
    sections.extend(pair::section(&pairs));
    sections.extend(others);
    sections.push(setting::section(all));
    Page {
        title: "Load test report".to_owned(),
        about: setting::about(all),
        sections,
    }
}
