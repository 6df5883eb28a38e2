//! permessage-deflate (RFC 7692) without context takeover: every message is compressed by itself, so
//! that one compressed frame serves all who take it, and no client keeps a window here.

use std::ops::Range;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::encoder::append_deflated_text;
use super::{MAX_CONTROL_BYTES, Violation};

const NAME: &str = "permessage-deflate";
const SERVER_NO_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_BITS: &str = "server_max_window_bits";
const CLIENT_BITS: &str = "client_max_window_bits";
/// Window of what we compress, as a power of two: a bar's frame is hardly larger than these 512 bytes,
/// and every client that asks for a small window gets it. Eight, the one below, deflate has no use for.
const WINDOW_BITS: u8 = 9;
/// zlib's own default. On bars of 180 bytes levels 2 to 6 save 22 % and take some 12 µs, mostly to forget
/// the message before; level 1 takes 3 µs and saves 9 %.
const LEVEL: u32 = 6;
/// What a sender takes off the end of a message (RFC 7692, section 7.2.1), and a last empty block behind
/// it: so the end is told from data that were cut off.
const TAIL: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
/// Blocks within one message that are marked as the last (RFC 7692, section 7.2.3.4): hardly anybody
/// sends one, and each costs as much as a new message.
const MAX_FINAL_BLOCKS: usize = 8;
/// Inflated at a time: no more than this comes beyond the bound of a message.
const CHUNK_BYTES: usize = 4 << 10;

/// What was agreed on in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Repeated, as who asks for it must see.
    server_max_window_bits: Option<u8>,
}

impl Agreed {
    /// The first offer that can be met, of the values of all `Sec-WebSocket-Extensions` headers.
    pub fn on<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut offers = headers.into_iter().flat_map(|header| header.split(','));
        offers.find_map(Self::on_offer)
    }

    /// RFC 7692, section 7.1: an offer with a parameter that is unknown, twice there or has a bad value
    /// is declined.
    fn on_offer(offer: &str) -> Option<Self> {
        let mut parts = offer.split(';').map(str::trim);
        if parts.next() != Some(NAME) {
            return None;
        }
        let mut agreed = Self {
            server_max_window_bits: None,
        };
        let mut seen = Vec::new();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
                None => (part, None),
            };
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            match (name, value) {
                (SERVER_NO_TAKEOVER | CLIENT_NO_TAKEOVER | CLIENT_BITS, None) => {}
                (CLIENT_BITS, Some(value)) => drop(window_bits(value)?),
                (SERVER_BITS, Some(value)) => {
                    let bits = window_bits(value)?;
                    if bits < WINDOW_BITS {
                        return None;
                    }
                    agreed.server_max_window_bits = Some(bits);
                }
                _ => return None,
            }
        }
        Some(agreed)
    }

    /// The value of the answer's `Sec-WebSocket-Extensions`.
    pub fn header(self) -> String {
        let header = format!("{NAME}; {SERVER_NO_TAKEOVER}; {CLIENT_NO_TAKEOVER}");
        match self.server_max_window_bits {
            Some(bits) => format!("{header}; {SERVER_BITS}={bits}"),
            None => header,
        }
    }
}

/// 8 to 15 without leading zeros (RFC 7692, section 7.1.2), quoted or not.
fn window_bits(value: &str) -> Option<u8> {
    let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let value = quoted.unwrap_or(value);
    (8..=15).find(|bits: &u8| bits.to_string() == value)
}

/// Compresses messages, each by itself, with the same memory: some 300 KiB.
#[derive(Debug)]
pub struct Deflater {
    compress: Compress,
    deflated: Vec<u8>,
}

impl Default for Deflater {
    fn default() -> Self {
        Self {
            compress: Compress::new_with_window_bits(Compression::new(LEVEL), false, WINDOW_BITS),
            deflated: Vec::new(),
        }
    }
}

