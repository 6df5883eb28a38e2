//! What Redis can answer, and what follows from it for each purpose of a connection.
//!
//! A reply is never a dead connection: only a connection that ends or stays silent is. The words of the
//! table are Redis's own (server.c, `createSharedObjects`, and acl.c); docs/troubleshooting.md shows it.

use redis::{ErrorKind, RedisError};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// PSUBSCRIBE, PING
    Subscribe,
    /// PUBLISH
    Publish,
    /// HSCAN, HMGET, ZRANGE, XREAD
    Read,
    /// HSET, ZADD and what belongs to them
    Write,
}

/// What follows from a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The server works for this purpose: nothing follows.
    Alive,
    /// It will work here again by itself: keep the connection, wait, repeat.
    TryAgain,
    /// Another server serves now: connect anew.
    GoElsewhere,
    /// Nothing changes until an operator does something: say what, try again rarely.
    Mistake,
}

/// A reply that is an error: how it is recognised, and what it means.
struct Reply {
    /// The first word of the reply; of those that only say ERR, what else they hold.
    code: &'static str,
    words: &'static str,
    /// For the purposes, in their order.
    meanings: [Meaning; 4],
    /// What the operator can do.
    remedy: &'static str,
}

use Meaning::{Alive, GoElsewhere, Mistake, TryAgain};

const fn reply(code: &'static str, meanings: [Meaning; 4], remedy: &'static str) -> Reply {
    Reply {
        code,
        words: "",
        meanings,
        remedy,
    }
}

const fn refusal(words: &'static str, meaning: Meaning, remedy: &'static str) -> Reply {
    Reply {
        code: "ERR",
        words,
        meanings: [meaning; 4],
        remedy,
    }
}

/// The cluster's answers.
pub const CLUSTER: &str =
    "this is a node of a Redis Cluster: name a Redis of its own, or use --store none";

/// Of a server that does not speak RESP3.
const TOO_OLD: &str =
    "Redis 6.0 or newer is needed (RESP3), with its commands neither renamed nor taken away";

const REPLIES: [Reply; 24] = [
    reply(
        "MISCONF",
        [Alive, Alive, Alive, TryAgain],
        "Redis cannot save: look at its disk and its log",
    ),
    reply(
        "LOADING",
        [Alive, TryAgain, TryAgain, TryAgain],
        "Redis reads its data: wait",
    ),
    reply(
        "BUSY",
        [Alive, TryAgain, TryAgain, TryAgain],
        "a script holds Redis: wait, or SCRIPT KILL",
    ),
    reply(
        "MASTERDOWN",
        [Alive, TryAgain, TryAgain, TryAgain],
        "this replica has lost its master: name the master's address",
    ),
    reply(
        "OOM",
        [Alive, Alive, Alive, TryAgain],
        "Redis is at its maxmemory: raise it",
    ),
    reply(
        "NOREPLICAS",
        [Alive, TryAgain, Alive, TryAgain],
        "Redis waits for its replicas (min-replicas-to-write)",
    ),
    reply("TRYAGAIN", [TryAgain; 4], CLUSTER),
    reply(
        "READONLY",
        [Alive, GoElsewhere, Alive, GoElsewhere],
        "this is a replica: name the master's address",
    ),
    reply(
        "UNBLOCKED",
        [GoElsewhere; 4],
        "this Redis has become a replica: name the master's address",
    ),
    reply(
        "NOPERM",
        [Mistake; 4],
        "the user lacks a right: docs/production.md has the ACL; --store none needs no keys",
    ),
    reply(
        "NOAUTH",
        [Mistake; 4],
        "Redis wants a password: REDIS_URL or --redis-password-file",
    ),
    reply(
        "WRONGPASS",
        [Mistake; 4],
        "Redis does not take this user and password",
    ),
    reply(
        "DENIED",
        [Mistake; 4],
        "Redis is in protected mode: give it a password, or bind it to an address that is allowed",
    ),
    reply("MOVED", [Alive, Alive, Mistake, Mistake], CLUSTER),
    reply("ASK", [Alive, Alive, Mistake, Mistake], CLUSTER),
    reply("CROSSSLOT", [Alive, Alive, Mistake, Mistake], CLUSTER),
    reply("CLUSTERDOWN", [Alive, TryAgain, Mistake, Mistake], CLUSTER),
    reply(
        "WRONGTYPE",
        [Mistake; 4],
        "another program uses this key: choose another --redis-prefix",
    ),
    reply("NOPROTO", [Mistake; 4], TOO_OLD),
    refusal(
        "max number of clients",
        TryAgain,
        "raise maxclients of Redis, or use fewer connections",
    ),
    refusal(
        "DB index is out of range",
        Mistake,
        "this Redis has fewer databases: see the number in REDIS_URL",
    ),
    refusal("SELECT is not allowed in cluster mode", Mistake, CLUSTER),
    refusal(
        "without any password configured",
        Mistake,
        "this Redis has no password: take it out of REDIS_URL",
    ),
    refusal("unknown command", Mistake, TOO_OLD),
];

/// What a reply means for a purpose; none for what is no reply: the connection has ended or is silent.
pub fn meaning(why: &RedisError, purpose: Purpose) -> Option<Meaning> {
    match why.kind() {
        ErrorKind::RESP3NotSupported | ErrorKind::AuthenticationFailed => Some(Mistake),
        _ => match known(why) {
            Some(reply) => Some(reply.meanings[purpose as usize]),
            // An answer that nobody knows is an answer.
            None => why.code().map(|_| match purpose {
                Purpose::Subscribe => Alive,
                _ => TryAgain,
            }),
        },
    }
}

/// What an operator can do about a reply, if it is one that we know.
pub fn remedy(why: &RedisError) -> Option<&'static str> {
    match why.kind() {
        ErrorKind::RESP3NotSupported => Some(TOO_OLD),
        _ => known(why).map(|reply| reply.remedy),
    }
}

/// Redis's own words, as it sent them; of what is no reply, what happened.
pub fn said(why: &RedisError) -> String {
    match (why.kind(), why.code(), why.detail()) {
        // The crate keeps the words for itself.
        (ErrorKind::RESP3NotSupported, ..) => "ERR unknown command `HELLO`".to_owned(),
        (_, Some(code), Some(detail)) => format!("{code} {detail}"),
        (_, Some(code), None) => code.to_owned(),
        (_, None, _) if why.is_timeout() => {
            // A remedy may stand behind it.
            let text = why.to_string();
            let remedy = text.find(": ").map_or("", |at| &text[at..]);
            format!("no answer in time{remedy}")
        }
        _ => why.to_string(),
    }
}

/// Likewise, and what an operator can do about it: for logs and probes.
pub fn told(why: &RedisError) -> String {
    let said = said(why);
    match remedy(why) {
        Some(remedy) => format!("{said} ({remedy})"),
        None => said,
    }
}

/// The table for the documents: a reply, what it means for each purpose, and the remedy.
pub fn table() -> impl Iterator<Item = (String, [Meaning; 4], &'static str)> {
    REPLIES.iter().map(|reply| {
        let name = format!("{} {}", reply.code, reply.words);
        (name.trim_end().to_owned(), reply.meanings, reply.remedy)
    })
}

fn known(why: &RedisError) -> Option<&'static Reply> {
    let code = why.code()?;
    let detail = why.detail().unwrap_or_default();
    let is_it = |reply: &&Reply| code == reply.code && detail.contains(reply.words);
    REPLIES.iter().find(is_it)
}
