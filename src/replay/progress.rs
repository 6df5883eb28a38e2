//! How far a replay is: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::file::BadRow;
use super::input::Input;

/// How often a line tells the progress where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const STYLE: &str = "{bar:40} {bytes}/{total_bytes} {msg} [{elapsed}]";

pub(super) struct Progress {
    bar: ProgressBar,
    total_bytes: u64,
    told: Instant,
}

impl Progress {
    /// The whole is the size of the files: rows are not known before they are read.
    pub fn start(inputs: &[Input]) -> Self {
        let total_bytes = inputs.iter().map(Input::size).sum();
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total_bytes), target);
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style);
        }
        Self {
            bar,
            total_bytes,
            told: Instant::now(),
        }
    }

    /// Tells of a bad row without tearing the bar.
    pub fn bad_row(&self, row: &BadRow) {
        let (file, line, reason) = (row.file.display(), row.line, &row.reason);
        self.bar
            .suspend(|| tracing::warn!(%file, line, %reason, "bad row left out"));
    }

    pub fn at(&mut self, bytes: u64, published: u64) {
        self.bar.set_position(bytes);
        self.bar.set_message(format!("{published} bars"));
        if self.bar.is_hidden() && self.told.elapsed() >= LINE_INTERVAL {
            self.told = Instant::now();
            let total_bytes = self.total_bytes;
            tracing::info!(published, bytes, total_bytes, "replaying");
        }
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
