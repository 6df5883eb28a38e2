use std::ops::Range;

use bytes::Bytes;

use super::{FIN, MAX_CONTROL_BYTES, Opcode, RSV1};

/// Header of a frame of 126 to 65,535 bytes, as nearly all are: room for it is left in advance.
const USUAL_HEADER: usize = 4;

/// Appends a text frame whose payload `write` appends; tells where the frame lies.
///
/// The payload is written in place behind room for the usual header. A shorter header leaves two
/// bytes unused in front, which are not part of the frame; a longer one moves the payload.
pub fn append_text(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    append(FIN | Opcode::Text as u8, out, write)
}

/// Likewise, of a payload that is compressed.
pub(super) fn append_deflated_text(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) -> Range<usize> {
    append(FIN | RSV1 | Opcode::Text as u8, out, write)
}

fn append(first: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let start = out.len();
    out.extend_from_slice(&[0; USUAL_HEADER]);
    write(out);
    let len = out.len() - start - USUAL_HEADER;
    let start = if let Ok(short) = u8::try_from(len)
        && usize::from(short) <= MAX_CONTROL_BYTES
    {
        out[start + 2..start + USUAL_HEADER].copy_from_slice(&[first, short]);
        start + 2
    } else if let Ok(medium) = u16::try_from(len) {
        let [high, low] = medium.to_be_bytes();
        out[start..start + USUAL_HEADER].copy_from_slice(&[first, 126, high, low]);
        start
    } else {
        let mut header = vec![first, 127];
        header.extend_from_slice(&(len as u64).to_be_bytes());
        out.splice(start..start + USUAL_HEADER, header);
        start
    };
    start..out.len()
}

/// Builds frames in one reused buffer, each copied once into memory of exactly its size.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    buffer: Vec<u8>,
}

impl FrameBuilder {
    /// A text frame whose payload `write` appends.
    pub fn text(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        self.frame(Opcode::Text, write)
    }

    /// A binary frame whose payload `write` appends.
    pub fn binary(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        self.frame(Opcode::Binary, write)
    }

    fn frame(&mut self, opcode: Opcode, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        self.buffer.clear();
        let range = append(FIN | opcode as u8, &mut self.buffer, write);
        Bytes::copy_from_slice(&self.buffer[range])
    }
}

fn control(opcode: Opcode, payload: &[u8]) -> Bytes {
    let payload = &payload[..payload.len().min(MAX_CONTROL_BYTES)];
    let mut frame = Vec::with_capacity(2 + payload.len());
    frame.push(FIN | opcode as u8);
    // At most 125, by the line above.
    frame.push(u8::try_from(payload.len()).unwrap_or_default());
    frame.extend_from_slice(payload);
    frame.into()
}

/// A ping with an empty payload.
pub fn ping_frame() -> Bytes {
    control(Opcode::Ping, &[])
}

/// The answer to a ping, with its payload (RFC 6455, section 5.5.3).
pub fn pong_frame(payload: &[u8]) -> Bytes {
    control(Opcode::Pong, payload)
}

/// A close frame with a reason for people.
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let mut payload = Vec::with_capacity(2 + reason.len());
    payload.extend_from_slice(&code.to_be_bytes());
    let mut end = reason.len().min(MAX_CONTROL_BYTES - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    control(Opcode::Close, &payload)
}
