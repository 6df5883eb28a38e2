//! How it stands with the bus and its store, for probes and the log.

use super::Ingest;
use crate::bus::Doubt;
use crate::health::Concern;

impl Ingest {
    /// The subscription stands.
    pub(super) fn tell_connected(&mut self) {
        self.tell_store();
        self.health.clear(Concern::Bus);
        self.bus_log.forget();
    }

    pub(super) fn say_connected(&self, losses: u64) {
        let bus = &self.address;
        if self.is_unread {
            tracing::info!(bus, losses, "bars flow, the store is still to be read");
        } else if losses == 0 {
            tracing::info!(bus, "bus connected");
        } else {
            tracing::info!(bus, losses, "bus connected again, bars flow");
        }
    }

    /// The subscription is gone, or does not come about.
    pub(super) fn tell_lost(&mut self, event: &str, why: &str) {
        self.health.set(Concern::Bus, format!("{event}: {why}"));
        // Of a connection that is gone nobody knows.
        self.health.clear(Concern::Server);
        self.health.clear(Concern::Store);
        let bus = &self.address;
        self.bus_log.say(&format!("{event}{why}"), |left_out| {
            tracing::warn!(bus, why, left_out, "{event}");
        });
    }

    /// The store is read, unless it was said that it is not.
    fn tell_store(&self) {
        if !self.is_unread {
            self.health.clear(Concern::Store);
        }
    }

    /// The store could not be read.
    pub(super) fn tell_unread(&mut self, doubt: Doubt) {
        self.is_unread = true;
        let what = "the store is not read";
        Doubt::tell(Some(doubt), &self.health, Concern::Store, what);
    }

    /// An attempt to read it again has ended.
    pub(super) fn tell_read(&self) {
        self.tell_store();
        if !self.is_unread {
            tracing::info!(bus = self.address, "bus connected, the store is read");
        }
    }

    /// What is asked for cannot be read, or is again.
    pub(super) fn tell_unrecalled(&self, doubt: Option<Doubt>) {
        let what = "the store's past is not read";
        Doubt::tell(doubt, &self.health, Concern::Past, what);
    }

    /// Who serves the subscription, as far as that is in doubt.
    pub(super) fn tell_served(&mut self, doubt: Option<Doubt>) {
        Doubt::tell(doubt, &self.health, Concern::Server, "the bus");
        let served_by = doubt.map(|doubt| doubt.why.to_owned());
        if served_by == self.served_by {
            return;
        }
        let bus = &self.address;
        match &served_by {
            Some(why) => tracing::warn!(bus, why, "who serves the bus is in doubt"),
            None => tracing::info!(bus, "the bus is served by a master"),
        }
        self.served_by = served_by;
    }
}
