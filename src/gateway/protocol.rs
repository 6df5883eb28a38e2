//! What clients say and hear: text frames of JSON, `{"type":…,"payload":…}`.
//!
//! Commands are rare, so they are parsed with serde_json, whose recursion limit holds against
//! hostile nesting; answers are written by hand, like all frames.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::bar::{Bar, Pattern, TIME_RANGE, Topic, write_bar};

/// What a subscription without one means.
const DEFAULT_RESOLUTION: &str = "1";
/// Longest `id` echoed, in bytes of its JSON.
const MAX_ID_BYTES: usize = 64;
/// Slowest rate that can be asked for, in updates per second: one in a quarter of an hour.
pub const MIN_RATE: f64 = 0.001;
/// Fastest rate that can be asked for, in updates per second: beyond it there is nothing to thin.
pub const MAX_RATE: f64 = 1_000.0;

/// A command and the `id` that its answer repeats, as JSON.
#[derive(Debug, PartialEq)]
pub struct Request {
    pub id: Option<String>,
    pub command: Command,
}

/// What a client wants.
#[derive(Debug, PartialEq)]
pub enum Command {
    Subscribe(Selection, Wishes),
    Unsubscribe(Selection),
    Ping,
}

/// The topics that a command names.
#[derive(Debug, PartialEq)]
pub struct Selection {
    pub patterns: Vec<Pattern>,
    /// Named by `symbol` and `resolution`, and so answered.
    pub by_symbol: bool,
}

/// How a subscription is to start and to run.
#[derive(Debug, Default, PartialEq, Clone, Copy)]
pub struct Wishes {
    /// So many of the newest bars first.
    pub snapshot: Option<usize>,
    /// Every bar from this time on first, ms since the epoch.
    pub since: Option<i64>,
    /// Forming updates per second and topic at most.
    pub max_rate: Option<f64>,
}

/// Why a request was refused; the connection stays.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub id: Option<String>,
    /// `bad_request` or `limit`.
    pub code: &'static str,
    pub message: String,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Payload {
    symbol: Option<String>,
    resolution: Option<String>,
    params: Option<Params>,
    topics: Option<Vec<String>>,
    snapshot: Option<usize>,
    since: Option<i64>,
    max_rate: Option<f64>,
}

#[derive(Deserialize)]
struct Params {
    resolution: Option<String>,
}

/// Reads one text message.
///
/// # Errors
/// A [`Refusal`] that says what is wrong and what is allowed.
pub fn parse(text: &str) -> Result<Request, Refusal> {
    let refuse = |id: Option<String>, message: String| Refusal {
        id,
        code: "bad_request",
        message,
    };
    let envelope: Envelope<'_> =
        serde_json::from_str(text).map_err(|why| refuse(None, format!("not a message: {why}")))?;
    let id = envelope.id.map(RawValue::get).filter(|id| *id != "null");
    if let Some(raw) = id
        && (raw.len() > MAX_ID_BYTES || raw.starts_with(['{', '[']))
    {
        let message = format!("id must be a number or a text of at most {MAX_ID_BYTES} bytes");
        return Err(refuse(None, message));
    }
    let id = id.map(str::to_owned);
    // The flat form may also leave the payload out altogether.
    let payload = envelope.payload.map_or(text, RawValue::get);
    let command = match envelope.kind.as_str() {
        "ping" => Ok(Command::Ping),
        "bars.subscribe" => selection(payload).map(|(which, how)| Command::Subscribe(which, how)),
        "bars.unsubscribe" => selection(payload).map(|(which, _)| Command::Unsubscribe(which)),
        other => Err(format!(
            "type {:?} is unknown: bars.subscribe, bars.unsubscribe and ping are known",
            other.chars().take(40).collect::<String>()
        )),
    };
    match command {
        Ok(command) => Ok(Request { id, command }),
        Err(message) => Err(refuse(id, message)),
    }
}

