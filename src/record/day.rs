//! The file of one day: what is there, merged with what is new.
//!
//! A file that is damaged, or that another program wrote, keeps its bytes under another name, and its rows
//! go into a new one as far as they can be read.

use std::collections::{BTreeMap, btree_map};
use std::fmt::Display;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::table::{Kept, Table, TableWriter};
use crate::bar::Topic;

/// The file of a day, in the folder of the day.
pub const FILE: &str = "bars.parquet";
/// What it is until it is whole; readers leave out what begins with a dot.
const UNFINISHED: &str = ".bars.parquet.unfinished";
/// Behind the name of a file that gave way to a new one, and before a number: no reader takes it for bars.
const ASIDE: &str = "aside";
/// Files of one day that gave way, at most: whoever damages so many has another problem.
const MAX_ASIDE: u32 = 1_000;
/// Rows of a file that must be written anew, which may have any order and so are sorted in memory: about 1 GB.
const MAX_REBUILT_ROWS: usize = 5_000_000;

type Key = (i64, Topic);

/// By what rows are in order, and which one a row replaces.
pub(super) fn key(row: &Kept) -> Key {
    (row.closed.bar.time(), row.closed.topic)
}

/// Why a day could not be merged.
#[derive(Debug)]
enum Failure {
    /// The file that is there cannot be read as this program wrote it.
    Old(String),
    Other(String),
}

fn other(why: impl Display) -> Failure {
    Failure::Other(why.to_string())
}

/// Merges bars, in the order of their keys, with a day's file. What says something new replaces what is there.
pub(super) fn merge(folder: &Path, bars: &[Kept]) -> Result<(), String> {
    let is_new = !folder.exists();
    fs::create_dir_all(folder).map_err(|why| why.to_string())?;
    let path = folder.join(FILE);
    let merged = match Old::open(&path).and_then(|old| merge_with(folder, bars, old)) {
        Err(Failure::Old(why)) => rebuild(folder, bars, &why),
        merged => merged,
    };
    match merged {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(Failure::Old(why) | Failure::Other(why)) => {
            // It may be there or not, and the disk may need the room.
            let _ = fs::remove_file(folder.join(UNFINISHED));
            return Err(why);
        }
    }
    let synced = sync(folder).and_then(|()| match folder.parent() {
        Some(parent) if is_new => sync(parent),
        _ => Ok(()),
    });
    synced.map_err(|why| why.to_string())
}

/// Writes the file anew; `false` when that would change nothing.
fn merge_with(folder: &Path, bars: &[Kept], mut old: Old) -> Result<bool, Failure> {
    let unfinished = folder.join(UNFINISHED);
    let mut file = File::options();
    let file = file.read(true).write(true).create(true).truncate(true);
    let file = file.open(&unfinished).map_err(other)?;
    let mut table = TableWriter::new(file).map_err(other)?;
    let mut put = |row: Kept| table.push(row).map_err(other);
    let mut changed = old.is_rebuilt();
    for new in bars {
        while let Some(row) = old.next_before(key(new))? {
            put(row)?;
        }
        match old.take(key(new))? {
            Some(kept) if !new.is_news(&kept) => put(kept)?,
            _ => {
                changed = true;
                put(*new)?;
            }
        }
    }
    if !changed {
        // Read again from the store, most likely. The file is as good as another.
        drop(table);
        fs::remove_file(&unfinished).map_err(other)?;
        return Ok(false);
    }
    while let Some(row) = old.next()? {
        put(row)?;
    }
    table.finish().map_err(other)?;
    fs::rename(&unfinished, folder.join(FILE)).map_err(other)?;
    Ok(true)
}

/// Writes a new file of what can be read of the one that is there, which keeps its bytes under another name.
fn rebuild(folder: &Path, bars: &[Kept], why: &str) -> Result<bool, Failure> {
    let path = folder.join(FILE);
    let aside = set_aside(&path).map_err(other)?;
    let (rows, unread) = match rows_of(&path) {
        Ok(read) => read,
        Err(too_many) => {
            let _ = fs::remove_file(&aside);
            return Err(Failure::Other(too_many));
        }
    };
    let kept = rows.len();
    let merged = merge_with(folder, bars, Old::of(rows));
    if merged.is_err() {
        // The next try sets it aside again.
        let _ = fs::remove_file(&aside);
        return merged;
    }
    let (file, aside) = (path.display(), aside.display());
    tracing::error!(%file, why, %aside, kept, unread, "a day's file was set aside and written anew");
    merged
}

