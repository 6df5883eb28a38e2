use std::fmt;

/// Why a connection ends, as a close code (RFC 6455, section 7.4, and barcast's own 44xx and 45xx).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// 1000: the client asked for it.
    Normal,
    /// 1001: this gateway is draining.
    GoingAway,
    /// 1002: a frame broke the protocol.
    Protocol,
    /// 1003: a binary message; barcast speaks text.
    Unsupported,
    /// 1007: text that is not UTF-8.
    InvalidData,
    /// 1008: too many of its requests were refused.
    Policy,
    /// 1009: a message larger than the cap.
    TooBig,
    /// 4408: silent for two ping intervals.
    IdleTimeout,
    /// 4429: more messages a second than allowed.
    TooFast,
    /// 4503: fell behind the outbox's bound and did not catch up within the grace period.
    SlowClient,
}

impl CloseCode {
    /// Every code this gateway may close with.
    pub const ALL: [Self; 10] = [
        Self::Normal,
        Self::GoingAway,
        Self::Protocol,
        Self::Unsupported,
        Self::InvalidData,
        Self::Policy,
        Self::TooBig,
        Self::IdleTimeout,
        Self::TooFast,
        Self::SlowClient,
    ];

    /// The number on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::InvalidData => 1007,
            Self::Policy => 1008,
            Self::TooBig => 1009,
            Self::IdleTimeout => 4408,
            Self::TooFast => 4429,
            Self::SlowClient => 4503,
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code())
    }
}

/// A close frame of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// Its code, if it gave one.
    pub code: Option<u16>,
}

/// Whether a peer may send this code (RFC 6455, section 7.4, and the IANA registry: 1012 to 1014).
pub(super) fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
