//! Closed bars into Parquet files, one a UTC day: `date=2026-11-23/bars.parquet`.
//!
//! A file holds the bars that start on its day, each once, by time, symbol and resolution. It is never
//! seen half written: new bars are merged with it, row by row, into a file beside it that then takes its
//! place. Any number of bars takes the memory of a row group.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::lane::Output;
use super::table::{Table, TableWriter};
use crate::bar::{Bar, Topic};

/// The file of a day, in the folder of the day.
pub const FILE: &str = "bars.parquet";
/// What it is until it is whole; readers leave out what begins with a dot.
const UNFINISHED: &str = ".bars.parquet.unfinished";
const DAY_MS: i64 = 86_400_000;

/// The folder of all days.
pub struct Days {
    folder: PathBuf,
}

impl Days {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }
}

impl Output for Days {
    const NAME: &'static str = "parquet";

    async fn write(&mut self, bars: Vec<(Topic, Bar)>) -> Result<usize, String> {
        let folder = self.folder.clone();
        let written = tokio::task::spawn_blocking(move || write(&folder, &bars));
        let written = written.await.map_err(|why| why.to_string())?;
        written.map(|()| 0)
    }
}

/// Writes bars that come by time, a day after the other. A day that cannot be written does not stop the
/// others, but is told.
fn write(folder: &Path, bars: &[(Topic, Bar)]) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|why| format!("{}: {why}", folder.display()))?;
    let day = |(_, bar): &(Topic, Bar)| bar.time().div_euclid(DAY_MS);
    let mut first = Ok(());
    for bars in bars.chunk_by(|a, b| day(a) == day(b)) {
        let folder = folder.join(name(bars[0].1.time()));
        let written = merge(&folder, bars);
        if written.is_err() {
            // It may be there or not, and the disk may need the room.
            let _ = fs::remove_file(folder.join(UNFINISHED));
        }
        first = first.and(written.map_err(|why| format!("{}: {why}", folder.display())));
    }
    first
}

/// The folder of a time's day.
fn name(time: i64) -> String {
    let time = Timestamp::from_millisecond(time).unwrap_or_default();
    format!("date={}", TimeZone::UTC.to_datetime(time).date())
}

type Key = (i64, Topic);

fn key((topic, bar): &(Topic, Bar)) -> Key {
    (bar.time(), *topic)
}

/// Merges bars, in the order of their keys, with a day's file. What is new replaces what is there.
fn merge(folder: &Path, bars: &[(Topic, Bar)]) -> Result<(), String> {
    let said = |why: &dyn std::fmt::Display| why.to_string();
    let is_new = !folder.exists();
    fs::create_dir_all(folder).map_err(|why| said(&why))?;
    let (path, unfinished) = (folder.join(FILE), folder.join(UNFINISHED));
    let mut old = Old::open(&path)?;
    let file = File::create(&unfinished).map_err(|why| said(&why))?;
    let mut table = TableWriter::new(file).map_err(|why| said(&why))?;
    let mut put = |(topic, bar): (Topic, Bar)| table.push(topic, bar).map_err(|why| said(&why));
    let mut changed = false;
    for new in bars {
        while let Some(row) = old.next_before(key(new))? {
            put(row)?;
        }
        let replaced = old.take(key(new))?;
        changed |= replaced != Some(*new);
        put(*new)?;
    }
    if !changed {
        // Read again from the store, most likely. The file is as good as another.
        drop(table);
        return fs::remove_file(&unfinished).map_err(|why| said(&why));
    }
    while let Some(row) = old.next()? {
        put(row)?;
    }
    table.finish().map_err(|why| said(&why))?;
    fs::rename(&unfinished, &path).map_err(|why| said(&why))?;
    let synced = sync(folder).and_then(|()| match folder.parent() {
        Some(parent) if is_new => sync(parent),
        _ => Ok(()),
    });
    synced.map_err(|why| said(&why))
}

/// Puts a folder's names on the disk.
fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The rows of a day's file as it is.
struct Old {
    table: Option<Table>,
    head: Option<(Topic, Bar)>,
    last: Option<Key>,
}

impl Old {
    fn open(path: &Path) -> Result<Self, String> {
        let table = match path.exists() {
            true => Some(Table::open(path).map_err(|why| format!("{FILE}: {why}"))?),
            false => None,
        };
        Ok(Self {
            table,
            head: None,
            last: None,
        })
    }

