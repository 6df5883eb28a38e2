//! Who serves at an address: asked at connecting and on a timer, since a proxy or a name may lead elsewhere.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError, Value, cmd};

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Master,
    /// Bars reach it through its master; `fed` is false while the link to that is down, and none where this user
    /// may not know, or not now.
    Replica {
        fed: Option<bool>,
    },
    /// It knows of servers, but is none.
    Sentinel,
}

/// What is said of a Sentinel.
pub const SENTINEL: &str =
    "this is a Redis Sentinel, not a Redis: name the address of the Redis that it watches";

/// Asks by ROLE, and by HELLO where this user may not (or the server does not know it).
///
/// # Errors
/// When neither is answered.
pub async fn role(connection: &mut MultiplexedConnection) -> Result<Role, RedisError> {
    let answer = cmd("ROLE").query_async::<Value>(connection).await;
    match answer {
        Ok(answer) => Ok(by_role(&answer)),
        Err(why) if why.code().is_none() => Err(why),
        Err(_) => match hello(connection).await?.0 {
            // HELLO does not tell of the link.
            Role::Replica { .. } => {
                let link = link(connection).await?;
                Ok(Role::Replica {
                    fed: link.map(|link| link.is_up),
                })
            }
            other => Ok(other),
        },
    }
}

/// Asks by HELLO, which changes nothing in the version that is spoken: who serves, and whether it is a node
/// of a cluster.
///
/// # Errors
/// When it is not answered.
pub async fn hello(connection: &mut MultiplexedConnection) -> Result<(Role, bool), RedisError> {
    // Redis 6.0 wants the version.
    by_hello(cmd("HELLO").arg(3).query_async::<Value>(connection).await?)
}

/// What the answer to HELLO says.
///
/// # Errors
/// When it is none.
pub fn by_hello(answer: Value) -> Result<(Role, bool), RedisError> {
    let fields: HashMap<String, Value> = HashMap::from_redis_value(answer)?;
    let text = |name: &str| match fields.get(name) {
        Some(Value::BulkString(text)) => String::from_utf8_lossy(text).into_owned(),
        Some(Value::SimpleString(text)) => text.clone(),
        _ => String::new(),
    };
    let role = match (text("mode").as_str(), text("role").as_str()) {
        ("sentinel", _) => Role::Sentinel,
        // HELLO does not tell of the link.
        (_, "replica" | "slave") => Role::Replica { fed: None },
        _ => Role::Master,
    };
    Ok((role, text("mode") == "cluster"))
}

/// A replica's link to its master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub is_up: bool,
    /// The history of writes that it follows: another one after a full resynchronisation with another master.
    pub history: String,
    /// How far it is in that history; none where it is not told.
    pub stream: Option<Stream>,
}

/// How far a replica is, in bytes of its master's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    offset: u64,
    /// What it holds of the stream begins here.
    first: u64,
    /// It holds less than it may, so it has let go of nothing since it began.
    is_all: bool,
}

impl Stream {
    /// Whether part of the stream never came by, as it does not in a full resynchronisation: what is held began
    /// anew behind it.
    pub fn skipped_since(self, before: Self) -> bool {
        self.is_all && self.first > before.offset + 1
    }
}

impl Link {
    /// Whether bars may have been missed since it was so, as far as either tells.
    pub fn missed_since(&self, before: &Self) -> bool {
        let skipped = |now: Stream| before.stream.is_some_and(|then| now.skipped_since(then));
        self.history != before.history || self.stream.is_some_and(skipped)
    }
}

/// Asks by INFO; none where this user may not, or Redis not now.
///
/// # Errors
/// When it is not answered.
pub async fn link(connection: &mut MultiplexedConnection) -> Result<Option<Link>, RedisError> {
    let mut info = cmd("INFO");
    info.arg("replication");
    let text = match info.query_async::<String>(connection).await {
        Ok(text) => text,
        Err(why) if why.code().is_none() => return Err(why),
        Err(_) => return Ok(None),
    };
    let field = |name: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
        let found = pairs.find(|(known, _)| *known == name);
        found.map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let number = |name: &str| field(name).parse::<u64>().ok();
    let stream = || {
        Some(Stream {
            offset: number("slave_repl_offset")?,
            first: number("repl_backlog_first_byte_offset")?,
            is_all: number("repl_backlog_histlen")? < number("repl_backlog_size")?,
        })
    };
    Ok(Some(Link {
        is_up: field("master_link_status") != "down",
        history: field("master_replid"),
        stream: stream(),
    }))
}

/// Redis command ROLE: `master …`, `slave` (or `replica`) `HOST PORT connect|connecting|sync|connected OFFSET`, `sentinel …`.
fn by_role(answer: &Value) -> Role {
    let word = |at: usize| match answer {
        Value::Array(words) => match words.get(at) {
            Some(Value::BulkString(word)) => word.as_slice(),
            _ => b"",
        },
        _ => b"",
    };
    match word(0) {
        b"slave" | b"replica" => Role::Replica {
            fed: Some(word(3) == b"connected"),
        },
        b"sentinel" => Role::Sentinel,
        _ => Role::Master,
    }
}
