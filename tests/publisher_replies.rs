//! What Redis answers a publisher, and that no closed bar is lost by it: in the store, and with whoever
//! subscribed. Every command that publishes, over real servers.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use barcast::bus::Publisher;
use common::client::get;
use common::gateway::{Feed, MINUTE, START, candle};
use common::process::{Process, barcast};
use common::proxy::Proxy;
use common::{RedisServer, eventually_blocking, free_port, ready};
use serde_json::Value;

/// Bars of an ingest or a replay, of which all but the last are closed.
const BARS: i64 = 16;
/// Between two bars.
const PACE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Generate,
    Ingest,
    Replay,
}

const KINDS: [Kind; 3] = [Kind::Generate, Kind::Ingest, Kind::Replay];

/// A command that publishes `bars:A:1`, or `bars:A:1S` of a generator.
struct Publishing {
    kind: Kind,
    process: Process,
    health: Option<SocketAddr>,
    _folder: tempfile::TempDir,
}

fn row(minute: i64) -> String {
    let time = START + minute * MINUTE;
    format!(
        "{{\"symbol\":\"A\",\"time\":{time},\"open\":1,\"high\":2,\"low\":1,\"close\":1.5,\"volume\":{minute}}}\n"
    )
}

impl Publishing {
    fn start(kind: Kind, url: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = address.to_string();
        let health = (kind != Kind::Replay).then_some(address);
        let file = folder.path().join("A_1.csv");
        let fifo = folder.path().join("rows");
        let (file_name, fifo_name) = (file.display().to_string(), fifo.display().to_string());
        let mut arguments = match kind {
            Kind::Generate => vec!["generate", "--symbols", "A", "--resolutions", "1S"],
            Kind::Ingest => vec![
                "ingest",
                &fifo_name,
                "--input",
                "bars",
                "--resolutions",
                "1",
            ],
            Kind::Replay => vec!["replay", &file_name, "--speed", "240x"],
        };
        match kind {
            Kind::Generate if !more.contains(&"--interval") => {
                arguments.extend(["--interval", "0.25"]);
            }
            Kind::Generate => {}
            Kind::Ingest => {
                let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
                assert!(made.success());
                // Both ways, so that opening waits for nobody and nobody sees its end.
                let mut rows = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&fifo)
                    .unwrap();
                thread::spawn(move || {
                    for minute in 0..=BARS {
                        rows.write_all(row(minute).as_bytes()).unwrap();
                        thread::sleep(PACE);
                    }
                    thread::sleep(common::DEADLINE * 2);
                });
            }
            Kind::Replay => {
                let mut text = "time,open,high,low,close,volume\n".to_owned();
                for minute in 0..BARS {
                    let time = (START + minute * MINUTE) / 1_000;
                    text.push_str(&format!("{time},1,2,1,1.5,{minute}\n"));
                }
                std::fs::write(&file, text).unwrap();
            }
        }
        arguments.extend(["--redis-url", url]);
        if health.is_some() {
            arguments.extend(["--health-listen", &listen]);
        }
        arguments.extend(more);
        Self {
            kind,
            process: Process::spawn(barcast(&arguments)),
            health,
            _folder: folder,
        }
    }

    fn topic(&self) -> &'static str {
        match self.kind {
            Kind::Generate => "bars:A:1S",
            _ => "bars:A:1",
        }
    }

    /// Waits until `/readyz` answers so, and returns why.
    fn until_ready(&self, is_ready: bool) -> String {
        let Some(address) = self.health else {
            return String::new();
        };
        let expected = if is_ready { 200 } else { 503 };
        let mut body = String::new();
        eventually_blocking(&format!("/readyz answers {expected}"), || {
            if TcpStream::connect(address).is_err() {
                return false;
            }
            let answer = get(address, "/readyz");
            body = answer.body;
            answer.status == expected
        });
        let alive = get(address, "/healthz");
        assert_eq!(alive.status, 200);
        body
    }

    fn is_ready(&self) -> bool {
        get(self.health.unwrap(), "/readyz").status == 200
    }

    fn metric(&self, name: &str) -> f64 {
        let text = get(self.health.unwrap(), "/metrics").body;
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Waits until it has published what it was to, and ends it.
    fn finish(&mut self, heard: &Heard) {
        match self.kind {
            Kind::Generate => {
                let enough = heard.closed().len() + 2;
                eventually_blocking("bars go on", || heard.closed().len() >= enough);
                self.process.terminate();
            }
            Kind::Ingest => {
                let last = START + BARS * MINUTE;
                eventually_blocking("the last bar", || heard.times().contains(&last));
                self.until_ready(true);
                self.process.terminate();
            }
            Kind::Replay => {}
        }
        assert_eq!(self.process.exit_code(), Some(0), "{:?}", self.kind);
    }

    /// What must be there in the end: all that were ever heard of, without a hole.
    fn expected(&self, found: &BTreeSet<i64>) -> BTreeSet<i64> {
        match self.kind {
            Kind::Generate => {
                let (first, last) = (*found.first().unwrap(), *found.last().unwrap());
                (0..=(last - first) / 1_000)
                    .map(|n| first + n * 1_000)
                    .collect()
            }
            _ => (0..BARS).map(|minute| START + minute * MINUTE).collect(),
        }
    }
}

