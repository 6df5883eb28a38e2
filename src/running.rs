//! Time in which this thread ran: whoever is judged by a clock must not be judged by time in which we did not look.
//!
//! A process that is stopped (SIGSTOP), a machine that is moved or asleep, or a thread that gets no processor lets all
//! deadlines pass at once, and what came meanwhile lies unread. So each thread that judges keeps a clock of its own: it
//! ticks, and of a pause between two ticks no more than a second counts.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt;
use tokio::time::{MissedTickBehavior, interval};

/// How often a thread notes that it runs.
const TICK: Duration = Duration::from_millis(250);
/// Longest time between two looks that counts: what is more it did not run.
const MAX_STEP: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Clock {
    /// When it was last known to run; `None` where nobody keeps this clock, which then is like any other.
    seen: Option<Instant>,
    /// Time in which it did not.
    lost: Duration,
    pause: Option<Pause>,
}

/// A time in which this thread did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When it ended, by this clock.
    pub ended: Instant,
    pub length: Duration,
}

thread_local! {
    static CLOCK: Cell<Clock> = const {
        Cell::new(Clock { seen: None, lost: Duration::ZERO, pause: None })
    };
}

impl Clock {
    fn look(&mut self, now: Instant) -> Instant {
        if let Some(seen) = self.seen {
            let length = now.saturating_duration_since(seen);
            if length > MAX_STEP {
                // A step of it counts: a thread that is slow all the time would else never come to an end.
                self.lost += length - MAX_STEP;
                self.seen = Some(now);
                self.pause = Some(Pause {
                    ended: self.shifted(now),
                    length,
                });
            }
        }
        self.shifted(now)
    }

    fn shifted(&self, now: Instant) -> Instant {
        now.checked_sub(self.lost).unwrap_or(now)
    }
}

/// Now, by this thread's clock. Only to be compared with others of it.
pub fn now() -> Instant {
    let mut clock = CLOCK.get();
    let now = clock.look(Instant::now());
    CLOCK.set(clock);
    now
}

/// The last pause, if there was one.
pub fn last_pause() -> Option<Pause> {
    CLOCK.get().pause
}

/// The clock is kept while this lives.
struct Kept;

impl Drop for Kept {
    fn drop(&mut self) {
        let mut clock = CLOCK.get();
        clock.seen = None;
        CLOCK.set(clock);
    }
}

/// Keeps this thread's clock, for ever, and calls `paused` with the length of each pause. For runtimes of one thread.
pub async fn keep(paused: impl Fn(Duration)) {
    let _kept = Kept;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = last_pause();
    loop {
        tick.tick().await;
        now();
        let mut clock = CLOCK.get();
        clock.seen = Some(Instant::now());
        CLOCK.set(clock);
        if clock.pause != told {
            told = clock.pause;
            told.inspect(|pause| paused(pause.length));
        }
    }
}

/// Ends when this thread has run for so long.
#[derive(Debug)]
pub struct Sleep {
    due: Instant,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl Sleep {
    /// From now on once more.
    pub fn reset(&mut self, duration: Duration) {
        *self = sleep(duration);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let left = self.due.saturating_duration_since(now());
            if left.is_zero() {
                return Poll::Ready(());
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            let again = tokio::time::Instant::now() + left;
            self.timer.as_mut().reset(again);
        }
    }
}

/// Waits until this thread has run for `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    let now = now();
    Sleep {
        due: now.checked_add(duration).unwrap_or(now),
        timer: Box::pin(tokio::time::sleep(duration)),
    }
}

/// What `future` gives, or `None` once this thread has run for `duration` without it.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Option<F::Output> {
    let (mut future, mut sleep) = (pin!(future), sleep(duration));
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Pin::new(&mut sleep).poll(context).map(|()| None),
    })
    .await
}

/// hyper's time-outs by this clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timer;

impl rt::Sleep for Sleep {}

impl rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(sleep(duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep(deadline.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_do_not_count_and_steps_do() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = Clock {
            seen: Some(start),
            lost: Duration::ZERO,
            pause: None,
        };
        assert_eq!(clock.look(at(900)), at(900));
        assert_eq!(clock.pause, None);
        clock.seen = Some(at(900));
        assert_eq!(clock.look(at(60_900)), at(1_900), "a minute that was none");
        let length = Duration::from_secs(60);
        let ended = at(1_900);
        assert_eq!(clock.pause, Some(Pause { ended, length }));
        assert_eq!(clock.look(at(61_000)), at(2_000));
        clock.seen = None;
        assert_eq!(clock.look(at(90_000)), at(31_000), "nobody keeps it");
    }

    /// As on a machine that is far too slow: what must end, as a drain, ends all the same.
    #[test]
    fn a_thread_that_is_always_slow_gets_on() {
        let start = Instant::now();
        let mut clock = Clock {
            seen: Some(start),
            lost: Duration::ZERO,
            pause: None,
        };
        for step in 1..=10 {
            let now = clock.look(start + step * Duration::from_millis(1_500));
            assert_eq!(now, start + step * MAX_STEP);
        }
    }
}
