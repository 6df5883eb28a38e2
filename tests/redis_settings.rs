//! Settings of Redis: URLs that cannot work, the password's file, and two environments in one Redis.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use barcast::bus::redis::Settings;
use barcast::bus::{Bus, Outgoing, Publisher, RedisBus};
use common::client::get;
use common::gateway::{Feed, candle};
use common::process::{Process, Serve, output};
use common::{RedisServer, Subscription, eventually, eventually_blocking, ready};

/// Commands that speak to Redis, and what they need beside it. With a wrong setting none comes to use it.
const COMMANDS: [(&str, &[&str]); 6] = [
    ("serve", &["--listen", "127.0.0.1:0"]),
    ("generate", &[]),
    ("ingest", &["-"]),
    ("replay", &["bars.csv"]),
    ("record", &["--parquet", "days"]),
    ("check", &["--url", "ws://127.0.0.1:1/ws"]),
];

/// What a command says when it ends with code 2: one line.
fn refused(command: &str, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let (_, needed) = COMMANDS.iter().find(|(name, _)| *name == command).unwrap();
    let mut all = vec![command];
    all.extend_from_slice(needed);
    all.extend_from_slice(arguments);
    let ended = output(&all, variables);
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(
        ended.status.code(),
        Some(2),
        "{all:?} {variables:?}: {said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

/// `s3cr3t` is in each that has a password.
#[test]
fn a_url_that_cannot_work_is_refused_with_the_remedy_and_without_the_secret() {
    let faults = [
        ("", "is empty"),
        ("  ", "is empty"),
        ("localhost", "no scheme"),
        ("localhost:6379", "no scheme"),
        ("redis:6379", "no scheme"),
        ("user:s3cr3t@host:6379", "no scheme"),
        ("//host", "no scheme"),
        ("redis://", "no host"),
        ("redis://:6379", "no host"),
        ("redis://u:s3cr3t@", "no host"),
        ("redis://u:s3cr3t@:6379/0", "no host"),
        ("redis://0.0.0.0:6379", "127.0.0.1"),
        ("http://u:s3cr3t@host", "not HTTP"),
        ("https://host", "not HTTP"),
        ("wss://host/ws", "gateway"),
        ("redis-sentinel://u:s3cr3t@host:26379/mymaster", "Sentinel"),
        ("redis+sentinel://host:26379", "Sentinel"),
        ("redis+cluster://host", "Cluster"),
        ("redis+tls://host", "rediss://"),
        ("redis+ssl://host", "rediss://"),
        ("tcp://host:6379", "redis://"),
        ("memcached://u:s3cr3t@host", "memcached://"),
        ("rediss://host#insecure", "--redis-tls-ca"),
        ("rediss://u:s3cr3t@host:6379/0#insecure", "--redis-tls-ca"),
        ("redis://host#insecure", "--redis-tls-ca"),
        ("rediss://host/#other", "%23"),
        ("rediss://host#", "%23"),
        ("redis://u:s3cr3t@more@host", "%40"),
        ("redis://u:s3cr3t/more@host", "%2F"),
        ("redis://u:s3cr3t?more@host", "%3F"),
        ("redis://u:s3cr3t#more@host", "%23"),
        ("redis://u:s3cr3t/p@ss@host:6379/0", "%2F"),
        ("redis://u:s3cr3t%@host", "%25"),
        ("redis://u:s3cr3t%zz@host", "%25"),
        ("redis://u:s3cr3t%ff@host", "UTF-8"),
        ("redis://u:s3cr3t", "port"),
        ("redis://u:s3cr3t:6379", "@"),
        ("redis://s3cr3t$x", "characters"),
        ("redis://${REDIS_HOST}:6379", "characters"),
        ("redis://host:port", "port"),
        ("redis://host:0", "port"),
        ("redis://host:65536", "port"),
        ("redis://ho st", "characters"),
        ("redis://höst", "characters"),
        ("redis://::1:6379", "[::1]"),
        ("redis://[::1:6379", "]"),
        ("redis://[fe80::1%25eth0]:6379", "zone"),
        ("redis://host/cache", "database"),
        ("redis://host/-1", "database"),
        ("redis://host/0/1", "database"),
        ("redis://host/99999999999", "database"),
        ("redis://host?protocol=resp2", "RESP3"),
        ("redis://host?protocol=2", "RESP3"),
        ("redis://host?password=s3cr3t", "parameter password"),
        ("redis://host?s3cr3t", "parameter"),
        ("rediss://host?ssl_cert_reqs=none", "--redis-tls-ca"),
        ("rediss://host/0?tls_verify=false", "--redis-tls-ca"),
        ("redis://host/?db=1", "parameter db"),
        ("unix:", "whole path"),
        ("unix://run/redis.sock", "whole path"),
        ("unix://u:s3cr3t@/run/redis.sock", "?user="),
        ("unix:///run/redis.sock?db=x", "database"),
        ("unix:///run/redis.sock?pass=s3cr3t%", "%25"),
        ("unix:///run/redis.sock#0", "#"),
        ("redis://u:s3cr3t\n@host", "line break"),
    ];
    for (url, remedy) in faults {
        let said = refused("generate", &[], &[("REDIS_URL", url)]);
        assert!(said.contains("--redis-url (REDIS_URL)"), "{url}: {said}");
        assert!(said.contains(remedy), "{url:?} lacks {remedy:?}: {said}");
        assert!(!said.contains("s3cr3t"), "{said}");
    }
    let fine = [
        ("redis://host", "host:6379"),
        ("redis://host/", "host:6379"),
        ("REDIS://host", "host:6379"),
        ("  redis://host:6380\n", "host:6380"),
        ("redis://host:/1", "host:6379 database 1"),
        ("redis://u@host", "host:6379"),
        ("redis://:p@host/15", "host:6379 database 15"),
        ("redis://u:p:q@host/16", "host:6379 database 16"),
        ("redis://u:p%40%2F%3F%23%25@host", "host:6379"),
        ("redis://u:p!$&'()*+,;=[]|^ ~@host", "host:6379"),
        (
            "redis://my_redis.svc-1.cluster.local",
            "my_redis.svc-1.cluster.local:6379",
        ),
        ("redis://10.0.0.5:1", "10.0.0.5:1"),
        ("redis://[::1]:6379/2", "::1:6379 database 2"),
        ("rediss://host:6380", "host:6380"),
        ("valkey://host", "host:6379"),
        ("valkeys://host", "host:6379"),
        ("redis://host?protocol=resp3", "host:6379"),
        ("unix:/run/redis.sock", "/run/redis.sock"),
        (
            "unix:///run/redis.sock?user=u&pass=p&db=3",
            "/run/redis.sock database 3",
        ),
        ("redis+unix:///run/redis.sock", "/run/redis.sock"),
    ];
    for (url, address) in fine {
        let bus = RedisBus::new(url).unwrap_or_else(|why| panic!("{url}: {why}"));
        assert_eq!(bus.address(), address, "{url}");
    }
}

/// Each setting is read by each command, from its flag and its variable.
#[test]
fn every_command_has_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent").display().to_string();
    let tls: &[&str] = &["--redis-url", "rediss://host"];
    let settings: [(&str, &str, &str, &[&str], &str); 5] = [
        (
            "--redis-password-file",
            "BARCAST_REDIS_PASSWORD_FILE",
            &absent,
            &[],
            "cannot be read",
        ),
        (
            "--redis-tls-ca",
            "BARCAST_REDIS_TLS_CA",
            &absent,
            tls,
            "cannot be read",
        ),
        (
            "--redis-tls-cert",
            "BARCAST_REDIS_TLS_CERT",
            &absent,
            tls,
            "needs --redis-tls-key",
        ),
        (
            "--redis-tls-key",
            "BARCAST_REDIS_TLS_KEY",
            &absent,
            tls,
            "needs --redis-tls-cert",
        ),
        (
            "--redis-prefix",
            "BARCAST_REDIS_PREFIX",
            "a*",
            &[],
            "without {}*?[]",
        ),
    ];
    for (command, _) in COMMANDS {
        for (flag, variable, value, others, expected) in settings {
            let mut arguments = others.to_vec();
            let by_variable = refused(command, &arguments, &[(variable, value)]);
            arguments.extend([flag, value]);
            let by_flag = refused(command, &arguments, &[]);
            for said in [by_flag, by_variable] {
                assert!(said.contains(&format!("{flag} ({variable})")), "{said}");
                assert!(said.contains(expected), "{command} {flag}: {said}");
            }
        }
        let said = refused(command, &["--redis-url", "rediss://host#insecure"], &[]);
        assert!(said.contains("--redis-tls-ca"), "{said}");
    }
}

#[test]
fn a_password_file_that_cannot_be_used_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let fine = file("fine", b"s3cr3t\n");
    let pipe = folder.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let pipe = pipe.display().to_string();
    let folder_itself = folder.path().display().to_string();
    let faults = [
        ("redis://host", file("empty", b""), "is empty"),
        ("redis://host", file("line", b"\n"), "is empty"),
        ("redis://host", file("bytes", b"s3cr3t\xff"), "UTF-8"),
        (
            "redis://host",
            file("large", &vec![b'x'; 5 << 20]),
            "too large",
        ),
        ("redis://host", folder_itself, "directory"),
        ("redis://host", pipe, "allowed: a regular file"),
        (
            "redis://host",
            "/dev/null".to_owned(),
            "is a pipe or a device",
        ),
        ("redis://u:other@host", fine.clone(), "one of them"),
        ("redis://:other@host", fine.clone(), "one of them"),
        ("unix:///run/redis.sock?pass=other", fine, "one of them"),
    ];
    for (url, path, expected) in faults {
        let said = refused(
            "generate",
            &["--redis-password-file", &path],
            &[("REDIS_URL", url)],
        );
        assert!(said.contains("--redis-password-file"), "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(
            !said.contains("s3cr3t") && !said.contains("other"),
            "{said}"
        );
    }
}

