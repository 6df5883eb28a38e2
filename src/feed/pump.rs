//! From the queue of rows to the bus, until the source ends, or until it is stopped.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::source::Chunk;
use super::{CHUNK_BARS, FLUSH_ROWS, FeedError, Market};
use crate::bus::Publisher;
use crate::clock::now_ms;
use crate::generator::outlet::{Outlet, STOP_WAIT, TEND_INTERVAL};

/// A source that was stopped and hands nothing over for so long has handed over all, or waits for a pipe.
const REST_WAIT: Duration = Duration::from_millis(100);

/// Ends so long after `stop` as what was read may take to be published, once `stop` is seen.
pub(super) fn late(stop: &CancellationToken) -> CancellationToken {
    let (stop, late) = (stop.clone(), CancellationToken::new());
    let ends = late.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        sleep(TEND_INTERVAL + STOP_WAIT).await;
        ends.cancel();
    });
    late
}

/// Publishes what is read until the source ends, or until `stop`, and then what was read before it, until `last`.
pub(super) fn pump<P: Publisher>(
    market: &mut Market,
    rows: &Receiver<Chunk>,
    outlet: &mut Outlet<P>,
    handle: &Handle,
    [stop, last]: [&CancellationToken; 2],
) -> Result<(), FeedError> {
    let flush = market.config.flush;
    let mut due = Instant::now() + flush;
    let mut ended = Ok(false);
    while matches!(ended, Ok(false)) {
        if stop.is_cancelled() {
            market.take_rest(rows);
            ended = Ok(true);
        } else {
            if outlet.is_tend_due() {
                handle.block_on(outlet.tend(stop));
            }
            let wait = due.saturating_duration_since(Instant::now());
            ended = market.take_next(rows, wait.min(TEND_INTERVAL), due);
            if matches!(ended, Ok(true)) && !stop.is_cancelled() {
                market.mark.read(Some(now_ms()), false);
            }
            let goes_on = matches!(ended, Ok(false));
            if goes_on && market.pending < FLUSH_ROWS && Instant::now() < due {
                continue;
            }
        }
        due = Instant::now() + flush;
        let mut messages = Vec::new();
        market.drain(&mut messages);
        let mut published = 0;
        for chunk in messages.chunks_mut(CHUNK_BARS) {
            if !handle.block_on(outlet.deliver(chunk, last)) {
                break;
            }
            published += chunk.len();
        }
        outlet.give_up(messages.len() - published);
        market.given_up += messages.len() - published;
    }
    ended.map(|_| ())
}

impl Market {
    /// Waits for rows and takes them. `true` at the end of the source.
    fn take_next(
        &mut self,
        rows: &Receiver<Chunk>,
        wait: Duration,
        due: Instant,
    ) -> Result<bool, FeedError> {
        match rows.recv_timeout(wait) {
            Ok(Chunk::Rows { rows, mark, behind }) => {
                rows.into_iter().for_each(|row| self.take(row));
                self.mark.read(mark, behind);
            }
            Ok(Chunk::Failed(why)) => return Err(FeedError::Read(why)),
            Err(RecvTimeoutError::Timeout) => {
                if Instant::now() >= due {
                    self.mark.idle(now_ms());
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
        }
        Ok(false)
    }

    /// Takes the rows that were read before the source was stopped.
    fn take_rest(&mut self, rows: &Receiver<Chunk>) {
        while let Ok(chunk) = rows.recv_timeout(REST_WAIT) {
            if let Chunk::Rows { rows, .. } = chunk {
                rows.into_iter().for_each(|row| self.take(row));
            }
        }
    }
}
