//! Whether the server of a subscription lives, and whether it is one that has all bars.
//!
//! It is asked who it is, again and again. Every answer is a sign of life, whatever it says: MISCONF, NOPERM,
//! LOADING and BUSY come from a server that delivers what it gets. Only silence is a death, and only a long
//! one: a script may hold Redis for seconds, and a peer that is gone is found by TCP.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::time::{MissedTickBehavior, interval_at};

use super::reply::told;
use super::role::{Link, Role, SENTINEL, link, role};
use super::subscribe::Signals;
use crate::bus::sink::lock;
use crate::bus::{Doubt, Sink};

/// A subscriber asks this often who serves.
pub(crate) const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// Questions in a row that stay unanswered, each for `RESPONSE_TIMEOUT`, before the other side counts as dead.
const MAX_UNANSWERED: u32 = 2;
/// A replica without its master is left after so long: its address may lead to a better one by now.
pub(super) const UNFED_PATIENCE: Duration = Duration::from_secs(15);
/// The same of a foreign channel: what is sent elsewhere meanwhile is in no store and lost.
pub(super) const UNFED_SOURCE_PATIENCE: Duration = Duration::from_secs(5);

const DEMOTED: &str = "a replica serves here, connecting once more";
const SILENT: &str = "Redis is silent";
const AT_REPLICA: &str =
    "a replica serves here: bars come by way of its master, but name the master's address";
const UNFED: &str =
    "a replica serves here, and its link to its master is down (name the master's address)";
const MISSED: &str =
    "the replica missed part of its master's stream, or follows another one, so bars were missed";
const RESUMED: &str = "the replica's link to its master was down, so bars were missed";

/// What a subscriber knows of who serves, over its connections.
#[derive(Debug)]
pub(in crate::bus) struct Place {
    /// How long a replica without its master is kept.
    patience: Duration,
    /// A replica was met, and connecting anew did not lead away from it, or is about to be tried.
    at_replica: bool,
    /// What the replica of this connection follows, as it was last told.
    link: Option<Link>,
    /// From when on the replica of this connection lacked its master.
    unfed: Option<Instant>,
}

impl Place {
    /// Keeps a replica without its master so long.
    pub fn with(patience: Duration) -> Self {
        Self {
            patience,
            at_replica: false,
            link: None,
            unfed: None,
        }
    }

    /// A new connection, which may lead elsewhere.
    pub fn anew(&mut self) {
        *self = Self {
            at_replica: self.at_replica,
            ..Self::with(self.patience)
        };
    }

    /// Asks who serves, and tells the sink what that means for it.
    ///
    /// # Errors
    /// Why the connection should be given up, or has ended.
    pub(super) async fn look<S: Sink>(
        &mut self,
        connection: &mut MultiplexedConnection,
        sink: &Mutex<S>,
    ) -> Result<(), Look> {
        let doubt = self.judge(connection).await?;
        lock(sink).served(doubt);
        Ok(())
    }

    /// Asks who serves; what is in doubt of it.
    ///
    /// # Errors
    /// Why the connection should be given up, or has ended.
    pub async fn judge(
        &mut self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<Doubt<'static>>, Look> {
        let role = match role(connection).await {
            Ok(role) => role,
            // It lives, and that is all that there is to be known.
            Err(why) if why.code().is_some() => Role::Master,
            Err(why) => return Err(Look::Failed(why)),
        };
        let fed = match role {
            Role::Sentinel => return Err(Look::Leave(SENTINEL)),
            Role::Master => {
                *self = Self::with(self.patience);
                return Ok(None);
            }
            Role::Replica { fed } => fed,
        };
        if !std::mem::replace(&mut self.at_replica, true) {
            return Err(Look::Leave(DEMOTED));
        }
        if fed == Some(false) {
            let since = *self.unfed.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.patience {
                return Err(Look::Leave(UNFED));
            }
            let (why, flows) = (UNFED, false);
            return Ok(Some(Doubt { why, flows }));
        }
        let link = link(connection).await.map_err(Look::Failed)?;
        if let (Some(before), Some(now)) = (&self.link, &link)
            && now.missed_since(before)
        {
            return Err(Look::Leave(MISSED));
        }
        self.link = link.or(self.link.take());
        let (why, flows) = match (self.unfed, fed) {
            // That the link is up again was not said.
            (Some(_), None) => (UNFED, false),
            (Some(_), Some(_)) => return Err(Look::Leave(RESUMED)),
            (None, _) => (AT_REPLICA, true),
        };
        Ok(Some(Doubt { why, flows }))
    }

    /// Asks on a timer; ends with why the connection should be given up.
    pub(super) async fn watch<S: Sink>(
        &mut self,
        mut connection: MultiplexedConnection,
        sink: &Mutex<S>,
        signals: &Signals,
        every: Duration,
    ) -> String {
        let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unanswered = 0;
        loop {
            ticks.tick().await;
            // An answer queues behind all pushes, so while the sink is slow, or blocks, it comes late: that is
            // backpressure, and to cut the connection then would lose what Redis holds for it.
            let before = signals.steps();
            match self.look(&mut connection, sink).await {
                Ok(()) => unanswered = 0,
                Err(Look::Leave(why)) => return why.to_owned(),
                Err(Look::Failed(why)) if !why.is_timeout() => return told(&why),
                Err(Look::Failed(_)) if signals.went_on(before) => unanswered = 0,
                Err(Look::Failed(_)) => {
                    unanswered += 1;
                    if unanswered >= MAX_UNANSWERED {
                        return SILENT.to_owned();
                    }
                    let (why, flows) = (SILENT, false);
                    lock(sink).served(Some(Doubt { why, flows }));
                }
            }
        }
    }
}

/// Why a look at who serves ends a connection.
#[derive(Debug)]
pub(in crate::bus) enum Look {
    /// It was not answered.
    Failed(RedisError),
    /// It was, and the connection is of no use.
    Leave(&'static str),
}

impl Look {
    pub fn told(&self) -> String {
        match self {
            Self::Failed(why) => told(why),
            Self::Leave(why) => (*why).to_owned(),
        }
    }
}
