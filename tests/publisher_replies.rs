//! What Redis answers a publisher, and that no closed bar is lost by it: in the store, and with whoever
//! subscribed. Every command that publishes, over real servers.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use barcast::bus::Publisher;
use common::fault::Fault;
use common::gateway::{Feed, candle};
use common::process::{Process, barcast};
use common::proxy::Proxy;
use common::publishing::{BARS, Heard, KINDS, Kind, PACE, Publishing, row, stored};
use common::sentinel::Sentinel;
use common::{RedisServer, eventually_blocking, ready};

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
    // By default a master waits five seconds for further replicas.
    old.command("CONFIG SET repl-diskless-sync-delay 0");
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
    publishing.process.until_logged("publisher disconnected");
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
                    publishing.process.until_logged("NOPERM");
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
    let sentinel = Sentinel::start(None);
    let publishing = Publishing::start(Kind::Generate, &sentinel.url(), &[]);
    eventually_blocking("it is named", || {
        publishing.until_ready(false).contains("Sentinel")
    });
    publishing.process.until_logged("Sentinel");
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
