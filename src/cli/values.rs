//! Parsers of values, each of which says what is allowed.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use console::Term;

use crate::ahead::MaxAhead;
use crate::bar::{Pattern, Resolution, Symbol};
use crate::bus::redis::Settings;
use crate::bus::{BusError, RedisBus};
use crate::feed::time;
use crate::gateway::base_path::BasePath;
use crate::gateway::cors::Cors;
use crate::gateway::protocol::{MAX_RATE, MIN_RATE};
use crate::gateway::udf::Listings;
use crate::networks::Network;
use crate::record::spool::LEAST_BYTES;

/// Shortest interval between ticks, in seconds.
const SHORTEST_INTERVAL: f64 = 0.001;
/// Longest interval between ticks, in seconds.
const LONGEST_INTERVAL: f64 = 86_400.0;
/// More threads than any machine's cores: beyond it is a typing error.
const MOST_WORKERS: usize = 1_024;
/// Longest time between pings: proxies cut silent connections long before.
const MOST_PING_SECONDS: u32 = 3_600;
/// Shortest time that an HTTP connection may be idle: clients are told it in whole seconds.
const LEAST_IDLE: Duration = Duration::from_secs(1);

/// Seconds between ticks, fractions allowed.
///
/// # Errors
/// What is allowed.
pub fn interval(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("allowed: seconds from {SHORTEST_INTERVAL} to {LONGEST_INTERVAL}"))
}

/// One symbol of a comma-separated list.
///
/// # Errors
/// What is wrong with it.
pub fn symbol(text: &str) -> Result<Symbol, String> {
    text.trim().parse().map_err(|why| format!("{why}"))
}

/// A topic or a pattern, also in the short forms `AAPL:1` and `AAPL`.
///
/// # Errors
/// What is wrong with it.
pub fn pattern(text: &str) -> Result<Pattern, String> {
    /// What a subscription without a resolution means, as in the protocol.
    const RESOLUTION: &str = "1";
    let text = text.trim();
    let short = text.strip_prefix("bars:").unwrap_or(text);
    let (symbol, resolution) = short.split_once(':').unwrap_or((short, RESOLUTION));
    Pattern::from_parts(symbol, resolution)
        .map_err(|why| format!("{why}; allowed: bars:AAPL:1, AAPL:1, AAPL, with * for either part"))
}

/// One resolution of a comma-separated list.
///
/// # Errors
/// What is allowed.
pub fn resolution(text: &str) -> Result<Resolution, String> {
    text.trim().parse().map_err(|why| format!("{why}"))
}

/// A Redis server. The URL is kept out of the error, since it may hold a password; clap's own context holds
/// it, so [`redis`] is used on the plain settings after parsing.
///
/// # Errors
/// What is wrong, and what is allowed.
pub fn redis(settings: &Settings) -> Result<RedisBus, String> {
    RedisBus::open(settings).map_err(|why| match why {
        BusError::Address(why) => format!(
            "--redis-url (REDIS_URL) {why}; allowed: redis://[user:password@]host[:port][/database], rediss://…, unix:///path"
        ),
        why => why.to_string(),
    })
}

/// A whole number from zero.
///
/// # Errors
/// What is allowed.
pub fn whole<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| "allowed: a whole number from 0".to_owned())
}

/// A whole number of at least one.
///
/// # Errors
/// What is allowed.
pub fn positive(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| *n >= 1)
        .ok_or_else(|| "allowed: a whole number from 1".to_owned())
}

/// A whole number of at least one that fits 32 bits.
///
/// # Errors
/// What is allowed.
pub fn positive_u32(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|n| *n >= 1)
        .ok_or_else(|| format!("allowed: a whole number from 1 to {}", u32::MAX))
}

/// How often something may happen.
///
/// # Errors
/// What is allowed.
pub fn count(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|n| *n >= 1)
        .ok_or_else(|| "allowed: a whole number from 1".to_owned())
}

/// Updates per second, as the protocol's `max_rate`.
///
/// # Errors
/// What is allowed.
pub fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (MIN_RATE..=MAX_RATE).contains(rate))
        .ok_or_else(|| format!("allowed: updates per second from {MIN_RATE} to {MAX_RATE}"))
}

