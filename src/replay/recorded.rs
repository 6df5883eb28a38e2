//! Parquet files of bars, as `barcast record` writes them: one, or a folder of days.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::file::BadRow;
use super::wanted::Wanted;
use crate::bar::{Bar, Resolution, Topic};
use crate::record::table::Table;

const SUFFIX: &str = "parquet";
const DAY_MS: i64 = 86_400_000;

/// Files that are read one after the other: days follow each other.
pub(super) struct Recorded {
    /// As it was named.
    pub path: PathBuf,
    wanted: Wanted,
    left: VecDeque<PathBuf>,
    open: Option<Open>,
    /// Bytes of all, and of those before the open one.
    size: u64,
    done: u64,
    newest: Option<i64>,
}

struct Open {
    path: PathBuf,
    table: Table,
    size: u64,
}

/// What comes next.
pub(super) enum Row {
    Bar(Topic, Bar),
    Bad(BadRow),
    End,
}

impl Recorded {
    /// Whether a file or folder is of this kind.
    pub fn is_one(path: &Path) -> bool {
        let of_kind = path
            .extension()
            .is_some_and(|suffix| suffix.eq_ignore_ascii_case(SUFFIX));
        of_kind || (path.is_dir() && !files(path).is_ok_and(|files| files.is_empty()))
    }

    /// Opens the first file.
    ///
    /// # Errors
    /// One line: what cannot be read, or holds no bars.
    pub fn open(path: &Path, wanted: &Wanted) -> Result<Self, String> {
        let mut files = match path.is_dir() {
            true => files(path).map_err(|why| format!("{}: {why}", path.display()))?,
            false => vec![path.to_owned()],
        };
        files.retain(|file| {
            let day = day(file);
            day.is_none_or(|first| wanted.overlaps(first, first + DAY_MS - 1))
        });
        let size = |file: &PathBuf| fs::metadata(file).map_or(0, |data| data.len());
        let mut recorded = Self {
            path: path.to_owned(),
            wanted: wanted.clone(),
            size: files.iter().map(size).sum(),
            left: files.into(),
            open: None,
            done: 0,
            newest: None,
        };
        recorded.open_next()?;
        Ok(recorded)
    }

    /// `false` when there is none left.
    fn open_next(&mut self) -> Result<bool, String> {
        self.done += self.open.take().map_or(0, |open| open.size);
        let Some(path) = self.left.pop_front() else {
            return Ok(false);
        };
        let table = Table::open(&path).map_err(|why| format!("{}: {why}", path.display()))?;
        let size = fs::metadata(&path).map_or(0, |data| data.len());
        self.open = Some(Open { path, table, size });
        Ok(true)
    }

    /// The next row that is wanted; bars come in rising time.
    ///
    /// # Errors
    /// One line, when a file cannot be read on.
    pub fn next(&mut self) -> Result<Row, String> {
        loop {
            let Some(Open { path, table, .. }) = &mut self.open else {
                return Ok(Row::End);
            };
            let next = table.read();
            let next = next.map_err(|why| format!("{}: {why}", path.display()))?;
            let reason = match next {
                None => {
                    self.open_next()?;
                    continue;
                }
                Some(Ok((topic, bar))) => {
                    let time = bar.time();
                    match self.newest.filter(|newest| *newest > time) {
                        Some(newest) => {
                            format!("time {time} is before {newest}, that of a row before")
                        }
                        None => {
                            self.newest = Some(time);
                            if self.wanted.includes(&topic, &bar) {
                                return Ok(Row::Bar(topic, bar));
                            }
                            continue;
                        }
                    }
                }
                Some(Err(reason)) => reason,
            };
            return Ok(Row::Bad(BadRow {
                file: path.clone(),
                line: table.progress().1,
                reason,
            }));
        }
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// About how many of them are read.
    pub fn position(&self) -> u64 {
        let of_open = self.open.as_ref().map_or(0, |open| {
            let (rows, read) = open.table.progress();
            open.size.saturating_mul(read) / rows.max(1)
        });
        self.done + of_open
    }

    /// The same from its beginning.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn again(&self) -> Result<Self, String> {
        Self::open(&self.path, &self.wanted)
    }

    /// The coarsest resolution, for which all is read once, if the topics do not tell.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn coarsest(&self) -> Result<Option<Resolution>, String> {
        if let Some(told) = self.wanted.coarsest() {
            return Ok(Some(told));
        }
        let mut all = self.again()?;
        let mut coarsest = None;
        loop {
            match all.next()? {
                Row::Bar(topic, _) => coarsest = coarsest.max(Some(topic.resolution)),
                Row::Bad(_) => {}
                Row::End => return Ok(coarsest),
            }
        }
    }
}

/// The Parquet files of a folder and its folders, by their names; those that begin with a dot are not
/// finished.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries: Result<Vec<_>, _> = fs::read_dir(folder)?.collect();
    let mut paths: Vec<_> = entries?.into_iter().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    for path in paths {
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !is_hidden {
            found.extend(files(&path)?);
        } else if !is_hidden && path.extension().is_some_and(|suffix| suffix == SUFFIX) {
            found.push(path);
        }
    }
    Ok(found)
}

/// The start of the day that the file's folder names, ms since the epoch.
fn day(file: &Path) -> Option<i64> {
    let folder = file.parent()?.file_name()?.to_str()?;
    let date: Date = folder.strip_prefix("date=")?.parse().ok()?;
    let start = TimeZone::UTC.to_timestamp(date.to_datetime(jiff::civil::Time::midnight()));
    Some(start.ok()?.as_millisecond())
}
