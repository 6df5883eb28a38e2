//! What keeps a process from doing its work, in words: one list for `/readyz`, `/healthz` and the metrics.
//!
//! A process is ready when nothing is on the list that bars cannot flow with. It is healthy (200) all the
//! same: a restart would cure none of this.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What may be wrong; each has one owner, and one reason at a time. Told in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// The subscription.
    Bus,
    /// Who serves at the address of the subscription.
    Server,
    /// Rows of a source that are lost for good.
    Missed,
    /// What is read of the store.
    Store,
    /// The past of single topics, which is read when it is asked for.
    Past,
    /// The publisher's connection, and who serves there.
    Publisher,
    /// What became of the last publish.
    Published,
    /// What is written to the store.
    Kept,
    /// This machine's clock.
    Clock,
    /// Where a recorder writes.
    Output,
    /// Whether what waits for it is taken.
    Lane,
}

#[derive(Debug)]
struct Reason {
    why: String,
    /// Whether the process is ready all the same.
    is_ready: bool,
}

/// Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct Health {
    reasons: Arc<Mutex<BTreeMap<Concern, Reason>>>,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Concern, Reason>> {
        // A map is whole after every step.
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, concern: Concern, why: String, is_ready: bool) {
        self.lock().insert(concern, Reason { why, is_ready });
    }

    /// Not ready, and why: one line for people, with the words of the other side.
    pub fn set(&self, concern: Concern, why: impl Into<String>) {
        self.put(concern, why.into(), false);
    }

    /// Degraded, though bars flow.
    pub fn warn(&self, concern: Concern, why: impl Into<String>) {
        self.put(concern, why.into(), true);
    }

    /// This is well (again).
    pub fn clear(&self, concern: Concern) {
        self.lock().remove(&concern);
    }

    /// Whether nothing keeps bars from flowing.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(|reason| reason.is_ready)
    }

    /// Why the process is not ready: reasons in their order, `; ` between them.
    pub fn unready(&self) -> Option<String> {
        joined(self.lock().values().filter(|reason| !reason.is_ready))
    }

    /// All that is wrong: reasons in their order, `; ` between them.
    pub fn wrong(&self) -> Option<String> {
        joined(self.lock().values())
    }

    /// `ok`, or `degraded: ` and all reasons.
    pub fn status(&self) -> String {
        self.wrong()
            .map_or_else(|| "ok".to_owned(), |why| format!("degraded: {why}"))
    }
}

fn joined<'a>(reasons: impl Iterator<Item = &'a Reason>) -> Option<String> {
    let whys: Vec<_> = reasons.map(|reason| reason.why.as_str()).collect();
    (!whys.is_empty()).then(|| whys.join("; "))
}

/// A text as JSON, with its quotes: reasons hold the words of others.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_wrong() {
        let health = Health::default();
        assert!(health.is_ready());
        assert_eq!(health.status(), "ok");
        health.warn(Concern::Kept, "OOM");
        assert!(health.is_ready());
        assert_eq!(health.unready(), None);
        health.clone().set(Concern::Bus, "lost: \"x\"");
        assert!(!health.is_ready());
        assert_eq!(health.unready().as_deref(), Some("lost: \"x\""));
        assert_eq!(health.status(), "degraded: lost: \"x\"; OOM");
        health.set(Concern::Bus, "still");
        assert_eq!(health.unready().as_deref(), Some("still"));
        health.clear(Concern::Bus);
        health.clear(Concern::Kept);
        assert_eq!(health.status(), "ok");
        assert_eq!(quoted("a \"b\""), r#""a \"b\"""#);
    }
}
