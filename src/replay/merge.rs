//! Several files as one stream, by bar time.

use super::file::{BadRow, BarFile, Next};
use crate::bar::{Bar, Topic};

/// Bad rows that are logged one by one; beyond, they are only counted: a file that is wrong
/// throughout should not write a log as large as itself.
pub(super) const MAX_REPORTED: u64 = 1_000;

/// Reads the files row by row, so that memory does not grow with them.
pub(super) struct Merge {
    inputs: Vec<Input>,
    pub bad_rows: u64,
    /// Bytes of the files read so far.
    pub position: u64,
}

struct Input {
    file: BarFile,
    head: Option<Bar>,
    position: u64,
}

impl Merge {
    pub fn new(files: Vec<BarFile>) -> Self {
        let inputs = files.into_iter().map(|file| Input {
            file,
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
    /// One line, when a file cannot be read on.
    pub fn peek(&mut self, report: &mut impl FnMut(BadRow)) -> Result<Option<i64>, String> {
        Ok(self.first(report)?.and_then(|at| {
            let bar = self.inputs[at].head?;
            Some(bar.time())
        }))
    }

    /// The earliest bar; of bars with the same time, that of the file named first.
    ///
    /// # Errors
    /// One line, when a file cannot be read on.
    pub fn next(
        &mut self,
        report: &mut impl FnMut(BadRow),
    ) -> Result<Option<(Topic, Bar)>, String> {
        Ok(self.first(report)?.and_then(|at| {
            let input = &mut self.inputs[at];
            Some((input.file.topic, input.head.take()?))
        }))
    }

    /// Fills the heads; the index of the earliest one.
    fn first(&mut self, report: &mut impl FnMut(BadRow)) -> Result<Option<usize>, String> {
        let mut at = 0;
        while at < self.inputs.len() {
            let input = &mut self.inputs[at];
            if input.head.is_none() {
                let next = input.file.next();
                self.position += input.file.position().saturating_sub(input.position);
                input.position = input.file.position();
                match next.map_err(|why| format!("{}: {why}", input.file.path.display()))? {
                    Next::Bar(bar) => input.head = Some(bar),
                    Next::Bad(row) => {
                        self.bad_rows += 1;
                        if self.bad_rows <= MAX_REPORTED {
                            report(row);
                        }
                        continue;
                    }
                    Next::End => {
                        self.inputs.remove(at);
                        continue;
                    }
                }
            }
            at += 1;
        }
        // A replay names few files: looking at every head costs less than keeping a heap right.
        let heads = self.inputs.iter().enumerate();
        Ok(heads
            .filter_map(|(at, input)| Some((input.head?.time(), at)))
            .min()
            .map(|(_, at)| at))
    }
}
