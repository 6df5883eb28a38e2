//! The form of a Parquet file of bars: one table, read and written by parts.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::vec;

use parquet::basic::{Compression, ConvertedType, LogicalType, TimeUnit, Type, ZstdLevel};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnDescriptor;

use crate::bar::{Bar, Field, Number, Topic};

/// What every file holds. Times are UTC, the start of the bar. A bar of an interval without trades has no
/// prices.
const SCHEMA: &str = "message bars {
    REQUIRED BYTE_ARRAY symbol (STRING);
    REQUIRED BYTE_ARRAY resolution (STRING);
    REQUIRED INT64 time (TIMESTAMP(MILLIS, true));
    OPTIONAL DOUBLE open;
    OPTIONAL DOUBLE high;
    OPTIONAL DOUBLE low;
    OPTIONAL DOUBLE close;
    REQUIRED DOUBLE volume;
}";
/// The program that writes such files.
const CREATED_BY: &str = "barcast";
/// Rows that a writer holds before they become a row group, some 5 MB.
const GROUP_ROWS: usize = 50_000;
/// Rows read at once.
const READ_ROWS: usize = 4_096;

/// A row: a closed bar, or what is wrong with it, which is no reason not to read on.
pub type Row = Result<(Topic, Bar), String>;

/// Writes rows in the order in which they come.
pub(super) struct TableWriter {
    file: SerializedFileWriter<File>,
    rows: Vec<(Topic, Bar)>,
}

impl TableWriter {
    pub fn new(file: File) -> Result<Self, ParquetError> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(format!("{CREATED_BY} {}", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            file: SerializedFileWriter::new(file, schema, Arc::new(properties))?,
            rows: Vec::new(),
        })
    }

    pub fn push(&mut self, topic: Topic, bar: Bar) -> Result<(), ParquetError> {
        self.rows.push((topic, bar));
        if self.rows.len() >= GROUP_ROWS {
            self.write_group()?;
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let rows = std::mem::take(&mut self.rows);
        let texts = |text: fn(&Topic) -> &str| -> Vec<ByteArray> {
            let rows = rows.iter();
            rows.map(|(topic, _)| text(topic).into()).collect()
        };
        let times: Vec<_> = rows.iter().map(|(_, bar)| bar.time()).collect();
        let mut group = self.file.next_row_group()?;
        let symbols = texts(|topic| topic.symbol.as_str());
        write_column::<ByteArrayType>(&mut group, &symbols, None)?;
        let resolutions = texts(|topic| topic.resolution.as_str());
        write_column::<ByteArrayType>(&mut group, &resolutions, None)?;
        write_column::<Int64Type>(&mut group, &times, None)?;
        for field in Field::ALL {
            let values = || rows.iter().map(|(_, bar)| stored(bar, field));
            let present: Vec<_> = values().map(|value| i16::from(value.is_some())).collect();
            let values: Vec<_> = values().flatten().collect();
            let present = (field != Field::Volume).then_some(present.as_slice());
            write_column::<DoubleType>(&mut group, &values, present)?;
        }
        group.close()?;
        Ok(())
    }

    /// Ends the file, which is whole only then, and puts it on the disk.
    pub fn finish(mut self) -> Result<(), ParquetError> {
        if !self.rows.is_empty() {
            self.write_group()?;
        }
        self.file.finish()?;
        self.file.inner().sync_all()?;
        Ok(())
    }
}

fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    present: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let column = group.next_column()?;
    let mut column = column.ok_or_else(|| ParquetError::General("no such column".to_owned()))?;
    column.typed::<T>().write_batch(values, present, None)?;
    column.close()
}

/// Reads rows in the order in which they are in the file; memory does not grow with it.
pub struct Table {
    file: SerializedFileReader<File>,
    /// Where the columns are, in the order of [`SCHEMA`].
    places: [usize; 8],
    /// By what times are to be divided to be milliseconds.
    per_ms: i64,
    group: usize,
    columns: Option<Columns>,
    rows: vec::IntoIter<Row>,
    rows_read: u64,
}

/// The rest of one row group.
struct Columns {
    symbol: ColumnReaderImpl<ByteArrayType>,
    resolution: ColumnReaderImpl<ByteArrayType>,
    time: ColumnReaderImpl<Int64Type>,
    numbers: [ColumnReader; 5],
}

impl Table {
    /// Opens a file and looks whether its columns are those of bars; others may be beside them.
    ///
    /// # Errors
    /// One line without the file's name.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|why| why.to_string())?;
        let file = SerializedFileReader::new(file).map_err(|why| why.to_string())?;
        let (places, per_ms) = columns(&file)?;
        Ok(Self {
            file,
            places,
            per_ms,
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
                match columns.read(self.per_ms) {
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
        let [symbol, resolution, time, numbers @ ..] = self.places;
        let text = |at| {
            let column = group.get_column_reader(at)?;
            Ok::<_, ParquetError>(get_typed_column_reader::<ByteArrayType>(column))
        };
        let number = |at| group.get_column_reader(at);
        let [open, high, low, close, volume] = numbers;
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
        })
    }
}

impl Columns {
    fn read(&mut self, per_ms: i64) -> Result<Vec<Row>, ParquetError> {
        let symbols = read_column(&mut self.symbol)?;
        let resolutions = read_column(&mut self.resolution)?;
        let times = read_column(&mut self.time)?;
        let mut numbers: [Vec<Option<f64>>; 5] = Default::default();
        for (values, column) in numbers.iter_mut().zip(&mut self.numbers) {
            *values = read_numbers(column)?;
        }
        let lengths = [resolutions.len(), times.len()].into_iter();
        let mut lengths = lengths.chain(numbers.iter().map(Vec::len));
        if lengths.any(|length| length != symbols.len()) {
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
            let time = times[at].ok_or("its time is null")?.div_euclid(per_ms);
            let numbers = numbers.each_ref().map(|column| column[at]);
            bar(&text(&symbols)?, &text(&resolutions)?, time, numbers)
        };
        Ok((0..symbols.len()).map(row).collect())
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

/// Where the columns of bars are, and the unit of the times.
fn columns(file: &SerializedFileReader<File>) -> Result<([usize; 8], i64), String> {
    let schema = file.metadata().file_metadata().schema_descr();
    let wanted = parse_message_type(SCHEMA).map_err(|why| why.to_string())?;
    let mut places = [0; 8];
    let mut per_ms = 1;
    for (place, wanted) in places.iter_mut().zip(wanted.get_fields()) {
        let (name, kind) = (wanted.name(), wanted.get_physical_type());
        let mut columns = schema.columns().iter().enumerate();
        let (at, column) = columns
            .find(|(_, column)| column.path().string() == name)
            .ok_or_else(|| format!("no column {name}"))?;
        let is_good = match kind {
            Type::DOUBLE => is_number(column),
            _ => column.physical_type() == kind,
        };
        if !is_good {
            let is = column.physical_type();
            return Err(format!("column {name} is {is}, not {kind}"));
        }
        if kind == Type::INT64 {
            per_ms = match column.logical_type_ref() {
                Some(LogicalType::Timestamp(time)) => match time.unit {
                    TimeUnit::MILLIS => 1,
                    TimeUnit::MICROS => 1_000,
                    TimeUnit::NANOS => 1_000_000,
                },
                _ => return Err(format!("column {name} is no timestamp")),
            };
        }
        *place = at;
    }
    Ok((places, per_ms))
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
