//! The gateway's time: this machine's clock may be wrong, or be put right while we look.

use std::time::Instant;

use hyper::HeaderMap;
use hyper::header::DATE;

use crate::clock::now_ms;

/// What time it is at the gateway, counted on by a clock that cannot jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayTime {
    /// ms since the epoch, at `at`.
    ms: i64,
    at: Instant,
}

impl GatewayTime {
    /// From the `Date` of an answer that came just now: right to a second and the time of the way.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let date = headers.get(DATE)?.to_str().ok()?;
        let date = jiff::fmt::rfc2822::parse(date).ok()?;
        Some(Self {
            ms: date.timestamp().as_millisecond(),
            at: Instant::now(),
        })
    }

    /// This machine's, where no gateway tells another.
    pub fn here() -> Self {
        Self {
            ms: now_ms(),
            at: Instant::now(),
        }
    }

    /// At `now`, in ms since the epoch.
    pub fn ms_at(self, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.at).as_millis();
        self.ms
            .saturating_add_unsigned(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_date_counts_on() {
        let mut headers = HeaderMap::new();
        assert_eq!(GatewayTime::of(&headers), None);
        headers.insert(DATE, "Thu, 01 Jan 1970 00:01:00 GMT".parse().unwrap());
        let time = GatewayTime::of(&headers).unwrap();
        assert_eq!(time.ms_at(time.at + Duration::from_secs(2)), 62_000);
        headers.insert(DATE, "soon".parse().unwrap());
        assert_eq!(GatewayTime::of(&headers), None);
    }
}
