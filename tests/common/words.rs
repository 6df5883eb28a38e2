//! Decoding in one line, and the message to spoil.

use barcast::bar::{Decoder, Malformed, Message};

pub type Decoded = Vec<Result<Message, Malformed>>;

pub fn decode(channel: &str, payload: &[u8]) -> Decoded {
    let mut all = Vec::new();
    Decoder::default().decode(channel, payload, |message| all.push(message));
    all
}

/// The plan's own message, with one of its parts replaced.
pub fn plan(from: &str, to: &str) -> String {
    let message = r#"{"symbol":"AAPL","resolution":"1","bar":{"time":1697097600000,"open":150.0,"high":151.0,"low":149.5,"close":150.5,"volume":1000000}}"#;
    assert!(message.contains(from), "{from}");
    message.replacen(from, to, 1)
}