    fn fill(&mut self) -> Result<Option<(Topic, Bar)>, String> {
        if let (None, Some(table)) = (self.head, &mut self.table) {
            self.head = match table.read()? {
                Some(row) => Some(row.map_err(|why| format!("{FILE}: {why}"))?),
                None => None,
            };
            let next = self.head.as_ref().map(key);
            if next.is_some() && next <= self.last {
                return Err(format!(
                    "{FILE}: its rows are not in the order that this program writes"
                ));
            }
            self.last = next;
        }
        Ok(self.head)
    }

    fn next(&mut self) -> Result<Option<(Topic, Bar)>, String> {
        self.fill()?;
        Ok(self.head.take())
    }

    fn next_before(&mut self, end: Key) -> Result<Option<(Topic, Bar)>, String> {
        self.fill()?;
        Ok(self.head.take_if(|head| key(head) < end))
    }

    fn take(&mut self, wanted: Key) -> Result<Option<(Topic, Bar)>, String> {
        self.fill()?;
        Ok(self.head.take_if(|head| key(head) == wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::Number;

    const DAY: i64 = 20_000 * DAY_MS;

    fn row(symbol: &str, minute: i64, price: f64) -> (Topic, Bar) {
        let topic: Topic = format!("bars:{symbol}:1").parse().unwrap();
        let numbers = [Number::Float(price); 5];
        let bar = Bar::new(topic.resolution, DAY + minute * 60_000, numbers, true);
        (topic, bar.unwrap())
    }

    fn read(path: &Path) -> Vec<(Topic, Bar)> {
        let mut old = Old::open(path).unwrap();
        std::iter::from_fn(|| old.next().unwrap()).collect()
    }

    fn sorted(mut rows: Vec<(Topic, Bar)>) -> Vec<(Topic, Bar)> {
        rows.sort_by_key(key);
        rows
    }

    #[test]
    fn days_are_merged_by_key_and_the_newest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let first = vec![row("A", 0, 1.0), row("B", 0, 2.0), row("A", 5, 3.0)];
        write(folder, &sorted(first)).unwrap();
        let second = vec![
            row("A", 5, 4.0),
            row("A", 1, 5.0),
            row("A", -1, 6.0),
            row("B", 9, 7.0),
        ];
        write(folder, &sorted(second)).unwrap();
        let today = folder.join(name(DAY)).join(FILE);
        assert_eq!(name(DAY), "date=2024-10-04");
        let expected = [
            row("A", 0, 1.0),
            row("B", 0, 2.0),
            row("A", 1, 5.0),
            row("A", 5, 4.0),
            row("B", 9, 7.0),
        ];
        assert_eq!(read(&today), expected);
        let yesterday = folder.join("date=2024-10-03").join(FILE);
        assert_eq!(read(&yesterday), [row("A", -1, 6.0)]);
        // The same again changes no file, and nothing unfinished stays behind.
        let before = fs::metadata(&today).unwrap().modified().unwrap();
        write(folder, &[row("A", 1, 5.0)]).unwrap();
        assert_eq!(fs::metadata(&today).unwrap().modified().unwrap(), before);
        let names = fs::read_dir(folder.join(name(DAY))).unwrap();
        assert_eq!(names.count(), 1);
    }

    #[test]
    fn more_than_one_row_group_is_merged_right() {
        let folder = tempfile::tempdir().unwrap();
        let some = |from: i64| (from..1_440).step_by(2).map(|minute| (minute, 1.0));
        let symbols = 80;
        let all = |from| -> Vec<_> {
            let each = (0..symbols).map(|n| format!("S{n}"));
            let rows = each.flat_map(|s| some(from).map(move |(m, p)| row(&s, m, p)));
            sorted(rows.collect())
        };
        write(folder.path(), &all(0)).unwrap();
        write(folder.path(), &all(1)).unwrap();
        let rows = read(&folder.path().join(name(DAY)).join(FILE));
        assert_eq!(rows.len(), symbols * 1_440);
        assert_eq!(rows, sorted([all(0), all(1)].concat()));
    }

    #[test]
    fn a_file_that_is_none_is_told_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let today = folder.path().join(name(DAY));
        fs::create_dir_all(&today).unwrap();
        fs::write(today.join(FILE), "nonsense").unwrap();
        let tomorrow = row("A", 1_440, 1.0);
        let why = write(folder.path(), &[row("A", 0, 1.0), tomorrow]).unwrap_err();
        assert!(
            why.contains("date=2024-10-04") && why.contains(FILE),
            "{why}"
        );
        assert_eq!(fs::read(today.join(FILE)).unwrap(), b"nonsense");
        // The other day is there.
        let path = folder.path().join("date=2024-10-05").join(FILE);
        assert_eq!(read(&path), [tomorrow]);
    }
}
