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

/// Asks by ROLE, and by HELLO where this user may not (or the server does not know it).
///
/// # Errors
/// When neither is answered.
pub async fn role(connection: &mut MultiplexedConnection) -> Result<Role, RedisError> {
    let answer = cmd("ROLE").query_async::<Value>(connection).await;
    match answer {
        Ok(answer) => Ok(by_role(&answer)),
        Err(why) if why.code().is_none() => Err(why),
        Err(_) => hello(connection).await.map(|(role, _)| role),
    }
}

/// Asks by HELLO without arguments, which changes nothing: who serves, and whether it is a node of a cluster.
///
/// # Errors
/// When it is not answered.
pub async fn hello(connection: &mut MultiplexedConnection) -> Result<(Role, bool), RedisError> {
    let answer = cmd("HELLO").query_async::<Value>(connection).await?;
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