/// Gives a file a second name, so that at no time it has none.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let mut result = Err(ErrorKind::AlreadyExists.into());
    for number in 1..=MAX_ASIDE {
        let aside = path.with_file_name(format!("{FILE}.{ASIDE}-{number}"));
        if aside.exists() {
            continue;
        }
        // Not every file system has hard links.
        let named = fs::hard_link(path, &aside).or_else(|_| fs::copy(path, &aside).map(|_| ()));
        result = named.map(|()| aside);
        break;
    }
    result
}

/// The rows of a file in their order, the later of two of one key, and how many places cannot be read.
///
/// # Errors
/// When they are too many.
fn rows_of(path: &Path) -> Result<(BTreeMap<Key, Kept>, usize), String> {
    let (mut rows, mut unread) = (BTreeMap::new(), 0);
    let Ok(mut table) = Table::open(path) else {
        return Ok((rows, 1));
    };
    loop {
        match table.read_kept() {
            Ok(Some(Ok(row))) => _ = rows.insert(key(&row), row),
            // A row that is no bar, or a group of rows that is damaged: the next one may be whole.
            Ok(Some(Err(_))) | Err(_) => unread += 1,
            Ok(None) => return Ok((rows, unread)),
        }
        if rows.len() > MAX_REBUILT_ROWS {
            return Err(format!(
                "{FILE}: more than {MAX_REBUILT_ROWS} rows of another program"
            ));
        }
    }
}

/// Puts a folder's names on the disk.
fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The rows of a day's file as it is.
struct Old {
    rows: Rows,
    head: Option<Kept>,
    last: Option<Key>,
}

enum Rows {
    None,
    File(Box<Table>),
    Rebuilt(btree_map::IntoIter<Key, Kept>),
}

impl Old {
    fn open(path: &Path) -> Result<Self, Failure> {
        let rows = match File::open(path) {
            Err(why) if why.kind() == ErrorKind::NotFound => Rows::None,
            // It may be good all the same.
            Err(why) => return Err(Failure::Other(format!("{FILE}: {why}"))),
            Ok(_) => {
                let table =
                    Table::open(path).map_err(|why| Failure::Old(format!("{FILE}: {why}")))?;
                if let Some(program) = table.foreign_program() {
                    return Err(Failure::Old(format!("{FILE}: written by {program}")));
                }
                Rows::File(Box::new(table))
            }
        };
        Ok(Self::with(rows))
    }

    fn of(rows: BTreeMap<Key, Kept>) -> Self {
        Self::with(Rows::Rebuilt(rows.into_iter()))
    }

    fn with(rows: Rows) -> Self {
        Self {
            rows,
            head: None,
            last: None,
        }
    }

    fn is_rebuilt(&self) -> bool {
        matches!(self.rows, Rows::Rebuilt(_))
    }

    fn fill(&mut self) -> Result<Option<Kept>, Failure> {
        if self.head.is_none() {
            let damaged = |why| Failure::Old(format!("{FILE}: {why}"));
            self.head = match &mut self.rows {
                Rows::None => None,
                Rows::File(table) => match table.read_kept().map_err(damaged)? {
                    Some(row) => Some(row.map_err(damaged)?),
                    None => None,
                },
                Rows::Rebuilt(rows) => rows.next().map(|(_, row)| row),
            };
            let next = self.head.as_ref().map(key);
            if next.is_some() && next <= self.last {
                return Err(damaged(
                    "its rows are not in the order that this program writes".to_owned(),
                ));
            }
            self.last = next;
        }
        Ok(self.head)
    }

    fn next(&mut self) -> Result<Option<Kept>, Failure> {
        self.fill()?;
        Ok(self.head.take())
    }

    fn next_before(&mut self, end: Key) -> Result<Option<Kept>, Failure> {
        self.fill()?;
        Ok(self.head.take_if(|head| key(head) < end))
    }

    fn take(&mut self, wanted: Key) -> Result<Option<Kept>, Failure> {
        self.fill()?;
        Ok(self.head.take_if(|head| key(head) == wanted))
    }
}

#[cfg(test)]
mod tests {
    use parquet::basic::ColumnOrder;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;
    use crate::bar::{Bar, Number};
    use crate::record::Closed;

