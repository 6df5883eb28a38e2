//! Which bytes of a frame a client gets: chosen at its handshake, made when a client is to get them.

use super::ws::{Agreed, Deflater, payload_of};

/// The form in which a client takes frames.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Rendition {
    #[default]
    Plain,
    /// Compressed as RFC 7692 has it, each message by itself.
    Deflated,
}

impl Rendition {
    /// What a client gets with whom this was agreed.
    pub fn agreed(agreed: Option<Agreed>) -> Self {
        agreed.map_or(Self::Plain, |_| Self::Deflated)
    }
}

/// Makes renditions. Its memory is taken when the first is made that is not plain.
#[derive(Debug, Default)]
pub struct Renderer {
    deflater: Option<Deflater>,
    made: u64,
}

impl Renderer {
    /// Compresses a plain frame; nothing when it would not be smaller.
    pub fn deflate(&mut self, plain: &[u8]) -> Box<[u8]> {
        self.made += 1;
        let deflater = self.deflater.get_or_insert_default();
        let mut out = Vec::new();
        let range = deflater.append_text(payload_of(plain), &mut out);
        out.get(range.unwrap_or_default())
            .unwrap_or_default()
            .into()
    }

    /// Frames that were compressed so far.
    pub fn made(&self) -> u64 {
        self.made
    }
}
