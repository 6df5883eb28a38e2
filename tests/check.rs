//! `barcast check`: well when all is, and what is not is named.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use common::gateway::{Feed, candle};
use common::process::{Serve, output};
use common::{RedisServer, free_port};
use serde_json::Value;

/// Step to status, and the whole object.
struct Checked {
    code: i32,
    told: Value,
    steps: BTreeMap<String, String>,
}

impl Checked {
    fn status(&self, step: &str) -> &str {
        self.steps.get(step).expect(step)
    }

    fn failed(&self) -> Vec<&str> {
        let failed = self.steps.iter().filter(|(_, status)| *status == "fail");
        failed.map(|(name, _)| name.as_str()).collect()
    }

    /// What to do, of the first step that failed.
    fn next(&self) -> &str {
        let steps = self.told["steps"].as_array().unwrap();
        let failed = steps.iter().find(|step| step["status"] == "fail").unwrap();
        failed["next"].as_str().unwrap()
    }
}

fn check(url: &str, redis_url: &str, arguments: &[&str]) -> Checked {
    let mut all = vec!["check", "--json", "--url", url, "--redis-url", redis_url];
    all.extend_from_slice(arguments);
    let output = output(&all, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let told: Value = serde_json::from_str(&text).expect(&text);
    let word = |step: &Value, name: &str| step[name].as_str().unwrap().to_owned();
    let steps = told["steps"].as_array().unwrap();
    let steps: BTreeMap<_, _> = steps
        .iter()
        .map(|step| (word(step, "name"), word(step, "status")))
        .collect();
    let code = output.status.code().unwrap();
    assert_eq!(told["ok"], code == 0);
    Checked { code, told, steps }
}

fn url(serve: &Serve) -> String {
    format!("ws://{}/api/v1/ws", serve.address)
}

#[test]
fn all_is_well() {
    let redis = RedisServer::start();
    let serve = Serve::start(&redis.url(), &[]);
    serve.until_ready();
    // Twice: the second one finds the bar of the first.
    for _ in 0..2 {
        let checked = check(&url(&serve), &redis.url(), &[]);
        assert_eq!(checked.code, 0, "{}", checked.told);
        assert_eq!(checked.steps.len(), 12);
        assert!(
            checked.steps.values().all(|status| status == "ok"),
            "{}",
            checked.told
        );
        let measured = checked.told["steps"].as_array().unwrap().iter();
        let measured = measured.filter(|step| step["ms"].as_f64().is_some_and(|ms| ms > 0.0));
        assert_eq!(measured.count(), 7, "{}", checked.told);
    }
    let keys = redis.command("KEYS *");
    assert!(
        !keys.contains("barcast:"),
        "nothing goes into the store: {keys}"
    );

    let lines = output(
        &["check", "--url", &url(&serve), "--redis-url", &redis.url()],
        &[],
    );
    let text = String::from_utf8(lines.stdout).unwrap();
    assert!(
        text.ends_with("all well\n") && !text.contains('\x1b'),
        "{text}"
    );
    assert_eq!(text.lines().count(), 12, "{text}");
}

#[test]
fn without_redis_the_rest_is_still_looked_at() {
    let redis = RedisServer::start();
    let serve = Serve::start(&redis.url(), &[]);
    serve.until_ready();
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let checked = check(&url(&serve), &nobody, &[]);
    assert_eq!((checked.code, checked.failed()), (1, vec!["redis"]));
    assert!(checked.next().contains("--redis-url"));
    assert_eq!(checked.status("gateway ready"), "ok");
    assert_eq!(checked.status("delivery"), "skip");
}

#[test]
fn a_gateway_that_is_away_is_named() {
    let redis = RedisServer::start();
    let nobody = format!("ws://127.0.0.1:{}", free_port());
    let checked = check(&nobody, &redis.url(), &[]);
    let failed = ["gateway alive", "redis subscribers", "websocket handshake"];
    assert_eq!((checked.code, checked.failed()), (1, failed.to_vec()));
    assert_eq!(checked.status("redis"), "ok");
    assert_eq!(checked.status("delivery"), "skip");
}

#[test]
fn a_gateway_whose_redis_is_away_is_alive_and_not_ready() {
    let redis = RedisServer::start();
    let absent = RedisServer::absent();
    let serve = Serve::start(&absent.url(), &[]);
    let checked = check(&url(&serve), &redis.url(), &[]);
    let failed = ["delivery", "gateway ready", "redis subscribers"];
    assert_eq!((checked.code, checked.failed()), (1, failed.to_vec()));
    assert_eq!(checked.status("gateway alive"), "ok");
    assert_eq!(checked.status("gateway metrics"), "warn");
    assert_eq!(checked.status("subscribe"), "ok");
}

/// Both are well by themselves; only a bar shows that they do not belong together.
#[test]
fn a_gateway_on_another_redis_delivers_nothing() {
    let (one, other) = (RedisServer::start(), RedisServer::start());
    let serve = Serve::start(&one.url(), &[]);
    let of_other = Serve::start(&other.url(), &[]);
    serve.until_ready();
    of_other.until_ready();
    let checked = check(&url(&serve), &other.url(), &["--timeout", "1"]);
    assert_eq!((checked.code, checked.failed()), (1, vec!["delivery"]));
    assert!(checked.next().contains("this Redis"));
}

#[test]
fn without_publishing_somebody_elses_bar_is_waited_for() {
    let redis = RedisServer::start();
    let serve = Serve::start(&redis.url(), &[]);
    serve.until_ready();
    let (url, redis_url) = (url(&serve), redis.url());
    let quiet = check(&url, &redis_url, &["--no-publish"]);
    assert_eq!(
        (quiet.code, quiet.failed()),
        (1, vec!["subscribe"]),
        "no topic yet"
    );

    let mut feed = Feed::new(&redis.bus());
    feed.bar(&candle("A", 0, 1));
    let quiet = check(&url, &redis_url, &["--no-publish", "--timeout", "0.5"]);
    assert_eq!(
        (quiet.code, quiet.failed()),
        (1, vec!["delivery"]),
        "nothing comes"
    );

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for minute in 1.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                feed.bar(&candle("A", minute, 1));
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        let heard = check(&url, &redis_url, &["--no-publish", "--timeout", "20"]);
        done.store(true, Ordering::Relaxed);
        assert_eq!(heard.code, 0, "{}", heard.told);
    });
    let topics = common::client::get(serve.address, "/api/v1/topics").body;
    assert!(!topics.contains("BARCAST.CHECK"), "{topics}");
}

