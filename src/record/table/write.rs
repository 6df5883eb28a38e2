//! Writes Parquet files of bars.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::{CREATED_BY, Kept, SCHEMA, SCHEMA_KEY, SCHEMA_VERSION, stored};
use crate::bar::{Field, Topic};

/// Rows that a writer holds before they become a row group, about 10 MB.
const GROUP_ROWS: usize = 50_000;
/// What a Parquet file ends with: the length of its footer, then "PAR1".
const TAIL_BYTES: u64 = 8;

/// Writes rows in the order in which they come.
pub(in crate::record) struct TableWriter {
    file: SerializedFileWriter<File>,
    rows: Vec<Kept>,
}

impl TableWriter {
    /// Begins a file, which must be open for reading, too.
    pub fn new(file: File) -> Result<Self, ParquetError> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let version = KeyValue::new(SCHEMA_KEY.to_owned(), SCHEMA_VERSION.to_owned());
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(format!("{CREATED_BY} {}", env!("CARGO_PKG_VERSION")))
            .set_key_value_metadata(Some(vec![version]))
            .build();
        Ok(Self {
            file: SerializedFileWriter::new(file, schema, Arc::new(properties))?,
            rows: Vec::new(),
        })
    }

    pub fn push(&mut self, row: Kept) -> Result<(), ParquetError> {
        self.rows.push(row);
        if self.rows.len() >= GROUP_ROWS {
            self.write_group()?;
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let rows = std::mem::take(&mut self.rows);
        let mut group = self.file.next_row_group()?;
        let texts = |text: fn(&Topic) -> &str| -> Vec<ByteArray> {
            let topics = rows.iter().map(|row| &row.closed.topic);
            topics.map(|topic| text(topic).into()).collect()
        };
        let symbols = texts(|topic| topic.symbol.as_str());
        write_column::<ByteArrayType>(&mut group, &symbols, None)?;
        let resolutions = texts(|topic| topic.resolution.as_str());
        write_column::<ByteArrayType>(&mut group, &resolutions, None)?;
        let times: Vec<_> = rows.iter().map(|row| row.closed.bar.time()).collect();
        write_column::<Int64Type>(&mut group, &times, None)?;
        for field in Field::ALL {
            let values = rows.iter().map(|row| stored(&row.closed.bar, field));
            if field == Field::Volume {
                let values: Vec<_> = values.flatten().collect();
                write_column::<DoubleType>(&mut group, &values, None)?;
            } else {
                write_optional::<DoubleType>(&mut group, values)?;
            }
        }
        // The column's type says that the bits are those of an unsigned number.
        let count = |count: Option<u64>| count.map(u64::cast_signed);
        let closed = || rows.iter().map(|row| &row.closed);
        write_optional::<Int64Type>(&mut group, closed().map(|closed| count(closed.rev)))?;
        let recorded = rows.iter().map(|row| row.recorded_ms);
        write_optional::<Int64Type>(&mut group, recorded)?;
        write_optional::<Int64Type>(&mut group, closed().map(|closed| count(closed.epoch)))?;
        write_optional::<Int64Type>(&mut group, closed().map(|closed| count(closed.seq)))?;
        group.close()?;
        Ok(())
    }

    /// Ends the file, which is whole only then, and puts it on the disk.
    pub fn finish(mut self) -> Result<(), ParquetError> {
        if !self.rows.is_empty() {
            self.write_group()?;
        }
        let footer = self.file.finish()?;
        let columns = footer.file_metadata().schema_descr().num_columns();
        let file = self.file.inner();
        order_by_type(file, columns)?;
        file.sync_all()?;
        Ok(())
    }
}

fn write_optional<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: impl Iterator<Item = Option<T::T>> + Clone,
) -> Result<(), ParquetError> {
    let present = values.clone().map(|value| i16::from(value.is_some()));
    let present: Vec<_> = present.collect();
    let values: Vec<_> = values.flatten().collect();
    write_column::<T>(group, &values, Some(&present))
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

/// Says in a footer that the least and greatest values of doubles are by the order that every reader knows.
///
/// The `parquet` crate declares `IEEE754_TOTAL_ORDER`, which is younger than most readers: pyarrow, for one,
/// leaves such statistics out. Without NaN, which no bar has, both orders have the same least and greatest
/// value. The list of orders, a union of empty structs for each column, ends the footer: in Thrift's compact
/// form `1C 00 00` is the order of the type, `2C 00 00` the total one.
fn order_by_type(file: &File, columns: usize) -> io::Result<()> {
    const BY_TYPE: [u8; 3] = [0x1C, 0, 0];
    const TOTAL: [u8; 3] = [0x2C, 0, 0];
    // And the end of the struct that holds the list.
    let bytes = columns * BY_TYPE.len() + 1;
    let end = file.metadata()?.len();
    let Some(start) = end.checked_sub(TAIL_BYTES + bytes as u64) else {
        return Ok(());
    };
    let mut orders = vec![0; bytes];
    file.read_exact_at(&mut orders, start)?;
    let Some((0, listed)) = orders
        .split_last_mut()
        .map(|(last, listed)| (*last, listed))
    else {
        return Ok(());
    };
    let (listed, rest) = listed.as_chunks_mut::<3>();
    let is_known = |order: &[u8; 3]| [BY_TYPE, TOTAL].contains(order);
    // Of another form, the file is as good as it was before.
    if !rest.is_empty() || !listed.iter().all(is_known) {
        return Ok(());
    }
    listed.fill(BY_TYPE);
    file.write_all_at(&orders, start)
}
