use std::ops::ControlFlow;

use super::close::may_be_sent;
use super::deflate::{inflate, packed_bound};
use super::{Close, CloseCode, FIN, Opcode, RSV1};

/// Bits of the first byte that an extension defines; none may be set but what was negotiated.
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
    #[error("a reserved bit is set that no negotiated extension uses there")]
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
    #[error("the compressed data are broken or not whole")]
    Deflate,
    #[error("the message is larger than {0} bytes")]
    TooBig(usize),
}

impl Violation {
    /// The code to close with.
    pub const fn code(self) -> CloseCode {
        match self {
            Self::NotUtf8 | Self::Deflate => CloseCode::InvalidData,
            Self::TooBig(_) => CloseCode::TooBig,
            _ => CloseCode::Protocol,
        }
    }
}

/// Why decoding stops early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing more is looked at: what is left is dropped.
    End,
    /// For now: what is left is kept, and decoded when the decoder is fed again, if only with nothing.
    Pause,
}

/// Decodes a client's bytes, however they are cut.
///
/// Every payload byte is unmasked, copied and checked once, as it comes, so that small pieces cost no
/// more than large ones. Holds no memory between whole messages: an idle client costs only this struct.
#[derive(Debug)]
pub struct Decoder {
    max_message: usize,
    /// Messages may come compressed.
    deflate: bool,
    /// A header or control frame that is not whole yet: at most 14 and 125 bytes.
    carry: Vec<u8>,
    message: Option<Box<Message>>,
    /// A close frame came: nothing after it is looked at.
    closed: bool,
}

/// A message whose end has not come yet.
#[derive(Debug)]
struct Message {
    text: bool,
    /// Compressed, so it is looked at when it is whole.
    packed: bool,
    /// What has come of it, unmasked.
    payload: Vec<u8>,
    /// So many bytes of `payload` are known to be UTF-8.
    checked: usize,
    /// The frame whose payload has come in part.
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    fin: bool,
    /// Turned so that it begins with the byte for what comes next.
    mask: [u8; 4],
    /// Bytes of payload that have not come yet.
    left: usize,
}

