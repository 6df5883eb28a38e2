//! The form of a Parquet file of bars: one table, read and written by parts.

mod write;

use std::fs::File;
use std::path::Path;
use std::vec;

use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnDescriptor;

use super::Closed;
use crate::bar::{Bar, Field, Number, Topic};
pub(super) use write::TableWriter;

/// What every file holds. Times are UTC, the start of the bar. A bar of an interval without trades has no
/// prices. The last four columns are younger than the others; a file may lack them, and a row their values.
const SCHEMA: &str = "message bars {
    REQUIRED BYTE_ARRAY symbol (STRING);
    REQUIRED BYTE_ARRAY resolution (STRING);
    REQUIRED INT64 time (TIMESTAMP(MILLIS, true));
    OPTIONAL DOUBLE open;
    OPTIONAL DOUBLE high;
    OPTIONAL DOUBLE low;
    OPTIONAL DOUBLE close;
    REQUIRED DOUBLE volume;
    OPTIONAL INT64 rev (INTEGER(64, false));
    OPTIONAL INT64 recorded_at (TIMESTAMP(MILLIS, true));
    OPTIONAL INT64 epoch (INTEGER(64, false));
    OPTIONAL INT64 seq (INTEGER(64, false));
}";
/// Columns at the beginning of [`SCHEMA`] that every file must have.
const NEEDED: usize = 8;
/// The entry of a file's metadata that tells the version of [`SCHEMA`]; files of version 1 have no such entry.
const SCHEMA_KEY: &str = "barcast.schema";
const SCHEMA_VERSION: &str = "2";
/// The program that writes such files.
const CREATED_BY: &str = "barcast";
/// Rows read at once.
const READ_ROWS: usize = 4_096;
/// Up to here a double holds every whole number.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// A row: a closed bar, or what is wrong with it, which is no reason not to read on.
pub type Row = Result<(Topic, Bar), String>;

/// A bar as it is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kept {
    pub closed: Closed,
    /// When this state of the bar was written first, ms since the epoch.
    pub recorded_ms: Option<i64>,
}

impl Kept {
    /// Whether a bar says anything that the one kept in its place does not: other numbers, or another
    /// revision. Where it was heard is no news.
    pub(super) fn is_news(&self, kept: &Self) -> bool {
        let (new, old) = (&self.closed, &kept.closed);
        new.row() != old.row() || (new.rev.is_some() && new.rev != old.rev)
    }
}

/// Reads rows in the order in which they are in the file; memory does not grow with it.
pub struct Table {
    file: SerializedFileReader<File>,
    places: Places,
    group: usize,
    columns: Option<Columns>,
    rows: vec::IntoIter<Result<Kept, String>>,
    rows_read: u64,
}

/// Where the columns are.
struct Places {
    /// In the order of [`SCHEMA`].
    needed: [usize; NEEDED],
    /// By what times are to be divided to be milliseconds.
    per_ms: i64,
    /// Likewise of when rows were recorded.
    recorded: Option<(usize, i64)>,
    /// `rev`, `epoch` and `seq`.
    counts: [Option<usize>; 3],
}

/// The rest of one row group.
struct Columns {
    symbol: ColumnReaderImpl<ByteArrayType>,
    resolution: ColumnReaderImpl<ByteArrayType>,
    time: ColumnReaderImpl<Int64Type>,
    numbers: [ColumnReader; 5],
    recorded: Option<ColumnReader>,
    counts: [Option<ColumnReader>; 3],
}

