//! Closed bars into Parquet files, one a UTC day: `date=2026-11-23/bars.parquet`.
//!
//! A file holds the bars that start on its day, each once, by time, symbol and resolution. It is never
//! seen half written: new bars are merged with it, row by row, into a file beside it that then takes its
//! place. Any number of bars takes the memory of a row group.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use super::day::FILE;
use super::day::merge;
use super::lane::Output;
use super::table::Kept;
use super::{Closed, Gap};
use crate::bar::write_message;
use crate::clock::now_ms;

/// Bars of days that cannot be written, as JSON lines in the folder of all days.
pub const REFUSED: &str = "_refused.ndjson";
/// A file that shows whether the disk takes any, and its bytes: more than what a full one has left over.
const PROBE: &str = ".probe";
const PROBE_BYTES: usize = 64 * 1024;
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

    async fn write(&mut self, bars: Vec<Closed>) -> Result<usize, String> {
        let folder = self.folder.clone();
        let recorded_ms = Some(now_ms());
        let kept = bars.into_iter().map(|closed| Kept {
            closed,
            recorded_ms,
        });
        let bars: Vec<_> = kept.collect();
        let written = tokio::task::spawn_blocking(move || write(&folder, &bars));
        written.await.map_err(|why| why.to_string())?
    }

    async fn note(&mut self, _gaps: Vec<Gap>) -> Result<(), String> {
        Ok(())
    }
}

/// Writes bars that come by time, a day after the other; how many of them were put aside.
///
/// Each day fails by itself. Where the folder takes files, it is the day that is at fault: its bars are put
/// aside in [`REFUSED`] rather than held against all that come later.
fn write(folder: &Path, bars: &[Kept]) -> Result<usize, String> {
    fs::create_dir_all(folder).map_err(|why| format!("{}: {why}", folder.display()))?;
    if bars.is_empty() {
        return probe(folder).map(|()| 0);
    }
    let day = |row: &Kept| row.closed.bar.time().div_euclid(DAY_MS);
    let mut aside = 0;
    for bars in bars.chunk_by(|a, b| day(a) == day(b)) {
        let day = folder.join(name(bars[0].closed.bar.time()));
        let Err(why) = merge(&day, bars) else {
            continue;
        };
        let why = format!("{}: {why}", day.display());
        // A full disk, or one that is away, is no day's fault.
        probe(folder).map_err(|_| why.clone())?;
        put_aside(folder, bars, &why).map_err(|also| format!("{why}; {REFUSED}: {also}"))?;
        tracing::error!(
            why,
            bars = bars.len(),
            file = REFUSED,
            "the bars of a day are put aside"
        );
        aside += bars.len();
    }
    Ok(aside)
}

/// Whether the folder takes a file of some size.
fn probe(folder: &Path) -> Result<(), String> {
    let path = folder.join(PROBE);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_all()
    });
    let removed = fs::remove_file(&path);
    let written = written.and(removed);
    written.map_err(|why| format!("{}: {why}", folder.display()))
}

/// Adds bars to the file of those that have no place: a line each, as it would be published, with the reason.
fn put_aside(folder: &Path, bars: &[Kept], why: &str) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for row in bars {
        write_message(&mut lines, &row.closed.message());
        lines.pop();
        let reason = serde_json::Value::from(why);
        writeln!(lines, ",\"reason\":{reason}}}")?;
    }
    let path = folder.join(REFUSED);
    let mut file = File::options().append(true).create(true).open(path)?;
    file.write_all(&lines)?;
    file.sync_all()
}

