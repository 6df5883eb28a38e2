//! Where bars come from: one of the sources that a replay merges.

use std::path::{Path, PathBuf};

use super::database::Database;
use super::file::{BadRow, BarFile, Next};
use super::rebase::{Extent, can_be_read_twice};
use super::recorded::{Recorded, Row};
use super::verify::Source;
use super::wanted::Wanted;
use super::{Config, ReplayError, name};
use crate::bar::{Bar, Resolution, Topic};

/// A source that is open; its bars come in rising time.
pub(super) enum Input {
    Csv(BarFile, Wanted),
    Recorded(Box<Recorded>),
    Database(Database),
}

/// All that is to be replayed, in the order in which it was named.
pub(super) fn open(config: &Config) -> Result<Vec<Input>, ReplayError> {
    let mut inputs = Vec::new();
    for path in &config.files {
        inputs.push(file(path, config).map_err(ReplayError::Files)?);
    }
    for address in &config.postgres {
        let asks = config.rebase && (config.speed.is_fast() || config.wanted.coarsest().is_none());
        let opened = Database::open(address, &config.wanted, asks);
        inputs.push(Input::Database(opened.map_err(ReplayError::Read)?));
    }
    Ok(inputs)
}

/// One source that is to be compared with another.
pub(super) fn open_one(source: &Source, wanted: &Wanted) -> Result<Input, String> {
    match source {
        Source::File(path) if Recorded::is_one(path) => {
            let opened = Recorded::open(path, wanted)?;
            Ok(Input::Recorded(Box::new(opened)))
        }
        Source::File(path) if path.is_dir() => {
            Err(format!("{}: no Parquet file is in it", path.display()))
        }
        Source::File(path) if !path.exists() => Err(format!("{}: not found", path.display())),
        Source::File(path) => {
            let topic = name::topic(path, None, None)?;
            Ok(Input::Csv(BarFile::open(path, topic)?, wanted.clone()))
        }
        Source::Postgres(address) => Ok(Input::Database(Database::open(address, wanted, false)?)),
    }
}

fn file(path: &Path, config: &Config) -> Result<Input, String> {
    if Recorded::is_one(path) {
        let opened = Recorded::open(path, &config.wanted)?;
        return Ok(Input::Recorded(Box::new(opened)));
    }
    let topic = name::topic(path, config.symbol, config.resolution)?;
    let file = BarFile::open(path, topic)?;
    Ok(Input::Csv(file, config.wanted.clone()))
}

impl Input {
    /// For logs: never holds a secret.
    pub fn name(&self) -> String {
        match self {
            Self::Csv(file, _) => format!("{} ({})", file.path.display(), file.topic),
            Self::Recorded(files) => files.path.display().to_string(),
            Self::Database(database) => database.address.to_string(),
        }
    }

    /// The next row that is wanted.
    ///
    /// # Errors
    /// One line, when it cannot be read on.
    pub fn next(&mut self) -> Result<Row, String> {
        match self {
            Self::Csv(file, wanted) => loop {
                let next = file.next();
                match next.map_err(|why| format!("{}: {why}", file.path.display()))? {
                    Next::Bar(bar) if !wanted.includes(&file.topic, &bar) => {}
                    Next::Bar(bar) => return Ok(Row::Bar(file.topic, bar)),
                    Next::Bad(row) => return Ok(Row::Bad(row)),
                    Next::End => return Ok(Row::End),
                }
            },
            Self::Recorded(files) => files.next(),
            Self::Database(database) => Ok(match database.next()? {
                Some(Ok((topic, bar))) => Row::Bar(topic, bar),
                Some(Err(reason)) => Row::Bad(BadRow {
                    file: PathBuf::from(database.address.to_string()),
                    line: database.rows,
                    reason,
                }),
                None => Row::End,
            }),
        }
    }

    /// Bytes that are to be read; none where nobody knows.
    pub fn size(&self) -> u64 {
        match self {
            Self::Csv(file, _) => std::fs::metadata(&file.path).map_or(0, |data| data.len()),
            Self::Recorded(files) => files.size(),
            Self::Database(_) => 0,
        }
    }

    /// Bytes that are read.
    pub fn position(&self) -> u64 {
        match self {
            Self::Csv(file, _) => file.position(),
            Self::Recorded(files) => files.position(),
            Self::Database(_) => 0,
        }
    }

    /// The coarsest resolution of its bars.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn coarsest(&self) -> Result<Option<Resolution>, String> {
        match self {
            Self::Csv(file, _) => Ok(Some(file.topic.resolution)),
            Self::Recorded(files) => files.coarsest(),
            Self::Database(database) => Ok(database.coarsest()),
        }
    }

    /// Whether [`extent`](Self::extent) can be known.
    ///
    /// # Errors
    /// One line, when it cannot.
    pub fn can_be_read_twice(&self) -> Result<(), String> {
        match self {
            Self::Csv(file, _) => can_be_read_twice(&file.path),
            Self::Recorded(_) | Self::Database(_) => Ok(()),
        }
    }

    /// From its first bar to its last one, for which files are read once before.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn extent(&self) -> Result<Option<Extent>, String> {
        let mut all = match self {
            Self::Csv(file, wanted) => {
                Self::Csv(BarFile::open(&file.path, file.topic)?, wanted.clone())
            }
            Self::Recorded(files) => Self::Recorded(Box::new(files.again()?)),
            Self::Database(database) => return Ok(database.extent),
        };
        let mut extent = None;
        loop {
            match all.next()? {
                Row::Bar(topic, bar) => {
                    Extent::add(&mut extent, Extent::of_bar(topic.resolution, bar.time()));
                }
                Row::Bad(_) => {}
                Row::End => return Ok(extent),
            }
        }
    }
}

/// A bar with its topic.
pub(super) type Head = (Topic, Bar);