fn with_password_file(url: String, path: &Path) -> RedisBus {
    RedisBus::open(&Settings {
        url,
        password_file: Some(path.to_owned()),
        ..Settings::default()
    })
    .unwrap()
}

/// The password is exactly what the file holds, but for one line break.
#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_the_file_without_its_last_line_break() {
    let server = RedisServer::start();
    let file = server.folder().join("password");
    for (text, password) in [
        ("plain", "plain"),
        ("line\n", "line"),
        ("crlf\r\n", "crlf"),
        ("p@ss/w?rd#%41:ü", "p@ss/w?rd#%41:ü"),
    ] {
        fs::write(&file, text).unwrap();
        server.command(&format!("ACL SETUSER gw reset on >{password} ~* &* +@all"));
        let url = format!("redis://gw@127.0.0.1:{}", server.port());
        let bus = with_password_file(url, &file);
        assert!(bus.probe().await.unwrap().ping().await.is_ok(), "{text:?}");
    }
}

/// A gateway and a publisher come back by themselves when the password was changed and their connections end.
#[test]
fn a_rotated_password_is_read_at_the_next_connect() {
    let server = RedisServer::start_with(|_| vec!["--requirepass".into(), "pw-old".into()]);
    let file = server.folder().join("password");
    let path = file.display().to_string();
    fs::write(&file, "pw-old\n").unwrap();
    let url = format!("redis://127.0.0.1:{}", server.port());
    let arguments = ["--redis-password-file", &path];
    let gateway = Serve::start(&url, &arguments);
    gateway.until_ready();
    let mut all = vec![
        "generate",
        "--symbols",
        "A",
        "--interval",
        "0.05",
        "--redis-url",
        &url,
    ];
    all.extend(arguments);
    let _generator = Process::start(&all);
    gateway.client().subscribe("bars:A:1");

    let cut = |password: &str| {
        server.command(&format!(
            "AUTH {password}\r\nCLIENT KILL TYPE pubsub\r\nCLIENT KILL TYPE normal SKIPME yes"
        ));
    };
    server.command("AUTH pw-old\r\nCONFIG SET requirepass pw-new");
    cut("pw-new");
    // The old password is still in the file: it goes on trying, and says what Redis says.
    gateway.until_not_ready();
    eventually_blocking("WRONGPASS is logged", || {
        gateway.process.log().contains("WRONGPASS")
    });
    // Nor does a file that is gone end it.
    fs::remove_file(&file).unwrap();
    eventually_blocking("the missing file is logged", || {
        let log = gateway.process.log();
        log.contains("--redis-password-file") && log.contains(&path)
    });
    fs::write(&file, "pw-new").unwrap();
    gateway.until_ready();
    let received = || common::client::metric(gateway.address, "barcast_received_bars_total");
    let before = received();
    eventually_blocking("bars flow again", || received() > before);
    let log = gateway.process.log();
    for password in ["pw-old", "pw-new"] {
        assert!(!log.contains(password), "{log}");
    }
}

