//! Batches on disk, until a database has them.
//!
//! A folder of segments, `NUMBER.spool`, each a run of frames (see [`frame`](super::frame)) that are only
//! ever appended. Every append is on the disk
//! (`fdatasync`) when it returns. A frame that a crash tore off at the end is cut away when the folder is
//! opened again. What is damaged elsewhere is skipped, counted, and kept aside (see [`damage`](super::damage)).
//! A segment is removed when all of it is written to the database; what was written but not removed
//! is written again after a restart, which an upsert makes harmless.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Batch;
use super::damage::{heal, keep_aside};
use super::frame::{Frames, frame};
use crate::bar::Decoder;

const SUFFIX: &str = "spool";
/// As near to the bound, in bytes, counts as full: the largest frame that is written.
const ROOM_BYTES: u64 = 512 << 10;
/// Largest segment, in bytes: what stays on disk at most though it is written to the database.
const SEGMENT_BYTES: u64 = 8 << 20;
/// The smallest bound, in bytes, which holds a few frames.
pub const LEAST_BYTES: u64 = 4 << 20;

/// The folder, opened by one recorder alone.
pub struct Spool {
    folder: PathBuf,
    bound: u64,
    /// Oldest first; the last one is being written.
    segments: VecDeque<Segment>,
    writer: Option<File>,
    /// Where in the first segment what is not forgotten begins.
    start: u64,
    bars: usize,
    decoder: Decoder,
    /// Segment and begin of each damaged place that is told of and still there.
    known: BTreeSet<(u64, u64)>,
    damaged: u64,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    number: u64,
    bytes: u64,
}

/// A place between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    segment: u64,
    offset: u64,
    /// Bars before it.
    bars: usize,
}

