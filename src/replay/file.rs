//! One file of bars, read row by row.

use std::fs::File;
use std::path::{Path, PathBuf};

use csv::{StringRecord, Trim};

use crate::bar::{Bar, Field, Number, Topic};
use crate::feed::time;

/// Names of the time column, in lower case. A first column without a name is one too, as pandas
/// writes an index.
const TIME_COLUMNS: [&str; 4] = ["time", "timestamp", "datetime", "date"];

/// A file that is being read; its bars come in strictly rising time.
pub(super) struct BarFile {
    pub path: PathBuf,
    pub topic: Topic,
    reader: csv::Reader<File>,
    columns: Columns,
    record: StringRecord,
    newest: Option<i64>,
}

/// Where in a row each word stands.
#[derive(Debug, PartialEq)]
struct Columns {
    time: usize,
    numbers: [usize; 5],
}

/// A row that gives no bar.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{}, line {line}: {reason}", file.display())]
pub struct BadRow {
    pub file: PathBuf,
    pub line: u64,
    pub reason: String,
}

/// What comes next in a file.
pub(super) enum Next {
    Bar(Bar),
    Bad(BadRow),
    End,
}

impl BarFile {
    /// Opens the file and reads its header row.
    ///
    /// # Errors
    /// One line: the file cannot be read, or its header lacks a column.
    pub fn open(path: &Path, topic: Topic) -> Result<Self, String> {
        let said = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let file = File::open(path).map_err(|why| said(&why))?;
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .trim(Trim::All)
            .from_reader(file);
        let header = reader.headers().map_err(|why| said(&why))?;
        let columns = Columns::find(header).map_err(|why| said(&why))?;
        Ok(Self {
            path: path.to_owned(),
            topic,
            reader,
            columns,
            record: StringRecord::new(),
            newest: None,
        })
    }

    /// Bytes read so far, for the progress.
    pub fn position(&self) -> u64 {
        self.reader.position().byte()
    }

    /// The next row.
    ///
    /// # Errors
    /// When the file cannot be read on.
    pub fn next(&mut self) -> Result<Next, csv::Error> {
        let line = self.reader.position().line();
        let read = self.reader.read_record(&mut self.record);
        let line = self.record.position().map_or(line, csv::Position::line);
        let bar = match read {
            Ok(false) => return Ok(Next::End),
            Ok(true) => self.bar(),
            // Text that is not UTF-8 spoils its own row only.
            Err(why) if !why.is_io_error() => Err(why.to_string()),
            Err(why) => return Err(why),
        };
        Ok(match bar {
            Ok(bar) => {
                self.newest = Some(bar.time());
                Next::Bar(bar)
            }
            Err(reason) => Next::Bad(BadRow {
                file: self.path.clone(),
                line,
                reason,
            }),
        })
    }

    fn bar(&self) -> Result<Bar, String> {
        let time = time::parse(self.record.get(self.columns.time).unwrap_or_default())?;
        let mut numbers = [Number::Unsigned(0); 5];
        for field in Field::ALL {
            let text = self.record.get(self.columns.numbers[field as usize]);
            numbers[field as usize] = match text {
                None | Some("") => return Err(format!("{field} is missing")),
                Some(text) => text.parse().map_err(|why| format!("{field}: {why}"))?,
            };
        }
        let bar =
            Bar::new(self.topic.resolution, time, numbers, true).map_err(|why| why.to_string())?;
        if let Some(newest) = self.newest.filter(|newest| *newest >= time) {
            return Err(format!(
                "time {time} is not after {newest}, that of a row before"
            ));
        }
        Ok(bar)
    }
}

impl Columns {
    fn find(header: &StringRecord) -> Result<Self, String> {
        let names: Vec<String> = header.iter().map(str::to_ascii_lowercase).collect();
        let named = |wanted: &dyn Fn(&str) -> bool| -> Vec<usize> {
            let found = names.iter().enumerate().filter(|(_, name)| wanted(name));
            found.map(|(at, _)| at).collect()
        };
        let one = |what: &str, found: Vec<usize>| match found[..] {
            [at] => Ok(at),
            [] => Err(format!("no column {what} in the header row {names:?}")),
            _ => Err(format!(
                "more than one column {what} in the header row {names:?}"
            )),
        };
        let mut times = named(&|name| TIME_COLUMNS.contains(&name));
        if times.is_empty() && names.first().is_some_and(String::is_empty) {
            times.push(0);
        }
        let mut numbers = [0; 5];
        for field in Field::ALL {
            numbers[field as usize] = one(field.name(), named(&|name| name == field.name()))?;
        }
        Ok(Self {
            time: one(&TIME_COLUMNS.join("/"), times)?,
            numbers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(header: &[&str]) -> Result<Columns, String> {
        Columns::find(&StringRecord::from(header.to_vec()))
    }

    #[test]
    fn columns_are_found_in_any_case_and_order() {
        let expected = Columns {
            time: 2,
            numbers: [5, 4, 3, 1, 0],
        };
        let header = [
            "VOLUME",
            "close",
            "Date",
            "Low",
            "High",
            "Open",
            "Adj Close",
        ];
        assert_eq!(find(&header), Ok(expected));
        let pandas = find(&["", "Open", "High", "Low", "Close", "Volume"]);
        assert_eq!(pandas.map(|c| c.time), Ok(0));
    }

    #[test]
    fn what_a_header_lacks_is_said() {
        let lacks = find(&["time", "open", "high", "low", "volume"]);
        assert!(lacks.unwrap_err().contains("no column close"));
        let none = find(&["open", "high", "low", "close", "volume"]);
        assert!(none.unwrap_err().contains("time/timestamp/datetime/date"));
        let both = find(&["date", "time", "open", "high", "low", "close", "volume"]);
        assert!(both.unwrap_err().contains("more than one"));
    }
}
