//! What only a server between processes does: it dies, comes back, wants a password, speaks TLS.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::process::{Command, Stdio};

use barcast::bar::BATCH_CHANNEL;
use barcast::bus::{Bus, BusError, Outgoing, Publisher, RedisBus};
use common::{RedisServer, Subscription, eventually, numbered, ready};

/// The Redis twin's backpressure: what is not read waits in the server, not in this process.
#[tokio::test(flavor = "multi_thread")]
async fn over_redis_a_sink_that_blocks_is_felt_by_the_server() {
    let server = RedisServer::start();
    let subscription = Subscription::start(server.bus()).await;
    subscription.collector.shut();
    let mut publisher = ready(&server.bus()).await;
    let large: Vec<Outgoing> = (0..24)
        .map(|_| Outgoing {
            channel: BATCH_CHANNEL.to_owned(),
            payload: vec![b' '; 1 << 20],
        })
        .collect();
    publisher.publish(&large).await.unwrap();
    // The sockets hold some MiB; the rest must be in the server's output buffer.
    let clients = server.command("CLIENT LIST TYPE pubsub");
    let waiting: usize = clients
        .split_whitespace()
        .find_map(|word| word.strip_prefix("omem="))
        .and_then(|bytes| bytes.parse().ok())
        .expect(&clients);
    assert!(waiting > 8 << 20, "{waiting} bytes wait in the server");
    subscription.collector.open();
    subscription.received(large.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_both_sides_come_back_by_themselves() {
    let mut server = RedisServer::start();
    let subscription = Subscription::start(server.bus()).await;
    let mut publisher = ready(&server.bus()).await;
    publisher
        .publish(&numbered("bars:A:1", 0..1))
        .await
        .unwrap();
    subscription.received(1).await;

    server.kill();
    let lost = publisher.publish(&numbered("bars:A:1", 1..2)).await;
    assert!(lost.is_err(), "{lost:?}");
    let lost = publisher.publish(&numbered("bars:A:1", 1..2)).await;
    assert!(matches!(lost, Err(BusError::NotConnected(_))), "{lost:?}");
    assert!(!publisher.is_connected());
    eventually("loss told", || {
        subscription.collector.seen(|seen| !seen.lost.is_empty())
    })
    .await;

    server.restart();
    subscription.connected(2).await;
    publisher.ready().await;
    publisher
        .publish(&numbered("bars:A:1", 2..3))
        .await
        .unwrap();
    subscription.received(2).await;
    assert_eq!(subscription.collector.payloads(), ["0", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_absent_at_start_is_waited_for() {
    let mut server = RedisServer::absent();
    let subscription = Subscription::begin(server.bus());
    let mut publisher = server.bus().publisher();
    let absent = publisher.publish(&numbered("bars:A:1", 0..1)).await;
    assert!(matches!(absent, Err(BusError::NotConnected(_))));
    eventually("absence told", || {
        subscription.collector.seen(|seen| !seen.lost.is_empty())
    })
    .await;
    server.restart();
    subscription.connected(1).await;
    publisher.ready().await;
    publisher
        .publish(&numbered("bars:A:1", 1..2))
        .await
        .unwrap();
    subscription.received(1).await;
}

/// A server that accepts and never answers must not hold up the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_to_a_silent_server_ends_when_told() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let subscription = Subscription::begin(RedisBus::new(&url).unwrap());
    let _accepted = silent.accept().unwrap();
    let asked = std::time::Instant::now();
    drop(subscription);
    // The connect's own time-out is 5 s; without `stop` looked at, that is what it takes.
    assert!(asked.elapsed() < std::time::Duration::from_secs(4));
}

async fn carries(publish: RedisBus, subscribe: RedisBus) {
    let subscription = Subscription::start(subscribe).await;
    let mut publisher = ready(&publish).await;
    publisher
        .publish(&numbered("bars:A:1", 0..3))
        .await
        .unwrap();
    subscription.received(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_password_database_and_unix_socket_come_from_the_url() {
    let server = RedisServer::start_with(|folder| {
        let mut arguments: Vec<String> = ["--user", "default", "off", "--unixsocket"]
            .map(String::from)
            .into();
        arguments.push(folder.join("redis.sock").display().to_string());
        arguments
            .extend(["--user", "alice", "on", ">s3cret", "~*", "&*", "+@all"].map(String::from));
        arguments
    });
    let tcp = format!("redis://alice:s3cret@127.0.0.1:{}/3", server.port());
    let socket = server.folder().join("redis.sock");
    let unix = format!("unix://{}?user=alice&pass=s3cret&db=3", socket.display());
    let (tcp, unix) = (RedisBus::new(&tcp).unwrap(), RedisBus::new(&unix).unwrap());
    carries(tcp.clone(), unix.clone()).await;
    assert!(tcp.address().ends_with("database 3"), "{}", tcp.address());
    for bus in [&tcp, &unix] {
        assert!(!bus.address().contains("s3cret"));
    }
    let mut refused = server.bus().publisher();
    let refused = refused.publish(&numbered("bars:A:1", 0..1)).await;
    assert!(refused.is_err());
}

/// Everything that barcast says, however much it is asked to, while it cannot log in.
#[test]
fn a_password_is_never_printed() {
    let server = RedisServer::start_with(|_| vec!["--requirepass".into(), "right".into()]);
    let url = format!("redis://alice:wr0ngpass@127.0.0.1:{}", server.port());
    let mut child = Command::new(env!("CARGO_BIN_EXE_barcast"))
        .args(["generate", "--interval", "0.05", "--log-level", "trace"])
        .env("REDIS_URL", &url)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let errors = child.stderr.take().unwrap();
    let mut said = String::new();
    for line in std::io::BufRead::lines(std::io::BufReader::new(errors)) {
        said.push_str(&line.unwrap());
        said.push('\n');
        if said.matches("publisher cannot connect").count() >= 2 {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.contains("WRONGPASS"), "{said}");
    assert!(!said.contains("wr0ngpass"), "{said}");

    let unusable = [
        "redis://alice:wr0ngpass@host:port",
        "http://alice:wr0ngpass@host",
    ];
    for url in unusable {
        let ended = Command::new(env!("CARGO_BIN_EXE_barcast"))
            .args(["generate", "--redis-url", url])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.contains("--redis-url") && !said.contains("wr0ngpass"),
            "{said}"
        );
    }
}

/// A private authority is trusted by the usual variable. A process of its own, since a variable is
/// the whole process's.
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_and_strangers_are_not_trusted() {
    let tls_port = common::free_port();
    let server = RedisServer::start_with(|folder| {
        certificates(folder);
        let file = |name: &str| folder.join(name).display().to_string();
        let port = tls_port.to_string();
        let (key, certificate, authority) = (file("key.pem"), file("cert.pem"), file("ca.pem"));
        [
            "--tls-port",
            &port,
            "--tls-auth-clients",
            "no",
            "--tls-key-file",
            &key,
        ]
        .into_iter()
        .chain([
            "--tls-cert-file",
            &certificate,
            "--tls-ca-cert-file",
            &authority,
        ])
        .map(String::from)
        .collect()
    });
    let generate = |authority: Option<&str>| {
        let url = format!("rediss://localhost:{tls_port}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_barcast"));
        command.args(["generate", "--interval", "0.05", "--redis-url", &url]);
        match authority {
            Some(name) => command.env("SSL_CERT_FILE", server.folder().join(name)),
            None => command.env_remove("SSL_CERT_FILE"),
        };
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let subscription = Subscription::start(server.bus()).await;
    let mut trusting = generate(Some("ca.pem"));
    subscription.received(20).await;
    trusting.kill().unwrap();
    trusting.wait().unwrap();

    let mut strange = generate(None);
    let errors = std::io::BufReader::new(strange.stderr.take().unwrap());
    let refused = std::io::BufRead::lines(errors)
        .map_while(Result::ok)
        .find(|line| line.contains("cannot connect"));
    strange.kill().unwrap();
    strange.wait().unwrap();
    let refused = refused.unwrap();
    assert!(refused.to_lowercase().contains("certificate"), "{refused}");
}

/// An authority and a certificate for localhost.
fn certificates(folder: &std::path::Path) {
    std::fs::write(folder.join("san"), "subjectAltName=DNS:localhost\n").unwrap();
    for line in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout key.pem -out request.pem",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out cert.pem",
    ] {
        let made = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(folder)
            .output()
            .expect("openssl must be installed for this test");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
    }
}