fn selection(payload: &str) -> Result<(Selection, Wishes), String> {
    let payload: Payload =
        serde_json::from_str(payload).map_err(|why| format!("payload: {why}"))?;
    let by_symbol = payload.symbol.is_some();
    let patterns = match (payload.symbol, payload.topics) {
        (Some(symbol), None) => {
            let nested = payload.params.and_then(|params| params.resolution);
            let resolution = payload.resolution.or(nested);
            let resolution = resolution.as_deref().unwrap_or(DEFAULT_RESOLUTION);
            let pattern =
                Pattern::from_parts(&symbol, resolution).map_err(|why| why.to_string())?;
            vec![pattern]
        }
        (None, Some(topics)) if !topics.is_empty() => topics
            .iter()
            .map(|topic| topic.parse().map_err(|why| format!("{topic:?}: {why}")))
            .collect::<Result<_, String>>()?,
        _ => return Err("either symbol or a list of topics is needed".to_owned()),
    };
    if payload.snapshot.is_some() && payload.since.is_some() {
        return Err("either snapshot or since, not both".to_owned());
    }
    if let Some(rate) = payload.max_rate
        && !(MIN_RATE..=MAX_RATE).contains(&rate)
    {
        return Err(format!(
            "max_rate {rate}: {MIN_RATE} to {MAX_RATE} updates per second is allowed"
        ));
    }
    let selection = Selection {
        patterns,
        by_symbol,
    };
    let wishes = Wishes {
        snapshot: payload.snapshot,
        // There is no bar beyond, and arithmetic on any other number might overflow.
        since: payload
            .since
            .map(|since| since.clamp(*TIME_RANGE.start(), *TIME_RANGE.end())),
        max_rate: payload.max_rate,
    };
    Ok((selection, wishes))
}

fn write(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends `text` as a JSON string.
fn write_text(out: &mut Vec<u8>, text: &str) {
    // Writing into a Vec cannot fail, and a string always has a JSON form.
    let _ = serde_json::to_writer(out, text);
}

fn write_id(out: &mut Vec<u8>, id: Option<&str>) {
    if let Some(id) = id {
        write(out, ",\"id\":");
        write(out, id);
    }
}

/// Which of the two commands an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Subscribed,
    Unsubscribed,
}

/// Appends `bars.subscribe.response` or `bars.unsubscribe.response`.
pub fn write_answer(out: &mut Vec<u8>, answer: Answer, which: &Selection, id: Option<&str>) {
    let (kind, done) = match answer {
        Answer::Subscribed => ("bars.subscribe.response", "Subscribed to"),
        Answer::Unsubscribed => ("bars.unsubscribe.response", "Unsubscribed from"),
    };
    write(out, &format!("{{\"type\":\"{kind}\""));
    write_id(out, id);
    write(out, ",\"payload\":{\"status\":\"ok\"");
    match which.patterns.as_slice() {
        [one] if which.by_symbol => {
            let symbol = one.symbol.as_ref().map_or("*", |symbol| symbol.as_str());
            write(
                out,
                &format!(
                    ",\"symbol\":\"{symbol}\",\"message\":\"{done} {symbol}\",\"topic\":\"{one}\""
                ),
            );
        }
        patterns => {
            let count = patterns.len();
            let noun = if count == 1 { "topic" } else { "topics" };
            write(
                out,
                &format!(",\"message\":\"{done} {count} {noun}\",\"topics\":["),
            );
            for (at, pattern) in patterns.iter().enumerate() {
                write(out, if at == 0 { "\"" } else { ",\"" });
                write(out, &pattern.to_string());
                out.push(b'"');
            }
            out.push(b']');
        }
    }
    write(out, "}}");
}

/// Appends an `error`.
pub fn write_refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    write(out, "{\"type\":\"error\"");
    write_id(out, refusal.id.as_deref());
    write(out, ",\"payload\":{\"code\":\"");
    write(out, refusal.code);
    write(out, "\",\"message\":");
    write_text(out, &refusal.message);
    write(out, "}}");
}

/// Appends a `pong`.
pub fn write_pong(out: &mut Vec<u8>, id: Option<&str>) {
    write(out, "{\"type\":\"pong\"");
    write_id(out, id);
    out.push(b'}');
}

/// Appends a `bars.snapshot`, bars oldest first.
pub fn write_snapshot(out: &mut Vec<u8>, topic: &Topic, bars: &[Bar]) {
    write(out, "{\"type\":\"bars.snapshot\",\"topic\":\"");
    topic.write(out);
    write(out, "\",\"payload\":{\"bars\":[");
    for (at, bar) in bars.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_bar(out, bar);
    }
    write(out, "]}}");
}

