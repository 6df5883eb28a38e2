//! Which clients are silent.
//!
//! A ping that waits behind other bytes is not yet asked: its clock starts when the client's TCP has
//! taken it, and as long as that takes what stands before it the client is slow and not silent. Looked
//! at only where a ping is due and the last one is not answered, so an answered ping costs nothing.

use std::collections::HashMap;

use super::hub::SessionId;
use super::sent::{Kernel, Sent};
use super::session::Connection;

/// A client that has not answered its last ping.
#[derive(Debug)]
struct Watch {
    /// Bytes that its TCP has taken when it has that ping; none when it has.
    ping_at: Option<u64>,
    /// Bytes that it had taken at the last look.
    acked: u64,
    /// Since when it is silent, in the worker's seconds.
    since: u32,
}

/// A worker's clients that have not answered.
#[derive(Debug, Default)]
pub(super) struct Silences(HashMap<SessionId, Watch>);

impl Silences {
    /// Forgets those that `is_here` knows no more.
    pub fn keep(&mut self, is_here: impl Fn(SessionId) -> bool) {
        self.0.retain(|id, _| is_here(*id));
    }

    /// Whether a client whose bytes came last at `heard` is silent at `now` for two of its periods, by
    /// what `look` says its TCP took. `waiting` bytes are not even in its socket.
    fn judge(
        &mut self,
        id: SessionId,
        (heard, now, period): (u32, u32, u32),
        waiting: u64,
        look: impl FnOnce() -> Option<Sent>,
    ) -> bool {
        let is_over = |since: u32| now.saturating_sub(since) > period.saturating_mul(2);
        if now.saturating_sub(heard) <= period {
            self.0.remove(&id);
            return false;
        }
        let Some(sent) = look() else {
            return is_over(heard);
        };
        let stands = u64::from(sent.queued) + waiting;
        let watch = self.0.entry(id).or_insert_with(|| Watch {
            ping_at: (stands > 0).then_some(sent.acked + stands),
            acked: sent.acked,
            since: heard,
        });
        if let Some(ping_at) = watch.ping_at
            && sent.acked > watch.acked
        {
            watch.since = now;
            if sent.acked >= ping_at || stands == 0 {
                watch.ping_at = None;
            }
        }
        watch.acked = sent.acked;
        watch.since = watch.since.max(heard);
        is_over(watch.since)
    }
}

/// One round's judge; the kernel is asked only when somebody has not answered.
pub(super) struct Judge<'a> {
    silences: &'a mut Silences,
    kernel: Option<Option<Kernel>>,
    now: u32,
    period: u32,
    /// Silence before that second does not count.
    woken: u32,
}

impl<'a> Judge<'a> {
    /// The judge at second `now`, of clients that are pinged every `period` seconds.
    pub fn new(silences: &'a mut Silences, now: u32, period: u32) -> Self {
        Self {
            silences,
            kernel: None,
            now,
            period,
            woken: 0,
        }
    }

    /// Silence counts from that second on: before it this process did not run.
    pub fn since(self, woken: u32) -> Self {
        Self { woken, ..self }
    }

    /// Whether the client is silent; asked once in a period. `waiting` bytes wait in the outbox.
    pub fn is_silent(&mut self, id: SessionId, connection: &Connection, waiting: usize) -> bool {
        let kernel = &mut self.kernel;
        let look = || {
            // Said at the start if it cannot be.
            let kernel = kernel.get_or_insert_with(|| Kernel::open().ok());
            kernel.as_ref()?.sent(&connection.stream)
        };
        let heard = connection.heard.get().max(self.woken);
        let times = (heard, self.now, self.period);
        self.silences.judge(id, times, waiting as u64, look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each look, a period after the other, finds: bytes taken, bytes queued, bytes waiting; the
    /// client never says anything. Tells at which of them it is silent.
    fn silent_at(looks: impl IntoIterator<Item = Option<(u64, u32, u64)>>) -> Option<u32> {
        const PERIOD: u32 = 10;
        let mut silences = Silences::default();
        for (nth, look) in (1..).zip(looks) {
            let waiting = look.map_or(0, |(_, _, waiting)| waiting);
            let sent = look.map(|(acked, queued, _)| Sent { acked, queued });
            // Heard just after the ping at second 0.
            if silences.judge(7, (1, nth * PERIOD, PERIOD), waiting, || sent) {
                return Some(nth);
            }
        }
        None
    }

    #[test]
    fn a_client_is_silent_from_when_its_ping_has_left() {
        for (what, expected, looks) in [
            ("nothing is known", 3, vec![None; 9]),
            ("all was taken at once", 3, vec![Some((100, 0, 0)); 9]),
            ("nothing is taken", 3, vec![Some((100, 50, 0)); 9]),
            ("nothing is taken, more waits", 3, vec![Some((0, 5, 9)); 9]),
            (
                "it takes some of it, and then nothing",
                6,
                [100, 200, 300, 300, 300, 300]
                    .map(|acked| Some((acked, 1_000, 0)))
                    .to_vec(),
            ),
            (
                "it takes it all, the ping too, and goes on with what came behind",
                7,
                (0..9).map(|n| Some((100 + n * 60, 100, 0))).collect(),
            ),
        ] {
            assert_eq!(silent_at(looks), Some(expected), "{what}");
        }
    }

    #[test]
    fn a_client_that_takes_what_stands_before_its_ping_is_not_silent() {
        let queue = (0..100).map(|n| Some((n * 10, u32::try_from(1_000 - n * 10).unwrap(), 0)));
        assert_eq!(silent_at(queue), None);
        let outbox = (0..100).map(|n| Some((n * 10, 500, 1_000 - n * 10)));
        assert_eq!(silent_at(outbox), None);
    }

    #[test]
    fn an_answer_begins_anew() {
        let mut silences = Silences::default();
        let stuck = || {
            Some(Sent {
                acked: 0,
                queued: 9,
            })
        };
        assert!(!silences.judge(7, (0, 20, 10), 0, stuck));
        assert!(!silences.judge(7, (25, 30, 10), 0, || panic!("not asked")));
        assert!(silences.0.is_empty());
        assert!(!silences.judge(7, (25, 40, 10), 0, stuck));
        silences.keep(|_| false);
        assert!(silences.0.is_empty());
    }
}
