//! One batch as bytes of a spool.
//!
//! ```text
//! length (4 bytes) | CRC-32 of the rest (4) | arrival, ms, 0 for none (8) | bars and gaps (4) | JSON
//! ```
//!
//! all little-endian, the length that of all behind the checksum. The JSON is a batch as on the bus; where there
//! are gaps, a line feed and an array of them follow.
//!
//! Where a frame does not check, the next one that does is looked for byte by byte. That is quick: JSON holds
//! no zeros, which the length of every frame does.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Batch, Closed, Gap};
use crate::bar::{BATCH_CHANNEL, BatchEncoder, Decoder};

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
    for closed in &batch.bars {
        json.push(&closed.message());
    }
    let mut json = json.take(false)?;
    if !batch.gaps.is_empty() {
        let gaps: Vec<_> = batch.gaps.iter().map(Gap::json).collect();
        json.extend_from_slice(format!("\n[{}]", gaps.join(",")).as_bytes());
    }
    let too_large = |_| io::Error::other("a batch of more than 4 GiB");
    let length = u32::try_from(FIXED_BYTES + json.len()).map_err(too_large)?;
    let bars = u32::try_from(batch.items()).map_err(too_large)?;
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

/// Frames of one segment, one after the other; what is damaged between them is skipped.
pub(super) struct Frames {
    file: BufReader<File>,
    path: PathBuf,
    /// Behind what was read last.
    pub offset: u64,
    /// What was skipped.
    pub damages: Vec<Range<u64>>,
    /// Where a frame begins that a crash has not let be written whole.
    pub torn: Option<u64>,
}

pub(super) struct Frame {
    arrived_ms: Option<i64>,
    pub bars: usize,
    json: Vec<u8>,
}

/// What is at a place of a segment.
enum Place {
    Frame(Frame),
    End,
    /// No frame that checks.
    Bad,
}

impl Frames {
    pub fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            offset,
            damages: Vec::new(),
            torn: None,
        })
    }

    /// The next frame that checks; `None` behind the last.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            match self.read()? {
                Place::Frame(frame) => return Ok(Some(frame)),
                Place::End => return Ok(None),
                Place::Bad if !self.skip()? => return Ok(None),
                Place::Bad => {}
            }
        }
    }

    fn read(&mut self) -> io::Result<Place> {
        let mut head = [0; HEAD_BYTES];
        match self.fill(&mut head)? {
            0 => return Ok(Place::End),
            HEAD_BYTES => {}
            _ => return Ok(Place::Bad),
        }
        let (length, sum) = parts(head);
        if !(FIXED_BYTES..=MAX_FRAME_BYTES).contains(&length) {
            return Ok(Place::Bad);
        }
        let mut rest = vec![0; length];
        if self.fill(&mut rest)? < length || crc32fast::hash(&rest) != sum {
            return Ok(Place::Bad);
        }
        self.offset += (HEAD_BYTES + length) as u64;
        let json = rest.split_off(FIXED_BYTES);
        let (arrived, bars) = rest.split_at(FIXED_BYTES - 4);
        let arrived = arrived.try_into().map(i64::from_le_bytes).unwrap_or(0);
        let bars = bars.try_into().map(u32::from_le_bytes).unwrap_or(0);
        Ok(Place::Frame(Frame {
            arrived_ms: Some(arrived).filter(|ms| *ms != 0),
            bars: bars as usize,
            json,
        }))
    }

    /// Goes to the next frame that checks. `false` when there is none: then the rest is torn or damaged.
    fn skip(&mut self) -> io::Result<bool> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        // A segment at most.
        let mut rest = Vec::new();
        file.read_to_end(&mut rest)?;
        let next = (1..rest.len()).find(|at| is_frame(&rest[*at..]));
        let end = self.offset + next.unwrap_or(rest.len()) as u64;
        if next.is_none() && is_torn(&rest) {
            self.torn = Some(self.offset);
        } else {
            self.damages.push(self.offset..end);
        }
        self.offset = end;
        self.file.seek(SeekFrom::Start(end))?;
        Ok(next.is_some())
    }

    /// How many bytes there are, up to those wanted.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        Ok(filled)
    }
}

/// Length and checksum.
fn parts(head: [u8; HEAD_BYTES]) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = head;
    let length = u32::from_le_bytes([a, b, c, d]);
    (length as usize, u32::from_le_bytes([e, f, g, h]))
}