/// Two environments share a Redis: neither hears nor reads what the other one has.
#[test]
fn two_environments_with_prefixes_share_a_redis() {
    let server = RedisServer::start();
    let url = server.url();
    let environments = [
        ("", "A,PRODONLY"),
        ("stag:", "A,TESTONLY"),
        ("stag:eu-", "A,EUONLY"),
    ];
    let generators: Vec<_> = environments
        .map(|(prefix, symbols)| {
            Process::start(&[
                "generate",
                "--symbols",
                symbols,
                "--resolutions",
                "1S",
                "--interval",
                "0.05",
                "--redis-url",
                &url,
                "--redis-prefix",
                prefix,
            ])
        })
        .into();
    let gateways = environments.map(|(prefix, symbols)| {
        let gateway = Serve::start(&url, &["--redis-prefix", prefix]);
        gateway.until_ready();
        (gateway, prefix, symbols)
    });
    let topics = |gateway: &Serve| get(gateway.address, "/api/v1/topics").body;
    for (gateway, prefix, symbols) in &gateways {
        let only = symbols.split(',').nth(1).unwrap();
        let topic = format!("bars:{only}:1S");
        eventually_blocking("its own topic", || topics(gateway).contains(&topic));
        let key = format!("EXISTS {prefix}barcast:history:{topic}");
        eventually_blocking("its own store", || server.command(&key).starts_with(":1"));
        let known = topics(gateway);
        for (_, _, others) in gateways.iter().filter(|(_, other, _)| other != prefix) {
            let other = others.split(',').nth(1).unwrap();
            assert!(!known.contains(other), "{prefix}: {known}");
            let last = server.command(&format!("HEXISTS {prefix}barcast:last bars:{other}:1S"));
            assert!(last.starts_with(":0"), "{prefix} {other}: {last}");
        }
        // Nothing of the others came as a message that is wrong, either.
        let dropped = get(gateway.address, "/metrics").body;
        let dropped = dropped
            .lines()
            .filter(|line| line.starts_with("barcast_dropped_messages_total"));
        assert!(
            dropped.clone().all(|line| line.ends_with(" 0")),
            "{:?}",
            dropped.collect::<Vec<_>>()
        );
    }
    drop(generators);
    // One that starts with its producers gone reads its own past alone.
    let later = Serve::start(&url, &["--redis-prefix", "stag:"]);
    later.until_ready();
    let known = topics(&later);
    assert!(
        known.contains("TESTONLY") && !known.contains("ONLY:1S\",\"symbol\":\"PROD"),
        "{known}"
    );
    assert!(
        !known.contains("PRODONLY") && !known.contains("EUONLY"),
        "{known}"
    );

    let (staging, _, _) = &gateways[1];
    let ws = format!("ws://{}/ws", staging.address);
    let check = |prefix: &str| {
        output(
            &[
                "check",
                "--url",
                &ws,
                "--redis-url",
                &url,
                "--redis-prefix",
                prefix,
            ],
            &[],
        )
    };
    let fine = check("stag:");
    let said = String::from_utf8(fine.stdout).unwrap();
    assert_eq!(fine.status.code(), Some(0), "{said}");
    assert!(
        said.contains("prefix stag:") && said.contains("stag:bars:BARCAST.CHECK"),
        "{said}"
    );
    let other = check("prod:");
    let said = String::from_utf8(other.stdout).unwrap();
    assert_ne!(other.status.code(), Some(0), "{said}");
    assert!(said.contains("--redis-prefix"), "{said}");
}