/// All that a subscriber hears, who never leaves by himself and knows nothing of what is tested.
#[derive(Clone)]
struct Heard(Arc<Mutex<String>>);

impl Heard {
    fn at(port: u16) -> Self {
        let heard = Self(Arc::default());
        let (sender, text) = std::sync::mpsc::channel();
        let kept = heard.clone();
        thread::spawn(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"PSUBSCRIBE bars:*\r\n").unwrap();
            let mut buffer = [0; 65_536];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                kept.0
                    .lock()
                    .unwrap()
                    .push_str(std::str::from_utf8(&buffer[..read]).unwrap());
                let _ = sender.send(());
            }
        });
        text.recv_timeout(common::DEADLINE).unwrap();
        heard
    }

    fn messages(&self) -> Vec<Value> {
        let text = self.0.lock().unwrap();
        let lines = text.split("\r\n").filter(|line| line.starts_with('{'));
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    fn seqs(&self) -> BTreeSet<u64> {
        let messages = self.messages();
        let seqs = messages.iter().map(|message| message["seq"].as_u64());
        seqs.map(Option::unwrap).collect()
    }

    fn times(&self) -> BTreeSet<i64> {
        let messages = self.messages();
        messages
            .iter()
            .map(|message| message["bar"]["time"].as_i64().unwrap())
            .collect()
    }

    fn closed(&self) -> BTreeSet<i64> {
        let messages = self.messages();
        let closed = messages
            .iter()
            .filter(|message| message["bar"]["closed"] == true);
        closed
            .map(|message| message["bar"]["time"].as_i64().unwrap())
            .collect()
    }
}

/// Times of the closed bars that are stored of a topic, each of which must be there once.
fn stored(server: &RedisServer, topic: &str) -> BTreeSet<i64> {
    let answer = server.command(&format!("ZRANGE barcast:history:{topic} 0 -1"));
    let lines = answer.lines().filter(|line| line.starts_with('{'));
    let times: Vec<_> = lines
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["bar"]["time"]
                .as_i64()
                .unwrap()
        })
        .collect();
    let set: BTreeSet<_> = times.iter().copied().collect();
    assert_eq!(set.len(), times.len(), "{times:?}");
    set
}

/// What is wrong with a Redis for a while.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Its disk refuses its dump.
    Misconf,
    /// It may use no more memory.
    Oom,
    /// It wants replicas that it has not.
    NoReplicas,
    /// A script holds it.
    Busy,
    /// Somebody made it a replica.
    Replica,
    /// The user lost the right to write keys.
    NoKeys,
    /// The user lost the right to publish.
    NoChannels,
}

