//! Asking a gateway by TradingView's UDF.

use barcast::bus::{Bus, MemoryBus};
use barcast::gateway::Config;
use serde_json::Value;

use super::client::get;
use super::gateway::{Candle, Feed, Running, in_process};

pub fn ask(gateway: &Running, path: &str) -> Value {
    let answer = get(gateway.address, &format!("/udf/{path}"));
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    serde_json::from_str(&answer.body).unwrap_or_else(|why| panic!("{why}: {}", answer.body))
}

pub fn errmsg(gateway: &Running, path: &str) -> String {
    let answer = ask(gateway, path);
    assert_eq!(answer["s"], "error", "{path}: {answer}");
    answer["errmsg"].as_str().unwrap().to_owned()
}

/// A gateway that has these bars.
pub fn having(config: Config, bars: &[Candle]) -> (Running, Feed<<MemoryBus as Bus>::Publisher>) {
    let (gateway, mut feed) = in_process(config);
    feed.all(bars.iter().map(Candle::outgoing).collect());
    gateway.received(bars.len() as u64);
    (gateway, feed)
}
