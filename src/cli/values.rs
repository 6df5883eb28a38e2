//! Parsers of values, each of which says what is allowed.

use std::net::SocketAddr;
use std::time::Duration;

use crate::bar::{Resolution, Symbol};
use crate::bus::RedisBus;

/// Shortest interval between ticks, in seconds.
const SHORTEST_INTERVAL: f64 = 0.001;
/// Longest interval between ticks, in seconds.
const LONGEST_INTERVAL: f64 = 86_400.0;

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

/// One resolution of a comma-separated list.
///
/// # Errors
/// What is allowed.
pub fn resolution(text: &str) -> Result<Resolution, String> {
    text.trim().parse().map_err(|why| format!("{why}"))
}

/// A Redis URL. The value is kept out of the error, since it may hold a password; clap's own context
/// holds it, so [`redis_url`] is used on the plain string after parsing.
///
/// # Errors
/// What is allowed.
pub fn redis_url(url: &str) -> Result<RedisBus, String> {
    RedisBus::new(url).map_err(|why| {
        format!(
            "--redis-url (REDIS_URL): {why}; allowed: redis://[user:password@]host[:port][/database], rediss://…, unix:///path"
        )
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

/// An address to listen on.
///
/// # Errors
/// What is allowed.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "allowed: IP:PORT, as 127.0.0.1:9100 or [::1]:9100".to_owned())
}
