//! Whose request it is that a trusted proxy hands on: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each proxy adds the address that it saw behind those that came with the request, so the list is read from its
//! end, and the first address that is no trusted proxy's counts: what stands before it may be made up. Where both
//! headers are there `X-Forwarded-For` counts, since a proxy that knows only that one hands on any `Forwarded`.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName};

use crate::gateway::networks::any_contains;
use crate::gateway::node::Node;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address that a request counts for, whose connection came from `peer`.
pub fn origin(node: &Node, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let trusted = &node.config.trusted_proxies;
    if !any_contains(trusted, peer) {
        return peer;
    }
    let mut origin = peer;
    for said in told(headers).iter().rev() {
        let Some(address) = said else {
            tracing::debug!(%peer, "a trusted proxy names no address that can be read: its own counts");
            return peer;
        };
        origin = *address;
        if !any_contains(trusted, origin) {
            break;
        }
    }
    origin
}

/// The addresses that a request names, `None` for what is none.
fn told(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let values = |name| headers.get_all(name).iter().map(|value| value.to_str());
    if headers.contains_key(X_FORWARDED_FOR) {
        let mut all = Vec::new();
        for value in values(X_FORWARDED_FOR) {
            let parts = value.unwrap_or("?").split(',').map(str::trim);
            all.extend(parts.filter(|part| !part.is_empty()).map(address));
        }
        return all;
    }
    let mut all = Vec::new();
    for value in values(FORWARDED) {
        let parts = outside_quotes(value.unwrap_or("?"), ',');
        let parts = parts.into_iter().map(str::trim);
        all.extend(parts.filter(|part| !part.is_empty()).map(node_of));
    }
    all
}

/// The parts of a text between separators that are not within a quoted string.
fn outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(|char| {
        match char {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            other => return other == separator && !is_quoted,
        }
        false
    })
    .collect()
}

/// The `for` of one element of `Forwarded`.
fn node_of(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in outside_quotes(element, ';') {
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name.trim(), value.trim()),
            None if pair.trim().is_empty() => continue,
            None => return None,
        };
        if name.eq_ignore_ascii_case("for") && found.replace(value).is_some() {
            return None;
        }
    }
    let value = found?;
    match value.strip_prefix('"') {
        // No address needs a backslash.
        Some(quoted) => address(quoted.strip_suffix('"')?),
        None => address(value),
    }
}

/// An address, with or without brackets and port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = match bare {
        Some(six) => IpAddr::V6(six.parse().ok()?),
        None => match text.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    Some(address.to_canonical())
}

/// Tells once what may be wrong when a limit by address is met: a proxy whose name the gateway was not given.
pub fn hint(node: &Node, peer: IpAddr, headers: &HeaderMap) {
    let forwards = headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED);
    if forwards
        && !any_contains(&node.config.trusted_proxies, peer)
        && !node.is_proxy_told.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(
            %peer,
            "--max-clients-per-address is reached by one that forwards requests of others (X-Forwarded-For): if it is a proxy of yours, name it in --trusted-proxies (BARCAST_TRUSTED_PROXIES), so that its clients are counted by their own addresses"
        );
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::gateway::Config;
    use crate::metrics::GatewayMetrics;

    fn counted(peer: &str, headers: &[(&str, &str)]) -> String {
        let trusted =
            ["127.0.0.1", "10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let config = Config {
            trusted_proxies: trusted.into(),
            workers: 1,
            ..Config::default()
        };
        let node = Node::new(config, GatewayMetrics::default());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        origin(&node, peer.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn the_last_address_that_is_no_proxys_counts() {
        const X: &str = "X-Forwarded-For";
        const F: &str = "Forwarded";
        for (headers, expected) in [
            (&[][..], "127.0.0.1"),
            (&[(X, "192.0.2.7")], "192.0.2.7"),
            (&[(X, "1.1.1.1, 192.0.2.7")], "192.0.2.7"),
            (&[(X, "1.1.1.1,192.0.2.7 , 10.1.1.1,,")], "192.0.2.7"),
            (
                &[(X, "1.1.1.1"), (X, "192.0.2.7"), (X, "10.1.1.1")],
                "192.0.2.7",
            ),
            (&[(X, "192.0.2.7:4711, fd00::1")], "192.0.2.7"),
            (&[(X, "[2001:db8::1]:4711")], "2001:db8::1"),
            (&[(X, "[2001:db8::1]")], "2001:db8::1"),
            (&[(X, "2001:db8::1")], "2001:db8::1"),
            (&[(X, "::ffff:192.0.2.7")], "192.0.2.7"),
            (&[(X, "::ffff:10.0.0.1")], "10.0.0.1"),
            (&[(X, "10.9.9.9, 10.1.1.1")], "10.9.9.9"),
            (&[(X, "garbage, 192.0.2.7")], "192.0.2.7"),
            (&[(X, "192.0.2.7, garbage")], "127.0.0.1"),
            (&[(X, "192.0.2.7, unknown, 10.1.1.1")], "127.0.0.1"),
            (&[(X, "192.0.2.7 10.1.1.1")], "127.0.0.1"),
            (&[(X, "")], "127.0.0.1"),
            (&[(F, "for=192.0.2.7")], "192.0.2.7"),
            (
                &[(F, "For=1.1.1.1, for=192.0.2.7;proto=http;by=10.1.1.1")],
                "192.0.2.7",
            ),
            (&[(F, "for=\"[2001:db8::1]:4711\"")], "2001:db8::1"),
            (&[(F, "for=\"192.0.2.7:80\", for=10.1.1.1")], "192.0.2.7"),
            (&[(F, "by=\"a,b;for=9.9.9.9\";for=192.0.2.7")], "192.0.2.7"),
            (&[(F, "for=192.0.2.7"), (F, "for=10.1.1.1")], "192.0.2.7"),
            (&[(F, "for=192.0.2.7, for=unknown")], "127.0.0.1"),
            (&[(F, "for=_hidden")], "127.0.0.1"),
            (&[(F, "proto=http")], "127.0.0.1"),
            (&[(F, "for=1.1.1.1;for=2.2.2.2")], "127.0.0.1"),
            (&[(F, "for=\"192.0.2.7")], "127.0.0.1"),
            (&[(F, "for=1.1.1.1"), (X, "192.0.2.7")], "192.0.2.7"),
        ] {
            assert_eq!(counted("127.0.0.1", headers), expected, "{headers:?}");
        }
        let own = counted("192.0.2.9", &[(X, "192.0.2.7"), (F, "for=192.0.2.8")]);
        assert_eq!(own, "192.0.2.9", "it is not trusted");
    }
}
