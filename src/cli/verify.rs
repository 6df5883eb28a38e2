use std::path::PathBuf;

use clap::Args;

use super::values;
use crate::bar::Pattern;
use crate::record::postgres::{Address, URL_FORM};
use crate::replay::Wanted;
use crate::replay::verify::{Source, Verify};

/// `barcast verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// What to compare: a postgres:// URL, a Parquet file or folder that record wrote, or a CSV file of bars
    #[arg(required = true, num_args = 2, value_name = "SOURCE")]
    sources: Vec<String>,
    /// Only these topics, as bars:AAPL:1,bars:MSFT:* [default: all]
    #[arg(long, env = "BARCAST_VERIFY_TOPICS", value_delimiter = ',', value_parser = values::pattern)]
    topics: Vec<Pattern>,
    /// Only bars that start at this time or later, as 2026-11-23T09:30 [default: all]
    #[arg(long, env = "BARCAST_VERIFY_FROM", value_parser = values::time)]
    from: Option<i64>,
    /// Only bars that start before this time [default: all]
    #[arg(long, env = "BARCAST_VERIFY_TO", value_parser = values::time)]
    to: Option<i64>,
}

impl VerifyArgs {
    /// What to compare. The sources are looked at when it runs.
    ///
    /// # Errors
    /// One line that says what is allowed, without a secret.
    pub fn validate(self) -> Result<Verify, String> {
        let sources: Result<Vec<_>, _> = self.sources.iter().map(|text| source(text)).collect();
        let allowed = |_| "SOURCE: allowed: exactly two".to_owned();
        Ok(Verify {
            sources: sources?.try_into().map_err(allowed)?,
            wanted: Wanted {
                topics: self.topics,
                from: self.from,
                to: self.to,
            },
        })
    }
}

fn source(text: &str) -> Result<Source, String> {
    if Address::is_one(text) {
        let address = Address::parse(text);
        let address = address.map_err(|why| format!("SOURCE: {why}"))?;
        return Ok(Source::Postgres(Box::new(address)));
    }
    match text.split_once("://") {
        // What follows may hold a password.
        Some((scheme, _)) => Err(format!(
            "SOURCE = {scheme}://…: allowed: {URL_FORM}, a Parquet file or folder, a CSV file of bars"
        )),
        None => Ok(Source::File(PathBuf::from(text))),
    }
}
