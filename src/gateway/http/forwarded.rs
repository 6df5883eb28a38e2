//! Whose request it is that a trusted proxy hands on: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each proxy adds the address that it saw behind those that came with the request, so the list is read from its
//! end, and the first address that is no trusted proxy's counts: what stands before it may be made up. Where both
//! headers are there `X-Forwarded-For` counts, since a proxy that knows only that one hands on any `Forwarded`.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName};

use super::handshake::is_token;
use crate::gateway::node::Node;
use crate::networks::any_contains;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const BLANK: [char; 2] = [' ', '\t'];

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
    // A byte that is no ASCII spoils its own part only: a client's must not hide what a proxy wrote behind it.
    let values = |name| {
        let all = headers.get_all(name).iter();
        all.map(|value| String::from_utf8_lossy(value.as_bytes()))
    };
    let mut all = Vec::new();
    if headers.contains_key(X_FORWARDED_FOR) {
        for value in values(X_FORWARDED_FOR) {
            let parts = value.split(',').map(|part| part.trim_matches(BLANK));
            all.extend(parts.filter(|part| !part.is_empty()).map(address));
        }
        return all;
    }
    for value in values(FORWARDED) {
        // If it is malformed nobody can tell which of it a proxy wrote: a client may have left a quote open.
        all.extend(elements(&value).unwrap_or_else(|| vec![None]));
    }
    all
}

/// The `for` of each element of one `Forwarded` (RFC 7239, section 4), `None` of one without an address; nothing at all
/// unless the whole of it is well-formed.
fn elements(mut rest: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut all = Vec::new();
    // Of the element at hand: whether it has a pair, and each value of `for`.
    let (mut is_empty, mut found) = (true, Vec::new());
    loop {
        rest = rest.trim_start_matches(BLANK);
        if !rest.starts_with([',', ';']) && !rest.is_empty() {
            let (name, value) = rest.split_once('=')?;
            let name = name.trim_end_matches(BLANK);
            if name.is_empty() || !name.bytes().all(is_token) {
                return None;
            }
            let (value, behind) = value_of(value.trim_start_matches(BLANK))?;
            if name.eq_ignore_ascii_case("for") {
                found.push(value);
            }
            (is_empty, rest) = (false, behind.trim_start_matches(BLANK));
        }
        let end = rest.chars().next();
        if matches!(end, None | Some(',')) && !std::mem::replace(&mut is_empty, true) {
            all.push(match found.as_slice() {
                [one] => address(one),
                _ => None,
            });
            found.clear();
        }
        match end {
            None => return Some(all),
            Some(',' | ';') => rest = &rest[1..],
            Some(_) => return None,
        }
    }
}

/// The value at the start of a text, without its quotes, and what is behind it. Addresses with a colon are written
/// without quotes, too, though they are no tokens. No address needs a backslash, so one stays as it is.
fn value_of(text: &str) -> Option<(&str, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';', '"', '\\', ' ', '\t']);
        let (value, rest) = text.split_at(end.unwrap_or(text.len()));
        return (!value.is_empty()).then_some((value, rest));
    };
    let mut is_escaped = false;
    let end = quoted.find(|char| {
        let ends = char == '"' && !is_escaped;
        is_escaped = char == '\\' && !is_escaped;
        ends
    })?;
    Some((&quoted[..end], &quoted[end + 1..]))
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
            (&[(F, "for=1.1.1.1;x=\", for=192.0.2.7")], "127.0.0.1"),
            (&[(F, "for=1.1.1.1;x=\"\\, for=192.0.2.7")], "127.0.0.1"),
            (
                &[(F, "for=1.1.1.1;x=\", for=\"[2001:db8::1]:4711\"")],
                "127.0.0.1",
            ),
            (
                &[(F, "for=1.1.1.1;x=\", for=192.0.2.7;by=\"[::1]\"")],
                "127.0.0.1",
            ),
            (
                &[(F, "for=1.1.1.1;x=\""), (F, "for=192.0.2.7")],
                "192.0.2.7",
            ),
            (
                &[(F, "for=1.1.1.1;x=\"a\\\",b\", for=192.0.2.7")],
                "192.0.2.7",
            ),
            (&[(F, "for=1.1.1.1 for=192.0.2.7")], "127.0.0.1"),
            (&[(F, "garbage, for=192.0.2.7")], "127.0.0.1"),
            (&[(F, ",; for = 192.0.2.7 ; proto=http ,, ;")], "192.0.2.7"),
            (&[(F, "for=192.0.2.7:80")], "192.0.2.7"),
            (&[(F, "for=[2001:db8::1]:80;by=_x")], "2001:db8::1"),
            (&[(F, "for=")], "127.0.0.1"),
            (&[(F, "for=\"\"")], "127.0.0.1"),
            (&[(F, "for=\u{fc}, for=192.0.2.7")], "192.0.2.7"),
            (&[(X, "\u{fc}\", 192.0.2.7")], "192.0.2.7"),
            (&[(X, "\"1.1.1.1, 192.0.2.7")], "192.0.2.7"),
            (&[(X, "1.1.1.1, \"192.0.2.7\"")], "127.0.0.1"),
            (&[(F, "for=1.1.1.1"), (X, "192.0.2.7")], "192.0.2.7"),
        ] {
            assert_eq!(counted("127.0.0.1", headers), expected, "{headers:?}");
        }
        let own = counted("192.0.2.9", &[(X, "192.0.2.7"), (F, "for=192.0.2.8")]);
        assert_eq!(own, "192.0.2.9", "it is not trusted");
    }
}
