//! Whether a Redis URL can work, before anything connects. No message holds a part of the URL that may be a
//! secret: scheme and names of parameters alone.

use redis::{ConnectionInfo, IntoConnectionInfo};

/// Over TCP, with and without TLS.
const TCP: [&str; 4] = ["redis", "valkey", "rediss", "valkeys"];
/// Over a socket of this machine.
const UNIX: [&str; 3] = ["unix", "redis+unix", "valkey+unix"];
/// Schemes of other programs, what they mean, and what to write instead.
const FOREIGN: [(&str, &str); 8] = [
    (
        "sentinel",
        "Sentinel is not asked for addresses: name the master's own, as redis://HOST:6379",
    ),
    (
        "cluster",
        "a Redis Cluster is not needed: name a Redis of its own, as redis://HOST:6379",
    ),
    ("ssl", "TLS is rediss://"),
    ("tls", "TLS is rediss://"),
    ("tcp", "TCP is redis://, with TLS rediss://"),
    ("http", "this is not HTTP: redis://, with TLS rediss://"),
    (
        "ws",
        "this is the URL of a gateway, not of Redis: redis://, with TLS rediss://",
    ),
    ("socket", "a socket is unix:///PATH"),
];
/// Parameters that other programs have for TLS.
const TLS_PARAMETERS: [&str; 4] = ["ssl", "tls", "verify", "insecure"];

const ENCODE: &str =
    "in user and password these are percent-encoded: % %25, / %2F, ? %3F, # %23, @ %40, space %20";

/// Reads and checks a URL; white space around it is not part of it.
///
/// # Errors
/// What is wrong and the remedy, without the URL.
pub fn parse(url: &str) -> Result<ConnectionInfo, String> {
    let url = url.trim();
    if url.is_empty() {
        return Err("is empty".to_owned());
    }
    if url.chars().any(char::is_control) {
        return Err("holds a line break, a tab or another control character".to_owned());
    }
    let (scheme, rest) = scheme(url)?;
    if UNIX.contains(&scheme.as_str()) {
        socket(rest)?;
    } else {
        server(rest)?;
    }
    url.into_connection_info()
        .map_err(|why| format!("{why}; {ENCODE}"))
}

/// The scheme in small letters, and what is after its colon.
fn scheme(url: &str) -> Result<(String, &str), String> {
    let none = || "has no scheme: write redis:// before the host, with TLS rediss://".to_owned();
    let (scheme, rest) = url.split_once(':').ok_or_else(none)?;
    let known = scheme.to_ascii_lowercase();
    if UNIX.contains(&known.as_str()) {
        return Ok((known, rest.strip_prefix("//").unwrap_or(rest)));
    }
    let rest = rest.strip_prefix("//").ok_or_else(none)?;
    if TCP.contains(&known.as_str()) {
        return Ok((known, rest));
    }
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if !known.starts_with(|c: char| c.is_ascii_alphabetic()) || !known.chars().all(is_scheme) {
        return Err(none());
    }
    let foreign = FOREIGN.iter().find(|(word, _)| known.contains(word));
    let remedy = foreign.map_or("", |(_, remedy)| remedy);
    Err(
        format!("has the scheme {known}://, which is unknown; {remedy}")
            .trim_end_matches("; ")
            .to_owned(),
    )
}

/// `[user:password@]host[:port][/database][?protocol=resp3]`
fn server(rest: &str) -> Result<(), String> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    // The last @ is before the host. One that comes later than the host's end was meant so, too.
    if tail.contains('@') {
        return Err(format!("has a raw / ? or # before its last @; {ENCODE}"));
    }
    let (login, host) = match authority.rsplit_once('@') {
        Some((login, host)) => (login, host),
        None => ("", authority),
    };
    if login.contains('@') {
        return Err(format!("has more than one @; {ENCODE}"));
    }
    encoded(login)?;
    address(host)?;
    let (tail, fragment) = split(tail, '#');
    no_fragment(fragment)?;
    let (path, query) = split(tail, '?');
    database(path.trim_matches('/'), "the path")?;
    for (name, value) in parameters(query) {
        parameter(name, value)?;
    }
    Ok(())
}

