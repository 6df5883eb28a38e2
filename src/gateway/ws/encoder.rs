use bytes::Bytes;

use super::{FIN, MAX_CONTROL_BYTES, Opcode};

/// Longest header of an unmasked frame: two bytes and a 64-bit length.
const MAX_HEADER: usize = 10;

/// Builds text frames in one reused buffer: the payload is written behind room for the longest
/// header, then the header is put right before it, so that the finished frame is copied once, into
/// memory of exactly its size.
#[derive(Debug)]
pub struct FrameBuilder {
    buffer: Vec<u8>,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self {
            buffer: vec![0; MAX_HEADER],
        }
    }
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
        self.buffer.truncate(MAX_HEADER);
        write(&mut self.buffer);
        let len = self.buffer.len() - MAX_HEADER;
        let first = FIN | opcode as u8;
        let start = if let Ok(short) = u8::try_from(len)
            && usize::from(short) <= MAX_CONTROL_BYTES
        {
            self.buffer[8..MAX_HEADER].copy_from_slice(&[first, short]);
            8
        } else if let Ok(medium) = u16::try_from(len) {
            let [high, low] = medium.to_be_bytes();
            self.buffer[6..MAX_HEADER].copy_from_slice(&[first, 126, high, low]);
            6
        } else {
            self.buffer[..2].copy_from_slice(&[first, 127]);
            self.buffer[2..MAX_HEADER].copy_from_slice(&(len as u64).to_be_bytes());
            0
        };
        Bytes::copy_from_slice(&self.buffer[start..])
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