/// Whether bytes begin with a frame that checks. What it costs little to see is looked at first.
fn is_frame(bytes: &[u8]) -> bool {
    let Some((head, rest)) = bytes.split_first_chunk() else {
        return false;
    };
    let (length, sum) = parts(*head);
    if !(FIXED_BYTES..=MAX_FRAME_BYTES).contains(&length) {
        return false;
    }
    let Some(rest) = rest.get(..length) else {
        return false;
    };
    let is_json = rest.get(FIXED_BYTES) == Some(&b'[') && rest.last() == Some(&b']');
    is_json && crc32fast::hash(rest) == sum
}

/// Whether a crash may have left such an end: shorter than it says, or never filled.
fn is_torn(rest: &[u8]) -> bool {
    let is_short = rest.split_first_chunk().is_none_or(|(head, rest)| {
        let (length, _) = parts(*head);
        (FIXED_BYTES..=MAX_FRAME_BYTES).contains(&length) && rest.len() < length
    });
    is_short || rest.iter().all(|byte| *byte == 0)
}

impl Frame {
    pub fn decode(&self, decoder: &mut Decoder) -> Batch {
        let mut bars = Vec::with_capacity(self.bars);
        // JSON of bars holds no line feed.
        let end = self.json.iter().position(|byte| *byte == b'\n');
        let (json, gaps) = self.json.split_at(end.unwrap_or(self.json.len()));
        decoder.decode(BATCH_CHANNEL, json, |message| match message {
            Ok(message) => bars.push(Closed::of(&message)),
            Err(why) => tracing::error!(%why, "a bar of the spool cannot be read"),
        });
        let gaps: Vec<serde_json::Value> = match gaps {
            [] => Vec::new(),
            gaps => serde_json::from_slice(gaps).unwrap_or_else(|why| {
                tracing::error!(%why, "gaps of the spool cannot be read");
                Vec::new()
            }),
        };
        Batch {
            arrived_ms: self.arrived_ms,
            bars,
            gaps: gaps.iter().filter_map(Gap::parse).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::{Bar, Number, Topic};
    use crate::record::Reason;

    fn written(batch: &Batch) -> Batch {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), frame(batch).unwrap()).unwrap();
        let mut frames = Frames::open(file.path(), 0).unwrap();
        let read = frames.next().unwrap().unwrap();
        assert_eq!(read.bars, batch.items());
        read.decode(&mut Decoder::default())
    }

    #[test]
    fn a_frame_keeps_what_came_with_its_bars() {
        let topic: Topic = "bars:EUR/USD:1".parse().unwrap();
        let bar = Bar::new(topic.resolution, 0, [Number::Unsigned(1); 5], true).unwrap();
        let plain = Closed::from((topic, bar));
        let full = Closed {
            rev: Some(2),
            epoch: Some(u64::MAX),
            seq: Some(7),
            ..plain
        };
        let noted = Gap {
            topic,
            from: -60_000,
            to: 0,
            reason: Reason::Seq,
            noticed_ms: 1_700_000_000_000,
            healed_ms: None,
        };
        let healed = Gap {
            healed_ms: Some(1_700_000_000_001),
            ..noted
        };
        for (bars, gaps) in [
            (vec![plain, full], vec![]),
            (vec![full], vec![noted, healed]),
            (vec![], vec![noted]),
        ] {
            let batch = Batch {
                arrived_ms: Some(1),
                bars,
                gaps,
            };
            assert_eq!(written(&batch), batch);
        }
    }

    #[test]
    fn a_frame_without_gaps_is_as_it_always_was() {
        let topic: Topic = "bars:A:1".parse().unwrap();
        let bar = Bar::new(topic.resolution, 0, [Number::Unsigned(1); 5], true).unwrap();
        let batch = Batch {
            arrived_ms: None,
            bars: vec![(topic, bar).into()],
            gaps: Vec::new(),
        };
        let json = br#"[{"symbol":"A","resolution":"1","bar":{"time":0,"open":1,"high":1,"low":1,"close":1,"volume":1,"closed":true}}]"#;
        assert_eq!(&frame(&batch).unwrap()[HEAD_BYTES + FIXED_BYTES..], json);
    }
}
