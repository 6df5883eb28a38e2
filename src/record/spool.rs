//! Batches on disk, until a database has them.
//!
//! A folder of segments, `NUMBER.spool`, each a run of frames that are only ever appended:
//!
//! ```text
//! length (4 bytes) | CRC-32 of the rest (4) | arrival, ms, 0 for none (8) | bars (4) | JSON, as a batch on the bus
//! ```
//!
//! all little-endian, the length that of all behind the checksum. Every append is on the disk
//! (`fdatasync`) when it returns. A frame that a crash tore off is cut away when the folder is opened
//! again. A segment is removed when all of it is written to the database; what was written but not removed
//! is written again after a restart, which an upsert makes harmless.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::Batch;
use crate::bar::{BATCH_CHANNEL, BatchEncoder, Decoder, Message};

const SUFFIX: &str = "spool";
/// Length and checksum.
const HEAD_BYTES: usize = 8;
/// Arrival and count, which the checksum covers.
const FIXED_BYTES: usize = 12;
/// Largest frame that is believed, in bytes; ours are some 200 KiB.
const MAX_FRAME_BYTES: usize = 4 << 20;
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
        };
        for number in numbers {
            spool.take_over(number)?;
        }
        if spool.segments.is_empty() {
            spool.begin(1)?;
        } else if let Some(last) = spool.segments.back() {
            let path = spool.path(last.number);
            spool.writer = Some(OpenOptions::new().append(true).open(path)?);
        }
        Ok(spool)
    }

    /// Counts what a segment holds, and cuts off what is torn.
    fn take_over(&mut self, number: u64) -> io::Result<()> {
        let path = self.path(number);
        let (mut bytes, mut bars) = (0, 0);
        let mut frames = Frames::open(&path, 0)?;
        while let Some(frame) = frames.next()? {
            bytes = frames.offset;
            bars += frame.bars;
        }
        let all = fs::metadata(&path)?.len();
        if bytes < all {
            let cut = all - bytes;
            tracing::warn!(file = %path.display(), bytes = cut, "a torn end of the spool is cut off");
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        self.bars += bars;
        self.segments.push_back(Segment { number, bytes });
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
            writer.set_len(last.bytes)?;
            return Err(why);
        }
        last.bytes += length;
        self.bars += batch.bars.len();
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
        for at in 0..self.segments.len() {
            let Segment { number, bytes } = self.segments[at];
            if taken >= bars {
                break;
            }
            (segment, offset) = (number, if at == 0 { self.start } else { 0 });
            let mut frames = Frames::open(&self.path(number), offset)?;
            while taken < bars && offset < bytes {
                let Some(frame) = frames.next()? else {
                    // It was whole when it was written or opened: the disk is to blame.
                    tracing::error!(file = %self.path(number).display(), offset, "the spool is damaged; the rest of this file is lost");
                    offset = bytes;
                    break;
                };
                offset = frames.offset;
                taken += frame.bars;
                batches.push(frame.decode(&mut self.decoder));
            }
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
            if first.number == mark.segment {
                self.start = 0;
            }
        }
        // A damaged file's bars were counted and will never be read.
        if self.segments.iter().map(|s| s.bytes).sum::<u64>() == self.start {
            self.bars = 0;
        }
    }

    /// Begins the only segment anew.
    fn empty_last(&mut self) -> bool {
        let (Some(last), Some(writer)) = (self.segments.back_mut(), &self.writer) else {
            return false;
        };
        match writer.set_len(0) {
            Ok(()) => last.bytes = 0,
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

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether the next batch may go beyond the bound.
    pub fn is_full(&self) -> bool {
        self.bytes() + ROOM_BYTES > self.bound
    }
}

fn frame(batch: &Batch) -> io::Result<Vec<u8>> {
    let mut json = BatchEncoder::default();
    for (topic, bar) in &batch.bars {
        json.push(&Message::new(*topic, *bar));
    }
    let json = json.take(false)?;
    let too_large = |_| io::Error::other("a batch of more than 4 GiB");
    let length = u32::try_from(FIXED_BYTES + json.len()).map_err(too_large)?;
    let bars = u32::try_from(batch.bars.len()).map_err(too_large)?;
    let mut rest = Vec::with_capacity(FIXED_BYTES + json.len());
    rest.extend_from_slice(&batch.arrived_ms.unwrap_or(0).to_le_bytes());
    rest.extend_from_slice(&bars.to_le_bytes());
    rest.extend_from_slice(&json);
    let mut frame = Vec::with_capacity(HEAD_BYTES + rest.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&crc32fast::hash(&rest).to_le_bytes());
    frame.extend_from_slice(&rest);
    Ok(frame)
}

/// Frames of one segment, one after the other.
struct Frames {
    file: BufReader<File>,
    /// Behind the frame that was read last.
    offset: u64,
}

struct Frame {
    arrived_ms: Option<i64>,
    bars: usize,
    json: Vec<u8>,
}

impl Frames {
    fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file, offset })
    }

    /// The next frame; `None` at the end, and where it is torn or wrong.
    fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; HEAD_BYTES];
        if !self.fill(&mut head)? {
            return Ok(None);
        }
        let [a, b, c, d, e, f, g, h] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if !(FIXED_BYTES..=MAX_FRAME_BYTES).contains(&length) {
            return Ok(None);
        }
        let mut rest = vec![0; length];
        if !self.fill(&mut rest)? || crc32fast::hash(&rest) != u32::from_le_bytes([e, f, g, h]) {
            return Ok(None);
        }
        self.offset += (HEAD_BYTES + length) as u64;
        let json = rest.split_off(FIXED_BYTES);
        let (arrived, bars) = rest.split_at(FIXED_BYTES - 4);
        let arrived = arrived.try_into().map(i64::from_le_bytes).unwrap_or(0);
        let bars = bars.try_into().map(u32::from_le_bytes).unwrap_or(0);
        Ok(Some(Frame {
            arrived_ms: Some(arrived).filter(|ms| *ms != 0),
            bars: bars as usize,
            json,
        }))
    }

    /// `false` when the file ends before.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.file.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(why) => Err(why),
        }
    }
}

impl Frame {
    fn decode(&self, decoder: &mut Decoder) -> Batch {
        let mut bars = Vec::with_capacity(self.bars);
        decoder.decode(BATCH_CHANNEL, &self.json, |message| match message {
            Ok(message) => bars.push((message.topic, message.bar)),
            Err(why) => tracing::error!(%why, "a bar of the spool cannot be read"),
        });
        Batch {
            arrived_ms: self.arrived_ms,
            bars,
        }
    }
}
