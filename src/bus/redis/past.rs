//! The past of single topics, read from the store when somebody asks for it.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, Value};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::RedisBus;
use super::reply::told;
use super::role::{Role, hello};
use super::serving::ASK_INTERVAL;
use crate::bar::Topic;
use crate::bus::backoff::Backoff;
use crate::bus::prefix::Prefix;
use crate::bus::sink::lock;
use crate::bus::store::load::{Load, READ_BARS, Unread, bars_of};
use crate::bus::{Doubt, Sink};

/// Topics whose past could not be read and is tried again; of more, who asks again has it read.
const MAX_AGAIN: usize = 10_000;

/// What is to be read again.
struct Again {
    topics: BTreeSet<Topic>,
    /// Those behind it have their turn: one that can never be read holds up no other.
    last: Option<Topic>,
    backoff: Backoff,
    due: Instant,
}

impl Again {
    fn add(&mut self, topic: Topic) {
        if self.topics.len() < MAX_AGAIN {
            self.topics.insert(topic);
        }
    }

    /// Those whose turn it is.
    fn next(&mut self, count: usize) -> Vec<Topic> {
        let after = self.last.map_or(Unbounded, Excluded);
        let behind = self.topics.range((after, Unbounded));
        let count = count.min(self.topics.len());
        let next: Vec<_> = behind.chain(&self.topics).take(count).copied().collect();
        self.last = next.last().copied();
        next
    }
}

/// The connection that pasts are read over, from the server that the subscription has.
struct Open {
    connection: MultiplexedConnection,
    /// The subscription that stood when it was made.
    subscription: u64,
    used: Instant,
}

impl Open {
    /// Whether it still leads to where bars come from. After a while nobody knows, so who serves is asked; a replica
    /// may have become one.
    async fn serves(&mut self, subscription: u64) -> bool {
        if self.subscription != subscription {
            return false;
        }
        if self.used.elapsed() < ASK_INTERVAL {
            return true;
        }
        match hello(&mut self.connection).await {
            Ok((role, _)) => role == Role::Master,
            // An answer, whatever it says.
            Err(why) => why.code().is_some(),
        }
    }
}

impl RedisBus {
    /// Reads what is asked for, some topics at a time, over a connection of its own that is made when it is
    /// needed; what cannot be read then, again until it can. Never ends.
    pub(super) async fn read_asked<S: Sink>(
        &self,
        sink: &Mutex<S>,
        load: Load,
        subscription: &AtomicU64,
        mut asked: mpsc::Receiver<Topic>,
    ) {
        let mut open = None;
        let mut topics = Vec::new();
        let mut again = Again {
            topics: BTreeSet::new(),
            last: None,
            backoff: Backoff::default(),
            due: Instant::now(),
        };
        loop {
            let at_once = load.topics_at_once();
            tokio::select! {
                count = asked.recv_many(&mut topics, at_once) => if count == 0 {
                    return std::future::pending().await;
                },
                () = sleep_until(again.due), if !again.topics.is_empty() => {
                    topics.extend(again.next(at_once));
                }
            }
            lock(sink).recalling(&topics);
            let read = self.read_some(&mut open, load, subscription, &topics).await;
            let doubt = match read {
                Ok(replies) => recalled(load.prefix, sink, &topics, &replies, &mut again),
                Err(why) => {
                    open = None;
                    // Whoever waits behind them would only wait longer to learn the same.
                    while topics.len() < READ_BARS
                        && let Ok(topic) = asked.try_recv()
                    {
                        topics.push(topic);
                    }
                    let why = told(&why);
                    for topic in &topics {
                        again.add(*topic);
                        lock(sink).recalled(topic, Err(why.clone()));
                    }
                    Some(Unread::all(why))
                }
            };
            topics.clear();
            again.tell(sink, doubt);
            lock(sink).flush();
            // Live bars have their turn.
            yield_now().await;
        }
    }

    /// Reads again what was read while the subscription went to another connection, and so perhaps to another server.
    async fn read_some(
        &self,
        open: &mut Option<Open>,
        load: Load,
        subscription: &AtomicU64,
        topics: &[Topic],
    ) -> Result<Vec<Value>, RedisError> {
        let topics: Vec<_> = topics.iter().map(Topic::to_string).collect();
        loop {
            let standing = subscription.load(Ordering::Relaxed);
            let mut is_new = false;
            let usable = match open.take() {
                Some(mut held) => held.serves(standing).await.then_some(held),
                None => None,
            };
            let held = match usable {
                Some(held) => open.insert(held),
                None => {
                    is_new = true;
                    open.insert(Open {
                        connection: self.connect(AsyncConnectionConfig::new()).await?,
                        subscription: standing,
                        used: Instant::now(),
                    })
                }
            };
            let read = load.past_of(&mut held.connection, &topics).await;
            held.used = Instant::now();
            match read {
                // It may have ended long ago, while nobody asked.
                Err(why) if !is_new && !why.is_timeout() => *open = None,
                Ok(_) if subscription.load(Ordering::Relaxed) != standing => {}
                read => return read,
            }
        }
    }
}

/// Hands over what was read; why some of it was not.
fn recalled<S: Sink>(
    prefix: Prefix,
    sink: &Mutex<S>,
    topics: &[Topic],
    replies: &[Value],
    again: &mut Again,
) -> Option<Unread> {
    let mut doubt: Option<Unread> = None;
    for (topic, reply) in topics.iter().zip(replies) {
        let bars = bars_of(reply).map_err(|why| {
            let unread = Unread::of(prefix, &topic.to_string(), &why);
            again.add(*topic);
            if doubt.as_ref().is_none_or(|doubt| doubt.flows) {
                doubt = Some(unread.clone());
            }
            unread.why
        });
        if bars.is_ok() {
            again.topics.remove(topic);
        }
        lock(sink).recalled(topic, bars);
    }
    doubt
}

impl Again {
    /// Says how it stands with what is asked for, and when it goes on.
    fn tell<S: Sink>(&mut self, sink: &Mutex<S>, doubt: Option<Unread>) {
        match doubt {
            Some(Unread { why, flows }) => {
                lock(sink).unrecalled(Some(Doubt { why: &why, flows }));
                self.due = Instant::now() + self.backoff.wait();
            }
            None if self.topics.is_empty() => {
                lock(sink).unrecalled(None);
                self.backoff.reset();
            }
            // The rest is read at once.
            None => {}
        }
    }
}
