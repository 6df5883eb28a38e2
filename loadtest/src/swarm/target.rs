//! What clients connect to.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::client::{EACH, TOPICS};
use crate::market::Market;

/// Clients of one thread that connect at the same time: below any server's listen queue.
const CONNECTING: usize = 128;
/// Clients from one source address. The kernel gives out some 28,000 ports an address (32768–60999).
pub const CLIENTS_PER_ADDRESS: usize = 20_000;

/// A server and what its clients expect of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Target {
    /// Clients take them in turn.
    pub addrs: Vec<SocketAddr>,
    /// Of the WebSocket, as `/ws`. Where it has `{topics}` in it, a client names its topics there, with
    /// commas between them, and sends no subscribe message.
    pub path: String,
    pub market: Arc<Market>,
    /// The last `seq` of the warm-up: later ones are counted.
    pub after: u64,
    /// Whether the server answers a subscribe message with a `bars.subscribe.response`.
    pub answers: bool,
    /// Whether the clients offer permessage-deflate.
    pub compression: bool,
    /// What to send to another server than ours, see [`check_template`]; its messages may have any form.
    pub subscribe: Option<String>,
    /// `max_rate` of the clients' subscriptions.
    pub max_rate: Option<f64>,
    /// Whether account is kept of every update; of clients that come and go it cannot be.
    pub audited: bool,
    /// Clients of one thread that connect at the same time.
    pub at_once: usize,
    /// Clients from one source address.
    pub per_address: usize,
}

impl Target {
    /// A server that speaks our protocol.
    pub fn new(addr: SocketAddr, path: &str, market: Arc<Market>) -> Self {
        Self {
            addrs: vec![addr],
            path: path.to_owned(),
            market,
            after: 0,
            answers: true,
            compression: false,
            subscribe: None,
            max_rate: None,
            audited: true,
            at_once: CONNECTING,
            per_address: CLIENTS_PER_ADDRESS,
        }
    }
}

/// Whether a subscribe message has a place for topics: `{topics}` for all of them, or `{topic}`,
/// `{symbol}` and `{resolution}` for a message each.
///
/// # Errors
/// When it has none.
pub fn check_template(template: &str) -> Result<()> {
    ensure!(
        template.contains(TOPICS) || EACH.iter().any(|place| template.contains(place)),
        "--subscribe {template:?}: allowed: text with {TOPICS}, or with {}",
        EACH.join(", ")
    );
    Ok(())
}
