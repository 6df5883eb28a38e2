use std::ops::ControlFlow;

use super::close::may_be_sent;
use super::{Close, CloseCode, FIN, MAX_CONTROL_BYTES, Opcode};

/// Bits of the first byte that an extension would define; none is negotiated, so none may be set.
const RSV: u8 = 0x70;
/// Bit of the second byte that says that the payload is masked.
const MASK: u8 = 0x80;

/// A whole message or control frame of a client, unmasked.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// A part of a message of which more will come: told because it is work, also when it is empty.
    Fragment,
    /// Nothing that comes after it is looked at (RFC 6455, section 5.5.1).
    Close(Close),
}

/// How a client broke the protocol; the connection must be closed with [`code`](Self::code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("reserved bits are set, but no extension was negotiated")]
    ReservedBits,
    #[error("opcode {0:#x} is reserved")]
    ReservedOpcode(u8),
    #[error("a client's frames must be masked")]
    Unmasked,
    #[error("a control frame must not be fragmented")]
    FragmentedControl,
    #[error("a control frame holds at most 125 bytes")]
    LongControl,
    #[error("a continuation came without a message to continue")]
    NothingToContinue,
    #[error("a new message came before the last one was finished")]
    Unfinished,
    #[error("a close frame's payload is empty or starts with a code of two bytes")]
    ShortClose,
    #[error("close code {0} may not be sent")]
    BadCloseCode(u16),
    #[error("a length's first bit must be zero")]
    LengthRange,
    #[error("the length is not written in the shortest form")]
    LengthForm,
    #[error("text must be UTF-8")]
    NotUtf8,
    #[error("the message is larger than {0} bytes")]
    TooBig(usize),
}

impl Violation {
    /// The code to close with.
    pub const fn code(self) -> CloseCode {
        match self {
            Self::NotUtf8 => CloseCode::InvalidData,
            Self::TooBig(_) => CloseCode::TooBig,
            _ => CloseCode::Protocol,
        }
    }
}

/// A message whose last fragment has not come yet.
#[derive(Debug)]
struct Fragments {
    text: bool,
    payload: Vec<u8>,
    /// So many bytes of `payload` are known to be UTF-8.
    checked: usize,
}

/// Decodes a client's bytes, however they are cut.
///
/// Holds no memory between whole messages: an idle client costs only this struct.
#[derive(Debug)]
pub struct Decoder {
    max_message: usize,
    /// Bytes of a frame that is not complete yet. Bounded by the largest frame let in.
    carry: Vec<u8>,
    fragments: Option<Box<Fragments>>,
}

#[derive(Debug, Clone, Copy)]
struct Header {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    /// Bytes of the header, mask included.
    len: usize,
    payload: usize,
}

impl Decoder {
    /// A decoder that refuses messages of more than `max_message` bytes, fragments added up.
    pub fn new(max_message: usize) -> Self {
        Self {
            max_message,
            carry: Vec::new(),
            fragments: None,
        }
    }

