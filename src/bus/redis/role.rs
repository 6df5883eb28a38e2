//! Who serves at an address: asked at connecting and on a timer, since a proxy or a name may lead elsewhere.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError, Value, cmd};

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Master,
    /// Bars reach it through its master; `fed` is false while the link to that is down.
    Replica {
        fed: bool,
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
                let fed = link.is_none_or(|link| link.is_up);
                Ok(Role::Replica { fed })
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
        (_, "replica" | "slave") => Role::Replica { fed: true },
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
}

/// Asks by INFO; none where this user may not.
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
    Ok(Some(Link {
        is_up: field("master_link_status") != "down",
        history: field("master_replid"),
    }))
}

/// Redis command ROLE: `master …`, `slave HOST PORT connect|connecting|sync|connected OFFSET`, `sentinel …`.
fn by_role(answer: &Value) -> Role {
    let word = |at: usize| match answer {
        Value::Array(words) => match words.get(at) {
            Some(Value::BulkString(word)) => word.as_slice(),
            _ => b"",
        },
        _ => b"",
    };
    match word(0) {
        b"slave" => Role::Replica {
            fed: word(3) == b"connected",
        },
        b"sentinel" => Role::Sentinel,
        _ => Role::Master,
    }
}