/// Sinks get names without the prefix; what cannot be read is told with its whole channel.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_in_redis_alone_and_in_what_is_told() {
    let server = RedisServer::start();
    let bus = RedisBus::open(&Settings {
        url: server.url(),
        prefix: "p.".to_owned(),
        ..Settings::default()
    })
    .unwrap();
    let subscription = Subscription::start(bus.clone()).await;
    let bare = Subscription::start(bus.listening_to("p.*")).await;
    let mut publisher = ready(&bus).await;
    for channel in ["bars:A:1", "bars:@batch"] {
        let (channel, payload) = (channel.to_owned(), b"1".to_vec());
        publisher
            .publish(&[Outgoing { channel, payload }])
            .await
            .unwrap();
    }
    subscription.received(2).await;
    bare.received(2).await;
    let channels = |subscription: &Subscription| {
        let names =
            |seen: &common::Seen| seen.messages.iter().map(|(name, _)| name.clone()).collect();
        subscription.collector.seen::<Vec<String>>(names)
    };
    assert_eq!(channels(&subscription), ["bars:A:1", "bars:@batch"]);
    assert_eq!(channels(&bare), ["p.bars:A:1", "p.bars:@batch"]);

    let gateway = Serve::start(&server.url(), &["--redis-prefix", "p."]);
    gateway.until_ready();
    server.command("PUBLISH p.bars:A:1 nonsense");
    eventually("the whole channel is logged", || {
        gateway.process.log().contains("channel=\"p.bars:A:1\"")
    })
    .await;
}