/// Appends a `bars.gap`: bars from the one that starts at `from` to the one that starts at `to` may
/// be missing.
pub fn write_gap(out: &mut Vec<u8>, topic: &Topic, from: i64, to: i64, reason: &str) {
    write(out, "{\"type\":\"bars.gap\",\"topic\":\"");
    topic.write(out);
    write(
        out,
        &format!("\",\"payload\":{{\"from\":{from},\"to\":{to},\"reason\":\"{reason}\"}}}}"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(text: &str) -> Vec<String> {
        match parse(text).map(|request| request.command) {
            Ok(Command::Subscribe(which, _)) => {
                which.patterns.iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_forms_of_subscribe() {
        let nested =
            r#"{"type":"bars.subscribe","payload":{"symbol":"AAPL","params":{"resolution":"5"}}}"#;
        assert_eq!(topics(nested), ["bars:AAPL:5"]);
        let flat = r#"{"type":"bars.subscribe","payload":{"symbol":"AAPL","resolution":"1D"}}"#;
        assert_eq!(topics(flat), ["bars:AAPL:D"]);
        let bare = r#"{"type":"bars.subscribe","symbol":"AAPL"}"#;
        assert_eq!(topics(bare), ["bars:AAPL:1"]);
        let list = r#"{"type":"bars.subscribe","id":7,"payload":{"topics":["bars:AAPL:1","bars:*:D"],"snapshot":100,"max_rate":2}}"#;
        assert_eq!(topics(list), ["bars:AAPL:1", "bars:*:D"]);
        let Ok(Request {
            id,
            command: Command::Subscribe(_, wishes),
        }) = parse(list)
        else {
            panic!("{list}")
        };
        assert_eq!(id.as_deref(), Some("7"));
        assert_eq!((wishes.snapshot, wishes.max_rate), (Some(100), Some(2.0)));
    }

    #[test]
    fn what_is_wrong_is_named_and_the_id_comes_back() {
        for (text, part) in [
            (r"nonsense", "not a message"),
            (r#"{"type":"dance","id":"x"}"#, "dance"),
            (r#"{"type":"bars.subscribe","id":"x"}"#, "symbol"),
            (
                r#"{"type":"bars.subscribe","id":"x","payload":{"topics":[]}}"#,
                "topics",
            ),
            (
                r#"{"type":"bars.subscribe","id":"x","payload":{"topics":["AAPL"]}}"#,
                "AAPL",
            ),
            (
                r#"{"type":"bars.subscribe","id":"x","payload":{"symbol":"A B"}}"#,
                "' '",
            ),
            (
                r#"{"type":"bars.subscribe","id":"x","payload":{"symbol":"A","resolution":"7"}}"#,
                "\"7\"",
            ),
            (
                r#"{"type":"bars.subscribe","id":"x","payload":{"symbol":"A","max_rate":0}}"#,
                "max_rate",
            ),
            (
                r#"{"type":"bars.subscribe","id":"x","payload":{"symbol":"A","max_rate":1e-300}}"#,
                "max_rate",
            ),
            (
                r#"{"type":"bars.subscribe","id":"x","payload":{"symbol":"A","since":1,"snapshot":1}}"#,
                "not both",
            ),
            (r#"{"type":"ping","id":{"a":1}}"#, "id must be"),
        ] {
            let refusal = parse(text).unwrap_err();
            assert!(refusal.message.contains(part), "{text}: {refusal:?}");
            if text.contains("\"x\"") {
                assert_eq!(refusal.id.as_deref(), Some("\"x\""), "{text}");
            }
        }
        assert!(parse(&"[".repeat(4096)).is_err());
    }

    #[test]
    fn answers_are_json_whatever_they_quote() {
        let refusal = Refusal {
            id: Some("7".to_owned()),
            code: "bad_request",
            message: "a \"quoted\"\n\u{1}text".to_owned(),
        };
        let mut out = Vec::new();
        write_refusal(&mut out, &refusal);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["id"], 7);
        assert_eq!(value["payload"]["message"], refusal.message.as_str());
    }
}
