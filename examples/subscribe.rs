//! Subscribes to one topic, connects again when the connection ends, and goes on where it was.
//!
//! `cargo run --example subscribe`; in a project of your own: `cargo add tokio --features full`,
//! `cargo add tokio-tungstenite futures-util serde_json fastrand`.

use std::collections::BTreeMap;
use std::env;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::{Error, Message};

const TOPIC: &str = "bars:AAPL:1";
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// The gateway pings every 25 s: whoever hears nothing for so long is on a dead link.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// Bars by time. A bar carries its whole state: the newer one replaces the older.
type Bars = BTreeMap<i64, Value>;

fn take(bars: &mut Bars, what: &str, bar: &Value) {
    let Some(time) = bar["time"].as_i64() else {
        return;
    };
    // After a resume the last bar comes again.
    if bars.get(&time) != Some(bar) {
        let state = if bar["closed"] == true { "closed" } else { "" };
        println!("{what} {time} {} {state}", bar["close"]);
        bars.insert(time, bar.clone());
    }
}

fn request(wish: &Value) -> Message {
    let mut payload = json!({ "topics": [TOPIC] });
    for (name, value) in wish.as_object().into_iter().flatten() {
        payload[name] = value.clone();
    }
    let request = json!({ "type": "bars.subscribe", "payload": payload });
    Message::text(request.to_string())
}

/// One connection, from the request to the end. `Ok` tells that the server refused the request.
async fn listen(url: &str, bars: &mut Bars, wait: &mut Duration) -> Result<String, Error> {
    let (mut socket, _) = connect_async(url).await?;
    *wait = FIRST_WAIT;
    let wish = match bars.last_key_value() {
        Some((newest, _)) => json!({ "since": newest }),
        None => json!({ "snapshot": 100 }),
    };
    socket.send(request(&wish)).await?;
    let mut asked = true;
    while let Ok(Some(message)) = timeout(LONGEST_SILENCE, socket.next()).await {
        let Message::Text(text) = message? else {
            continue;
        };
        let message: Value = serde_json::from_str(&text).unwrap_or_default();
        let payload = &message["payload"];
        match message["type"].as_str() {
            Some("bars.snapshot") => {
                asked = false;
                for bar in payload["bars"].as_array().into_iter().flatten() {
                    take(bars, "history", bar);
                }
            }
            Some("bars.update") => take(bars, "live", payload),
            Some("bars.gap") => {
                println!("gap {payload}");
                // A gap before an answer tells that the server keeps no more: asking again is no use.
                if !asked {
                    asked = true;
                    let wish = json!({ "since": payload["from"] });
                    socket.send(request(&wish)).await?;
                }
            }
            Some("error") => return Ok(payload.to_string()),
            _ => {}
        }
    }
    Err(Error::ConnectionClosed)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), String> {
    let url = env::var("BARCAST_URL").unwrap_or("ws://127.0.0.1:8000/api/v1/ws".to_owned());
    let mut bars = Bars::new();
    let mut wait = FIRST_WAIT;
    loop {
        match listen(&url, &mut bars, &mut wait).await {
            Ok(refused) => return Err(refused),
            Err(why) => println!("connecting again: {why}"),
        }
        // The upper half is random, so that the clients of one gateway do not come back in one instant.
        sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        wait = LONGEST_WAIT.min(wait * 2);
    }
}