impl Fault {
    /// The word that Redis says, or that names it.
    fn word(self) -> &'static str {
        match self {
            Self::Misconf => "MISCONF",
            Self::Oom => "OOM",
            Self::NoReplicas => "NOREPLICAS",
            Self::Busy => "BUSY",
            Self::Replica => "replica",
            Self::NoKeys | Self::NoChannels => "NOPERM",
        }
    }

    fn begin(self, server: &RedisServer) {
        match self {
            Self::Misconf => {
                std::fs::create_dir(server.folder().join("dump.rdb")).unwrap();
                server.command("CONFIG SET save \"3600 1\"");
                eventually_blocking("a dump that fails", || {
                    server.command("BGSAVE");
                    server.command("PING").contains("MISCONF")
                });
            }
            Self::Oom => {
                server.command("CONFIG SET maxmemory 1");
            }
            Self::NoReplicas => {
                server.command("CONFIG SET min-replicas-to-write 1");
            }
            Self::Busy => {
                server.command("CONFIG SET busy-reply-threshold 50");
                let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
                stream
                    .write_all(b"EVAL \"while true do end\" 0\r\n")
                    .unwrap();
                thread::spawn(move || stream.read(&mut [0; 1]));
                eventually_blocking("busy", || server.command("PING").contains("BUSY"));
            }
            Self::Replica => {
                server.command("REPLICAOF 127.0.0.1 1");
            }
            Self::NoKeys => {
                server.command("ACL SETUSER u resetkeys");
            }
            Self::NoChannels => {
                server.command("ACL SETUSER u resetchannels");
            }
        }
    }

    fn end(self, server: &RedisServer) {
        match self {
            Self::Misconf => {
                std::fs::remove_dir(server.folder().join("dump.rdb")).unwrap();
                eventually_blocking("a dump that works", || {
                    server.command("BGSAVE");
                    !server.command("PING").contains("MISCONF")
                });
            }
            Self::Oom => {
                server.command("CONFIG SET maxmemory 0");
            }
            Self::NoReplicas => {
                server.command("CONFIG SET min-replicas-to-write 0");
            }
            Self::Busy => {
                server.command("SCRIPT KILL");
            }
            Self::Replica => {
                server.command("REPLICAOF NO ONE");
            }
            Self::NoKeys => {
                server.command("ACL SETUSER u allkeys");
            }
            Self::NoChannels => {
                server.command("ACL SETUSER u allchannels");
            }
        }
    }
}

/// Each command, while Redis refuses for a while: at the end every closed bar is in the store and was heard,
/// and while it lasted `/readyz` said why.
fn nothing_is_lost(fault: Fault) {
    thread::scope(|scope| {
        for kind in KINDS {
            scope.spawn(move || {
                let server = RedisServer::start();
                // Not the user that listens: Redis ends its connections when it loses rights.
                server.command("ACL SETUSER u on >pw allkeys allchannels allcommands");
                let url = format!("redis://u:pw@127.0.0.1:{}", server.port());
                let heard = Heard::at(server.port());
                let mut publishing = Publishing::start(kind, &url, &[]);
                eventually_blocking("bars", || heard.closed().len() >= 2);
                publishing.until_ready(true);
                fault.begin(&server);
                let why = publishing.until_ready(false);
                if kind != Kind::Replay {
                    assert!(why.contains(fault.word()), "{kind:?}: {why}");
                }
                // So that at least one bar closes meanwhile.
                thread::sleep(PACE * 5);
                fault.end(&server);
                publishing.until_ready(true);
                publishing.finish(&heard);
                let log = publishing.process.log();
                assert!(log.contains(fault.word()), "{kind:?}: {log}");
                assert!(log.lines().count() < 40, "{kind:?}: {log}");
                let topic = publishing.topic();
                let (kept, closed) = (stored(&server, topic), heard.closed());
                assert_eq!(
                    kept,
                    publishing.expected(&kept),
                    "{kind:?} {fault:?}: the store"
                );
                assert_eq!(
                    closed,
                    publishing.expected(&closed),
                    "{kind:?} {fault:?}: heard"
                );
                // What Redis refused nobody lacks, so the numbers of messages have no hole.
                if !matches!(fault, Fault::Replica) {
                    let seqs = heard.seqs();
                    let all: BTreeSet<_> = (1..=seqs.len() as u64).collect();
                    assert_eq!(seqs, all, "{kind:?} {fault:?}");
                }
            });
        }
    });
}

#[test]
fn a_redis_that_cannot_save_is_published_to_and_stores_later() {
    nothing_is_lost(Fault::Misconf);
}

#[test]
fn a_redis_without_memory_is_published_to_and_stores_later() {
    nothing_is_lost(Fault::Oom);
}

#[test]
fn a_redis_without_its_replicas_stores_later() {
    nothing_is_lost(Fault::NoReplicas);
}

#[test]
fn a_redis_that_a_script_holds_is_tried_again() {
    nothing_is_lost(Fault::Busy);
}

#[test]
fn a_redis_that_becomes_a_replica_gets_nothing_until_it_is_master_again() {
    nothing_is_lost(Fault::Replica);
}

