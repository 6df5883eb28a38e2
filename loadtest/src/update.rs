//! What a measuring client wants to know of a server's message, found by searching for fixed bytes: a
//! full JSON parse of every update would cost the swarm more than reading it from the socket does.

use serde_json::Value;

use crate::market::parse_digits;

/// The kinds of message that are looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    Update,
    Gap,
    Subscribed,
    Error,
    Other,
}

/// Which message this is. Servers of this protocol write `type` first; where one does not, it is
/// searched for.
#[inline]
pub fn kind(text: &[u8]) -> Kind {
    let value = match text.strip_prefix(b"{\"type\":\"") {
        Some(value) => value,
        None => match after(text, b"\"type\":\"") {
            Some(value) => value,
            None => return Kind::Other,
        },
    };
    if value.starts_with(b"bars.update\"") {
        Kind::Update
    } else if value.starts_with(b"bars.gap\"") {
        Kind::Gap
    } else if value.starts_with(b"bars.subscribe.response\"") {
        Kind::Subscribed
    } else if value.starts_with(b"error\"") {
        Kind::Error
    } else {
        Kind::Other
    }
}

/// An update, as far as it is looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct Update<'a> {
    pub topic: &'a [u8],
    /// The publisher's number; 0 when there is none.
    pub seq: u64,
    /// Publish time, µs since the epoch; 0 when there is none.
    pub ts: u64,
    pub closed: bool,
    bar: &'a [u8],
}

impl<'a> Update<'a> {
    /// Reads an update; nothing when it names no topic.
    #[inline]
    pub fn read(text: &'a [u8]) -> Option<Self> {
        let topic = after(text, b"\"topic\":\"")?;
        let end = topic.iter().position(|byte| *byte == b'"')?;
        let (topic, rest) = topic.split_at(end);
        // From the topic on when it comes first, as it does from servers of this protocol.
        let seq = number(rest, b"\"seq\":").or_else(|| number(text, b"\"seq\":"));
        let ts = number(rest, b"\"ts\":").or_else(|| number(text, b"\"ts\":"));
        Some(Self {
            topic,
            seq: seq.unwrap_or(0),
            ts: ts.unwrap_or(0),
            closed: text.ends_with(b"\"closed\":true}}")
                || after(rest, b"\"closed\":true").is_some(),
            // To the end of the text, the last brace of which is not the bar's.
            bar: after(rest, b"\"payload\":")
                .and_then(|payload| payload.strip_suffix(b"}"))
                .unwrap_or_default(),
        })
    }

    /// Reads a message of any form: its `seq`, its `ts`, and the bar, which is the object that has a
    /// `time`. Nothing when it has no `seq`.
    pub fn anywhere(text: &'a [u8]) -> Option<Self> {
        let time = memchr::memmem::find(text, b"\"time\":");
        let bar = time.and_then(|time| {
            let from = memchr::memrchr(b'{', &text[..time])?;
            let to = time + memchr::memchr(b'}', &text[time..])?;
            text.get(from..to + 1)
        });
        Some(Self {
            topic: b"",
            seq: number(text, b"\"seq\":")?,
            ts: number(text, b"\"ts\":").unwrap_or(0),
            closed: after(text, b"\"closed\":true").is_some(),
            bar: bar.unwrap_or_default(),
        })
    }

    /// The bar's JSON, when it is the last of the message.
    pub fn bar(&self) -> &'a [u8] {
        self.bar
    }
}

/// A `bars.gap`: topic and the times of the first and last bar that did not come, ms since the epoch.
#[derive(Debug, PartialEq, Eq)]
pub struct Gap {
    pub topic: String,
    pub from: i64,
    /// Nothing when the server does not know yet: everything up to the next update.
    pub to: Option<i64>,
}

impl Gap {
    /// Gaps are rare, so these are parsed in full.
    pub fn read(text: &[u8]) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_slice(text).ok()?;
        let payload = json.get("payload")?;
        Some(Self {
            topic: json.get("topic")?.as_str()?.to_owned(),
            from: payload.get("from")?.as_i64()?,
            to: payload.get("to").and_then(serde_json::Value::as_i64),
        })
    }
}

/// What comes after the first `needle`. A plain loop over the first byte: the texts are 150 bytes, and
/// what is sought is near the front.
#[inline]
fn after<'a>(text: &'a [u8], needle: &[u8]) -> Option<&'a [u8]> {
    memchr::memmem::find(text, needle).map(|at| &text[at + needle.len()..])
}

#[inline]
fn number(text: &[u8], key: &[u8]) -> Option<u64> {
    let digits = after(text, key)?;
    let end = digits
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(digits.len());
    parse_digits(&digits[..end])
}

