use std::fmt;
use std::str::FromStr;

use hyper::Uri;

/// The path of a gateway's WebSocket, and what a URL without one means.
const PATH: &str = "/api/v1/ws";
/// Both paths that a gateway answers; whatever stands before them is a proxy's.
const PATHS: [&str; 2] = [PATH, "/ws"];

/// Where a gateway is: `ws://host[:port][/path]` or `wss://…`.
///
/// Shown without its query, which may hold a secret of a proxy's.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub is_tls: bool,
    /// A name or an IP address, the latter without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query.
    target: String,
}

/// Why a text is not an [`Address`]. Never holds the text, in which there may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}; allowed: ws://host[:port][/path] or wss://host[:port][/path]")]
pub struct AddressError(&'static str);

impl Address {
    /// What the request line of the handshake names.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The path of one of the gateway's other routes, such as `/healthz`, behind the same proxy.
    pub fn beside(&self, route: &str) -> String {
        let path = self.path();
        let before = PATHS.iter().find_map(|known| path.strip_suffix(known));
        format!("{}{route}", before.unwrap_or_default())
    }

    /// Host and port as the `Host` header wants them.
    pub fn authority(&self) -> String {
        let host = &self.host;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        let default = if self.is_tls { 443 } else { 80 };
        if self.port == default {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let uri: Uri = text.parse().map_err(|_| AddressError("not a URL"))?;
        let is_tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(AddressError("not a WebSocket's URL")),
        };
        let authority = uri.authority().ok_or(AddressError("no host"))?;
        if authority.as_str().contains('@') {
            return Err(AddressError("a user or password is not sent"));
        }
        let host = authority.host().trim_matches(['[', ']']);
        // `Uri` takes what is no number for no port at all.
        let has_port = authority.as_str().len() > authority.host().len();
        let port = match (authority.port_u16(), has_port) {
            (Some(port), _) if port > 0 => port,
            (None, false) if is_tls => 443,
            (None, false) => 80,
            _ => return Err(AddressError("the port is not one of 1 to 65535")),
        };
        if host.is_empty() {
            return Err(AddressError("no host"));
        }
        let path = if uri.path().len() > 1 {
            uri.path()
        } else {
            PATH
        };
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        Ok(Self {
            is_tls,
            host: host.to_owned(),
            port,
            target,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_what_they_mean() {
        for (text, shown, target, beside) in [
            (
                "ws://h:8000/api/v1/ws",
                "ws://h:8000/api/v1/ws",
                "/api/v1/ws",
                "/healthz",
            ),
            ("ws://h", "ws://h/api/v1/ws", "/api/v1/ws", "/healthz"),
            ("wss://h/", "wss://h/api/v1/ws", "/api/v1/ws", "/healthz"),
            (
                "wss://h:444/a/ws?k=s",
                "wss://h:444/a/ws",
                "/a/ws?k=s",
                "/a/healthz",
            ),
            (
                "ws://h?k=s",
                "ws://h/api/v1/ws",
                "/api/v1/ws?k=s",
                "/healthz",
            ),
            ("ws://[::1]:80/ws", "ws://[::1]/ws", "/ws", "/healthz"),
            ("ws://h/other", "ws://h/other", "/other", "/healthz"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!(address.target(), target, "{text}");
            assert_eq!(address.beside("/healthz"), beside, "{text}");
        }
        let address: Address = "ws://[::1]:8000".parse().unwrap();
        assert_eq!((address.host.as_str(), address.port), ("::1", 8000));
    }

    #[test]
    fn what_is_no_gateway_is_refused_without_repeating_it() {
        for text in [
            "http://secret/ws",
            "secret:8000",
            "secret",
            "ws://",
            "ws://user:secret@h/ws",
            "ws://secret:0/ws",
            "ws://secret:99999/ws",
            "ws://secret:port/ws",
            "ws://se cret/ws",
            "",
        ] {
            let why = text.parse::<Address>().unwrap_err().to_string();
            assert!(
                why.contains("ws://host") && !why.contains("secret"),
                "{text}: {why}"
            );
        }
    }
}