impl Spool {
    /// Opens the folder, or makes it, and takes over what a run before has left there.
    ///
    /// # Errors
    /// When it cannot be made, read or written.
    pub fn open(folder: &Path, bound: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut numbers: Vec<u64> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
                let stem = path.file_stem().and_then(|stem| stem.to_str());
                numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
            }
        }
        numbers.sort_unstable();
        let mut spool = Self {
            folder: folder.to_owned(),
            bound,
            segments: VecDeque::new(),
            writer: None,
            start: 0,
            bars: 0,
            decoder: Decoder::default(),
            known: BTreeSet::new(),
            damaged: 0,
        };
        let last = numbers.last().copied();
        for number in numbers {
            spool.take_over(number, Some(number) == last)?;
        }
        if spool.segments.is_empty() {
            spool.begin(1)?;
        } else if let Some(last) = spool.segments.back() {
            let path = spool.path(last.number);
            spool.writer = Some(OpenOptions::new().append(true).open(path)?);
        }
        Ok(spool)
    }

    /// Counts what a segment holds, cuts off what is torn, and leaves out what is damaged.
    fn take_over(&mut self, number: u64, is_last: bool) -> io::Result<()> {
        let path = self.path(number);
        let mut bars = 0;
        let mut frames = Frames::open(&path, 0)?;
        while let Some(frame) = frames.next()? {
            bars += frame.bars;
        }
        let (all, mut damages) = (frames.offset, frames.damages);
        let mut bytes = all;
        if let Some(torn) = frames.torn {
            // All before the last were whole once.
            if is_last {
                bytes = torn;
            } else {
                damages.push(torn..all);
            }
        }
        if bytes < all {
            let cut = all - bytes;
            tracing::warn!(file = %path.display(), bytes = cut, "a torn end of the spool is cut off");
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        if !damages.is_empty() && self.tell(number, &damages) {
            match heal(&path, &damages, bytes) {
                Ok(left) => {
                    bytes = left;
                    self.known.retain(|(segment, _)| *segment != number);
                }
                Err(why) => {
                    tracing::warn!(file = %path.display(), %why, "the damage is left in the spool and read around");
                }
            }
        }
        self.bars += bars;
        self.segments.push_back(Segment { number, bytes });
        Ok(())
    }

    /// Counts damaged places that were not seen before, logs them, and keeps their file aside. `false`
    /// when that failed.
    fn tell(&mut self, number: u64, damages: &[Range<u64>]) -> bool {
        let new = damages.iter();
        let new: Vec<_> = new
            .filter(|damage| self.known.insert((number, damage.start)))
            .collect();
        if new.is_empty() {
            return true;
        }
        self.damaged += new.len() as u64;
        let bytes: u64 = new.iter().map(|damage| damage.end - damage.start).sum();
        let (places, path) = (new.len(), self.path(number));
        let file = path.display();
        let aside = keep_aside(&path);
        match &aside {
            Ok(Some(aside)) => {
                let aside = aside.display();
                tracing::warn!(%file, places, bytes, %aside, "the spool is damaged: frames are skipped, the file is kept aside");
            }
            Ok(None) => {
                tracing::warn!(%file, places, bytes, "the spool is damaged: frames are skipped; too many such files are kept aside");
            }
            Err(why) => {
                tracing::error!(%file, places, bytes, %why, "the spool is damaged: frames are skipped; the file cannot be kept aside");
            }
        }
        aside.is_ok()
    }

    /// Counts again what can be read, after damage was found in what had been counted.
    fn recount(&mut self) -> io::Result<()> {
        let mut bars = 0;
        for (at, Segment { number, bytes }) in self.segments.iter().enumerate() {
            let start = if at == 0 { self.start } else { 0 };
            let mut frames = Frames::open(&self.path(*number), start)?;
            while frames.offset < *bytes
                && let Some(frame) = frames.next()?
            {
                bars += frame.bars;
            }
        }
        self.bars = bars;
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:012}.{SUFFIX}"))
    }

    /// A new segment behind the others.
    fn begin(&mut self, number: u64) -> io::Result<()> {
        let path = self.path(number);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        // Its name must be as durable as what is in it.
        File::open(&self.folder)?.sync_all()?;
        self.writer = Some(file);
        self.segments.push_back(Segment { number, bytes: 0 });
        Ok(())
    }

    /// Puts a batch on the disk. `false` when it would go beyond the bound.
    ///
    /// # Errors
    /// When the disk refuses: nothing of the batch is kept.
    pub fn append(&mut self, batch: &Batch) -> io::Result<bool> {
        let frame = frame(batch)?;
        let length = frame.len() as u64;
        if self.bytes() + length > self.bound {
            return Ok(false);
        }
        let segment = SEGMENT_BYTES.min(self.bound / 4);
        if let Some(last) = self.segments.back().copied()
            && last.bytes > 0
            && last.bytes + length > segment
        {
            self.begin(last.number + 1)?;
        }
        let (Some(last), Some(writer)) = (self.segments.back_mut(), &mut self.writer) else {
            return Err(io::Error::other("no segment is open"));
        };
        let written = writer.write_all(&frame).and_then(|()| writer.sync_data());
        if let Err(why) = written {
            // A part of the frame would hide all that comes behind it.
            if writer.set_len(last.bytes).is_err() {
                self.writer = None;
            }
            return Err(why);
        }
        last.bytes += length;
        self.bars += batch.items();
        Ok(true)
    }

    /// The oldest batches, up to about so many bars, and the place behind them.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn oldest(&mut self, bars: usize) -> io::Result<(Vec<Batch>, Mark)> {
        let mut batches = Vec::new();
        let mut offset = self.start;
        let mut taken = 0;
        let mut segment = 0;
        let mut found = Vec::new();
        for at in 0..self.segments.len() {
            let Segment { number, bytes } = self.segments[at];
            if taken >= bars {
                break;
            }
            (segment, offset) = (number, if at == 0 { self.start } else { 0 });
            let mut frames = Frames::open(&self.path(number), offset)?;
            while taken < bars && offset < bytes {
                let Some(frame) = frames.next()? else {
                    offset = bytes;
                    break;
                };
                offset = frames.offset;
                taken += frame.bars;
                batches.push(frame.decode(&mut self.decoder));
            }
            // It was whole when it was written or opened: the disk is to blame.
            let torn = frames.torn.map(|torn| torn..bytes);
            found.extend(frames.damages.into_iter().chain(torn).map(|d| (number, d)));
        }
        let before = self.damaged;
        for (number, damage) in found {
            self.tell(number, &[damage]);
        }
        if self.damaged > before {
            self.recount()?;
        }
        let mark = Mark {
            segment,
            offset,
            bars: taken,
        };
        Ok((batches, mark))
    }

    /// Lets go of all before a place.
    pub fn forget(&mut self, mark: Mark) {
        self.bars = self.bars.saturating_sub(mark.bars);
        self.start = mark.offset;
        while let Some(first) = self.segments.front().copied() {
            let is_last = self.segments.len() == 1;
            let is_read = first.number < mark.segment || self.start >= first.bytes;
            if !is_read {
                break;
            }
            if is_last {
                if first.bytes > 0 && self.empty_last() {
                    self.start = 0;
                }
                break;
            }
            if let Err(why) = fs::remove_file(self.path(first.number)) {
                tracing::warn!(file = %self.path(first.number).display(), %why, "cannot be removed");
            }
            self.segments.pop_front();
            self.known.retain(|(segment, _)| *segment != first.number);
            if first.number == mark.segment {
                self.start = 0;
            }
        }
        // What is counted but cannot be read, after a disk that failed, must not be waited for.
        if self.bytes() == self.start {
            self.bars = 0;
        }
    }

    /// Begins the only segment anew.
    fn empty_last(&mut self) -> bool {
        let (Some(last), Some(writer)) = (self.segments.back_mut(), &self.writer) else {
            return false;
        };
        match writer.set_len(0) {
            Ok(()) => {
                last.bytes = 0;
                self.known.clear();
            }
            Err(why) => tracing::warn!(%why, "a segment of the spool cannot be emptied"),
        }
        last.bytes == 0
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bars that are not forgotten.
    pub fn bars(&self) -> usize {
        self.bars
    }

    /// Damaged places that were found since it was opened.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether the next batch may go beyond the bound.
    pub fn is_full(&self) -> bool {
        self.bytes() + ROOM_BYTES > self.bound
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bar::{Bar, Number, Topic};

    /// So many bars; their prices tell them apart.
    pub fn batch(from: u64, bars: u64) -> Batch {
        let topic: Topic = "bars:A:1".parse().unwrap();
        let bar = |price| {
            let numbers = [Number::Unsigned(price); 5];
            (topic, Bar::new(topic.resolution, 0, numbers, true).unwrap()).into()
        };
        Batch {
            arrived_ms: (from > 0).then_some(1_700_000_000_000),
            bars: (from..from + bars).map(bar).collect(),
            gaps: Vec::new(),
        }
    }

    pub fn drain(spool: &mut Spool, bars: usize) -> Vec<Batch> {
        let mut all = Vec::new();
        while spool.bars() > 0 {
            let (batches, mark) = spool.oldest(bars).unwrap();
            spool.forget(mark);
            all.extend(batches);
        }
        all
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn batches_come_back_in_order_over_many_segments_and_openings() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let all: Vec<_> = (0..60).map(|n| batch(n * 1_000, 1_000)).collect();
        let mut spool = Spool::open(folder, 64 << 20).unwrap();
        for batch in &all[..50] {
            assert!(spool.append(batch).unwrap());
        }
        // Some are written to the database, of which a part is in a segment that stays.
        let (first, mark) = spool.oldest(3_000).unwrap();
        assert_eq!(first, all[..3]);
        spool.forget(mark);
        assert_eq!(spool.bars(), 47_000);
        let mut spool = Spool::open(folder, 64 << 20).unwrap();
        assert_eq!(spool.bars(), 50_000);
        for batch in &all[50..] {
            assert!(spool.append(batch).unwrap());
        }
        assert_eq!(drain(&mut spool, 7_000), all);
        assert_eq!((spool.bars(), spool.bytes(), files(folder)), (0, 0, 1));
        // And it goes on in the file that is left.
        assert!(spool.append(&all[1]).unwrap());
        assert_eq!(drain(&mut spool, 1), all[1..2]);
    }

    #[test]
    fn the_bound_holds_and_there_is_room_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), LEAST_BYTES).unwrap();
        let mut taken = 0;
        while spool.append(&batch(taken, 1_000)).unwrap() {
            taken += 1_000;
            assert!(spool.bytes() <= LEAST_BYTES);
        }
        assert!(taken > 10_000 && spool.is_full());
        assert!(files(folder.path()) > 2);
        let (batches, mark) = spool.oldest(20_000).unwrap();
        assert_eq!(batches.len(), 20);
        spool.forget(mark);
        assert!(spool.append(&batch(taken, 1_000)).unwrap());
        let rest = drain(&mut spool, 1_000);
        assert_eq!(rest.last(), Some(&batch(taken, 1_000)));
    }
}
