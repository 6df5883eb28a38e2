use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One clock for planned and arrival times, in µs since the epoch. It is set once from the system's
/// and then only ticks, so that a correction of the system's clock is not taken for latency.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    start_us: u64,
}

impl Clock {
    /// Set from the system's clock.
    pub fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            start: Instant::now(),
            start_us: micros(since.unwrap_or_default()),
        }
    }

    /// Now.
    #[inline]
    pub fn now_us(&self) -> u64 {
        self.start_us + micros(self.start.elapsed())
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
