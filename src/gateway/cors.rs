//! Which pages of other origins may read our JSON (the Fetch standard, "CORS protocol").
//!
//! Only public data that needs no log-in is shared so, and never with credentials.

use std::str::FromStr;

use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Response, StatusCode, Uri};

use super::documents::{ASYNCAPI_PATH, OPENAPI_PATH};
use super::http::Answer;

/// Seconds for which a browser need not ask again; browsers cut it to two hours or less.
const PREFLIGHT_SECONDS: &str = "7200";

/// Whose pages may read what is shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cors {
    /// Pages of this gateway's own origin only.
    #[default]
    Off,
    /// Every page.
    Any,
    /// Pages of these origins, as browsers write them.
    Listed(Vec<String>),
}

/// Why a text names no origins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no origin; allowed: * by itself, or a comma-separated list such as https://charts.example.com,http://localhost:5173"
)]
pub struct OriginError(String);

/// An origin as browsers send it (RFC 6454, section 6.2): scheme, host and port in lower case, without
/// a path and without the scheme's own port. Anything else would never match.
fn is_origin(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return false;
    };
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    let bare = text.len() == scheme.len() + "://".len() + authority.as_str().len();
    // A star is a legal character of a host, but no browser sends it, and it would promise too much.
    let named = !authority.host().is_empty() && !authority.as_str().contains(['@', '*']);
    let port = authority.as_str().strip_prefix(authority.host());
    let port_fits = match authority.port_u16() {
        Some(port) => port != default,
        None => port == Some(""),
    };
    lower && bare && named && port_fits
}

impl FromStr for Cors {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let origin = |text: &str| match text.trim() {
            origin if is_origin(origin) => Ok(origin.to_owned()),
            other => Err(OriginError(other.chars().take(80).collect())),
        };
        let origins = text.split(',').map(origin).collect::<Result<_, _>>()?;
        Ok(Self::Listed(origins))
    }
}

impl Cors {
    /// Whether pages of other origins may read what is at `path`.
    pub fn shares(&self, path: &str) -> bool {
        let public = ["/api/v1/topics", ASYNCAPI_PATH, OPENAPI_PATH];
        *self != Self::Off && (public.contains(&path) || path.starts_with("/udf/"))
    }

    /// Says in an answer who may read it.
    pub fn mark(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        match self {
            Self::Off => {}
            Self::Any => {
                answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            Self::Listed(origins) => {
                // Also without a match: a cache must not give one origin's answer to another.
                answer.insert(VARY, HeaderValue::from_static("Origin"));
                let asked = request.get(ORIGIN);
                if let Some(origin) = asked.filter(|asked| origins.iter().any(|o| **asked == **o)) {
                    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                }
            }
        }
    }
}

/// The answer to a preflight, before [`Cors::mark`]. Every header may be sent: none is looked at.
pub fn preflight() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_taken_as_browsers_write_them() {
        assert_eq!("*".parse(), Ok(Cors::Any));
        let two = "https://a.example, http://localhost:5173".parse();
        let listed = ["https://a.example", "http://localhost:5173"].map(str::to_owned);
        assert_eq!(two, Ok(Cors::Listed(listed.into())));
        assert!("http://[::1]:8080".parse::<Cors>().is_ok());
        for wrong in [
            "",
            ",",
            "https://a.example,",
            "*,https://a.example",
            "a.example",
            "https://a.example/",
            "https://a.example/page",
            "https://a.example?x",
            "https://A.example",
            "HTTPS://a.example",
            "https://a.example:443",
            "http://a.example:80",
            "http://a.example:",
            "http://a.example:99999",
            "http://user@a.example",
            "https://*.example",
            "ftp://a.example",
            "null",
            "https://",
        ] {
            let parsed = wrong.parse::<Cors>();
            assert!(parsed.is_err(), "{wrong}: {parsed:?}");
        }
    }
}
