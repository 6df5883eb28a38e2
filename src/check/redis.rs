//! Redis: reachable, new enough, with room, and heard by somebody.

use std::collections::HashMap;

use super::report::{Reporter, Step};
use super::{Config, measured};
use crate::bus::Bus;
use crate::bus::probe::Probe;
use crate::bus::redis::reply::CLUSTER;
use crate::bus::redis::role::{Role, SENTINEL};

/// The first version that speaks RESP3.
const OLDEST_MAJOR: u32 = 6;
/// Redis's own hard limit for subscribers, in bytes: below it a gateway that is busy for a moment is cut.
const USUAL_OUTPUT_BYTES: u64 = 32 << 20;
/// Part of `maxmemory` from which on somebody should look.
const FULL_PART: f64 = 0.9;

/// Steps that need a connection.
const NEEDED: [&str; 5] = [
    "redis role",
    "redis version",
    "redis memory",
    "redis output buffer",
    "redis subscribers",
];

/// The steps of Redis; the connection, if there is one.
pub(super) async fn check<T: FnMut(&Step)>(
    config: &Config,
    report: &mut Reporter<T>,
) -> Option<Probe> {
    let name = "redis";
    let address = config.bus.address();
    let (connected, _) = measured(config.limit, config.bus.probe()).await;
    let mut probe = match connected {
        Ok(probe) => probe,
        Err(why) => {
            report.add(away(&address, &why));
            for name in NEEDED {
                report.add(Step::skip(name, "Redis is not reached"));
            }
            return None;
        }
    };
    let (answered, took) = measured(config.limit, probe.ping()).await;
    report.add(match answered {
        Ok(()) => Step::ok(name, format!("{address} answers PING")).took(took),
        // Whatever it answers, it lives: words in capitals, as Redis's are.
        Err(why) if why.starts_with(|c: char| c.is_ascii_uppercase()) => Step::warn(
            name,
            format!("{address} answers PING: {why}"),
            "docs/troubleshooting.md lists what Redis can answer",
        )
        .took(took),
        Err(why) => away(&address, &why),
    });
    let (role, _) = measured(config.limit, probe.role()).await;
    report.add(serving(role));
    let (server, _) = measured(config.limit, probe.info("server")).await;
    report.add(version(server));
    let (memory, _) = measured(config.limit, probe.info("memory")).await;
    report.add(room(memory));
    let (limit, _) = measured(config.limit, probe.setting("client-output-buffer-limit")).await;
    report.add(output_buffer(limit));
    let (patterns, _) = measured(config.limit, probe.patterns()).await;
    report.add(subscribers(patterns));
    Some(probe)
}

fn away(address: &str, why: &str) -> Step {
    Step::fail(
        "redis",
        format!("{address}: {why}"),
        "is redis-server running there, and is --redis-url (REDIS_URL) right? Try: redis-cli -u URL ping",
    )
}

/// Who serves there: bars are to go through a master.
fn serving(asked: Result<(Role, bool), String>) -> Step {
    let name = NEEDED[0];
    let next = "name the address of the master in --redis-url (REDIS_URL)";
    match asked {
        Err(why) => unreadable(name, &why),
        Ok((Role::Sentinel, _)) => Step::fail(name, SENTINEL, next),
        Ok((
            Role::Replica {
                fed: None | Some(true),
            },
            _,
        )) => {
            let detail = "a replica: gateways hear bars there, publishers reach nobody";
            Step::warn(name, detail, next)
        }
        Ok((Role::Replica { fed: Some(false) }, _)) => {
            Step::fail(name, "a replica whose link to its master is down", next)
        }
        Ok((Role::Master, true)) => Step::warn(name, CLUSTER, "see docs/production.md, Redis"),
        Ok((Role::Master, false)) => Step::ok(name, "a master"),
    }
}

type Fields = Result<HashMap<String, String>, String>;

fn unreadable(name: &'static str, why: &str) -> Step {
    Step::skip(name, format!("cannot be read: {why}"))
}

fn version(server: Fields) -> Step {
    let name = NEEDED[1];
    let fields = match server {
        Ok(fields) => fields,
        Err(why) => return unreadable(name, &why),
    };
    let version = fields
        .get("redis_version")
        .map_or("unknown", String::as_str);
    let major = version
        .split('.')
        .next()
        .and_then(|text| text.parse::<u32>().ok());
    if major.is_some_and(|major| major < OLDEST_MAJOR) {
        let next = format!("use Redis {OLDEST_MAJOR} or newer: gateways speak RESP3");
        return Step::fail(name, version, next);
    }
    Step::ok(name, version)
}

