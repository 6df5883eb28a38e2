//! The frames of one round, and those of one session as one piece of bytes.

use crate::gateway::batch::{Batch, Frame, Kind};
use crate::gateway::rendition::{Renderer, Rendition};

/// Frames of a batch that are numbered and sent together.
#[derive(Clone, Copy)]
pub(super) struct Round<'a> {
    pub batch: &'a Batch,
    pub frames: &'a [Frame],
    /// Where in the batch they begin.
    pub first: usize,
}

impl<'a> Round<'a> {
    /// A frame's bytes as a session takes them.
    pub fn bytes_for(self, at: u16, rendition: Rendition, renderer: &mut Renderer) -> &'a [u8] {
        let at = usize::from(at);
        match rendition {
            Rendition::Plain => self.batch.bytes_of(&self.frames[at]),
            Rendition::Deflated => self.batch.deflated_bytes_of(self.first + at, renderer),
        }
    }
}

/// The wanted frames as one piece: as they lie in the batch if they are neighbours there, otherwise
/// copied side by side, neighbours together.
pub(super) fn gather<'a>(
    Round { batch, frames, .. }: Round<'a>,
    wanted: &[u16],
    gathered: &'a mut Vec<u8>,
) -> &'a [u8] {
    let mut wanted = wanted.iter().map(|at| &frames[usize::from(*at)]);
    let Some(first) = wanted.next() else {
        return &[];
    };
    let (mut start, mut end) = (first.start as usize, first.end as usize);
    gathered.clear();
    for frame in wanted {
        if frame.start as usize != end {
            gathered.extend_from_slice(&batch.bytes[start..end]);
            start = frame.start as usize;
        }
        end = frame.end as usize;
    }
    if gathered.is_empty() {
        return &batch.bytes[start..end];
    }
    gathered.extend_from_slice(&batch.bytes[start..end]);
    gathered
}

/// The wanted frames as one piece, in another rendition than the plain one. Always copied: few take
/// them, and the frames are small.
pub(super) fn gather_as<'a>(
    (rendition, renderer): (Rendition, &mut Renderer),
    round: Round<'_>,
    wanted: &[u16],
    gathered: &'a mut Vec<u8>,
) -> &'a [u8] {
    gathered.clear();
    for &at in wanted {
        gathered.extend_from_slice(round.bytes_for(at, rendition, renderer));
    }
    gathered
}

/// How many of the wanted frames are bars: all, but for the rare notices.
pub(super) fn bars(round: Round<'_>, wanted: &[u16]) -> u64 {
    if round.batch.notices == 0 {
        return wanted.len() as u64;
    }
    let bar = |at: &&u16| round.frames[usize::from(**at)].head.kind != Kind::Gap;
    wanted.iter().filter(bar).count() as u64
}
