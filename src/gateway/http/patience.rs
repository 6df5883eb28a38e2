//! How long a worker waits for places before it accepts the next connection.
//!
//! In a rush of honest clients each place is free again after a round trip, so the rest of them wait with the kernel,
//! where they cost no file. A flood would keep everybody waiting there, so all waiting is bounded: beyond it whoever
//! finds no place is refused at once, and the next is looked at.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::places::{Place, Taken};
use crate::gateway::worker::Worker;
use crate::running::sleep;

/// Between two looks whether a connection just accepted has a place.
const PLACE_POLL: Duration = Duration::from_millis(1);
/// A worker's waiting at once: a rush of four times as many as there are places is over then, and a probe's time-out
/// is not.
pub const MAX_STANDING: Duration = Duration::from_millis(500);
/// Of the time that passes one part in so many may be waited again.
const REGAINED_PART: u32 = 2;
/// Connections that lost their place are closed at once; one that is not stops nobody for longer.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(1);

/// What is left of one worker's waiting.
#[derive(Debug)]
pub struct Patience {
    left: Duration,
    /// None was left, and half of it is not regained: in small pieces it would slow down every newcomer.
    is_spent: bool,
    seen: Instant,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            left: MAX_STANDING,
            is_spent: false,
            seen: Instant::now(),
        }
    }
}

impl Patience {
    fn regain(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.seen);
        self.left = MAX_STANDING.min(self.left + passed / REGAINED_PART);
        self.is_spent &= self.left < MAX_STANDING / 2;
        self.seen = now;
    }

    fn spend(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.seen);
        self.left = self.left.saturating_sub(passed);
        self.is_spent |= self.left.is_zero();
        self.seen = now;
    }

    /// A place for a connection that is no session yet; `None` when others need them more. Others wait with the
    /// kernel meanwhile, so that no more files are open than there are places.
    pub async fn place_for(&mut self, worker: &Worker, address: IpAddr) -> Option<Place> {
        let asked = Instant::now();
        self.regain(asked);
        loop {
            match worker.http_connection(address, !self.is_spent) {
                Taken::Free(place) | Taken::Evicted(place) => return Some(place),
                Taken::Refused => return None,
                Taken::Soon => {
                    sleep(PLACE_POLL).await;
                    self.spend(Instant::now());
                }
                Taken::Closing if asked.elapsed() < CLOSING_TIMEOUT => {
                    sleep(PLACE_POLL).await;
                    self.seen = Instant::now();
                }
                Taken::Closing => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_bounded_and_comes_back() {
        let mut patience = Patience::default();
        let start = patience.seen;
        let at = |ms| start + Duration::from_millis(ms);
        patience.spend(at(400));
        assert_eq!(patience.left, Duration::from_millis(100));
        patience.spend(at(600));
        assert!(patience.is_spent);
        patience.regain(at(800));
        assert!(patience.is_spent, "{:?}", patience.left);
        patience.regain(at(1_200));
        assert!(!patience.is_spent, "{:?}", patience.left);
        patience.regain(at(60_000));
        assert_eq!(patience.left, MAX_STANDING);
    }
}
