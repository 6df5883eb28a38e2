//! One batch as bytes of a spool.
//!
//! ```text
//! length (4 bytes) | CRC-32 of the rest (4) | arrival, ms, 0 for none (8) | bars (4) | JSON, as a batch on the bus
//! ```
//!
//! all little-endian, the length that of all behind the checksum.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::Batch;
use crate::bar::{BATCH_CHANNEL, BatchEncoder, Decoder, Message};

/// Length and checksum.
const HEAD_BYTES: usize = 8;
/// Arrival and count, which the checksum covers.
const FIXED_BYTES: usize = 12;
/// Largest frame that is believed, in bytes; ours are some 200 KiB.
const MAX_FRAME_BYTES: usize = 4 << 20;

/// The bytes of a batch.
///
/// # Errors
/// When it is larger than any that is written.
pub(super) fn frame(batch: &Batch) -> io::Result<Vec<u8>> {
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
pub(super) struct Frames {
    file: BufReader<File>,
    /// Behind the frame that was read last.
    pub offset: u64,
}

pub(super) struct Frame {
    arrived_ms: Option<i64>,
    pub bars: usize,
    json: Vec<u8>,
}

impl Frames {
    pub fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file, offset })
    }

    /// The next frame; `None` at the end, and where it is torn or wrong.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
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
    pub fn decode(&self, decoder: &mut Decoder) -> Batch {
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