fn room(memory: Fields) -> Step {
    let name = NEEDED[2];
    let fields = match memory {
        Ok(fields) => fields,
        Err(why) => return unreadable(name, &why),
    };
    let number = |field: &str| fields.get(field).and_then(|text| text.parse::<u64>().ok());
    let used = number("used_memory").unwrap_or(0);
    let most = number("maxmemory").unwrap_or(0);
    let policy = fields
        .get("maxmemory_policy")
        .map_or("unknown", String::as_str);
    let limit = match most {
        0 => "no limit".to_owned(),
        most => mib(most),
    };
    let detail = format!("{} of {limit}, {policy}", mib(used));
    if most > 0 && used as f64 >= FULL_PART * most as f64 {
        return Step::warn(
            name,
            detail,
            "raise maxmemory, or keep less with --store-bars",
        );
    }
    if most > 0 && policy.starts_with("allkeys") {
        let next = "stored bars may be evicted: set maxmemory-policy noeviction, or --store none";
        return Step::warn(name, detail, next);
    }
    Step::ok(name, detail)
}

fn output_buffer(setting: Result<Option<String>, String>) -> Step {
    let name = NEEDED[3];
    let text = match setting {
        Ok(text) => text.unwrap_or_default(),
        Err(why) => return unreadable(name, &why),
    };
    // Four words a class of clients: name, hard limit, soft limit, its seconds.
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "pubsub")
        .skip(1);
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let (Some(hard), Some(soft), Some(seconds)) = (number(), number(), number()) else {
        return unreadable(name, "no limit of class pubsub is told");
    };
    if hard == 0 && soft == 0 {
        return Step::ok(name, "pubsub: no limit");
    }
    let detail = format!(
        "pubsub: {} at once, {} for {seconds} s",
        mib(hard),
        mib(soft)
    );
    if hard > 0 && hard < USUAL_OUTPUT_BYTES {
        let next = "gateways that are behind for a moment are cut: raise client-output-buffer-limit pubsub";
        return Step::warn(name, detail, next);
    }
    Step::ok(name, detail)
}

fn subscribers(patterns: Result<u64, String>) -> Step {
    let name = NEEDED[4];
    match patterns {
        Err(why) => unreadable(name, &why),
        Ok(0) => Step::fail(
            name,
            "nobody listens to a pattern",
            "no gateway is connected to this Redis: does it run, with the same --redis-url?",
        ),
        Ok(1) => Step::ok(name, "1 pattern is listened to"),
        Ok(many) => Step::ok(name, format!("{many} patterns are listened to")),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::report::Status;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Ok(pairs.iter().map(own).collect())
    }

    #[test]
    fn who_serves_is_told() {
        let status = |role, is_cluster| serving(Ok((role, is_cluster))).status;
        assert_eq!(status(Role::Master, false), Status::Ok);
        assert_eq!(status(Role::Master, true), Status::Warn);
        assert_eq!(
            status(Role::Replica { fed: Some(true) }, false),
            Status::Warn
        );
        assert_eq!(
            status(Role::Replica { fed: Some(false) }, false),
            Status::Fail
        );
        assert_eq!(status(Role::Sentinel, false), Status::Fail);
        assert_eq!(serving(Err("NOPERM".to_owned())).status, Status::Skip);
    }

    #[test]
    fn old_full_and_evicting_servers_are_told() {
        assert_eq!(
            version(fields(&[("redis_version", "5.0.14")])).status,
            Status::Fail
        );
        assert_eq!(
            version(fields(&[("redis_version", "7.0.15")])).status,
            Status::Ok
        );
        assert_eq!(version(Err("NOPERM".to_owned())).status, Status::Skip);
        let memory = |used: &str, most: &str, policy: &str| {
            let pairs = [
                ("used_memory", used),
                ("maxmemory", most),
                ("maxmemory_policy", policy),
            ];
            room(fields(&pairs)).status
        };
        assert_eq!(memory("100", "0", "noeviction"), Status::Ok);
        assert_eq!(memory("90", "100", "noeviction"), Status::Warn);
        assert_eq!(memory("10", "100", "allkeys-lru"), Status::Warn);
        assert_eq!(memory("10", "100", "volatile-lru"), Status::Ok);
    }

    #[test]
    fn a_small_output_buffer_is_told() {
        let status = |text: &str| output_buffer(Ok(Some(text.to_owned()))).status;
        let others = "normal 0 0 0 slave 268435456 67108864 60 pubsub";
        assert_eq!(status(&format!("{others} 33554432 8388608 60")), Status::Ok);
        assert_eq!(status(&format!("{others} 1048576 0 0")), Status::Warn);
        assert_eq!(status(&format!("{others} 0 0 0")), Status::Ok);
        assert_eq!(status("normal 0 0 0"), Status::Skip);
    }
}