/// `/path[?db=0&user=U&pass=P]`
fn socket(rest: &str) -> Result<(), String> {
    let (rest, fragment) = split(rest, '#');
    no_fragment(fragment)?;
    let (path, query) = split(rest, '?');
    if !path.starts_with('/') || path.len() == 1 {
        return Err("needs the socket's whole path, as unix:///run/redis.sock; user and password are ?user=USER&pass=PASSWORD".to_owned());
    }
    for (name, value) in parameters(query) {
        match name {
            "user" | "pass" => encoded(value)?,
            "db" => database(value, "db")?,
            _ => parameter(name, value)?,
        }
    }
    Ok(())
}

/// What is before and after a character; nothing after it where it does not occur.
fn split(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn parameters(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.unwrap_or_default().split('&');
    pairs
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or(("", pair)))
}

fn no_fragment(fragment: Option<&str>) -> Result<(), String> {
    match fragment {
        None => Ok(()),
        Some(word) if word.eq_ignore_ascii_case("insecure") => Err(
            "#insecure is not supported, certificates are always checked: name the authority that signed Redis's with --redis-tls-ca (BARCAST_REDIS_TLS_CA)".to_owned(),
        ),
        Some(_) => Err(format!("has a #; {ENCODE}")),
    }
}

/// Whether each % begins a byte, and all of them together a text.
fn encoded(login: &str) -> Result<(), String> {
    let bytes = login.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let percents = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    for (at, _) in percents {
        if !is_hex(at + 1) || !is_hex(at + 2) {
            return Err(format!("has a raw % in user or password; {ENCODE}"));
        }
    }
    Ok(())
}

/// `host[:port]`, never shown: it may be the rest of a password.
fn address(host: &str) -> Result<(), String> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']').ok_or("has a [ without its ]")?;
            if name.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(
                    "has no IPv6 address between [ and ] (a zone such as %eth0 is not supported)"
                        .to_owned(),
                );
            }
            (
                name,
                port.strip_prefix(':').or(port.is_empty().then_some("")),
            )
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("")),
        },
    };
    let port = port.ok_or("has something between ] and the port")?;
    if port.contains(':') {
        return Err("has more than one : after the last @: an IPv6 address is in brackets, as [::1]:6379, and an @ ends user and password".to_owned());
    }
    if name.is_empty() {
        return Err("has no host".to_owned());
    }
    if matches!(name, "0.0.0.0" | "::") {
        return Err("has an address that servers listen at and nobody connects to: on the same machine it is 127.0.0.1".to_owned());
    }
    if !port.is_empty() && !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(format!(
            "has a port that is no number from 1 to 65535; an @ ends user and password; {ENCODE}"
        ));
    }
    let of_a_name = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if !name.chars().all(of_a_name) {
        return Err(format!(
            "has a host with other characters than A-Z a-z 0-9 - _ . ; {ENCODE}"
        ));
    }
    Ok(())
}

fn database(text: &str, place: &str) -> Result<(), String> {
    // Redis counts its databases in an int.
    let is_number = text.parse::<i32>().is_ok_and(|number| number >= 0);
    match text.is_empty() || is_number {
        true => Ok(()),
        false => Err(format!(
            "{place} is the database: a whole number from 0, as redis://HOST:6379/0"
        )),
    }
}

fn parameter(name: &str, value: &str) -> Result<(), String> {
    const OURS: &str =
        "the only one is protocol=resp3; user, password and database are before the ?";
    let of_tls = TLS_PARAMETERS.iter().any(|word| name.starts_with(word));
    match (name, value) {
        ("protocol", "resp3" | "3") => Ok(()),
        ("protocol", _) => Err("has a protocol that is not spoken here: RESP3 alone (protocol=resp3, or none)".to_owned()),
        _ if of_tls => Err("has a parameter for TLS: TLS is rediss://, its files are --redis-tls-ca, --redis-tls-cert and --redis-tls-key".to_owned()),
        _ if (1..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {
            Err(format!("has the unknown parameter {name}: {OURS}"))
        }
        _ => Err(format!("has an unknown parameter: {OURS}; {ENCODE}")),
    }
}
