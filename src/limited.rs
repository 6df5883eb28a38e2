//! Warnings at a bounded rate, so that a stream of bad input cannot fill a disk.

use std::time::{Duration, Instant};

use crate::bar::Malformed;

/// Warnings of one kind that are let through in one period.
const BURST: u32 = 5;
const PERIOD: Duration = Duration::from_secs(10);
/// Bytes of a malformed payload that are logged.
const LOGGED_BYTES: usize = 120;

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

    /// Tells of a message that was dropped, with its channel and first bytes.
    pub fn malformed(&mut self, channel: &str, payload: &[u8], why: &Malformed) {
        self.say(|left_out| {
            let start = &payload[..payload.len().min(LOGGED_BYTES)];
            tracing::warn!(
                channel = channel.chars().take(LOGGED_BYTES).collect::<String>(),
                payload = %start.escape_ascii(),
                bytes = payload.len(),
                %why,
                left_out,
                "malformed message dropped"
            );
        });
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
