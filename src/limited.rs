//! Warnings at a bounded rate, so that a stream of bad input cannot fill a disk.

use std::time::{Duration, Instant};

/// Warnings of one kind that are let through in one period.
const BURST: u32 = 5;
const PERIOD: Duration = Duration::from_secs(10);

/// Lets the first few warnings of each period through and counts the others.
#[derive(Debug, Default)]
pub struct Limited {
    since: Option<Instant>,
    said: u32,
    left_out: u64,
}

impl Limited {
    /// Calls `say` with the number of warnings left out before it, or counts one more.
    pub fn say(&mut self, say: impl FnOnce(u64)) {
        if self.since.is_none_or(|since| since.elapsed() >= PERIOD) {
            self.since = Some(Instant::now());
            self.said = 0;
        }
        if self.said < BURST {
            self.said += 1;
            say(std::mem::take(&mut self.left_out));
        } else {
            self.left_out += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_a_few_and_counts_the_rest() {
        let mut limited = Limited::default();
        let mut said = Vec::new();
        for _ in 0..20 {
            limited.say(|left_out| said.push(left_out));
        }
        assert_eq!(said, [0; BURST as usize]);
        limited.since = Instant::now().checked_sub(PERIOD);
        limited.say(|left_out| said.push(left_out));
        assert_eq!(said.last(), Some(&15));
    }
}
