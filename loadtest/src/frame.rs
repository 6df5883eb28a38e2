//! As much of RFC 6455 as a measuring client and the yardstick need: scanning frames out of bytes that
//! may be cut anywhere, and writing small ones. Not for the gateway, which checks every rule.

use std::ops::Range;

use flate2::{Decompress, FlushDecompress, Status};

/// Longest frame taken, in bytes: a snapshot of a thousand bars of many topics is far below.
const MAX_FRAME_BYTES: usize = 16 << 20;
/// First byte of a whole (FIN) text frame.
pub const TEXT: u8 = 0x81;
/// First byte of a whole text frame that is compressed (RFC 7692, section 6).
pub const PACKED_TEXT: u8 = 0xc1;
/// First byte of a close frame.
pub const CLOSE: u8 = 0x88;
/// First byte of a ping.
pub const PING: u8 = 0x89;
/// First byte of a pong.
pub const PONG: u8 = 0x8a;

/// The bytes are no frame that this side may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadFrame;

/// One frame found in a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// FIN, reserved bits and opcode.
    pub first: u8,
    /// The mask, when the frame has one.
    pub mask: Option<[u8; 4]>,
    /// Where in the buffer the payload is.
    pub payload: Range<usize>,
}

/// The frame that starts at `at`, or nothing while it is not whole. The next one starts at the end of
/// its payload.
///
/// # Errors
/// [`BadFrame`] when it is longer than any frame that is expected here.
#[inline]
pub fn frame_at(bytes: &[u8], at: usize) -> Result<Option<Found>, BadFrame> {
    let Some(&[first, second]) = bytes.get(at..at + 2) else {
        return Ok(None);
    };
    let mut start = at + 2;
    let short = usize::from(second & 0x7f);
    let extended = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut len = short;
    if extended > 0 {
        let Some(digits) = bytes.get(start..start + extended) else {
            return Ok(None);
        };
        len = digits
            .iter()
            .try_fold(0_usize, |n, byte| {
                n.checked_mul(256)?.checked_add(usize::from(*byte))
            })
            .ok_or(BadFrame)?;
        start += extended;
    }
    if len > MAX_FRAME_BYTES {
        return Err(BadFrame);
    }
    let mut mask = None;
    if second & 0x80 != 0 {
        let Some(key) = bytes.get(start..start + 4) else {
            return Ok(None);
        };
        mask = key.try_into().ok();
        start += 4;
    }
    let payload = start..start + len;
    Ok((payload.end <= bytes.len()).then_some(Found {
        first,
        mask,
        payload,
    }))
}

fn write_head(out: &mut Vec<u8>, first: u8, mask_bit: u8, len: usize) {
    out.push(first);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len), _) if len < 126 => out.push(mask_bit | len),
        (_, Ok(len)) => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Appends a frame as a server sends it: unmasked.
pub fn write_server_frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    write_head(out, first, 0, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a frame as a client sends it: masked with `key`.
pub fn write_client_frame(out: &mut Vec<u8>, first: u8, key: [u8; 4], payload: &[u8]) {
    write_head(out, first, 0x80, payload.len());
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], key);
}

/// Takes a mask off, or puts it on.
pub fn unmask(payload: &mut [u8], key: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Longest text that a compressed frame may hold, in bytes: a few bars, since snapshots come plain.
const MAX_UNPACKED_BYTES: usize = 64 << 10;

/// Makes the text of compressed frames again, each by itself, with the same memory.
#[derive(Debug)]
pub struct Unpacker {
    inflate: Decompress,
    packed: Vec<u8>,
    text: Vec<u8>,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self {
            inflate: Decompress::new(false),
            packed: Vec::new(),
            text: Vec::with_capacity(MAX_UNPACKED_BYTES),
        }
    }
}

impl Unpacker {
    /// The text of a compressed frame with this payload.
    ///
    /// # Errors
    /// [`BadFrame`] when it is no whole deflate data, or longer than any that is expected here.
    pub fn text(&mut self, payload: &[u8]) -> Result<&[u8], BadFrame> {
        self.packed.clear();
        self.packed.extend_from_slice(payload);
        // What the sender took off (RFC 7692, section 7.2.2).
        self.packed.extend_from_slice(&[0, 0, 0xff, 0xff]);
        self.inflate.reset(false);
        self.text.clear();
        let done = self
            .inflate
            .decompress_vec(&self.packed, &mut self.text, FlushDecompress::Sync);
        let whole = self.inflate.total_in() == self.packed.len() as u64;
        match done {
            Ok(Status::Ok) if whole && self.text.len() < MAX_UNPACKED_BYTES => Ok(&self.text),
            _ => Err(BadFrame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7692, section 7.2.3.1.
    #[test]
    fn compressed_text_is_made_again() {
        let mut unpacker = Unpacker::default();
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        for _ in 0..2 {
            assert_eq!(unpacker.text(&hello), Ok(&b"Hello"[..]));
        }
        assert_eq!(unpacker.text(&[0xff; 9]), Err(BadFrame));
        assert_eq!(unpacker.text(&hello), Ok(&b"Hello"[..]));
    }

    /// Scans as a reader does: what is left after the last whole frame goes before what comes next.
    fn scan(chunks: &[&[u8]]) -> Vec<(u8, Vec<u8>)> {
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            let mut at = 0;
            while let Some(frame) = frame_at(&buffer, at).unwrap() {
                let mut payload = buffer[frame.payload.clone()].to_vec();
                if let Some(key) = frame.mask {
                    unmask(&mut payload, key);
                }
                found.push((frame.first, payload));
                at = frame.payload.end;
            }
            buffer.drain(..at);
        }
        assert!(buffer.is_empty(), "{} bytes left", buffer.len());
        found
    }

    fn sample() -> (Vec<u8>, Vec<(u8, Vec<u8>)>) {
        let (mut bytes, mut frames) = (Vec::new(), Vec::new());
        for (first, len) in [
            (TEXT, 0),
            (TEXT, 1),
            (PING, 125),
            (TEXT, 126),
            (CLOSE, 2),
            (TEXT, 300),
        ] {
            let payload: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
            write_server_frame(&mut bytes, first, &payload);
            frames.push((first, payload.clone()));
            write_client_frame(&mut bytes, first, [1, 2, 3, 250], &payload);
            frames.push((first, payload));
        }
        (bytes, frames)
    }

    #[test]
    fn frames_are_the_same_wherever_they_are_cut() {
        let (bytes, frames) = sample();
        assert_eq!(scan(&[&bytes]), frames);
        for cut in 0..=bytes.len() {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(scan(&[a, b]), frames, "cut at {cut}");
        }
        assert_eq!(scan(&bytes.chunks(1).collect::<Vec<_>>()), frames);
        assert_eq!(scan(&bytes.chunks(7).collect::<Vec<_>>()), frames);
    }

    #[test]
    fn long_frames_have_eight_bytes_of_length() {
        let payload = vec![b'x'; 70_000];
        let mut bytes = Vec::new();
        write_server_frame(&mut bytes, TEXT, &payload);
        assert_eq!(bytes[..10], [TEXT, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
        assert_eq!(scan(&[&bytes[..9], &bytes[9..]]), [(TEXT, payload)]);
    }

    #[test]
    fn absurd_lengths_are_refused() {
        for bytes in [
            [TEXT, 127, 0xff, 0, 0, 0, 0, 0, 0, 0],
            [TEXT, 127, 0, 0, 0, 0, 2, 0, 0, 0],
        ] {
            assert_eq!(frame_at(&bytes, 0), Err(BadFrame));
        }
    }
}
