//! Trades of a file one by one, for who paces them itself.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::row::{Entry, Row};
use super::source::{self, Chunk, Source};
use super::{Config, Input};
use crate::aggregate::{Rules, Trade};
use crate::ahead::MaxAhead;
use crate::bar::Symbol;
use crate::generator::pack::Form;
use crate::metrics::FeedMetrics;

/// How often who waits for a row looks whether it should stop.
const LOOK: Duration = Duration::from_millis(100);

/// A file that is read on a thread of its own.
pub(crate) struct Trades {
    rows: Receiver<Chunk>,
    chunk: std::vec::IntoIter<Row>,
}

/// What comes next in a file.
pub(crate) enum Next {
    Trade(Symbol, Trade),
    /// A row that gives none: its file and line, and why.
    Bad {
        at: String,
        reason: String,
    },
    End,
}

impl Trades {
    /// Opens a file as `barcast ingest` reads them; `symbol` is that of rows that name none.
    ///
    /// # Errors
    /// One line: it cannot be opened, or no thread can be made.
    pub fn open(
        file: PathBuf,
        symbol: Option<Symbol>,
        stop: &CancellationToken,
    ) -> Result<Self, String> {
        let config = Config {
            source: Source::Files(vec![file]),
            format: None,
            input: Input::Trades,
            symbol,
            resolutions: Vec::new(),
            rules: Rules::default(),
            live: false,
            max_delay: Duration::ZERO,
            flush: Duration::ZERO,
            form: Form::Single,
            max_ahead: MaxAhead::OFF,
        };
        Ok(Self {
            rows: source::open(&config, &FeedMetrics::default(), stop)?,
            chunk: Vec::new().into_iter(),
        })
    }

    /// The next trade. Blocks until there is one, or until `stop`: then it is the end, too.
    ///
    /// # Errors
    /// One line, when the file cannot be read on.
    pub fn next(&mut self, stop: &CancellationToken) -> Result<Next, String> {
        loop {
            if let Some(Row { at, entry }) = self.chunk.next() {
                return Ok(match entry {
                    Ok(Entry::Trade(symbol, trade)) => Next::Trade(symbol, trade),
                    Ok(Entry::Bar(..)) => Next::Bad {
                        at,
                        reason: "it is a bar".to_owned(),
                    },
                    Err(reason) => Next::Bad { at, reason },
                });
            }
            match self.rows.recv_timeout(LOOK) {
                Ok(Chunk::Rows { rows, .. }) => self.chunk = rows.into_iter(),
                Ok(Chunk::Failed(why)) => return Err(why),
                Err(RecvTimeoutError::Timeout) if !stop.is_cancelled() => {}
                Err(_) => return Ok(Next::End),
            }
        }
    }
}