#[test]
fn what_was_dropped_is_a_warning_and_no_failure() {
    let redis = RedisServer::start();
    let serve = Serve::start(&redis.url(), &[]);
    serve.until_ready();
    let mut feed = Feed::new(&redis.bus());
    feed.raw("bars:A:1", "nonsense");
    feed.bar(&candle("A", 0, 1));
    let received = || common::client::metric(serve.address, "barcast_received_bars_total") == 1;
    common::eventually_blocking("both came", received);
    let checked = check(&url(&serve), &redis.url(), &[]);
    assert_eq!(
        (checked.code, checked.status("gateway metrics")),
        (0, "warn")
    );
}

#[test]
fn a_bad_argument_ends_with_2_and_no_secret_is_shown() {
    const SECRET: &str = "s3cr3t-pa55";
    for arguments in [
        ["check", "--url", "http://s3cr3t-pa55/"],
        ["check", "--redis-url", "http://:s3cr3t-pa55@h"],
        ["check", "--timeout", "soon"],
    ] {
        let output = output(&arguments, &[]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(
            told.contains(arguments[1]) && !told.contains(SECRET),
            "{told}"
        );
    }
    let redis = RedisServer::start_with(|_| vec!["--requirepass".to_owned(), "another".to_owned()]);
    let of_redis = format!("redis://user:{SECRET}@127.0.0.1:{}", redis.port());
    let of_gateway = format!("ws://127.0.0.1:{}/ws?key={SECRET}", free_port());
    let output = output(
        &["check", "--url", &of_gateway, "--redis-url", &of_redis],
        &[],
    );
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told.contains("FAIL  redis") && !told.contains(SECRET),
        "{told}"
    );
}
