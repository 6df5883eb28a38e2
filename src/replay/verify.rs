//! Compares two sources of recorded bars, bar by bar.
//!
//! Both are read in rising time, and the bars of one time are held of each: memory grows with the topics and
//! not with the time.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::input::{self, Head, Input};
use super::merge::MAX_REPORTED;
use super::recorded::Row;
use super::wanted::Wanted;
use crate::bar::{Bar, Topic, write_bar};
use crate::record::postgres::Address;

/// Where recorded bars are.
#[derive(Debug, Clone)]
pub enum Source {
    /// A CSV or Parquet file, or a folder of Parquet files.
    File(PathBuf),
    Postgres(Box<Address>),
}

/// `barcast verify`, validated.
#[derive(Debug, Clone)]
pub struct Verify {
    pub sources: [Source; 2],
    pub wanted: Wanted,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    pub same: u64,
    pub differ: u64,
    /// Bars that only the first source has, and only the second.
    pub only: [u64; 2],
    /// Rows that give no bar, in each.
    pub bad_rows: [u64; 2],
}

impl Compared {
    pub fn is_same(&self) -> bool {
        *self
            == Self {
                same: self.same,
                ..Self::default()
            }
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.only;
        let [bad_first, bad_second] = self.bad_rows;
        write!(
            f,
            "same={} differ={} only_in_first={first} only_in_second={second} bad_rows={bad_first},{bad_second}",
            self.same, self.differ
        )
    }
}

/// Compares until the end of both; what differs goes to `out`, a JSON object a line.
///
/// # Errors
/// One line: a source cannot be read to its end, `out` takes no more, or `stop` came.
pub fn verify(
    settings: &Verify,
    stop: &CancellationToken,
    out: &mut impl Write,
) -> Result<Compared, String> {
    let [first, second] = &settings.sources;
    let mut sides = [
        Side::open(first, &settings.wanted)?,
        Side::open(second, &settings.wanted)?,
    ];
    let mut found = Compared::default();
    loop {
        if stop.is_cancelled() {
            return Err("stopped before the end".to_owned());
        }
        let [first, second] = &mut sides;
        let (a, b) = (first.time()?, second.time()?);
        let Some(time) = [a, b].into_iter().flatten().min() else {
            break;
        };
        let bars = [first.bars(time)?, second.bars(time)?];
        let told = tell(time, bars, &mut found, out);
        told.map_err(|why| format!("standard output: {why}"))?;
    }
    out.flush()
        .map_err(|why| format!("standard output: {why}"))?;
    found.bad_rows = sides.map(|side| side.bad_rows);
    Ok(found)
}

type Bars = BTreeMap<Topic, Bar>;

/// Counts the bars of one time, and writes those that differ.
fn tell(
    time: i64,
    [first, second]: [Bars; 2],
    found: &mut Compared,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut both: BTreeMap<Topic, [Option<Bar>; 2]> = BTreeMap::new();
    for (topic, bar) in first {
        both.entry(topic).or_default()[0] = Some(bar);
    }
    for (topic, bar) in second {
        both.entry(topic).or_default()[1] = Some(bar);
    }
    for (topic, bars) in both {
        match bars {
            [Some(a), Some(b)] if a == b => {
                found.same += 1;
                continue;
            }
            [Some(_), Some(_)] => found.differ += 1,
            [Some(_), None] => found.only[0] += 1,
            [None, _] => found.only[1] += 1,
        }
        let [first, second] = bars.map(|bar| {
            let mut json = Vec::new();
            match bar {
                Some(bar) => write_bar(&mut json, &bar),
                None => json.extend_from_slice(b"null"),
            }
            String::from_utf8_lossy(&json).into_owned()
        });
        writeln!(
            out,
            r#"{{"symbol":"{}","resolution":"{}","time":{time},"first":{first},"second":{second}}}"#,
            topic.symbol, topic.resolution
        )?;
    }
    Ok(())
}

/// One of the sources.
struct Side {
    input: Input,
    head: Option<Head>,
    bad_rows: u64,
}

impl Side {
    fn open(source: &Source, wanted: &Wanted) -> Result<Self, String> {
        Ok(Self {
            input: input::open_one(source, wanted)?,
            head: None,
            bad_rows: 0,
        })
    }

    /// Time of the next bar, ms since the epoch.
    fn time(&mut self) -> Result<Option<i64>, String> {
        while self.head.is_none() {
            match self.input.next()? {
                Row::Bar(topic, bar) => self.head = Some((topic, bar)),
                Row::Bad(why) => {
                    self.bad_rows += 1;
                    if self.bad_rows <= MAX_REPORTED {
                        tracing::warn!(source = self.input.name(), %why, "a row gives no bar");
                    }
                }
                Row::End => return Ok(None),
            }
        }
        Ok(self.head.map(|(_, bar)| bar.time()))
    }

    /// The bars of that time, the later of two of one topic.
    fn bars(&mut self, time: i64) -> Result<Bars, String> {
        let mut bars = Bars::new();
        while self.time()? == Some(time) {
            bars.extend(self.head.take());
        }
        Ok(bars)
    }
}
