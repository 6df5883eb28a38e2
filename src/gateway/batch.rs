use std::sync::OnceLock;

use super::rendition::Renderer;
use super::ws::append_text;
use crate::bar::Topic;

/// A topic's dense number on this node: an index into every worker's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u32);

impl TopicId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a frame carries, which decides what may happen to it when a client is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A forming bar: a newer update of the same bar replaces it.
    Forming,
    /// A bar that its producer called closed: never replaced by anything newer.
    Closed,
    /// Notice of bars that were missed upstream.
    Gap,
}

/// What is known of one encoded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub topic: TopicId,
    /// Counts the messages of the topic on this node; joins snapshots and the live stream.
    pub version: u64,
    /// The bar's time; for a gap, where it ends.
    pub time: i64,
    /// Where a gap begins; for a bar its time.
    pub from: i64,
    pub kind: Kind,
    /// Publish time in µs since the epoch, when the producer gave one.
    pub ts: Option<u64>,
}

/// One message, encoded once for all who watch its topic: a range of its batch's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub head: Head,
    pub start: u32,
    pub end: u32,
}

/// A frame's compressed form, once it is made.
type Deflated = OnceLock<Box<[u8]>>;

/// What ingest hands to every worker at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// Topics whose first bar is among the frames, for those who subscribed to a pattern.
    pub opened: Vec<(TopicId, Topic)>,
    /// In the order in which they came.
    pub frames: Vec<Frame>,
    /// All frames side by side, so that neighbours can be sent as they lie.
    pub bytes: Vec<u8>,
    /// How many of the frames are notices and no bars.
    pub notices: usize,
    /// The frames compressed, each when a client is to get it so, by the first worker that has one. Empty
    /// for a frame that did not become smaller.
    deflated: OnceLock<Box<[Deflated]>>,
}

/// A batch is bounded far below 4 GiB by the size of what comes over the bus.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

impl Batch {
    /// An empty batch with room for as much as `other` holds.
    pub fn like(other: &Self) -> Self {
        Self {
            frames: Vec::with_capacity(other.frames.len()),
            bytes: Vec::with_capacity(other.bytes.len()),
            ..Self::default()
        }
    }

    /// Adds one text frame whose payload `write` appends.
    pub fn push(&mut self, head: Head, write: impl FnOnce(&mut Vec<u8>)) {
        let range = append_text(&mut self.bytes, write);
        self.notices += usize::from(head.kind == Kind::Gap);
        self.frames.push(Frame {
            head,
            start: offset(range.start),
            end: offset(range.end),
        });
    }

    /// Adds a frame that was encoded before.
    pub fn push_frame(&mut self, head: Head, frame: &[u8]) {
        let start = offset(self.bytes.len());
        self.bytes.extend_from_slice(frame);
        self.notices += usize::from(head.kind == Kind::Gap);
        self.frames.push(Frame {
            head,
            start,
            end: offset(self.bytes.len()),
        });
    }

    /// Adds all that `other` holds behind what is here.
    pub fn append(&mut self, other: &Self) {
        let moved = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        // What is missing of the compressed form is made anew, when a client is to get it.
        self.deflated.take();
        self.opened.extend_from_slice(&other.opened);
        self.frames.extend(other.frames.iter().map(|frame| Frame {
            start: frame.start + moved,
            end: frame.end + moved,
            ..*frame
        }));
        self.bytes.extend_from_slice(&other.bytes);
        self.notices += other.notices;
    }

    /// Takes everything out; the memory stays for what comes next.
    pub fn clear(&mut self) {
        self.opened.clear();
        self.frames.clear();
        self.bytes.clear();
        self.notices = 0;
        self.deflated.take();
    }

    /// A frame's bytes, header and payload.
    pub fn bytes_of(&self, frame: &Frame) -> &[u8] {
        &self.bytes[frame.start as usize..frame.end as usize]
    }

    /// The bytes of the frame at this index for a client that takes compressed ones: plain where
    /// compressing does not help.
    pub fn deflated_bytes_of(&self, at: usize, renderer: &mut Renderer) -> &[u8] {
        let Some(plain) = self.frames.get(at).map(|frame| self.bytes_of(frame)) else {
            return &[];
        };
        let places = self
            .deflated
            .get_or_init(|| self.frames.iter().map(|_| OnceLock::new()).collect());
        match places.get(at) {
            Some(place) => match &**place.get_or_init(|| renderer.deflate(plain)) {
                [] => plain,
                smaller => smaller,
            },
            None => plain,
        }
    }

    /// Bytes of all frames as they were encoded.
    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to hand over.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.opened.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(batch: &mut Batch, text: &str, kind: Kind) {
        let head = Head {
            topic: TopicId(0),
            version: 1,
            time: 0,
            from: 0,
            kind,
            ts: None,
        };
        batch.push(head, |out| out.extend_from_slice(text.as_bytes()));
    }

    fn texts(batch: &Batch) -> Vec<String> {
        let text = |frame| String::from_utf8_lossy(&batch.bytes_of(frame)[2..]).into_owned();
        batch.frames.iter().map(text).collect()
    }

    #[test]
    fn appended_frames_are_found_where_they_lie_now() {
        let (mut first, mut second) = (Batch::default(), Batch::default());
        push(&mut first, "a", Kind::Forming);
        push(&mut second, "bc", Kind::Closed);
        push(&mut second, "d", Kind::Gap);
        first.append(&second);
        assert_eq!(texts(&first), ["a", "bc", "d"]);
        assert_eq!(first.notices, 1);
        first.clear();
        assert!(first.is_empty());
        first.append(&second);
        assert_eq!(texts(&first), ["bc", "d"]);
    }
}
