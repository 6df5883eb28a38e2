//! How far the clock may go in a feed that is read late.

/// How far the clock may close bars: all that had arrived by then was read and taken in.
#[derive(Debug, Default)]
pub(super) struct Mark {
    pub up_to: Option<i64>,
    /// When the queue was last seen empty.
    empty: Option<i64>,
    /// The source has more that is not in the queue.
    behind: bool,
}

impl Mark {
    /// Rows up to this time were read; with `behind` the source has more that is not in the queue.
    pub fn read(&mut self, mark: Option<i64>, behind: bool) {
        self.up_to = self.up_to.max(mark);
        self.behind = behind;
        if behind {
            self.empty = None;
        }
    }

    /// The queue is empty. That counts one look later, when the source had the time to read on: after
    /// a stop of the whole process the queue is empty as well, and all of the stop still unread.
    pub fn idle(&mut self, now: i64) {
        if !self.behind {
            let before = self.empty.replace(now);
            self.up_to = self.up_to.max(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_as_far_as_all_was_read() {
        let mut mark = Mark::default();
        mark.idle(1_000);
        assert_eq!(mark.up_to, None, "the source may have more in its hands");
        mark.idle(2_000);
        assert_eq!(mark.up_to, Some(1_000));
        mark.read(Some(2_100), false);
        assert_eq!(mark.up_to, Some(2_100));
        mark.read(None, false);
        mark.read(Some(1_500), false);
        assert_eq!(mark.up_to, Some(2_100), "it never goes back");
        // The process stood still for a minute.
        mark.idle(62_100);
        assert_eq!(mark.up_to, Some(2_100));
    }

    #[test]
    fn an_empty_queue_counts_for_nothing_while_the_source_is_behind() {
        let mut mark = Mark::default();
        mark.read(Some(1_000), true);
        mark.idle(2_000);
        mark.idle(3_000);
        assert_eq!(mark.up_to, Some(1_000));
        mark.read(Some(3_100), false);
        mark.idle(3_200);
        mark.idle(3_300);
        assert_eq!(mark.up_to, Some(3_200));
    }
}
