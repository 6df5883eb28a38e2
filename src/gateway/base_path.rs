//! The path below which a gateway is, for a proxy that gives it one part of a site.

use std::fmt;
use std::str::FromStr;

/// Longest path: a worker looks so far into a request line.
pub const MAX_BASE_PATH_BYTES: usize = 64;
/// What is there without the path as well: whoever asks for it knows the gateway and no proxy.
const EVERYWHERE: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Empty, or `/bars`, or `/a/b`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BasePath(String);

/// Why a text is no [`BasePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no path to be below; allowed: / and then letters, digits, - . _ ~ and /, as /bars or /site/bars, without a / at its end and without . or .. as a part, at most {MAX_BASE_PATH_BYTES} characters"
)]
pub struct BasePathError(String);

impl FromStr for BasePath {
    type Err = BasePathError;

    fn from_str(text: &str) -> Result<Self, BasePathError> {
        // The unreserved characters (RFC 3986, section 2.3), which nothing between escapes.
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(is_plain);
        let is_path = text
            .strip_prefix('/')
            .is_some_and(|parts| parts.split('/').all(is_part));
        if is_path && text.len() <= MAX_BASE_PATH_BYTES {
            Ok(Self(text.to_owned()))
        } else {
            Err(BasePathError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BasePath {
    /// A request's path as it is without this one; `None` when nothing is there.
    pub fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        if self.0.is_empty() || EVERYWHERE.contains(&path) {
            return Some(path);
        }
        let below = path.strip_prefix(&self.0)?;
        below.starts_with('/').then_some(below)
    }

    /// Whether a request's path is this one without the `/` that a page needs behind it.
    pub fn is_bare(&self, path: &str) -> bool {
        !self.0.is_empty() && path == self.0
    }

    /// As bytes of a request line.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_taken() {
        for good in ["/bars", "/a/b", "/A-z_0.9~", "/.well"] {
            assert_eq!(good.parse::<BasePath>().unwrap().to_string(), good);
        }
        let long = format!("/{}", "a".repeat(MAX_BASE_PATH_BYTES));
        for wrong in [
            "", "/", "bars", "/bars/", "//bars", "/a//b", "/a b", "/ä", "/a%20", "/..", "/a/../b",
            "/.", "/a?b", "/a#b", &long,
        ] {
            let why = wrong.parse::<BasePath>().unwrap_err().to_string();
            assert!(why.contains("allowed: /"), "{why}");
        }
    }

    #[test]
    fn probes_are_at_the_root_too() {
        let below: BasePath = "/bars".parse().unwrap();
        for (path, found) in [
            ("/bars/", Some("/")),
            ("/bars/ws", Some("/ws")),
            ("/bars/healthz", Some("/healthz")),
            ("/healthz", Some("/healthz")),
            ("/metrics", Some("/metrics")),
            ("/bars", None),
            ("/barsx/ws", None),
            ("/ws", None),
            ("/", None),
        ] {
            assert_eq!(below.strip(path), found, "{path}");
        }
        assert_eq!(BasePath::default().strip("/ws"), Some("/ws"));
        assert!(below.is_bare("/bars") && !below.is_bare("/bars/"));
        assert!(!BasePath::default().is_bare(""));
    }
}