impl Table {
    /// Opens a file and looks whether its columns are those of bars; others may be beside them.
    ///
    /// # Errors
    /// One line without the file's name.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|why| why.to_string())?;
        let file = SerializedFileReader::new(file).map_err(|why| why.to_string())?;
        let places = columns(&file)?;
        Ok(Self {
            file,
            places,
            group: 0,
            columns: None,
            rows: Vec::new().into_iter(),
            rows_read: 0,
        })
    }

    /// The next row, or why it gives no bar; `None` at the end.
    ///
    /// # Errors
    /// When a group of rows cannot be read on; the next call goes on behind it.
    pub fn read(&mut self) -> Result<Option<Row>, String> {
        let row = self.read_kept()?;
        Ok(row.map(|row| row.map(|kept| kept.closed.row())))
    }

    /// As [`read`](Self::read), with all that the row says.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_kept(&mut self) -> Result<Option<Result<Kept, String>>, String> {
        loop {
            if let Some(row) = self.rows.next() {
                self.rows_read += 1;
                return Ok(Some(row));
            }
            if self.columns.is_none() {
                if self.group >= self.file.num_row_groups() {
                    return Ok(None);
                }
                self.group += 1;
                let columns = self.open_group(self.group - 1);
                self.columns = Some(columns.map_err(|why| why.to_string())?);
            }
            if let Some(columns) = &mut self.columns {
                match columns.read(&self.places) {
                    Ok(rows) if !rows.is_empty() => self.rows = rows.into_iter(),
                    ended => {
                        self.columns = None;
                        ended.map_err(|why| why.to_string())?;
                    }
                }
            }
        }
    }

    /// The program that wrote the file, if it was another.
    pub(super) fn foreign_program(&self) -> Option<&str> {
        let program = self.file.metadata().file_metadata().created_by();
        let program = program.unwrap_or("an unknown program");
        (!program.starts_with(CREATED_BY)).then_some(program)
    }

    /// Rows of the file, and how many of them were read.
    pub fn progress(&self) -> (u64, u64) {
        let rows = self.file.metadata().file_metadata().num_rows();
        (u64::try_from(rows).unwrap_or(0), self.rows_read)
    }

    fn open_group(&self, group: usize) -> Result<Columns, ParquetError> {
        let group = self.file.get_row_group(group)?;
        let [symbol, resolution, time, numbers @ ..] = self.places.needed;
        let text = |at| {
            let column = group.get_column_reader(at)?;
            Ok::<_, ParquetError>(get_typed_column_reader::<ByteArrayType>(column))
        };
        let number = |at| group.get_column_reader(at);
        let some = |at: Option<usize>| at.map(number).transpose();
        let [open, high, low, close, volume] = numbers;
        let [rev, epoch, seq] = self.places.counts;
        Ok(Columns {
            symbol: text(symbol)?,
            resolution: text(resolution)?,
            time: get_typed_column_reader(group.get_column_reader(time)?),
            numbers: [
                number(open)?,
                number(high)?,
                number(low)?,
                number(close)?,
                number(volume)?,
            ],
            recorded: some(self.places.recorded.map(|(at, _)| at))?,
            counts: [some(rev)?, some(epoch)?, some(seq)?],
        })
    }
}

impl Columns {
    fn read(&mut self, places: &Places) -> Result<Vec<Result<Kept, String>>, ParquetError> {
        let symbols = read_column(&mut self.symbol)?;
        let resolutions = read_column(&mut self.resolution)?;
        let times = read_column(&mut self.time)?;
        let mut numbers: [Vec<Option<f64>>; 5] = Default::default();
        for (values, column) in numbers.iter_mut().zip(&mut self.numbers) {
            *values = read_numbers(column)?;
        }
        let rows = symbols.len();
        let mut counts: [Vec<Option<u64>>; 3] = Default::default();
        for (values, column) in counts.iter_mut().zip(&mut self.counts) {
            *values = match column {
                Some(column) => read_counts(column)?,
                None => vec![None; rows],
            };
        }
        let recorded = match &mut self.recorded {
            Some(ColumnReader::Int64ColumnReader(column)) => read_column(column)?,
            _ => vec![None; rows],
        };
        let lengths = [resolutions.len(), times.len(), recorded.len()].into_iter();
        let lengths = lengths.chain(numbers.iter().map(Vec::len));
        let mut lengths = lengths.chain(counts.iter().map(Vec::len));
        if lengths.any(|length| length != rows) {
            return Err(ParquetError::General("columns differ in length".to_owned()));
        }
        let row = |at: usize| {
            let text = |column: &[Option<ByteArray>]| {
                let text = column[at]
                    .as_ref()
                    .ok_or("a symbol or resolution is null")?;
                let text = text.as_utf8().map_err(|why| why.to_string())?;
                Ok::<_, String>(text.to_owned())
            };
            let time = times[at].ok_or("its time is null")?;
            let time = time.div_euclid(places.per_ms);
            let numbers = numbers.each_ref().map(|column| column[at]);
            let row = bar(&text(&symbols)?, &text(&resolutions)?, time, numbers)?;
            let [rev, epoch, seq] = counts.each_ref().map(|column| column[at]);
            let per_ms = places.recorded.map_or(1, |(_, per_ms)| per_ms);
            Ok(Kept {
                closed: Closed {
                    rev,
                    epoch,
                    seq,
                    ..row.into()
                },
                recorded_ms: recorded[at].map(|time| time.div_euclid(per_ms)),
            })
        };
        Ok((0..rows).map(row).collect())
    }
}

