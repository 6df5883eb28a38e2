//! What a gateway says (docs/protocol.md), and what it is asked.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::ClientError;
use crate::bar::{Pattern, Topic};

/// One bar of one topic, as it came.
#[derive(Debug, Clone)]
pub struct Update {
    pub topic: Topic,
    /// The bar's JSON, byte for byte.
    pub bar: Box<str>,
    pub view: View,
    pub extras: Extras,
    /// From a snapshot: nothing that happened just now.
    pub is_history: bool,
}

/// What is looked at inside of a bar. An interval without trades may have no prices.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct View {
    /// Start of the bar, ms since the epoch.
    pub time: i64,
    #[serde(default)]
    pub open: Option<f64>,
    #[serde(default)]
    pub close: Option<f64>,
    #[serde(default)]
    pub volume: Option<f64>,
    #[serde(default)]
    pub closed: bool,
}

/// What the producer put beside the bar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    pub seq: Option<u64>,
    pub epoch: Option<u64>,
    /// Publish time, µs since the epoch.
    pub ts: Option<u64>,
    pub rev: Option<u64>,
}

/// Bars from the one that starts at `from` to the one that starts at `to` may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub topic: Topic,
    /// Start of a bar, ms since the epoch.
    pub from: i64,
    /// Start of a bar, ms since the epoch.
    pub to: i64,
    pub reason: String,
}

/// A message of a gateway.
#[derive(Debug)]
pub enum Message {
    Update(Update),
    /// Oldest first.
    Snapshot(Topic, Vec<Update>),
    Gap(Gap),
    /// A request was done.
    Done(Option<u64>),
    /// A request was refused.
    Refused {
        id: Option<u64>,
        code: String,
        message: String,
    },
    Pong,
    /// Of a kind that is not known here: other gateways may know more.
    Other,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: String,
    topic: Option<String>,
    id: Option<u64>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    seq: Option<u64>,
    epoch: Option<u64>,
    ts: Option<u64>,
    rev: Option<u64>,
}

#[derive(Deserialize)]
struct Snapshot<'a> {
    #[serde(borrow)]
    bars: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Hole {
    from: i64,
    to: i64,
    reason: String,
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    message: String,
}

/// Reads one text message.
///
/// # Errors
/// [`ClientError::Protocol`]
pub fn parse(text: &str) -> Result<Message, ClientError> {
    read(text).map_err(ClientError::Protocol)
}

fn read(text: &str) -> Result<Message, String> {
    let envelope: Envelope<'_> = json(text)?;
    let payload = envelope.payload.map_or("{}", RawValue::get);
    let topic = || {
        let topic = envelope.topic.as_deref().ok_or("no topic")?;
        topic.parse::<Topic>().map_err(|why| why.to_string())
    };
    let update = |topic: Topic, bar: &str, is_history: bool| {
        Ok::<_, String>(Update {
            topic,
            bar: bar.into(),
            view: json(bar)?,
            extras: Extras {
                seq: envelope.seq,
                epoch: envelope.epoch,
                ts: envelope.ts,
                rev: envelope.rev,
            },
            is_history,
        })
    };
    Ok(match envelope.kind.as_str() {
        "bars.update" => Message::Update(update(topic()?, payload, false)?),
        "bars.snapshot" => {
            let topic = topic()?;
            let bars = json::<Snapshot<'_>>(payload)?.bars;
            let bars = bars.iter().map(|bar| update(topic, bar.get(), true));
            Message::Snapshot(topic, bars.collect::<Result<_, _>>()?)
        }
        "bars.gap" => {
            let Hole { from, to, reason } = json(payload)?;
            let topic = topic()?;
            Message::Gap(Gap {
                topic,
                from,
                to,
                reason,
            })
        }
        "bars.subscribe.response" | "bars.unsubscribe.response" => Message::Done(envelope.id),
        "error" => {
            let Refusal { code, message } = json(payload)?;
            let id = envelope.id;
            Message::Refused { id, code, message }
        }
        "pong" => Message::Pong,
        _ => Message::Other,
    })
}

fn json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|why| why.to_string())
}

/// A client's ping.
pub fn ping() -> String {
    r#"{"type":"ping"}"#.to_owned()
}

/// How a subscription is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the current bar.
    Current,
    /// With so many of the newest bars.
    Newest(usize),
    /// With every bar from this time on, ms since the epoch.
    Since(i64),
}

/// A `bars.subscribe`.
pub fn subscribe(id: u64, patterns: &[Pattern], start: Start, max_rate: Option<f64>) -> String {
    let topics: Vec<_> = patterns.iter().map(|one| format!("\"{one}\"")).collect();
    let start = match start {
        Start::Current => String::new(),
        Start::Newest(bars) => format!(",\"snapshot\":{bars}"),
        Start::Since(time) => format!(",\"since\":{time}"),
    };
    let rate = max_rate.map_or_else(String::new, |rate| format!(",\"max_rate\":{rate}"));
    format!(
        r#"{{"type":"bars.subscribe","id":{id},"payload":{{"topics":[{}]{start}{rate}}}}}"#,
        topics.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_kept_as_it_came() {
        let text = r#"{"type":"bars.update","topic":"bars:A:1","seq":3,"payload":{"time":60000,"open":150.0,"high":1,"low":1,"close":1e2,"volume":18446744073709551615,"closed":true}}"#;
        let Ok(Message::Update(update)) = parse(text) else {
            panic!("{text}")
        };
        assert!(text.contains(&*update.bar));
        assert_eq!(update.extras.seq, Some(3));
        assert_eq!((update.view.close, update.view.closed), (Some(100.0), true));
    }

    #[test]
    fn a_bar_without_prices_is_a_bar() {
        let text = r#"{"type":"bars.snapshot","topic":"bars:A:1","payload":{"bars":[{"time":0,"open":null,"high":null,"low":null,"close":null,"volume":0}]}}"#;
        let Ok(Message::Snapshot(_, bars)) = parse(text) else {
            panic!("{text}")
        };
        assert_eq!((bars[0].view.close, bars[0].view.volume), (None, Some(0.0)));
        assert!(bars[0].is_history);
    }

    #[test]
    fn what_is_no_message_is_told_and_what_is_unknown_is_not() {
        for text in [
            "",
            "{}",
            r#"{"type":"bars.update"}"#,
            r#"{"type":"bars.update","topic":"bars:A:1","payload":{}}"#,
            r#"{"type":"bars.gap","topic":"A","payload":{"from":1,"to":2,"reason":"upstream"}}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(matches!(
            parse(r#"{"type":"new","id":1}"#),
            Ok(Message::Other)
        ));
    }
}
