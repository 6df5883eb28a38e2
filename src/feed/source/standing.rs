//! Whether a source in Redis can be read, as it is told in the log and by probes.

use std::time::{Duration, Instant};

use crate::bus::Doubt;
use crate::health::{Concern, Health};
use crate::limited::Repeated;

/// How long probes tell of rows that are lost for good: until somebody, or a scraper, has seen it.
const TOLD_FOR: Duration = Duration::from_secs(300);

/// How a source in Redis stands.
pub(super) struct Standing {
    /// What is read.
    source: String,
    health: Health,
    log: Repeated,
    /// Whether it could be read at the last attempt.
    is_well: bool,
    /// What is in doubt of who serves.
    served_by: Option<String>,
    /// Since when it is told that rows are lost for good.
    missed: Option<Instant>,
}

impl Standing {
    pub fn new(source: String, health: Health) -> Self {
        health.set(Concern::Bus, format!("{source}: not connected yet"));
        Self {
            source,
            health,
            log: Repeated::default(),
            is_well: false,
            served_by: None,
            missed: None,
        }
    }

    /// It can be read.
    pub fn well(&mut self) {
        if !std::mem::replace(&mut self.is_well, true) {
            self.health.clear(Concern::Bus);
            self.log.forget();
            tracing::info!(source = self.source, "the source is connected");
        }
        if self.missed.is_some_and(|since| since.elapsed() >= TOLD_FOR) {
            self.missed = None;
            self.health.clear(Concern::Missed);
        }
    }

    /// It cannot be read; `say` is told how often that was not said.
    pub fn lost(&mut self, why: &str, say: impl FnOnce(u64)) {
        self.is_well = false;
        let lost = format!("{} is lost: {why}", self.source);
        self.health.set(Concern::Bus, lost);
        // Of a connection that is gone nobody knows.
        self.health.clear(Concern::Server);
        self.served_by = None;
        self.log.say(why, say);
    }

    /// Who serves, as far as that is in doubt.
    pub fn served(&mut self, doubt: Option<Doubt>) {
        Doubt::tell(doubt, &self.health, Concern::Server, &self.source);
        let served_by = doubt.map(|doubt| doubt.why.to_owned());
        if served_by == self.served_by {
            return;
        }
        let source = &self.source;
        match &served_by {
            Some(why) => tracing::warn!(source, why, "who serves the source is in doubt"),
            None => tracing::info!(source, "the source is served by a master"),
        }
        self.served_by = served_by;
    }

    /// Rows are lost for good: told for a while.
    pub fn missed(&mut self, what: &str) {
        self.missed = Some(Instant::now());
        self.health
            .warn(Concern::Missed, format!("{}: {what}", self.source));
    }
}
