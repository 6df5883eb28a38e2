use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// One clock for planned and arrival times, in µs since the epoch. It is set once from the system's
/// and then only ticks, so that a correction of the system's clock is not taken for latency. A copy in
/// another process of this machine shows the same time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Clock {
    /// The machine's monotonic clock when this one was set, and what this one showed then.
    start: Duration,
    start_us: u64,
}

/// The clock that all processes of a machine share (clock_gettime(2)); `Instant` reads the same one
/// and does not tell it.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .expect("every Linux has this clock")
        .into()
}

impl Clock {
    /// Set from the system's clock.
    pub fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            start: monotonic(),
            start_us: micros(since.unwrap_or_default()),
        }
    }

    /// Now.
    #[inline]
    pub fn now_us(&self) -> u64 {
        self.start_us + micros(monotonic().saturating_sub(self.start))
    }

    /// Sleeps until `us`, which may lie in the past.
    pub fn sleep_until(&self, us: u64) {
        let left = us.saturating_sub(self.now_us());
        if left > 0 {
            std::thread::sleep(Duration::from_micros(left));
        }
    }
}

/// Whole microseconds, for hundreds of thousands of years.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