/// What a user of one environment may do, as docs/production.md says.
#[test]
fn the_documented_acl_is_enough_with_a_prefix() {
    let server = RedisServer::start();
    let production = fs::read_to_string("docs/production.md").unwrap();
    let rules: Vec<_> = production
        .lines()
        .filter(|line| line.starts_with("ACL SETUSER staging-"))
        .collect();
    assert_eq!(rules.len(), 2, "docs/production.md: {rules:?}");
    for rule in rules {
        let answer = server.command(&rule.replace("PASSWORD", "pw"));
        assert!(answer.starts_with("+OK"), "{rule}: {answer}");
    }
    let url = |user: &str| format!("redis://staging-{user}:pw@127.0.0.1:{}", server.port());
    let prefix = ["--redis-prefix", "staging:"];
    let mut generate = vec![
        "generate",
        "--symbols",
        "A",
        "--interval",
        "0.05",
        "--redis-url",
    ];
    let producer = url("producer");
    generate.push(&producer);
    generate.extend(prefix);
    let _generator = Process::start(&generate);
    let gateway = Serve::start(&url("gateway"), &prefix);
    gateway.until_ready();
    let key = "EXISTS staging:barcast:last";
    eventually_blocking("stored", || server.command(key).starts_with(":1"));
    gateway.client().subscribe("bars:A:1");
    // And no more than that.
    let said = output(
        &[
            "check",
            "--url",
            "ws://127.0.0.1:1/ws",
            "--redis-url",
            &producer,
        ],
        &[],
    );
    assert_ne!(said.status.code(), Some(0));
    let mut feed = Feed::new(&RedisBus::new(&server.url()).unwrap());
    feed.bar(&candle("FOREIGN", 0, 1));
    let known = get(gateway.address, "/api/v1/topics").body;
    assert!(!known.contains("FOREIGN"), "{known}");
}