#[derive(Debug, Clone, Copy)]
struct Header {
    fin: bool,
    opcode: Opcode,
    /// The first frame of a compressed message.
    packed: bool,
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
            deflate: false,
            carry: Vec::new(),
            message: None,
            closed: false,
        }
    }

    /// Takes compressed messages, too, as was negotiated (RFC 7692); inflated they may be as large as
    /// others.
    #[must_use]
    pub fn inflating(mut self) -> Self {
        self.deflate = true;
        self
    }

    /// Bytes of heap held for what is not whole yet; 0 between messages.
    pub fn held_bytes(&self) -> usize {
        let message = self.message.as_deref();
        let message = message.map_or(0, |m| size_of::<Message>() + m.payload.capacity());
        self.carry.capacity() + message
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
        self.feed_until(input, |event| each(event).map_break(|()| Stop::End))
    }

    /// Likewise, but can be told to stop for now only.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn feed_until(
        &mut self,
        input: &mut [u8],
        mut each: impl FnMut(Event<'_>) -> ControlFlow<Stop>,
    ) -> Result<(), Violation> {
        if self.closed {
            return Ok(());
        }
        if self.carry.is_empty() {
            let used = self.decode(input, &mut each)?;
            self.carry.extend_from_slice(&input[used..]);
            return Ok(());
        }
        let mut carry = std::mem::take(&mut self.carry);
        carry.extend_from_slice(input);
        let used = self.decode(&mut carry, &mut each)?;
        // Copied, so that a few bytes do not keep room for a whole read.
        self.carry = carry[used..].to_vec();
        Ok(())
    }

    /// Decodes from the front and tells how many bytes are dealt with.
    fn decode(
        &mut self,
        bytes: &mut [u8],
        each: &mut impl FnMut(Event<'_>) -> ControlFlow<Stop>,
    ) -> Result<usize, Violation> {
        let mut used = 0;
        loop {
            if let Some(message) = &mut self.message
                && let Some(open) = message.open
            {
                used += message.take_in(open, &mut bytes[used..])?;
                if message.open.is_some() {
                    return Ok(used);
                }
                let flow = if open.fin {
                    self.finish(each)?
                } else {
                    each(Event::Fragment)
                };
                match flow {
                    ControlFlow::Break(Stop::End) => return Ok(bytes.len()),
                    ControlFlow::Break(Stop::Pause) => return Ok(used),
                    ControlFlow::Continue(()) => {}
                }
            }
            let Some(header) = self.header(&bytes[used..])? else {
                return Ok(used);
            };
            let start = used + header.len;
            if let Some(payload) = bytes[start..].get_mut(..header.payload) {
                unmask(payload, header.mask);
                used = start + header.payload;
                match self.frame(header, payload, each)? {
                    ControlFlow::Break(Stop::End) => return Ok(bytes.len()),
                    ControlFlow::Break(Stop::Pause) => return Ok(used),
                    ControlFlow::Continue(()) => {}
                }
            } else if header.opcode.is_control() {
                return Ok(used);
            } else {
                self.message_of(header).open = Some(Open {
                    fin: header.fin,
                    mask: header.mask,
                    left: header.payload,
                });
                used = start;
            }
        }
    }

    /// The header at the front, if it is whole; what it breaks is told as early as it can be seen.
    fn header(&self, bytes: &[u8]) -> Result<Option<Header>, Violation> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let packed = self.deflate && first & RSV == RSV1;
        if first & RSV != 0 && !packed {
            return Err(Violation::ReservedBits);
        }
        let fin = first & FIN != 0;
        let opcode = match first & 0x0f {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            reserved => return Err(Violation::ReservedOpcode(reserved)),
        };
        let control = opcode.is_control();
        match (opcode, &self.message) {
            _ if packed && !matches!(opcode, Opcode::Text | Opcode::Binary) => {
                return Err(Violation::ReservedBits);
            }
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
        let message = self.message.as_deref();
        let pending = message.map_or(0, |m| m.payload.len());
        let bound = if message.map_or(packed, |m| m.packed) {
            packed_bound(self.max_message)
        } else {
            self.max_message
        };
        if !control && payload > bound.saturating_sub(pending) {
            return Err(Violation::TooBig(self.max_message));
        }
        Ok(match bytes.get(at..at + 4).map(<[u8; 4]>::try_from) {
            Some(Ok(mask)) => Some(Header {
                fin,
                opcode,
                packed,
                mask,
                len: at + 4,
                payload,
            }),
            _ => None,
        })
    }

    /// The message that a frame begins or continues.
    fn message_of(&mut self, header: Header) -> &mut Message {
        self.message.get_or_insert_with(|| {
            Box::new(Message {
                text: header.opcode == Opcode::Text,
                packed: header.packed,
                payload: Vec::new(),
                checked: 0,
                open: None,
            })
        })
    }

    /// One whole frame.
    fn frame(
        &mut self,
        header: Header,
        payload: &[u8],
        each: &mut impl FnMut(Event<'_>) -> ControlFlow<Stop>,
    ) -> Result<ControlFlow<Stop>, Violation> {
        Ok(match header.opcode {
            Opcode::Ping => each(Event::Ping(payload)),
            Opcode::Pong => each(Event::Pong(payload)),
            Opcode::Close => {
                let close = close(payload)?;
                // Nothing after a close is looked at, whatever the listener says.
                self.closed = true;
                let _ = each(Event::Close(close));
                ControlFlow::Break(Stop::End)
            }
            Opcode::Text if header.fin && !header.packed => each(Event::Text(utf8(payload)?)),
            Opcode::Binary if header.fin && !header.packed => each(Event::Binary(payload)),
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                self.message_of(header).append(payload)?;
                if header.fin {
                    self.finish(each)?
                } else {
                    each(Event::Fragment)
                }
            }
        })
    }

    /// Tells of the message that has come to its end.
    fn finish(
        &mut self,
        each: &mut impl FnMut(Event<'_>) -> ControlFlow<Stop>,
    ) -> Result<ControlFlow<Stop>, Violation> {
        let message = self.message.take().ok_or(Violation::NothingToContinue)?;
        let payload = if message.packed {
            inflate(&message.payload, self.max_message)?
        } else {
            message.payload
        };
        Ok(if message.text {
            each(Event::Text(utf8(&payload)?))
        } else {
            each(Event::Binary(&payload))
        })
    }
}

impl Message {
    /// Takes in what has come of the open frame; tells how many bytes that is.
    fn take_in(&mut self, mut open: Open, bytes: &mut [u8]) -> Result<usize, Violation> {
        let count = open.left.min(bytes.len());
        let come = &mut bytes[..count];
        unmask(come, open.mask);
        open.mask.rotate_left(count % 4);
        open.left -= count;
        self.open = (open.left > 0).then_some(open);
        self.append(come)?;
        Ok(count)
    }

    /// Fails as soon as the text so far can no longer become UTF-8 (RFC 6455, section 8.1).
    fn append(&mut self, payload: &[u8]) -> Result<(), Violation> {
        self.payload.extend_from_slice(payload);
        if !self.text || self.packed {
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
