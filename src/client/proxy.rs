//! The proxy that the environment names, as curl and browsers use it: `HTTP_PROXY` for `ws://`,
//! `HTTPS_PROXY` for `wss://`, `ALL_PROXY` for both, in lower case too, and `NO_PROXY` against them: hosts,
//! domains, addresses and networks, each with a port or without.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Address, ClientError, line_of};
use crate::networks::Network;

/// Longest head of a proxy's answer, in bytes.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub host: String,
    pub port: u16,
    /// The variable that names it.
    pub variable: String,
    /// `user:password`, as it is sent.
    login: Option<String>,
}

/// The proxy for an address, by the environment.
///
/// # Errors
/// When a variable is set that cannot be used.
pub(super) fn of(address: &Address) -> Result<Option<Proxy>, ClientError> {
    find(address, |name| std::env::var(name).ok())
}

fn find(
    address: &Address,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, ClientError> {
    let value = |name: &str| {
        let lower = name.to_ascii_lowercase();
        let set = variable(&lower).map(|value| (lower, value));
        let set = set.or_else(|| Some((name.to_owned(), variable(name)?)));
        set.filter(|(_, value)| !value.trim().is_empty())
    };
    let of_scheme = if address.is_tls {
        "HTTPS_PROXY"
    } else {
        "HTTP_PROXY"
    };
    let Some((name, url)) = value(of_scheme).or_else(|| value("ALL_PROXY")) else {
        return Ok(None);
    };
    let exceptions = value("NO_PROXY").map(|(_, value)| value);
    if is_local(&address.host)
        || is_excepted(&address.host, address.port, &exceptions.unwrap_or_default())
    {
        return Ok(None);
    }
    parse(name, &url).map(Some)
}

/// This machine is never behind a proxy.
fn is_local(host: &str) -> bool {
    let ip = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// Whether a list names this host: `*`, hosts and domains (`example.com` means what is below it, too), addresses and
/// networks (`10.0.0.0/8`), each of them with a port if only that is meant.
fn is_excepted(host: &str, port: u16, exceptions: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let ip = host.parse::<IpAddr>().ok();
    let mut all = exceptions.split([',', ' ', '\t']);
    all.any(|one| {
        let one = one.to_ascii_lowercase();
        let (name, only) = with_port(&one);
        if only.is_some_and(|only| only != port) {
            return false;
        }
        if name == "*" {
            return true;
        }
        if let Some(ip) = ip {
            let network = name.parse::<Network>();
            return network.is_ok_and(|network| network.contains(ip));
        }
        let domain = name.trim_start_matches("*.").trim_start_matches('.');
        let below = host.strip_suffix(domain);
        !domain.is_empty() && below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// What stands before a port, without brackets, and the port. An address of IPv6 without brackets has none.
fn with_port(one: &str) -> (&str, Option<u16>) {
    if one.parse::<Network>().is_ok() {
        return (one, None);
    }
    let parts = one.rsplit_once(':');
    let port = parts.and_then(|(name, port)| Some((name, port.parse().ok()?)));
    let (name, port) = port.map_or((one, None), |(name, port)| (name, Some(port)));
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    (bare.unwrap_or(name), port)
}

/// `http://[user:password@]host[:port]`. No error repeats it: there may be a password in it.
fn parse(variable: String, url: &str) -> Result<Proxy, ClientError> {
    let refuse = || {
        ClientError::Proxy(format!(
            "{variable} is not the URL of an HTTP proxy; allowed: http://[user:password@]host[:port]; \
             NO_PROXY names the hosts that are reached without it"
        ))
    };
    let url = url.trim();
    let rest = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some(_) => return Err(refuse()),
        None => url,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (login, place) = match authority.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, authority),
    };
    let place: hyper::http::uri::Authority = place.parse().map_err(|_| refuse())?;
    let host = place.host().trim_matches(['[', ']']).to_owned();
    let has_port = place.as_str().len() > place.host().len();
    let port = match (place.port_u16(), has_port) {
        (Some(port), _) if port > 0 => port,
        (None, false) => 80,
        _ => return Err(refuse()),
    };
    if host.is_empty() {
        return Err(refuse());
    }
    // As a form's value is: what is percent-encoded in a URL, and `+` as it stands.
    let login = login.map(|login| {
        let query = format!("x={}", login.replace('+', "%2B").replace('&', "%26"));
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs
            .next()
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    });
    Ok(Proxy {
        host,
        port,
        variable,
        login,
    })
}

impl Proxy {
    /// For people: without its login.
    pub fn name(&self) -> String {
        format!("proxy {}:{} ({})", self.host, self.port, self.variable)
    }

    /// Opens the way through (RFC 9110, section 9.3.6).
    pub async fn open(&self, stream: &mut TcpStream, address: &Address) -> Result<(), ClientError> {
        let refused = |why: String| ClientError::Proxy(format!("{}: {why}", self.name()));
        let target = match address.host.contains(':') {
            true => format!("[{}]:{}", address.host, address.port),
            false => format!("{}:{}", address.host, address.port),
        };
        let login = self.login.as_ref().map_or_else(String::new, |login| {
            format!(
                "Proxy-Authorization: Basic {}\r\n",
                base64(login.as_bytes())
            )
        });
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n");
        let head = async {
            stream.write_all(request.as_bytes()).await?;
            read_head(stream).await
        };
        let away = |why: String| ClientError::Connection(format!("{}: {why}", self.name()));
        let head = head.await.map_err(|why| away(why.to_string()))?;
        let line = line_of(&head);
        let status = line.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
        match status {
            Some(200..300) => Ok(()),
            Some(407) => Err(refused(format!(
                "it wants a login, or another one: http://user:password@{}:{}",
                self.host, self.port
            ))),
            // It may reach the gateway later.
            Some(500..) => Err(away(format!("it answers {line:?} to CONNECT {target}"))),
            Some(_) => Err(refused(format!("it answers {line:?} to CONNECT {target}"))),
            None => Err(refused("it does not speak HTTP".to_owned())),
        }
    }
}

/// Byte by byte, since what comes behind it is not the proxy's.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES {
            return Err(io::Error::other("the head of its answer is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..part.len()].copy_from_slice(part);
        let number = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for at in 0..4 {
            let digit = number >> (18 - 6 * at) & 63;
            out.push(match at <= part.len() {
                true => char::from(DIGITS[digit as usize]),
                false => '=',
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(url: &str, set: &[(&str, &str)]) -> String {
        let address = url.parse().unwrap();
        let variable = |name: &str| {
            let one = set.iter().find(|(one, _)| *one == name);
            one.map(|(_, value)| (*value).to_owned())
        };
        match find(&address, variable) {
            Ok(Some(proxy)) => {
                let login = proxy.login.unwrap_or_default();
                format!("{login}@{}:{} {}", proxy.host, proxy.port, proxy.variable)
            }
            Ok(None) => "none".to_owned(),
            Err(why) => why.to_string(),
        }
    }

    #[test]
    fn the_environment_names_the_proxy_and_whom_it_is_not_for() {
        for (url, set, expected) in [
            ("ws://gw", vec![], "none"),
            (
                "ws://gw",
                vec![("HTTP_PROXY", "http://p:3128")],
                "@p:3128 HTTP_PROXY",
            ),
            (
                "ws://gw",
                vec![("HTTP_PROXY", "p:1"), ("http_proxy", "q:2")],
                "@q:2 http_proxy",
            ),
            ("wss://gw", vec![("HTTP_PROXY", "http://p:3128")], "none"),
            (
                "wss://gw",
                vec![("https_proxy", "http://p")],
                "@p:80 https_proxy",
            ),
            (
                "wss://gw",
                vec![("ALL_PROXY", "http://[::1]:8/")],
                "@::1:8 ALL_PROXY",
            ),
            ("ws://gw", vec![("HTTP_PROXY", "")], "none"),
            (
                "ws://gw",
                vec![("http_proxy", "http://u:p%40+%26@p:9")],
                "u:p@+&@p:9 http_proxy",
            ),
            ("ws://localhost:8000", vec![("HTTP_PROXY", "p:1")], "none"),
            ("ws://127.0.0.1:8000", vec![("HTTP_PROXY", "p:1")], "none"),
            (
                "ws://gw.a.b",
                vec![("HTTP_PROXY", "p:1"), ("NO_PROXY", "x, a.b")],
                "none",
            ),
            (
                "ws://gw.a.b",
                vec![("HTTP_PROXY", "p:1"), ("no_proxy", ".B")],
                "none",
            ),
            (
                "ws://gw.a.b",
                vec![("HTTP_PROXY", "p:1"), ("NO_PROXY", "*")],
                "none",
            ),
            (
                "ws://gw.ab",
                vec![("HTTP_PROXY", "p:1"), ("NO_PROXY", "b,")],
                "@p:1 HTTP_PROXY",
            ),
        ] {
            assert_eq!(found(url, &set), expected, "{url} {set:?}");
        }
        for url in [
            "socks5://s3cr3t:1",
            "http://s3cr3t:port",
            "https://s3cr3t",
            "http://",
        ] {
            let why = found("ws://gw", &[("ALL_PROXY", url)]);
            assert!(
                why.contains("ALL_PROXY") && !why.contains("s3cr3t"),
                "{why}"
            );
        }
    }

    #[test]
    fn exceptions_are_hosts_networks_and_ports() {
        for (url, exceptions, is_excepted) in [
            ("ws://10.1.2.3:8000", "10.0.0.0/8", true),
            (
                "ws://10.1.2.3:8000",
                "localhost,172.16.0.0/12, 10.0.0.0/8",
                true,
            ),
            ("ws://11.1.2.3:8000", "10.0.0.0/8", false),
            ("ws://10.1.2.3:8000", "10.1.2.3", true),
            ("ws://10.1.2.3:8000", "10.1.2.3:8000", true),
            ("ws://10.1.2.3:8000", "10.1.2.3:8001", false),
            ("ws://10.1.2.3:8000", "10.0.0.0/8:8000", true),
            ("ws://10.1.2.3:8000", ".2.3", false),
            ("ws://[fd00::1]:8000", "fd00::/8", true),
            ("ws://[fd00::1]:8000", "fd00::1", true),
            ("ws://[fd00:0::1]:8000", "[fd00::1]", true),
            ("ws://[fd00::1]:8000", "[fd00::1]:8000", true),
            ("ws://[fd00::1]:8000", "[fd00::1]:1", false),
            ("ws://[fe00::1]:8000", "fd00::/8", false),
            ("ws://gw.a.b:8000", "a.b:8000", true),
            ("ws://gw.a.b:8000", "*.a.b:8000", true),
            ("ws://gw.a.b:8000", "a.b:80", false),
            ("ws://gw.a.b", "a.b:80", true),
            ("wss://gw.a.b", "a.b:443", true),
            ("ws://gw.a.b", "x a.b", true),
            ("ws://gw.a.b", "*:80", true),
            ("ws://gw.a.b", "0.0.0.0/0, :80, a.b:x", false),
        ] {
            let set = [("ALL_PROXY", "p:1"), ("NO_PROXY", exceptions)];
            let is = found(url, &set) == "none";
            assert_eq!(is, is_excepted, "{url} {exceptions}");
        }
    }

    #[test]
    fn base64_of_the_rfc() {
        for (bytes, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }
}