/// A number as databases hold it: a price that a bar does not have is null there.
pub(super) fn stored(bar: &Bar, field: Field) -> Option<f64> {
    Some(bar.value(field)).filter(|value| value.is_finite())
}

/// A closed bar of what a row of a database says.
///
/// # Errors
/// What is wrong with it.
pub fn bar(symbol: &str, resolution: &str, time: i64, numbers: [Option<f64>; 5]) -> Row {
    let topic = Topic {
        symbol: symbol.parse().map_err(|why| format!("{why}"))?,
        resolution: resolution.parse().map_err(|why| format!("{why}"))?,
    };
    let [Some(open), Some(high), Some(low), Some(close), Some(volume)] = numbers else {
        return match numbers {
            [None, None, None, None, Some(0.0)] => Bar::empty(topic.resolution, time)
                .map(|bar| (topic, bar))
                .map_err(|why| why.to_string()),
            _ => Err("some of its prices are missing".to_owned()),
        };
    };
    let numbers = [open, high, low, close, volume].map(Number::Float);
    let bar = Bar::new(topic.resolution, time, numbers, true).map_err(|why| why.to_string())?;
    Ok((topic, bar))
}

/// Some values; none stands for a null.
fn read_column<T: DataType>(
    column: &mut ColumnReaderImpl<T>,
) -> Result<Vec<Option<T::T>>, ParquetError> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let mut left = READ_ROWS;
    // One call may end at a page's end.
    while left > 0 {
        let (records, ..) = column.read_records(left, Some(&mut levels), None, &mut values)?;
        if records == 0 {
            break;
        }
        left -= records;
    }
    let mut values = values.into_iter();
    Ok(if levels.is_empty() {
        // A column that has no nulls has no levels.
        values.map(Some).collect()
    } else {
        let present = levels.into_iter().map(|level| level > 0);
        present
            .map(|is_there| if is_there { values.next() } else { None })
            .collect()
    })
}

/// Some values of whatever kind of number a column has.
fn read_numbers(column: &mut ColumnReader) -> Result<Vec<Option<f64>>, ParquetError> {
    fn doubles<T>(values: Vec<Option<T>>, double: fn(T) -> f64) -> Vec<Option<f64>> {
        values.into_iter().map(|value| value.map(double)).collect()
    }
    Ok(match column {
        ColumnReader::DoubleColumnReader(column) => read_column(column)?,
        ColumnReader::FloatColumnReader(column) => doubles(read_column(column)?, f64::from),
        ColumnReader::Int32ColumnReader(column) => doubles(read_column(column)?, f64::from),
        ColumnReader::Int64ColumnReader(column) => doubles(read_column(column)?, whole),
        _ => return Err(ParquetError::General("a column is no number".to_owned())),
    })
}

