//! Several sources as one stream, by bar time.

use super::file::BadRow;
use super::input::{Head, Input};
use super::recorded::Row;

/// Bad rows that are logged one by one; beyond, they are only counted: a file that is wrong
/// throughout should not write a log as large as itself.
pub(super) const MAX_REPORTED: u64 = 1_000;

/// Reads the sources row by row, so that memory does not grow with them.
pub(super) struct Merge {
    inputs: Vec<Source>,
    pub bad_rows: u64,
    /// Bytes of the files read so far.
    pub position: u64,
}

struct Source {
    input: Input,
    head: Option<Head>,
    position: u64,
}

impl Merge {
    pub fn new(inputs: Vec<Input>) -> Self {
        let inputs = inputs.into_iter().map(|input| Source {
            input,
            head: None,
            position: 0,
        });
        Self {
            inputs: inputs.collect(),
            bad_rows: 0,
            position: 0,
        }
    }

    /// Time of the bar that [`next`](Self::next) gives, ms since the epoch. Bad rows on the way go to
    /// `report`, as long as they are few.
    ///
    /// # Errors
    /// One line, when a source cannot be read on.
    pub fn peek(&mut self, report: &mut impl FnMut(BadRow)) -> Result<Option<i64>, String> {
        Ok(self.first(report)?.and_then(|at| {
            let (_, bar) = self.inputs[at].head?;
            Some(bar.time())
        }))
    }

    /// The earliest bar; of bars with the same time, that of the source named first.
    ///
    /// # Errors
    /// One line, when a source cannot be read on.
    pub fn next(&mut self, report: &mut impl FnMut(BadRow)) -> Result<Option<Head>, String> {
        let first = self.first(report)?;
        Ok(first.and_then(|at| self.inputs[at].head.take()))
    }

    /// Fills the heads; the index of the earliest one.
    fn first(&mut self, report: &mut impl FnMut(BadRow)) -> Result<Option<usize>, String> {
        let mut at = 0;
        while at < self.inputs.len() {
            let source = &mut self.inputs[at];
            if source.head.is_none() {
                let next = source.input.next();
                let position = source.input.position();
                self.position += position.saturating_sub(source.position);
                source.position = position;
                match next? {
                    Row::Bar(topic, bar) => source.head = Some((topic, bar)),
                    Row::Bad(row) => {
                        self.bad_rows += 1;
                        if self.bad_rows <= MAX_REPORTED {
                            report(row);
                        }
                        continue;
                    }
                    Row::End => {
                        self.inputs.remove(at);
                        continue;
                    }
                }
            }
            at += 1;
        }
        // A replay names few sources: looking at every head costs less than keeping a heap right.
        let heads = self.inputs.iter().enumerate();
        Ok(heads
            .filter_map(|(at, source)| Some((source.head?.1.time(), at)))
            .min()
            .map(|(_, at)| at))
    }
}