    /// Decodes what is whole after `input` came, and keeps the rest. `input` is used as work space.
    ///
    /// Stops early, dropping what is left, when `each` says so.
    ///
    /// # Errors
    /// The first [`Violation`]; the decoder must not be fed again.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        mut each: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(), Violation> {
        if self.carry.is_empty() {
            let used = self.decode(input, &mut each)?;
            self.carry.extend_from_slice(&input[used..]);
            return Ok(());
        }
        let mut carry = std::mem::take(&mut self.carry);
        carry.extend_from_slice(input);
        let used = self.decode(&mut carry, &mut each)?;
        if used < carry.len() {
            carry.drain(..used);
            self.carry = carry;
        }
        Ok(())
    }

    /// Decodes whole frames from the front and tells how many bytes they took.
    fn decode(
        &mut self,
        bytes: &mut [u8],
        each: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<usize, Violation> {
        let mut used = 0;
        while let Some(header) = self.header(&bytes[used..])? {
            let start = used + header.len;
            let Some(payload) = bytes.get_mut(start..start + header.payload) else {
                break;
            };
            unmask(payload, header.mask);
            used = start + header.payload;
            if self.frame(header, payload, each)?.is_break() {
                return Ok(bytes.len());
            }
        }
        Ok(used)
    }

    /// The header at the front, if it is whole; what it breaks is told as early as it can be seen.
    fn header(&self, bytes: &[u8]) -> Result<Option<Header>, Violation> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        if first & RSV != 0 {
            return Err(Violation::ReservedBits);
        }
        let fin = first & FIN != 0;
        let (opcode, control) = match first & 0x0f {
            0x0 => (Opcode::Continuation, false),
            0x1 => (Opcode::Text, false),
            0x2 => (Opcode::Binary, false),
            0x8 => (Opcode::Close, true),
            0x9 => (Opcode::Ping, true),
            0xa => (Opcode::Pong, true),
            reserved => return Err(Violation::ReservedOpcode(reserved)),
        };
        match (opcode, &self.fragments) {
            _ if control && !fin => return Err(Violation::FragmentedControl),
            (Opcode::Continuation, None) => return Err(Violation::NothingToContinue),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Violation::Unfinished),
            _ => {}
        }
        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        if second & MASK == 0 {
            return Err(Violation::Unmasked);
        }
        let (payload, at) = match usize::from(second & !MASK) {
            126 | 127 if control => return Err(Violation::LongControl),
            126 => match bytes.get(2..4) {
                Some(&[a, b]) => (long(u64::from(u16::from_be_bytes([a, b])), 126)?, 4),
                _ => return Ok(None),
            },
            127 => match bytes.get(2..10).map(<[u8; 8]>::try_from) {
                Some(Ok(length)) => (long(u64::from_be_bytes(length), 0x1_0000)?, 10),
                _ => return Ok(None),
            },
            short => (short, 2),
        };
        let pending = self.fragments.as_ref().map_or(0, |f| f.payload.len());
        if !control && payload > self.max_message.saturating_sub(pending) {
            return Err(Violation::TooBig(self.max_message));
        }
        Ok(match bytes.get(at..at + 4).map(<[u8; 4]>::try_from) {
            Some(Ok(mask)) => Some(Header {
                fin,
                opcode,
                mask,
                len: at + 4,
                payload,
            }),
            _ => None,
        })
    }

    fn frame(
        &mut self,
        header: Header,
        payload: &[u8],
        each: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Violation> {
        Ok(match header.opcode {
            Opcode::Ping => each(Event::Ping(payload)),
            Opcode::Pong => each(Event::Pong(payload)),
            Opcode::Close => {
                let flow = each(Event::Close(close(payload)?));
                debug_assert!(payload.len() <= MAX_CONTROL_BYTES);
                // Nothing after a close is looked at, whatever the listener says.
                let _ = flow;
                ControlFlow::Break(())
            }
            Opcode::Text if header.fin => each(Event::Text(utf8(payload)?)),
            Opcode::Binary if header.fin => each(Event::Binary(payload)),
            Opcode::Text | Opcode::Binary => {
                let mut fragments = Box::new(Fragments {
                    text: header.opcode == Opcode::Text,
                    payload: payload.to_vec(),
                    checked: 0,
                });
                fragments.check()?;
                self.fragments = Some(fragments);
                each(Event::Fragment)
            }
            Opcode::Continuation => {
                let mut fragments = self.fragments.take().ok_or(Violation::NothingToContinue)?;
                fragments.payload.extend_from_slice(payload);
                if !header.fin {
                    fragments.check()?;
                    self.fragments = Some(fragments);
                    return Ok(each(Event::Fragment));
                }
                if fragments.text {
                    each(Event::Text(utf8(&fragments.payload)?))
                } else {
                    each(Event::Binary(&fragments.payload))
                }
            }
        })
    }
}

impl Fragments {
    /// Fails as soon as the text so far can no longer become UTF-8 (RFC 6455, section 8.1).
    fn check(&mut self) -> Result<(), Violation> {
        if !self.text {
            return Ok(());
        }
        match std::str::from_utf8(&self.payload[self.checked..]) {
            Ok(_) => self.checked = self.payload.len(),
            Err(cut) if cut.error_len().is_none() => self.checked += cut.valid_up_to(),
            Err(_) => return Err(Violation::NotUtf8),
        }
        Ok(())
    }
}

fn long(length: u64, least: u64) -> Result<usize, Violation> {
    if length >> 63 != 0 {
        return Err(Violation::LengthRange);
    }
    if length < least {
        return Err(Violation::LengthForm);
    }
    usize::try_from(length).map_err(|_| Violation::LengthRange)
}

fn utf8(payload: &[u8]) -> Result<&str, Violation> {
    std::str::from_utf8(payload).map_err(|_| Violation::NotUtf8)
}

fn close(payload: &[u8]) -> Result<Close, Violation> {
    match payload {
        [] => Ok(Close { code: None }),
        [_] => Err(Violation::ShortClose),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !may_be_sent(code) {
                return Err(Violation::BadCloseCode(code));
            }
            utf8(reason)?;
            Ok(Close { code: Some(code) })
        }
    }
}

/// Undoes a client's mask (RFC 6455, section 5.3), eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}