#[test]
fn a_right_that_comes_back_is_used() {
    nothing_is_lost(Fault::NoKeys);
}

#[test]
fn a_channel_that_is_allowed_again_gets_what_waited() {
    nothing_is_lost(Fault::NoChannels);
}

/// A planned failover behind one address: the old master becomes a replica, and its connections stay.
#[test]
fn a_failover_behind_one_address_loses_nothing() {
    let stores: [&[&str]; 2] = [&[], &["--store", "none"]];
    thread::scope(|scope| {
        for (kind, more) in KINDS
            .into_iter()
            .flat_map(|kind| stores.map(|more| (kind, more)))
        {
            scope.spawn(move || failover(kind, more));
        }
    });
}

fn failover(kind: Kind, more: &[&str]) {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    new.command(&format!("REPLICAOF 127.0.0.1 {}", old.port()));
    let is_up = || {
        new.command("INFO replication")
            .contains("master_link_status:up")
    };
    eventually_blocking("the replica follows", is_up);
    // It hears what is published at its master, as well.
    let heard = Heard::at(new.port());
    let proxy = Proxy::start(old.port());
    let mut publishing = Publishing::start(kind, &proxy.url(), more);
    eventually_blocking("bars", || heard.closed().len() >= 2);
    old.command(&format!(
        "FAILOVER TO 127.0.0.1 {} TIMEOUT 10000",
        new.port()
    ));
    eventually_blocking("failover", || {
        old.command("ROLE").contains("slave") && new.command("ROLE").contains("master")
    });
    proxy.lead_to(new.port());
    publishing.until_ready(true);
    publishing.finish(&heard);
    let closed = heard.closed();
    assert_eq!(
        closed,
        publishing.expected(&closed),
        "{kind:?} {more:?}: heard"
    );
    if more.is_empty() {
        let kept = stored(&new, publishing.topic());
        assert_eq!(kept, publishing.expected(&kept), "{kind:?}: the store");
    }
}

/// A replica is accepted by nobody, and what it lacks is said.
#[test]
fn at_a_replica_nothing_is_published_and_the_log_says_so() {
    let server = RedisServer::start();
    server.command("REPLICAOF 127.0.0.1 1");
    let heard = Heard::at(server.port());
    for kind in [Kind::Generate, Kind::Ingest] {
        let publishing = Publishing::start(kind, &server.url(), &["--store", "none"]);
        eventually_blocking("the log says so", || {
            publishing.process.log().contains("replica")
        });
        let why = publishing.until_ready(false);
        eventually_blocking("/readyz says so", || {
            publishing
                .until_ready(false)
                .contains("address of the master")
        });
        assert!(why.contains("\"ready\":false"), "{why}");
    }
    assert!(heard.times().is_empty());
}

/// While Redis loads its data it publishes, but stores nothing.
#[test]
fn what_is_published_while_redis_loads_is_stored_later() {
    for kind in [Kind::Ingest, Kind::Generate] {
        let mut server = RedisServer::start_with(|_| {
            [
                "--key-load-delay",
                "400",
                "--loading-process-events-interval-bytes",
                "1024",
            ]
            .map(String::from)
            .to_vec()
        });
        server.command("EVAL \"for i=1,8000 do redis.call('SET','k'..i,'x') end\" 0");
        let mut publishing = Publishing::start(kind, &server.url(), &[]);
        eventually_blocking("bars", || stored(&server, publishing.topic()).len() >= 2);
        server.command("SAVE");
        server.restart();
        assert!(server.command("PING").contains("LOADING"));
        publishing.until_ready(false);
        eventually_blocking("loaded", || server.command("PING").contains("PONG"));
        publishing.until_ready(true);
        eventually_blocking("all is stored, also what waited", || {
            let kept = stored(&server, publishing.topic());
            let enough = usize::try_from(BARS).unwrap();
            kept.len() >= enough && publishing.metric("barcast_unstored_waiting_bars") == 0.0
        });
        publishing.process.terminate();
        assert_eq!(publishing.process.exit_code(), Some(0));
        let kept = stored(&server, publishing.topic());
        assert_eq!(kept, publishing.expected(&kept), "{kind:?}");
    }
}