    fn row(symbol: &str, price: f64) -> Kept {
        let topic: Topic = format!("bars:{symbol}:1").parse().unwrap();
        let [open, high, low, close, volume] = [price, price, price - 4.0, price, 1.0];
        let numbers = [open, high, low, close, volume].map(Number::Float);
        let bar = Bar::new(topic.resolution, 60_000, numbers, true).unwrap();
        Kept {
            closed: Closed {
                epoch: Some(u64::MAX),
                seq: Some(7),
                ..(topic, bar).into()
            },
            recorded_ms: Some(100),
        }
    }

    fn read(path: &Path) -> Vec<Kept> {
        let mut table = Table::open(path).unwrap();
        std::iter::from_fn(|| table.read_kept().unwrap().map(Result::unwrap)).collect()
    }

    #[test]
    fn a_row_is_recorded_when_it_says_something_new() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, file) = (folder.path(), folder.path().join(FILE));
        let first = row("A", 1.0);
        merge(folder, &[first]).unwrap();
        let written = || fs::metadata(&file).unwrap().modified().unwrap();
        let before = written();
        // The same numbers, from another run of the producer, or as the store has them.
        let mut again = row("A", 1.0);
        again.recorded_ms = Some(200);
        again.closed.epoch = Some(3);
        merge(folder, &[again]).unwrap();
        again.closed = again.closed.row().into();
        merge(folder, &[again]).unwrap();
        assert_eq!((read(&file), written()), (vec![first], before));
        // Beside what is new it stays as it was.
        let other = row("B", 1.0);
        merge(folder, &[again, other]).unwrap();
        assert_eq!(read(&file), [first, other]);
        for (price, rev) in [(1.0, Some(u64::MAX)), (2.0, Some(u64::MAX)), (3.0, None)] {
            let mut changed = row("A", price);
            changed.closed.rev = rev;
            changed.recorded_ms = Some(300);
            merge(folder, &[changed]).unwrap();
            assert_eq!(read(&file), [changed, other]);
        }
    }

    #[test]
    fn a_file_of_the_first_version_is_read_and_merged() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, file) = (folder.path(), folder.path().join(FILE));
        let first = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bytes = fs::read(first.join("tests/data/recorded/version-1.parquet")).unwrap();
        fs::write(&file, &bytes).unwrap();
        let old = read(&file);
        assert_eq!(old.len(), 2);
        let alone = |row: &Kept| Kept {
            closed: row.closed.row().into(),
            recorded_ms: None,
        };
        assert!(old.iter().all(|row| *row == alone(row)));
        // What it says already changes no byte.
        let mut again = old[1];
        (again.closed.seq, again.recorded_ms) = (Some(2), Some(500));
        merge(folder, &[again]).unwrap();
        assert_eq!(fs::read(&file).unwrap(), bytes);
        let new = Kept {
            closed: Closed {
                topic: "bars:Z:1".parse().unwrap(),
                ..again.closed
            },
            ..again
        };
        merge(folder, &[new]).unwrap();
        assert_eq!(read(&file), [old[0], old[1], new]);
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
    }

    #[test]
    fn a_file_says_its_version_and_what_its_columns_lie_between() {
        let folder = tempfile::tempdir().unwrap();
        merge(folder.path(), &[row("A", 1.5), row("B", -2.5)]).unwrap();
        let file = File::open(folder.path().join(FILE)).unwrap();
        let file = SerializedFileReader::new(file).unwrap();
        let about = file.metadata().file_metadata();
        let entries = about.key_value_metadata().unwrap();
        let version = entries.iter().find(|entry| entry.key == "barcast.schema");
        assert_eq!(version.unwrap().value.as_deref(), Some("2"));
        // Any other order is younger than most readers, which leave the statistics out.
        let by_type = |order: &ColumnOrder| matches!(order, ColumnOrder::TYPE_DEFINED_ORDER(_));
        let orders = about.column_orders().unwrap();
        assert_eq!(orders.len(), 12);
        assert!(orders.iter().all(by_type), "{orders:?}");
        let low = file.metadata().row_group(0).column(5).statistics().unwrap();
        let bytes = [low.min_bytes_opt(), low.max_bytes_opt()];
        let ends = [-6.5f64, -2.5].map(f64::to_le_bytes);
        assert_eq!(bytes, [Some(&ends[0][..]), Some(&ends[1][..])]);
    }
}
