//! One JSON object a line. That of a bar is a message as producers publish it, with a few fields more, so
//! that it can be published again as it is.

use std::io::Write;

use tokio::sync::mpsc;

use super::Left;
use crate::client::follow::Event;
use crate::client::message::{Gap, Update};

/// Writes events until there are no more, enough, or nobody takes them. What is no data is logged.
pub(super) async fn show(
    events: &mut mpsc::Receiver<Event>,
    queue: &mpsc::Sender<Vec<u8>>,
    left: &mut Left,
) {
    while let Some(event) = events.recv().await {
        let is_last = left.is_over_after(&event);
        let line = match event {
            Event::Bar(update) => bar_line(&update),
            Event::Gap(gap) => gap_line(&gap),
            Event::Connected { is_first: true, .. } => {
                tracing::debug!("connected");
                continue;
            }
            Event::Connected { .. } => {
                tracing::info!("connected again");
                continue;
            }
            Event::Lost { why, wait } => {
                tracing::warn!(why, ?wait, "not connected, trying again");
                continue;
            }
            Event::RoundTrip(took) => {
                tracing::debug!(?took, "round trip");
                continue;
            }
        };
        if queue.send(line).await.is_err() || is_last {
            return;
        }
    }
}

/// A bar's line.
pub fn bar_line(update: &Update) -> Vec<u8> {
    let (topic, extras) = (&update.topic, &update.extras);
    let mut line = format!(
        r#"{{"type":"bar","topic":"{topic}","symbol":"{}","resolution":"{}","bar":{}"#,
        topic.symbol, topic.resolution, update.bar
    )
    .into_bytes();
    for (name, value) in [
        ("seq", extras.seq),
        ("epoch", extras.epoch),
        ("ts", extras.ts),
        ("rev", extras.rev),
    ] {
        if let Some(value) = value {
            // Writing into a Vec cannot fail.
            let _ = write!(line, r#","{name}":{value}"#);
        }
    }
    if update.is_history {
        line.extend_from_slice(br#","history":true"#);
    }
    line.extend_from_slice(b"}\n");
    line
}

/// A gap's line.
pub fn gap_line(gap: &Gap) -> Vec<u8> {
    let reason = serde_json::Value::from(gap.reason.as_str());
    format!(
        r#"{{"type":"gap","topic":"{}","from":{},"to":{},"reason":{reason}}}{}"#,
        gap.topic, gap.from, gap.to, '\n'
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::Decoder;
    use crate::client::message::{Message, parse};

    #[test]
    fn a_bars_line_can_be_published_again() {
        let text = r#"{"type":"bars.update","topic":"bars:A:1","seq":3,"epoch":9,"ts":1,"payload":{"time":60000,"open":150.0,"high":151,"low":1e2,"close":150.5,"volume":18446744073709551615,"closed":true}}"#;
        let Ok(Message::Update(mut update)) = parse(text) else {
            panic!("{text}")
        };
        update.is_history = true;
        let line = bar_line(&update);
        let mut read = Vec::new();
        Decoder::default().decode("bars:A:1", &line, |message| read.push(message.unwrap()));
        let mut again = Vec::new();
        crate::bar::write_update(&mut again, &read[0]);
        assert_eq!(again, text.replace("1e2", "100.0").into_bytes());
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(
            (&value["type"], &value["history"]),
            (&"bar".into(), &true.into())
        );
    }
}