/// A firewall that forgets an idle connection drops what is sent over it and says nothing.
#[test]
fn an_idle_connection_that_died_is_noticed_before_it_is_needed() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let heard = Heard::at(server.port());
    // Its first tick is at once, and the next one not within this test.
    let publishing = Publishing::start(Kind::Generate, &proxy.url(), &["--interval", "600"]);
    publishing.until_ready(true);
    eventually_blocking("the first bar", || !heard.times().is_empty());
    let made = proxy.made.load(Ordering::SeqCst);
    proxy.swallow();
    eventually_blocking("another connection", || {
        proxy.made.load(Ordering::SeqCst) > made
    });
    publishing.until_ready(true);
    assert!(publishing.process.log().contains("publisher disconnected"));
}

/// Redis ends connections that are idle for a second; a publisher's never is.
#[test]
fn a_publisher_is_never_idle_for_redis() {
    let server = RedisServer::start_with(|_| vec!["--timeout".into(), "2".into()]);
    let publishing = Publishing::start(Kind::Generate, &server.url(), &["--interval", "600"]);
    publishing.until_ready(true);
    thread::sleep(Duration::from_secs(5));
    let log = publishing.process.log();
    assert_eq!(log.matches("publisher connected").count(), 1, "{log}");
}

/// Producers with few rights publish wherever they may.
#[test]
fn rights_that_lack_are_named_and_the_others_are_used() {
    let cases: [(&str, bool, bool); 4] = [
        ("resetchannels &bars:* +publish", true, false),
        (
            "resetchannels &bars:* ~barcast:* +@write +@connection +@transaction +publish",
            true,
            true,
        ),
        ("resetchannels ~* +@all", false, true),
        (
            "resetchannels &bars:* ~barcast:* +@write +@read +@connection +@transaction +publish",
            true,
            true,
        ),
    ];
    thread::scope(|scope| {
        for (rights, publishes, stores) in cases {
            scope.spawn(move || {
                let server = RedisServer::start();
                server.command(&format!("ACL SETUSER u reset on >pw {rights}"));
                let url = format!("redis://u:pw@127.0.0.1:{}", server.port());
                let heard = Heard::at(server.port());
                let publishing = Publishing::start(Kind::Generate, &url, &[]);
                if publishes {
                    eventually_blocking("heard", || heard.closed().len() >= 2);
                }
                if stores {
                    eventually_blocking("stored", || stored(&server, "bars:A:1S").len() >= 2);
                }
                if !(publishes && stores) {
                    let mut why = publishing.until_ready(false);
                    eventually_blocking("why", || {
                        why = publishing.until_ready(false);
                        why.contains("NOPERM")
                    });
                    assert!(publishing.process.log().contains("NOPERM"), "{why}");
                } else {
                    publishing.until_ready(true);
                }
                assert_eq!(publishing.metric("barcast_publisher_connected"), 1.0);
            });
        }
    });
}

