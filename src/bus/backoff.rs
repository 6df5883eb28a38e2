//! How long to wait before the next attempt to connect.

use std::time::{Duration, Instant};

/// First wait: short, since most breaks are restarts.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait: a person who restarts Redis should not have to wait longer for its gateways.
const LONGEST: Duration = Duration::from_secs(5);

/// First wait of a client, at most: those of a gateway that went away come back spread over it.
const FIRST_OF_CLIENTS: Duration = Duration::from_secs(2);

/// A connection that stood for so long was no failed attempt.
const STEADY: Duration = Duration::from_secs(5);

/// Doubling waits with jitter, so that a thousand gateways do not come back in the same instant
/// (Brooker, "Exponential Backoff And Jitter", 2015): in their upper half ("equal jitter"), or in all of
/// it ("full jitter").
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    next: Duration,
    is_full: bool,
    random: fastrand::Rng,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: FIRST,
            next: FIRST,
            is_full: false,
            random: fastrand::Rng::new(),
        }
    }
}

impl Backoff {
    /// That of clients, of whom there are many more than gateways: full jitter.
    pub fn of_clients() -> Self {
        Self {
            first: FIRST_OF_CLIENTS,
            next: FIRST_OF_CLIENTS,
            is_full: true,
            ..Self::default()
        }
    }

    /// The wait before the next attempt.
    pub fn wait(&mut self) -> Duration {
        let longest = self.next;
        self.next = (self.next * 2).min(LONGEST);
        let shortest = if self.is_full {
            Duration::ZERO
        } else {
            longest / 2
        };
        shortest + (longest - shortest).mul_f64(self.random.f64())
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
        self.next = self.first;
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

    /// As the clients of a gateway that went away: no tenth of the seconds has much more than its share.
    #[test]
    fn clients_come_back_spread() {
        const TENTHS: usize = 10;
        let mut tenths = [0; TENTHS];
        for _ in 0..1_000 {
            let wait = Backoff::of_clients().wait();
            assert!(wait <= FIRST_OF_CLIENTS);
            let tenth = wait.as_millis() * TENTHS as u128 / FIRST_OF_CLIENTS.as_millis();
            tenths[(tenth as usize).min(TENTHS - 1)] += 1;
        }
        assert!(tenths.iter().all(|n| (50..200).contains(n)), "{tenths:?}");
    }
}
