//! What outlives publisher and gateway: bars kept in Redis.
//!
//! Closed bars of a topic are in a sorted set of their messages by bar time, the newest message of every
//! topic in one hash. A publisher writes both before it publishes, so that whoever subscribes first and
//! reads then misses nothing: what it does not hear is stored by that time.

pub(super) mod keep;
pub(super) mod load;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, Value, cmd};

use super::Outgoing;
use super::prefix::Prefix;
use super::redis::link::serves;
use super::redis::reply::{Meaning, Purpose, meaning, told};
use super::redis::role::by_hello;
use crate::bar::Topic;
use keep::Keeper;

/// The hash of every topic's newest message.
pub const LAST_KEY: &str = "barcast:last";
/// Before a topic's name: the sorted set of its closed bars' messages.
pub const HISTORY_PREFIX: &str = "barcast:history:";
/// Commands in one pipelined write: bounds the memory for replies and the time that Redis spends on
/// one client.
const PIPELINE_COMMANDS: usize = 2_000;

/// A bar to keep beside publishing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub topic: Topic,
    /// Start of the bar, ms since the epoch.
    pub time: i64,
    /// Whether it belongs into the history; the newest message is kept in either case.
    pub closed: bool,
    /// The message as it is published.
    pub payload: Vec<u8>,
}

/// What the store did not take now. It waits, and is written later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Messages that are not stored where they belong.
    pub messages: u64,
    /// What Redis said of the first of them.
    pub why: String,
}

/// What a publisher owes its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owed {
    /// Closed bars that wait to be written.
    pub waiting: usize,
    /// Closed bars that were given up, since more waited than may.
    pub given_up: u64,
    /// How often all that waited was offered, and none of it will be taken until an operator does something.
    pub rounds_refused: u64,
}

/// The sorted set of a topic.
fn history_key(prefix: Prefix, topic: &Topic) -> String {
    format!("{}{topic}", prefix.name(HISTORY_PREFIX))
}

/// What a reply means.
#[derive(Debug, Clone)]
enum Role {
    Publish,
    /// Inside a transaction, whose end tells what became of it.
    Step,
    /// The end of a topic's transaction: its closed bars of these times.
    History(Topic, Vec<i64>),
    /// The newest messages of these topics.
    Last(Vec<Topic>),
    /// Who serves: asked last, since what a replica publishes reaches nobody.
    Server,
}

impl Role {
    /// How many messages it stores.
    fn messages(&self) -> usize {
        match self {
            Self::History(_, times) => times.len(),
            Self::Last(topics) => topics.len(),
            Self::Publish | Self::Step | Self::Server => 0,
        }
    }
}

/// Commands of one write, and what their replies mean.
#[derive(Default)]
pub(super) struct Write {
    pub pipeline: Pipeline,
    roles: Vec<Role>,
}

/// What became of writes.
#[derive(Default)]
pub(super) struct Outcome {
    pub refused: Option<Refused>,
    /// Every refusal needs an operator.
    pub is_mistake: bool,
    /// Whether the store took anything.
    pub has_taken: bool,
}

/// Why nothing was published.
pub(super) struct Unpublished {
    pub why: String,
    /// Another server serves now.
    pub is_elsewhere: bool,
    /// Redis refused all of it: nobody has got anything.
    pub is_all: bool,
}

impl Write {
    fn add(&mut self, command: Cmd, role: Role) {
        self.pipeline.add_command(command);
        self.roles.push(role);
    }

