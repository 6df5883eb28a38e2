//! The other side of the gateway's protocol, for `tail` and `check`: an address, one WebSocket, and a
//! subscription that survives the gateway.
//!
//! The WebSocket is fastwebsockets' client. Its reader must not be dropped in the middle of a frame, so it
//! has a task of its own, and everything else waits on a queue.

pub mod address;
pub mod attempt;
pub mod clock;
pub mod follow;
pub mod http;
pub mod message;
mod plan;
mod proxy;
mod resolve;
pub mod socket;
mod stream;
mod track;

use std::time::Duration;

pub use address::Address;
pub use socket::Socket;

/// Why there is no connection, or no longer one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No TCP connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// The other side proved to be somebody else, or speaks no TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// An HTTP answer in place of the handshake's 101.
    #[error("the handshake was answered with {status}{}", told(.body))]
    Handshake { status: u16, body: String },
    /// Nothing within this time, at this stage.
    #[error("no answer within {limit:?}: {stage}")]
    Timeout { limit: Duration, stage: String },
    /// The environment's proxy is none, or does not let through.
    #[error("{0}")]
    Proxy(String),
    /// What came breaks HTTP, RFC 6455 or barcast's protocol.
    #[error("what came is not barcast's protocol: {0}")]
    Protocol(String),
    /// The gateway closed, with its code and reason.
    #[error("closed with {code}{}", told(.reason))]
    Closed { code: u16, reason: String },
}

impl ClientError {
    /// Whether another attempt cannot end otherwise: this is no gateway, or not the one that was meant.
    /// A proxy whose gateways are away, and a gateway that is full, answer with 5xx and 429.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Tls(_) | Self::Protocol(_) | Self::Proxy(_) => true,
            Self::Handshake { status, .. } => *status < 500 && *status != 429,
            _ => false,
        }
    }
}

fn told(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

/// The first line of what a stranger said, fit for a terminal.
fn line_of(text: &[u8]) -> String {
    /// Characters of it.
    const LONGEST: usize = 160;
    let text = String::from_utf8_lossy(text);
    let line = text.lines().next().unwrap_or_default().trim();
    let printable = line.chars().filter(|c| !c.is_control());
    printable.take(LONGEST).collect()
}