/// A Sentinel is named, and gets nothing.
#[test]
fn a_sentinel_is_recognised() {
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("sentinel.conf");
    std::fs::write(&settings, format!("port {port}\nbind 127.0.0.1\n")).unwrap();
    let mut sentinel = Command::new("redis-server")
        .arg(&settings)
        .arg("--sentinel")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually_blocking("a sentinel", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let url = format!("redis://127.0.0.1:{port}");
    let publishing = Publishing::start(Kind::Generate, &url, &[]);
    eventually_blocking("it is named", || {
        publishing.until_ready(false).contains("Sentinel")
    });
    assert!(publishing.process.log().contains("Sentinel"));
    sentinel.kill().unwrap();
    sentinel.wait().unwrap();
}

/// What is stored later is older than what others stored meanwhile.
#[test]
fn the_newest_message_does_not_go_back_when_bars_are_stored_later() {
    let server = RedisServer::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bus = server.bus().keeping(100);
    let mut publisher = runtime.block_on(ready(&bus));
    for (minute, is_taken) in [(1, true), (2, false)] {
        let bar = candle("A", minute, 10).closed();
        let (message, kept) = ([bar.outgoing()], [bar.kept()]);
        let published = publisher.publish_and_keep(&message, &kept);
        let refused = runtime.block_on(published).unwrap();
        assert_eq!(refused.is_none(), is_taken, "{refused:?}");
        server.command("CONFIG SET maxmemory 1");
    }
    server.command("CONFIG SET maxmemory 0");
    Feed::new(&bus).keep(&[candle("A", 5, 99).closed()]);
    eventually_blocking("it is stored later", || {
        runtime.block_on(publisher.tend());
        stored(&server, "bars:A:1").len() == 3
    });
    assert_eq!(publisher.owed().waiting, 0);
    let last = server.command("HGET barcast:last bars:A:1");
    assert!(
        last.contains(&candle("A", 5, 99).closed().message()),
        "{last}"
    );
}

/// Redis answers questions, but holds back what is published: each try runs into its time-out and ends the
/// connection, and each new connection looks well.
#[test]
fn a_publisher_whose_publishes_hang_is_not_ready_between_two_of_them() {
    let server = RedisServer::start();
    let publishing = Publishing::start(Kind::Generate, &server.url(), &["--interval", "0.2"]);
    publishing.until_ready(true);
    server.command("CLIENT PAUSE 60000 WRITE");
    publishing.until_ready(false);
    let red = std::time::Instant::now();
    while red.elapsed() < Duration::from_secs(7) {
        assert!(!publishing.is_ready(), "{}", publishing.process.log());
        thread::sleep(Duration::from_millis(20));
    }
    server.command("CLIENT UNPAUSE");
    publishing.until_ready(true);
}

/// A key of another program is refused with every message of its topic, and holds up no other topic: not
/// what waits for the store, and not at the end.
#[test]
fn a_topic_refused_for_ever_holds_up_no_other() {
    let server = RedisServer::start();
    server.command("SET barcast:history:bars:FOREIGN:1 x");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bus = server.bus().keeping(100);
    let mut publisher = runtime.block_on(ready(&bus));
    let mut publish = |symbol: &'static str, minute| {
        let bar = candle(symbol, minute, 10).closed();
        let published = runtime.block_on(async {
            let (message, kept) = ([bar.outgoing()], [bar.kept()]);
            publisher.publish_and_keep(&message, &kept).await.unwrap()
        });
        assert!(published.is_some());
        runtime.block_on(publisher.tend());
    };
    server.command("CONFIG SET maxmemory 1");
    publish("GOOD", 0);
    server.command("CONFIG SET maxmemory 0");
    let mut minute = 0;
    // One refusal comes after the other, at less than the pause after one.
    eventually_blocking("what waited is stored", || {
        minute += 1;
        publish("FOREIGN", minute);
        thread::sleep(Duration::from_millis(50));
        stored(&server, "bars:GOOD:1").len() == 1
    });
}

/// At the end of the input a bar that will never be stored gives up none that can be.
#[test]
fn the_end_waits_for_what_can_be_stored() {
    let server = RedisServer::start();
    server.command("SET barcast:history:bars:A:1 x");
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows");
    let mut text = row(0) + &row(1);
    for minute in 0..2_000 {
        text += &row(minute).replace("\"A\"", "\"GOOD\"");
    }
    std::fs::write(&rows, text).unwrap();
    server.command("CONFIG SET maxmemory 1");
    let (rows, url) = (rows.display().to_string(), server.url());
    let mut ingest = Process::spawn(barcast(&[
        "ingest",
        &rows,
        "--input",
        "bars",
        "--resolutions",
        "1",
        "--store-bars",
        "10000",
        "--redis-url",
        &url,
    ]));
    eventually_blocking("the store refuses", || {
        ingest.log().contains("the store does not take bars")
    });
    server.command("CONFIG SET maxmemory 0");
    assert_eq!(ingest.exit_code(), Some(0));
    let count = stored(&server, "bars:GOOD:1").len();
    assert!(count >= 1_999, "{count}: {}", ingest.log());
}

/// What ends one cause of an outage may leave another, which is told, too.
#[test]
fn the_log_names_the_second_cause_of_an_outage() {
    let server = RedisServer::start();
    server.command("ACL SETUSER u on >pw allkeys allchannels allcommands");
    let url = format!("redis://u:pw@127.0.0.1:{}", server.port());
    let publishing = Publishing::start(Kind::Generate, &url, &["--store", "none"]);
    publishing.until_ready(true);
    for fault in [Fault::NoChannels, Fault::Replica] {
        fault.begin(&server);
        eventually_blocking(fault.word(), || {
            let log = publishing.process.log();
            let mut told = log
                .lines()
                .filter(|line| line.contains("bus does not take"));
            told.any(|line| line.contains(fault.word()))
        });
    }
}
