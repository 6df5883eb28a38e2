//! RFC 6455 frames: an incremental decoder for what clients send, an encoder for what they get.
//!
//! Ours, because fastwebsockets' reader takes 8 KiB a client at once, accepts unmasked frames, has no
//! cap on fragmented messages and loses data when cancelled; its writer copies small payloads. Knows
//! no socket: bytes in, events and bytes out.

mod close;
mod decoder;
mod deflate;
mod encoder;

pub use close::{Close, CloseCode};
pub use decoder::{Decoder, Event, Stop, Violation};
pub(crate) use deflate::payload_of;
pub use deflate::{Agreed, Deflater};
pub use encoder::{FrameBuilder, append_text, close_frame, ping_frame, pong_frame};

/// What a frame is (RFC 6455, section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xa,
}

impl Opcode {
    /// Whether this may come between a message's fragments (RFC 6455, section 5.5).
    pub(crate) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Longest payload of a control frame (RFC 6455, section 5.5).
pub(crate) const MAX_CONTROL_BYTES: usize = 125;
/// Bit that marks the last frame of a message.
pub(crate) const FIN: u8 = 0x80;
/// Bit that marks the first frame of a compressed message (RFC 7692, section 6).
pub(crate) const RSV1: u8 = 0x40;