/// Counters, also as a program has written them whose numbers are all doubles; what is none is left out.
fn read_counts(column: &mut ColumnReader) -> Result<Vec<Option<u64>>, ParquetError> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "looked at before"
    )]
    fn exact(value: f64) -> Option<u64> {
        let is_exact = value.fract() == 0.0 && (0.0..=MAX_EXACT).contains(&value);
        is_exact.then_some(value as u64)
    }
    Ok(match column {
        ColumnReader::Int64ColumnReader(column) => {
            let values = read_column(column)?.into_iter();
            values.map(|value| value.map(i64::cast_unsigned)).collect()
        }
        ColumnReader::DoubleColumnReader(column) => {
            let values = read_column(column)?.into_iter();
            values.map(|value| value.and_then(exact)).collect()
        }
        _ => return Err(ParquetError::General("a column is no counter".to_owned())),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a bar holds doubles")]
fn whole(value: i64) -> f64 {
    value as f64
}

/// Whether a column can be read as one of doubles.
fn is_number(column: &ColumnDescriptor) -> bool {
    let is_plain = match column.logical_type_ref() {
        None => column.converted_type() != ConvertedType::DECIMAL,
        Some(LogicalType::Integer(_)) => true,
        Some(_) => false,
    };
    let kinds = [Type::DOUBLE, Type::FLOAT, Type::INT32, Type::INT64];
    is_plain && kinds.contains(&column.physical_type())
}

/// By what a column of times is to be divided to be milliseconds; none where it holds no times.
fn per_ms(column: &ColumnDescriptor) -> Option<i64> {
    match column.logical_type_ref() {
        Some(LogicalType::Timestamp(time)) => Some(match time.unit {
            TimeUnit::MILLIS => 1,
            TimeUnit::MICROS => 1_000,
            TimeUnit::NANOS => 1_000_000,
        }),
        _ => None,
    }
}

/// Where the columns of bars are.
fn columns(file: &SerializedFileReader<File>) -> Result<Places, String> {
    let schema = file.metadata().file_metadata().schema_descr();
    let find = |name: &str| {
        let mut columns = schema.columns().iter().enumerate();
        columns.find(|(_, column)| column.path().string() == name)
    };
    let wanted = parse_message_type(SCHEMA).map_err(|why| why.to_string())?;
    let mut needed = [0; NEEDED];
    let mut time_per_ms = 1;
    for (place, wanted) in needed.iter_mut().zip(wanted.get_fields()) {
        let (name, kind) = (wanted.name(), wanted.get_physical_type());
        let (at, column) = find(name).ok_or_else(|| format!("no column {name}"))?;
        let is_good = match kind {
            Type::DOUBLE => is_number(column),
            _ => column.physical_type() == kind,
        };
        if !is_good {
            let is = column.physical_type();
            return Err(format!("column {name} is {is}, not {kind}"));
        }
        if kind == Type::INT64 {
            let told = per_ms(column);
            time_per_ms = told.ok_or_else(|| format!("column {name} is no timestamp"))?;
        }
        *place = at;
    }
    // What another program made of these is no reason to refuse the bars.
    let count = |name| {
        let (at, column) = find(name)?;
        let kinds = [Type::INT64, Type::DOUBLE];
        (is_number(column) && kinds.contains(&column.physical_type())).then_some(at)
    };
    let recorded = find("recorded_at").and_then(|(at, column)| {
        let is_whole = column.physical_type() == Type::INT64;
        Some((at, per_ms(column).filter(|_| is_whole)?))
    });
    Ok(Places {
        needed,
        per_ms: time_per_ms,
        recorded,
        counts: ["rev", "epoch", "seq"].map(count),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_prices_is_an_interval_without_trades() {
        let row = |prices: [Option<f64>; 4], volume| {
            let [open, high, low, close] = prices;
            bar("AAPL", "1", 60_000, [open, high, low, close, Some(volume)])
        };
        let (topic, empty) = row([None; 4], 0.0).unwrap();
        assert_eq!(empty, Bar::empty(topic.resolution, 60_000).unwrap());
        assert!(!row([Some(1.0); 4], 2.0).unwrap().1.is_empty());
        assert!(row([None; 4], 2.0).is_err(), "traded without prices");
        assert!(row([Some(1.0), None, Some(1.0), Some(1.0)], 2.0).is_err());
    }
}