impl Deflater {
    /// Appends a compressed text frame with this payload, and tells where it lies; `None` when it would
    /// not be smaller.
    pub fn append_text(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Option<Range<usize>> {
        self.compress.reset();
        self.deflated.clear();
        // One that does not fit is not worth it, but for the tail that is taken off.
        self.deflated.reserve(payload.len() + TAIL.len());
        let flush = FlushCompress::Sync;
        let done = self
            .compress
            .compress_vec(payload, &mut self.deflated, flush)
            .ok()?;
        let deflated = self.deflated.strip_suffix(&TAIL[..4])?;
        let whole = done == Status::Ok && self.compress.total_in() == payload.len() as u64;
        (whole && deflated.len() < payload.len())
            .then(|| append_deflated_text(out, |out| out.extend_from_slice(deflated)))
    }
}

/// The payload of a frame of ours.
pub(crate) fn payload_of(frame: &[u8]) -> &[u8] {
    let header = match frame.get(1) {
        Some(&short) if usize::from(short) <= MAX_CONTROL_BYTES => 2,
        Some(126) => 4,
        _ => 10,
    };
    frame.get(header..).unwrap_or_default()
}

/// The most bytes that a message of `max` may have while it is compressed: what zlib allows for data
/// that it cannot make smaller (its `deflateBound`).
pub(super) fn packed_bound(max: usize) -> usize {
    max.saturating_add(max / 8 + max / 64 + 16)
}

/// A whole message's payload as it was before its sender compressed it.
///
/// # Errors
/// [`Violation::TooBig`] as soon as it is more than `max` bytes, [`Violation::Deflate`] when it is no
/// whole deflate data.
pub(super) fn inflate(payload: &[u8], max: usize) -> Result<Vec<u8>, Violation> {
    let input = [payload, &TAIL].concat();
    let mut rest = &input[..];
    let mut inflater = Decompress::new(false);
    let mut inflated = Vec::new();
    let mut chunk = [0; CHUNK_BYTES];
    let mut ends = 0;
    loop {
        let before = (inflater.total_in(), inflater.total_out());
        let status = inflater
            .decompress(rest, &mut chunk, FlushDecompress::None)
            .map_err(|_| Violation::Deflate)?;
        let count = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        let read = count(inflater.total_in(), before.0);
        let written = count(inflater.total_out(), before.1);
        rest = rest.get(read..).ok_or(Violation::Deflate)?;
        if inflated.len() + written > max {
            return Err(Violation::TooBig(max));
        }
        inflated.extend_from_slice(&chunk[..written]);
        match status {
            Status::StreamEnd if rest.is_empty() => return Ok(inflated),
            Status::StreamEnd if ends < MAX_FINAL_BLOCKS => {
                ends += 1;
                inflater.reset(false);
            }
            Status::StreamEnd => return Err(Violation::Deflate),
            // It waits for what was cut off.
            _ if read == 0 && written == 0 => return Err(Violation::Deflate),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7692, sections 7.2.3.1 to 7.2.3.6, but for 7.2.3.2: context is never taken over.
    #[test]
    fn the_examples_of_the_rfc() {
        let hello: &[&[u8]] = &[
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            &[
                0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
            ],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
        ];
        for bytes in hello {
            assert_eq!(inflate(bytes, 5).unwrap(), b"Hello", "{bytes:x?}");
            assert_eq!(inflate(bytes, 4), Err(Violation::TooBig(4)));
        }
        assert_eq!(inflate(&[0x00], 0).unwrap(), b"");
    }

    #[test]
    fn data_that_are_cut_off_or_broken_are_told() {
        let whole = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        for end in 0..whole.len() - 1 {
            assert_eq!(inflate(&whole[..end], 99), Err(Violation::Deflate), "{end}");
        }
        assert_eq!(inflate(&[0xff; 9], 99), Err(Violation::Deflate));
        // Last blocks without end.
        let many = [0x03, 0x00].repeat(MAX_FINAL_BLOCKS + 1);
        assert_eq!(inflate(&many, 99), Err(Violation::Deflate));
    }

    #[test]
    fn what_was_packed_is_smaller_and_comes_back() {
        let mut deflater = Deflater::default();
        let mut out = b"before".to_vec();
        for size in [40, 125, 126, 1_000, 70_000] {
            let payload: Vec<u8> = (0..size).map(|n| b"0123456789"[n * n % 7]).collect();
            let range = deflater.append_text(&payload, &mut out).unwrap();
            let frame = &out[range];
            assert_eq!(frame[0], 0xc1);
            assert!(payload_of(frame).len() < size);
            assert_eq!(inflate(payload_of(frame), size).unwrap(), payload);
        }
        let len = out.len();
        assert_eq!(deflater.append_text(b"x", &mut out), None);
        assert_eq!(out.len(), len);
    }

    #[test]
    fn offers() {
        let agreed = |offer: &str| Agreed::on([offer]).map(Agreed::header);
        let plain =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
        for offer in [
            "permessage-deflate",
            " permessage-deflate ; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=8",
            "permessage-deflate;server_no_context_takeover;client_no_context_takeover",
            "permessage-deflate; client_max_window_bits=\"15\"",
            "x-webkit-deflate-frame, permessage-deflate",
            "permessage-deflate; unknown, permessage-deflate",
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
        ] {
            assert_eq!(agreed(offer), Some(plain.clone()), "{offer}");
        }
        for bits in 9..=15 {
            let offer = format!("permessage-deflate; server_max_window_bits={bits}");
            let answer = format!("{plain}; server_max_window_bits={bits}");
            assert_eq!(agreed(&offer), Some(answer));
        }
        for offer in [
            "",
            "deflate",
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate;",
        ] {
            assert_eq!(agreed(offer), None, "{offer}");
        }
    }
}