/// The folder of a time's day.
fn name(time: i64) -> String {
    let time = Timestamp::from_millisecond(time).unwrap_or_default();
    format!("date={}", TimeZone::UTC.to_datetime(time).date())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::basic::Compression;
    use parquet::column::writer::ColumnWriter;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::super::table::Table;
    use super::*;
    use crate::bar::{Bar, Number, Topic};

    const DAY: i64 = 20_000 * DAY_MS;

    fn row(symbol: &str, minute: i64, price: f64) -> (Topic, Bar) {
        let topic: Topic = format!("bars:{symbol}:1").parse().unwrap();
        let numbers = [Number::Float(price); 5];
        let bar = Bar::new(topic.resolution, DAY + minute * 60_000, numbers, true);
        (topic, bar.unwrap())
    }

    fn read(path: &Path) -> Vec<(Topic, Bar)> {
        let mut table = Table::open(path).unwrap();
        std::iter::from_fn(|| table.read().unwrap().map(Result::unwrap)).collect()
    }

    fn sorted(mut rows: Vec<(Topic, Bar)>) -> Vec<(Topic, Bar)> {
        rows.sort_by_key(|(topic, bar)| (bar.time(), *topic));
        rows
    }

    /// Bars alone, recorded at no particular time.
    fn write(folder: &Path, rows: &[(Topic, Bar)]) -> Result<usize, String> {
        let kept = rows.iter().map(|row| Kept {
            closed: (*row).into(),
            recorded_ms: None,
        });
        super::write(folder, &kept.collect::<Vec<_>>())
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

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }

    const ASIDE_1: &str = "bars.parquet.aside-1";

    #[test]
    fn a_damaged_file_is_set_aside_and_what_can_be_read_stays() {
        let row_of = |n: i64| row(&format!("S{}", n / 1_000), n % 1_000, 1.0);
        let good = sorted((0..60_000).map(row_of).collect());
        let whole = tempfile::tempdir().unwrap();
        write(whole.path(), &good).unwrap();
        let whole = fs::read(whole.path().join(name(DAY)).join(FILE)).unwrap();
        // The second group of rows is much smaller than the first.
        let (len, groups) = (whole.len(), [50_000, 10_000]);
        let overwritten = |from: usize, to: usize| {
            let mut bytes = whole.clone();
            bytes[from..to].fill(0x55);
            bytes
        };
        let new = row("A", 1_001, 9.0);
        for (what, bytes, left) in [
            ("nonsense", b"nonsense".to_vec(), 0),
            ("empty", Vec::new(), 0),
            ("cut off", whole[..len / 2].to_vec(), 0),
            ("first group", overwritten(100, 1_000), groups[1]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let today = folder.path().join(name(DAY));
            fs::create_dir_all(&today).unwrap();
            fs::write(today.join(FILE), &bytes).unwrap();
            let tomorrow = row("A", 1_440, 1.0);
            assert_eq!(write(folder.path(), &[new, tomorrow]), Ok(0), "{what}");
            assert_eq!(fs::read(today.join(ASIDE_1)).unwrap(), bytes, "{what}");
            assert_eq!(names(&today), [FILE, ASIDE_1], "{what}");
            let rows = read(&today.join(FILE));
            assert_eq!(rows.len(), left + 1, "{what}");
            let is_known = |row: &(Topic, Bar)| *row == new || good.contains(row);
            assert!(rows.iter().step_by(97).all(is_known), "{what}");
            let path = folder.path().join("date=2024-10-05").join(FILE);
            assert_eq!(read(&path), [tomorrow], "{what}");
        }
    }

    /// A file as other programs write one: any order, further columns, whole numbers, times in nanoseconds.
    fn write_foreign(path: &Path, rows: &[(Topic, Bar)], codec: Compression) {
        let schema = "message schema {
            OPTIONAL INT64 time (TIMESTAMP(NANOS, true)); OPTIONAL BYTE_ARRAY symbol (STRING);
            OPTIONAL BYTE_ARRAY resolution (STRING); OPTIONAL DOUBLE open; OPTIONAL DOUBLE high;
            OPTIONAL DOUBLE low; OPTIONAL FLOAT close; OPTIONAL INT64 volume; OPTIONAL DOUBLE vwap; }";
        let properties = WriterProperties::builder().set_compression(codec);
        let properties = properties.set_created_by("parquet-cpp-arrow version 17.0.0".to_owned());
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = fs::File::create(path).unwrap();
        let mut file =
            SerializedFileWriter::new(file, schema, Arc::new(properties.build())).unwrap();
        let mut group = file.next_row_group().unwrap();
        let price = |(_, bar): &(Topic, Bar)| bar.numbers()[0].value();
        let texts = |text: fn(&Topic) -> &str| -> Vec<_> {
            rows.iter().map(|(topic, _)| text(topic).into()).collect()
        };
        let levels = vec![1; rows.len()];
        let levels = Some(levels.as_slice());
        for at in 0.. {
            let Some(mut column) = group.next_column().unwrap() else {
                break;
            };
            let written = match (column.untyped(), at) {
                (ColumnWriter::Int64ColumnWriter(column), 0) => {
                    let time = |(_, bar): &(Topic, Bar)| bar.time() * 1_000_000;
                    let times: Vec<_> = rows.iter().map(time).collect();
                    column.write_batch(&times, levels, None)
                }
                (ColumnWriter::Int64ColumnWriter(column), _) => {
                    let volumes: Vec<_> = rows.iter().map(|row| price(row) as i64).collect();
                    column.write_batch(&volumes, levels, None)
                }
                (ColumnWriter::FloatColumnWriter(column), _) => {
                    let closes: Vec<_> = rows.iter().map(|row| price(row) as f32).collect();
                    column.write_batch(&closes, levels, None)
                }
                (ColumnWriter::ByteArrayColumnWriter(column), 1) => {
                    column.write_batch(&texts(|t| t.symbol.as_str()), levels, None)
                }
                (ColumnWriter::ByteArrayColumnWriter(column), _) => {
                    column.write_batch(&texts(|t| t.resolution.as_str()), levels, None)
                }
                (ColumnWriter::DoubleColumnWriter(column), _) => {
                    let prices: Vec<_> = rows.iter().map(price).collect();
                    column.write_batch(&prices, levels, None)
                }
                _ => unreachable!(),
            };
            written.unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        file.close().unwrap();
    }

    #[test]
    fn a_file_of_another_program_is_read_whatever_its_codec_and_order() {
        for codec in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(Default::default()),
            Compression::LZ4_RAW,
            Compression::ZSTD(Default::default()),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let today = folder.path().join(name(DAY));
            fs::create_dir_all(&today).unwrap();
            let theirs = [row("B", 7, 3.0), row("A", 7, 2.0), row("A", 0, 1.0)];
            write_foreign(&today.join(FILE), &theirs, codec);
            let ours = [row("A", 7, 5.0), row("C", 8, 4.0)];
            assert_eq!(write(folder.path(), &ours), Ok(0), "{codec}");
            let expected = [theirs[2], ours[0], theirs[0], ours[1]];
            assert_eq!(read(&today.join(FILE)), expected, "{codec}");
            assert_eq!(names(&today), [FILE, ASIDE_1], "{codec}");
            // It is ours now.
            assert_eq!(write(folder.path(), &[row("D", 9, 1.0)]), Ok(0), "{codec}");
            assert_eq!(names(&today), [FILE, ASIDE_1], "{codec}");
        }
    }

    #[test]
    fn a_day_that_cannot_be_written_stops_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        // In the way of the day's folder.
        fs::write(folder.join(name(DAY)), "").unwrap();
        let (bad, good) = (row("A", 0, 1.5), row("A", 1_440, 1.0));
        assert_eq!(write(folder, &[bad, good]), Ok(1));
        assert_eq!(read(&folder.join("date=2024-10-05").join(FILE)), [good]);
        let lines = fs::read_to_string(folder.join(REFUSED)).unwrap();
        let line: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
        let told = (&line["symbol"], &line["bar"]["open"]);
        assert_eq!(told, (&"A".into(), &1.5.into()));
        let reason = line["reason"].as_str().unwrap();
        assert!(reason.contains("date=2024-10-04"), "{line}");
        assert!(!folder.join(PROBE).exists());
        // Where nothing can be written it is nobody's fault: bars wait.
        let nowhere = folder.join(name(DAY));
        assert!(write(&nowhere, &[good]).is_err());
        assert!(write(&nowhere, &[]).is_err());
        assert_eq!(write(folder, &[]), Ok(0));
    }
}
