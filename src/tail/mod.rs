//! `barcast tail`: topics of a running gateway, as a live table on a terminal and as NDJSON elsewhere.

pub mod draw;
mod figures;
pub mod lines;
mod output;
mod screen;
pub mod table;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::follow::{self, Event, FollowError, follow};
use output::Output;
use table::Table;

/// Events that wait for the output; beyond them the gateway waits, and conflates.
const QUEUED_EVENTS: usize = 64;
/// How long the output may take for what it has when all is over.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What to watch, and how to show it.
#[derive(Debug, Clone)]
pub struct Config {
    pub follow: follow::Config,
    /// End after so many bars; never without it.
    pub count: Option<u64>,
    pub shape: Shape,
}

/// How events look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One JSON object a line.
    Lines,
    /// A table that is drawn again and again, with colours or without.
    Table { colours: bool },
}

/// Why it ended other than as asked.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The output takes no more; a closed pipe is no error.
    #[error("writing the output: {0}")]
    Output(std::io::Error),
}

/// Watches until `stop`, until so many bars came, or until nobody reads the output any more.
///
/// # Errors
/// [`TailError`]
pub async fn tail(config: Config, stop: CancellationToken) -> Result<(), TailError> {
    let (sender, mut events) = mpsc::channel(QUEUED_EVENTS);
    let mut table = Table::new(&config.follow.address.to_string());
    let following = tokio::spawn(follow(config.follow, sender));
    let mut output = Output::start();
    let mut left = Left(config.count);
    let written = {
        let show = async {
            match config.shape {
                Shape::Lines => lines::show(&mut events, &output.queue, &mut left).await,
                Shape::Table { colours } => {
                    screen::show(&mut events, &output.queue, &mut left, &mut table, colours).await;
                }
            }
        };
        tokio::select! {
            () = show => None,
            () = stop.cancelled() => None,
            () = output::reader_is_gone(), if config.shape == Shape::Lines => None,
            ended = &mut output.ended => Some(ended.unwrap_or(Ok(()))),
        }
    };
    if let Shape::Table { colours } = config.shape {
        screen::leave(&output.queue, &table, colours).await;
    }
    let written = match written {
        Some(written) => written,
        None => output.finish(FLUSH_TIMEOUT).await,
    };
    written.map_err(TailError::Output)?;
    ended(following).await
}

/// Why there are no more events, if that is why it is over.
async fn ended(following: JoinHandle<Result<(), FollowError>>) -> Result<(), TailError> {
    if !following.is_finished() {
        following.abort();
        return Ok(());
    }
    following.await.unwrap_or(Ok(())).map_err(TailError::Follow)
}

/// How many bars are still wanted.
pub struct Left(Option<u64>);

impl Left {
    /// Counts an event, and tells whether it was the last one.
    pub fn is_over_after(&mut self, event: &Event) -> bool {
        match (&mut self.0, event) {
            (Some(left), Event::Bar(_)) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            _ => false,
        }
    }
}
