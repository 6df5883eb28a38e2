//! What one client may ask in a time: messages, and requests that are refused.

/// Seconds' worth of messages that a client may send at once.
const BURST_SECONDS: u32 = 10;

/// Requests of one client that may be refused, of which each second forgives one. Enough for a page
/// that asks for a long watchlist topic by topic against a limit; who goes on after that many errors
/// does not listen, and is closed with 1008.
const MAX_REFUSALS: u8 = 100;

/// Two buckets with one clock. It is kept for every client, hence so small.
#[derive(Debug)]
pub struct Allowance {
    /// Messages that may still come.
    messages: u32,
    /// Second in which the buckets were last brought up to date.
    at: u32,
    /// Refused requests that are not forgiven yet.
    refusals: u8,
}

impl Allowance {
    /// Full, for `rate` messages per second, in second `now`.
    pub fn new(rate: u32, now: u32) -> Self {
        Self {
            messages: rate.saturating_mul(BURST_SECONDS),
            at: now,
            refusals: 0,
        }
    }

    /// Takes `cost` messages in second `now`, after adding `rate` for each second passed; `false` where
    /// that many are not left.
    #[must_use]
    pub fn take(&mut self, cost: u32, rate: u32, now: u32) -> bool {
        let passed = now.saturating_sub(std::mem::replace(&mut self.at, now));
        let forgiven = u8::try_from(passed).unwrap_or(u8::MAX);
        self.refusals = self.refusals.saturating_sub(forgiven);
        self.messages = passed
            .saturating_mul(rate)
            .saturating_add(self.messages)
            .min(rate.saturating_mul(BURST_SECONDS));
        let left = self.messages.checked_sub(cost);
        self.messages = left.unwrap_or(0);
        left.is_some()
    }

    /// Notes a refused request, whose message was taken before; `false` where it is one too many.
    #[must_use]
    pub fn refuse(&mut self) -> bool {
        self.refusals = self.refusals.saturating_add(1);
        self.refusals <= MAX_REFUSALS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_by_the_second_up_to_a_burst() {
        let mut allowance = Allowance::new(3, 5);
        assert!((0..30).all(|_| allowance.take(1, 3, 5)));
        assert!(!allowance.take(1, 3, 5));
        assert!(allowance.take(3, 3, 6));
        assert!(!allowance.take(1, 3, 6));
        assert!(allowance.take(30, 3, 1_000));
        assert!(!allowance.take(1, 3, 1_000));
    }

    #[test]
    fn refusals_are_forgiven_one_a_second() {
        let mut allowance = Allowance::new(1_000, 7);
        let mut refuse = |second| {
            assert!(allowance.take(1, 1_000, second));
            allowance.refuse()
        };
        assert!((0..MAX_REFUSALS).all(|_| refuse(7)));
        assert!(!refuse(7));
        // Two seconds later there is room for one more than came since.
        assert!(refuse(9));
        assert!(!refuse(9));
        // Ever so slowly is no persistence.
        assert!((1_000..2_000).all(&mut refuse));
    }
}