    /// Sends it and waits for the replies.
    pub async fn send(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Vec<Value>, RedisError> {
        let count = self.roles.len();
        connection
            .req_packed_commands(&self.pipeline, 0, count)
            .await
    }

    /// Looks what became of it; the store's keeper learns what was taken.
    ///
    /// # Errors
    /// When Redis did not publish, or did where it reaches nobody.
    pub fn check(
        &self,
        replies: &[Value],
        keeper: Option<&mut Keeper>,
        outcome: &mut Outcome,
    ) -> Result<(), Unpublished> {
        let mut keeper = keeper;
        let mut unpublished = None;
        let (mut has_published, mut step) = (false, None);
        for (role, reply) in self.roles.iter().zip(replies) {
            let purpose = match role {
                Role::Publish | Role::Server => Purpose::Publish,
                _ => Purpose::Write,
            };
            let why = error(reply);
            let meaning = why.as_ref().and_then(|why| meaning(why, purpose));
            let is_elsewhere = meaning == Some(Meaning::GoElsewhere);
            if let Some(why) = why.as_ref().filter(|_| is_elsewhere) {
                let why = told(why);
                return Err(Unpublished {
                    why,
                    is_elsewhere,
                    is_all: false,
                });
            }
            match (role, why) {
                (Role::Publish, Some(why)) => {
                    let why = told(&why);
                    unpublished.get_or_insert(Unpublished {
                        why,
                        is_elsewhere,
                        is_all: true,
                    });
                }
                (Role::Server, None) => {
                    if let Ok((role, is_cluster)) = by_hello(reply.clone()) {
                        let elsewhere = |why| Unpublished {
                            why,
                            is_elsewhere: true,
                            is_all: false,
                        };
                        serves(role, is_cluster).map_err(elsewhere)?;
                    }
                }
                (Role::Publish, None) => has_published = true,
                (Role::Server, Some(_)) => {}
                // Says more than the end, which only says that something was wrong before.
                (Role::Step, why) => step = step.or(why.map(|why| (why, meaning))),
                (Role::History(..) | Role::Last(..), None) => {
                    step = None;
                    outcome.has_taken = true;
                    if let Some(keeper) = keeper.as_deref_mut() {
                        keeper.taken(role);
                    }
                }
                (Role::History(..) | Role::Last(..), Some(why)) => {
                    let (why, meaning) = step.take().unwrap_or((why, meaning));
                    outcome.refuse(role.messages(), &why, meaning);
                }
            }
        }
        unpublished.map_or(Ok(()), |unpublished| {
            let is_all = !has_published;
            Err(Unpublished {
                is_all,
                ..unpublished
            })
        })
    }
}

impl Outcome {
    /// Counts messages that the store did not take.
    pub fn refuse(&mut self, messages: usize, why: &RedisError, meaning: Option<Meaning>) {
        let is_first = self.refused.is_none();
        self.is_mistake = (is_first || self.is_mistake) && meaning == Some(Meaning::Mistake);
        let refused = self.refused.get_or_insert_with(|| Refused {
            messages: 0,
            why: told(why),
        });
        refused.messages += messages as u64;
    }
}

/// What Redis said is wrong, if it did.
fn error(reply: &Value) -> Option<RedisError> {
    match reply {
        Value::ServerError(error) => Some(RedisError::from(error.clone())),
        Value::Array(replies) => replies.iter().find_map(error),
        _ => None,
    }
}

/// Commands in as few writes as their bound allows.
#[derive(Default)]
pub(super) struct Writes(pub Vec<Write>);

impl Writes {
    /// Where the next command, or transaction, goes.
    fn next(&mut self) -> &mut Write {
        let is_full = |write: &Write| write.roles.len() >= PIPELINE_COMMANDS;
        if self.0.last().is_none_or(is_full) {
            self.0.push(Write::default());
        }
        let at = self.0.len() - 1;
        &mut self.0[at]
    }

    pub fn publish(&mut self, prefix: Prefix, messages: &[Outgoing]) {
        for message in messages {
            let mut publish = cmd("PUBLISH");
            publish
                .arg(prefix.name(&message.channel))
                .arg(message.payload.as_slice());
            self.next().add(publish, Role::Publish);
        }
    }
    /// Asks at the end who serves.
    pub fn ask_server(&mut self) {
        let mut hello = cmd("HELLO");
        hello.arg(3);
        self.next().add(hello, Role::Server);
    }
}
