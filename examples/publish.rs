//! Publishes one bar in three states: forming, a moment later, and closed.
//!
//! `cargo run --example publish`; in a project of your own: `cargo add redis serde_json`.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use redis::{Client, Connection, RedisResult, TypedCommands};
use serde_json::{Value, json};

const MINUTE_MS: u128 = 60_000;

/// Microseconds since 1970.
fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros())
}

struct Publisher {
    redis: Connection,
    /// Any number that differs from run to run.
    epoch: u128,
    /// Messages so far; with more than one topic, one count for each.
    seq: u64,
}

impl Publisher {
    fn publish(&mut self, symbol: &str, resolution: &str, bar: &Value) -> RedisResult<usize> {
        self.seq += 1;
        let message = json!({
            "symbol": symbol, "resolution": resolution, "bar": bar,
            "seq": self.seq, "epoch": self.epoch, "ts": now(),
        });
        let topic = format!("bars:{symbol}:{resolution}");
        self.redis.publish(topic, message.to_string())
    }
}

fn main() -> RedisResult<()> {
    let url = env::var("REDIS_URL").unwrap_or("redis://127.0.0.1:6379".to_owned());
    let mut publisher = Publisher {
        redis: Client::open(url)?.get_connection()?,
        epoch: now(),
        seq: 0,
    };
    let minute = now() / 1_000 / MINUTE_MS * MINUTE_MS;
    let mut bar = json!({
        "time": minute, "open": 150.0, "high": 151.0, "low": 149.5, "close": 150.5, "volume": 1000,
    });
    publisher.publish("AAPL", "1", &bar)?;
    bar["close"] = json!(151.0);
    bar["volume"] = json!(1200);
    publisher.publish("AAPL", "1", &bar)?;
    bar["close"] = json!(150.75);
    bar["volume"] = json!(1300);
    bar["closed"] = json!(true);
    publisher.publish("AAPL", "1", &bar)?;
    Ok(())
}
