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
use crate::bar::Topic;

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

/// What the store did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Messages that are not stored where they belong.
    pub messages: u64,
    /// What Redis said of the first of them.
    pub why: String,
}

/// The sorted set of a topic.
fn history_key(prefix: Prefix, topic: &Topic) -> String {
    format!("{}{topic}", prefix.name(HISTORY_PREFIX))
}

/// What a reply means.
#[derive(Debug, Clone, Copy)]
enum Role {
    Publish,
    /// Inside a transaction, whose end tells what became of it.
    Step,
    /// The only or last reply of a write of so many messages.
    Store(u64),
}

/// Commands of one write, and what their replies mean.
#[derive(Default)]
pub(super) struct Write {
    pub pipeline: Pipeline,
    roles: Vec<Role>,
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

    /// Adds what the store refused.
    ///
    /// # Errors
    /// What Redis said when it did not publish.
    pub fn check(&self, replies: &[Value], refused: &mut Option<Refused>) -> Result<(), String> {
        let mut first = None;
        for (role, reply) in self.roles.iter().zip(replies) {
            let Some(why) = fault(reply) else { continue };
            match role {
                Role::Publish => return Err(why),
                // Says more than the end, which only says that something was wrong before.
                Role::Step => first = first.or(Some(why)),
                Role::Store(messages) => {
                    let why = first.take().unwrap_or(why);
                    let refused = refused.get_or_insert(Refused { messages: 0, why });
                    refused.messages += messages;
                }
            }
        }
        Ok(())
    }
}

/// What Redis said is wrong, if it did.
fn fault(reply: &Value) -> Option<String> {
    match reply {
        Value::ServerError(error) => Some(RedisError::from(error.clone()).to_string()),
        Value::Array(replies) => replies.iter().find_map(fault),
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
}