/// Whether a terminal gets colours: not where `NO_COLOR` is set (no-color.org) or it has none.
pub fn colours(terminal: &Term) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    terminal.is_term() && terminal.features().colors_supported() && !unwanted
}

/// A time, ms since the epoch.
///
/// # Errors
/// What is allowed.
pub fn time(text: &str) -> Result<i64, String> {
    time::parse(text)
}

/// Bytes of a spool.
///
/// # Errors
/// What is allowed.
pub fn spool_bytes(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|n| *n >= LEAST_BYTES)
        .ok_or_else(|| format!("allowed: a whole number from {LEAST_BYTES}"))
}

/// Threads, each with a listener of its own.
///
/// # Errors
/// What is allowed.
pub fn workers(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=MOST_WORKERS).contains(n))
        .ok_or_else(|| format!("allowed: a whole number from 1 to {MOST_WORKERS}"))
}

/// An IP address and a port.
///
/// # Errors
/// What is allowed.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "allowed: an IP address and a port, as 127.0.0.1:8000 or [::1]:8000".to_owned()
    })
}

/// A time in seconds, fractions allowed.
///
/// # Errors
/// What is allowed.
pub fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| (0.0..=LONGEST_INTERVAL).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("allowed: seconds from 0 to {LONGEST_INTERVAL}"))
}

/// How far a bar may start ahead of the clock.
///
/// # Errors
/// What is allowed.
pub fn max_ahead(text: &str) -> Result<MaxAhead, String> {
    if text == "off" {
        return Ok(MaxAhead::OFF);
    }
    let within = seconds(text).map(MaxAhead::within);
    within.map_err(|why| format!("{why}, or off"))
}

/// A time in seconds, fractions allowed, that is not next to nothing.
///
/// # Errors
/// What is allowed.
pub fn idle_seconds(text: &str) -> Result<Duration, String> {
    let long = seconds(text).ok().filter(|time| *time >= LEAST_IDLE);
    long.ok_or_else(|| {
        let least = LEAST_IDLE.as_secs();
        format!("allowed: seconds from {least} to {LONGEST_INTERVAL}")
    })
}

/// A time in whole seconds.
///
/// # Errors
/// What is allowed.
pub fn whole_seconds(text: &str) -> Result<Duration, String> {
    text.parse::<u32>()
        .ok()
        .filter(|seconds| (1..=MOST_PING_SECONDS).contains(seconds))
        .map(|seconds| Duration::from_secs(seconds.into()))
        .ok_or_else(|| format!("allowed: whole seconds from 1 to {MOST_PING_SECONDS}"))
}

/// A file with what charts are told of symbols, read and checked.
///
/// # Errors
/// Why it cannot be read, or the key and value that are wrong in it and what is allowed.
pub fn symbols_file(path: &str) -> Result<Arc<Listings>, String> {
    let text = fs::read_to_string(path).map_err(|why| format!("cannot be read: {why}"))?;
    let listings = text.parse::<Listings>().map_err(|why| why.to_string())?;
    Ok(Arc::new(listings))
}

/// Origins whose pages may read what is public.
///
/// # Errors
/// What is allowed.
pub fn cors(text: &str) -> Result<Cors, String> {
    text.parse().map_err(|why| format!("{why}"))
}

/// One network of a comma-separated list.
///
/// # Errors
/// What is allowed.
pub fn network(text: &str) -> Result<Network, String> {
    text.parse().map_err(|why| format!("{why}"))
}

/// A path that everything is below.
///
/// # Errors
/// What is allowed.
pub fn base_path(text: &str) -> Result<BasePath, String> {
    text.parse().map_err(|why| format!("{why}"))
}

/// Where in a stream to begin (Redis command XREAD).
///
/// # Errors
/// What is allowed.
pub fn stream_id(text: &str) -> Result<String, String> {
    let is_number = |part: &str| part.parse::<u64>().is_ok();
    let is_id = match text.split_once('-') {
        Some((ms, number)) => is_number(ms) && is_number(number),
        None => text == "$" || is_number(text),
    };
    is_id.then(|| text.to_owned()).ok_or_else(|| {
        "allowed: an entry's id as 1697097600000-0, 0 for all, $ for what comes from now on"
            .to_owned()
    })
}
