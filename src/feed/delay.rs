//! How far a symbol's feed is behind the clock by itself: delayed data of exchanges, a slow clock.

/// Rows whose distances to the clock are looked at: enough that one held-up row says nothing.
const DELAY_ROWS: usize = 20;

/// The distances of a symbol's last rows to the clock, at the moment at which they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Delay {
    /// In ms; the oldest is replaced.
    recent: [u32; DELAY_ROWS],
    seen: usize,
}

impl Delay {
    /// Notes a row that came at `now` and is of `time`, both in ms since the epoch.
    pub fn arrived(&mut self, now: i64, time: i64) {
        let distance = now.saturating_sub(time).max(0);
        self.recent[self.seen % DELAY_ROWS] = u32::try_from(distance).unwrap_or(u32::MAX);
        self.seen += 1;
    }

    /// The smallest of the distances, in ms, and at most `most`.
    pub fn ms(&self, most: i64) -> i64 {
        let known = self.recent.iter().take(self.seen);
        known.min().map_or(0, |ms| i64::from(*ms).min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_distance_of_the_last_rows_counts() {
        let mut delay = Delay::default();
        assert_eq!(delay.ms(1_000), 0);
        delay.arrived(90_000, 10_000);
        assert_eq!(delay.ms(3_600_000), 80_000);
        assert_eq!(delay.ms(60_000), 60_000, "bounded");
        delay.arrived(90_000, 89_000);
        assert_eq!(delay.ms(3_600_000), 1_000);
        delay.arrived(90_000, 95_000);
        assert_eq!(delay.ms(3_600_000), 0, "ahead is no delay");
        for _ in 0..DELAY_ROWS {
            delay.arrived(100_000, 70_000);
        }
        assert_eq!(delay.ms(3_600_000), 30_000, "what came before is forgotten");
    }
}