/// Whether two JSON texts say the same. A server may have written it anew, in another order, and
/// JavaScript writes 100.0 as 100.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    let json = |text| serde_json::from_slice::<Value>(text).ok();
    a == b || json(a).zip(json(b)).is_some_and(|(a, b)| equal(&a, &b))
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let is_in_b = |(key, value)| b.get(key).is_some_and(|other| equal(value, other));
            a.len() == b.len() && a.iter().all(is_in_b)
        }
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use barcast::bar::{write_bar, write_update};

    use super::*;
    use crate::market::Market;

    #[test]
    fn the_gateways_own_frames_are_read() {
        let market = Market::new("T", 2, 2, 77).unwrap();
        for seq in [1, 2] {
            let message = market.message(1, seq, 1_697_097_600_123_456).unwrap();
            let (mut text, mut bar) = (Vec::new(), Vec::new());
            write_update(&mut text, &message);
            write_bar(&mut bar, &message.bar);
            assert_eq!(kind(&text), Kind::Update);
            let update = Update::read(&text).unwrap();
            assert_eq!(update.topic, b"bars:T000001:1S");
            assert_eq!((update.seq, update.ts), (seq, 1_697_097_600_123_456));
            assert_eq!(update.closed, seq == 2);
            assert_eq!(update.bar(), bar);
        }
    }

    #[test]
    fn another_order_of_the_fields_is_read_too() {
        let text = br#"{"seq":9,"type":"bars.update","payload":{"time":5,"closed":true},"topic":"bars:T000000:1S","ts":12}"#;
        assert_eq!(kind(text), Kind::Update);
        let update = Update::read(text).unwrap();
        assert_eq!(
            (update.topic, update.seq, update.ts),
            (&b"bars:T000000:1S"[..], 9, 12)
        );
    }

    #[test]
    fn what_is_missing_is_zero() {
        let text = br#"{"type":"bars.update","topic":"bars:A:1","payload":{"time":1,"volume":3}}"#;
        let update = Update::read(text).unwrap();
        assert_eq!((update.seq, update.ts, update.closed), (0, 0, false));
        assert_eq!(update.bar(), br#"{"time":1,"volume":3}"#);
        assert_eq!(Update::read(br#"{"type":"bars.update"}"#), None);
    }

    #[test]
    fn messages_of_other_servers_are_read() {
        let market = Market::new("T", 9, 2, 77).unwrap();
        for text in [
            r#"{"symbol":"T000004","resolution":"1S","bar":{"time":5,"volume":3,"closed":true},"seq":9,"ts":12}"#,
            r#"{"push":{"channel":"bars:T000004:1S","pub":{"data":{"bar":{"time":5,"volume":3,"closed":true},"seq":9,"ts":12}}}}"#,
        ] {
            let update = Update::anywhere(text.as_bytes()).unwrap();
            assert_eq!((update.seq, update.ts, update.closed), (9, 12, true));
            assert_eq!(update.bar(), br#"{"time":5,"volume":3,"closed":true}"#);
            assert_eq!(market.number_in(text.as_bytes()), Some(4));
        }
        assert_eq!(Update::anywhere(br#"{"result":"subscribed"}"#), None);
        assert_eq!(market.number_in(br#"{"symbol":"X"}"#), None);
    }

    #[test]
    fn gaps_and_other_messages_are_told_apart() {
        let text = br#"{"type":"bars.gap","topic":"bars:A:1","payload":{"from":5000,"to":9000,"reason":"slow_client"}}"#;
        assert_eq!(kind(text), Kind::Gap);
        let gap = Gap {
            topic: "bars:A:1".into(),
            from: 5_000,
            to: Some(9_000),
        };
        assert_eq!(Gap::read(text), Some(gap));
        assert_eq!(
            kind(br#"{"type":"bars.subscribe.response","payload":{}}"#),
            Kind::Subscribed
        );
        assert_eq!(kind(br#"{"type":"error","payload":{}}"#), Kind::Error);
        assert_eq!(kind(br#"{"type":"bars.snapshot"}"#), Kind::Other);
        assert_eq!(kind(b"nonsense"), Kind::Other);
    }

    #[test]
    fn bars_are_compared_by_what_they_say() {
        assert!(same(br#"{"a":1}"#, br#"{"a":1}"#));
        assert!(same(br#"{"b":2.50,"a":1}"#, br#"{"a":1,"b":2.5}"#));
        assert!(same(br#"{"a":100}"#, br#"{"a":100.0}"#));
        assert!(!same(br#"{"a":1}"#, br#"{"a":2}"#));
        assert!(!same(br#"{"a":1}"#, br#"{"a":1,"b":1}"#));
        assert!(!same(b"x", b"y"));
    }
}
