//! A publisher's connection: made, watched and made again in the background, and only ever to a server
//! that takes what is published.
//!
//! A replica accepts PUBLISH and keeps it to itself, so who serves is asked when the connection is made
//! and on a timer. HELLO answers every user, also while Redis loads or a script holds it.

use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::RedisBus;
use super::reply::told;
use super::role::{Role, hello};
use crate::bus::Bus;
use crate::bus::backoff::Backoff;
use crate::health::{Concern, Health};
use crate::limited::Repeated;

/// How often a publisher's server is asked who it is: well within any idle time-out, and a server that has
/// become a replica takes no longer than this.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the second question waits after the first got no answer: after this process was suspended the
/// answer to it is there at once.
const SECOND_ANSWER: Duration = Duration::from_secs(1);

/// A connection, and the way to say that it is of no more use.
#[derive(Clone)]
pub(super) struct Open {
    pub connection: MultiplexedConnection,
    end: Arc<End>,
}

/// The end of a connection, and why it is to end.
#[derive(Default)]
struct End {
    signal: Notify,
    why: OnceLock<String>,
}

impl End {
    fn why(&self) -> String {
        let why = self.why.get().map(String::as_str);
        why.unwrap_or("Redis closed the connection").to_owned()
    }
}

#[derive(Clone)]
pub(super) enum State {
    Down(Arc<str>),
    Up(Open),
}

/// The task that holds the connection; ends on drop.
pub(super) struct Link {
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
    open: Option<Open>,
    is_new: bool,
}

impl Link {
    pub fn start(bus: RedisBus, health: Health) -> Self {
        let (sender, state) = watch::channel(State::Down("no connection yet".into()));
        Self {
            state,
            task: tokio::spawn(hold(bus, sender, health)),
            open: None,
            is_new: false,
        }
    }

    /// The connection, if there is one now; with `wait`, once there is one.
    pub async fn get(&mut self, wait: bool) -> Result<Open, Arc<str>> {
        loop {
            if self.state.has_changed().unwrap_or(false) {
                self.open = match &*self.state.borrow_and_update() {
                    State::Up(open) => Some(open.clone()),
                    State::Down(_) => None,
                };
                self.is_new = self.open.is_some();
            }
            if let Some(open) = &self.open {
                return Ok(open.clone());
            }
            if !wait {
                return Err(self.why());
            }
            if self.state.changed().await.is_err() {
                // The task never ends by itself; without it nothing will come.
                pending::<()>().await;
            }
            self.state.mark_changed();
        }
    }

    fn why(&self) -> Arc<str> {
        match &*self.state.borrow() {
            State::Down(why) => Arc::clone(why),
            State::Up(Open { end, .. }) => end.why().into(),
        }
    }

    /// The connection is of no more use: another one is to be made.
    pub fn give_up(&mut self, why: &str) {
        if let Some(Open { end, .. }) = self.open.take() {
            // The first reason is the one to tell.
            let _ = end.why.set(why.to_owned());
            end.signal.notify_one();
        }
    }

    /// Whether [`get`](Self::get) gave a connection that it had not given before. Asked once.
    pub fn is_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    pub fn is_up(&self) -> bool {
        let changed = self.state.has_changed().unwrap_or(false);
        matches!(&*self.state.borrow(), State::Up(_)) && (changed || self.open.is_some())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection after another, without end.
async fn hold(bus: RedisBus, state: watch::Sender<State>, health: Health) {
    let mut backoff = Backoff::default();
    let mut log = Repeated::default();
    loop {
        let mut stood = None;
        let why = match connect(&bus).await {
            Ok(open) => {
                tracing::info!(redis = bus.address(), "publisher connected");
                health.clear(Concern::Publisher);
                log.forget();
                let (connection, end) = (open.connection.clone(), Arc::clone(&open.end));
                state.send_replace(State::Up(open));
                stood = Some(std::time::Instant::now());
                let why = watch_over(connection, &end).await;
                log.say(&format!("disconnected: {why}"), |left_out| {
                    tracing::warn!(
                        redis = bus.address(),
                        why,
                        left_out,
                        "publisher disconnected"
                    );
                });
                why
            }
            Err(why) => {
                log.say(&why, |left_out| {
                    tracing::warn!(
                        redis = bus.address(),
                        why,
                        left_out,
                        "publisher cannot connect"
                    );
                });
                why
            }
        };
        health.set(Concern::Publisher, format!("{}: {why}", bus.address()));
        state.send_replace(State::Down(why.into()));
        backoff.ended(stood);
        sleep(backoff.wait()).await;
    }
}

/// Connects, to a server that takes what is published.
async fn connect(bus: &RedisBus) -> Result<Open, String> {
    let end = Arc::<End>::default();
    let config = AsyncConnectionConfig::new().set_push_sender({
        let end = Arc::clone(&end);
        move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                end.signal.notify_one();
            }
            Ok::<(), redis::aio::SendError>(())
        }
    });
    let mut connection = bus.connect(config).await.map_err(|why| told(&why))?;
    let (role, is_cluster) = hello(&mut connection).await.map_err(|why| told(&why))?;
    serves(role, is_cluster)?;
    if is_cluster && bus.keep.is_some() {
        tracing::warn!(
            redis = bus.address(),
            "this is a node of a Redis Cluster, which spreads the store over its nodes: \
             use a Redis of its own, or --store none"
        );
    }
    Ok(Open { connection, end })
}

/// Whether what is published here reaches everybody.
///
/// # Errors
/// Why not.
pub fn serves(role: Role, is_cluster: bool) -> Result<(), String> {
    match role {
        // A node of a cluster tells all others, whatever its role.
        Role::Master => Ok(()),
        Role::Replica { .. } if is_cluster => Ok(()),
        Role::Replica { .. } => Err(
            "this Redis is a replica (HELLO: role replica) and would keep to itself what is published: \
             use the address of the master"
                .to_owned(),
        ),
        Role::Sentinel => Err(
            "this is a Redis Sentinel (HELLO: mode sentinel), not a Redis: use the address of the master"
                .to_owned(),
        ),
    }
}

/// Returns why the connection is of no more use.
async fn watch_over(mut connection: MultiplexedConnection, end: &End) -> String {
    let mut ask = interval_at(Instant::now() + ASK_INTERVAL, ASK_INTERVAL);
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let asked = async {
        loop {
            ask.tick().await;
            if let Err(why) = ask_once(&mut connection).await {
                return why;
            }
        }
    };
    tokio::select! {
        () = end.signal.notified() => end.why(),
        why = asked => why,
    }
}

async fn ask_once(connection: &mut MultiplexedConnection) -> Result<(), String> {
    let mut answer = hello(connection).await;
    if answer.as_ref().is_err_and(RedisError::is_timeout) {
        let again = timeout(SECOND_ANSWER, hello(connection)).await;
        answer = again.unwrap_or(answer);
    }
    match answer {
        Ok((role, is_cluster)) => serves(role, is_cluster),
        // An answer, whatever it says: writes will tell what is wrong.
        Err(why) if why.code().is_some() => Ok(()),
        Err(why) => Err(format!("Redis does not answer: {}", told(&why))),
    }
}
