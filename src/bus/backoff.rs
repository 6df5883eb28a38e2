//! How long to wait before the next attempt to connect.

use std::time::{Duration, Instant};

/// First wait: short, since most breaks are restarts.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait: a person who restarts Redis should not have to wait longer for its gateways.
const LONGEST: Duration = Duration::from_secs(5);

/// A connection that stood for so long was no failed attempt.
const STEADY: Duration = Duration::from_secs(5);

/// Doubling waits with full jitter in their upper half, so that a thousand gateways do not come back
/// in the same instant (Brooker, "Exponential Backoff And Jitter", 2015: "equal jitter").
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    random: fastrand::Rng,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            next: FIRST,
            random: fastrand::Rng::new(),
        }
    }
}

impl Backoff {
    /// The wait before the next attempt.
    pub fn wait(&mut self) -> Duration {
        let half = self.next / 2;
        self.next = (self.next * 2).min(LONGEST);
        half + half.mul_f64(self.random.f64())
    }

    /// A connection ended that stood since then, if it ever did: only a steady one lets the waits start
    /// again, so that a server that takes every connection and ends it is not asked ten times a second.
    pub fn ended(&mut self, stood: Option<Instant>) {
        if stood.is_some_and(|stood| stood.elapsed() >= STEADY) {
            self.reset();
        }
    }

    /// All is well: the next break starts with the first wait again.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_again() {
        let mut backoff = Backoff::default();
        let mut expected = FIRST;
        for _ in 0..12 {
            let wait = backoff.wait();
            assert!(wait >= expected / 2 && wait <= expected, "{wait:?}");
            expected = (expected * 2).min(LONGEST);
        }
        backoff.ended(None);
        backoff.ended(Some(Instant::now()));
        assert!(backoff.wait() > FIRST, "it did not stand long enough");
        backoff.ended(Instant::now().checked_sub(STEADY));
        assert!(backoff.wait() <= FIRST);
    }
}
