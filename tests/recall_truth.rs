//! What is read of the past proves no more than what was taken of it, and costs no more than it must.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barcast::bar::Bar;
use barcast::bus::Sink;
use barcast::gateway::Config;
use barcast::gateway::ingest::{BusState, Ingest};
use barcast::gateway::memory::Memory;
use barcast::gateway::registry::Registry;
use barcast::gateway::state::{State, Stored};
use barcast::history::Hole;
use barcast::metrics::GatewayMetrics;
use common::RedisServer;
use common::client::{CLOSE, Client};
use common::gateway::{Candle, Feed, MINUTE, Running, START, candle, config};

const TOPIC: &str = "bars:A:1";

fn closed(minute: i64) -> Candle {
    candle("A", minute, 5).closed()
}

fn at(minute: i64) -> i64 {
    START + minute * MINUTE
}

/// An ingest whose past is in a store that the test plays.
struct Scene {
    registry: Arc<Registry>,
    ingest: Ingest,
}

impl Scene {
    fn new() -> Self {
        let registry = Arc::new(Registry::new(100, 1_000));
        let mut ingest = Ingest::new(
            Arc::clone(&registry),
            Vec::new(),
            GatewayMetrics::default(),
            Arc::<BusState>::default(),
            "a test".to_owned(),
        )
        .recalling_for(Arc::default());
        ingest.asked().unwrap();
        Self { registry, ingest }
    }

    /// The bus stands, and the store gave this newest bar, or could not be read.
    fn connect(&mut self, newest: Option<Candle>) {
        self.ingest.loading();
        match newest {
            Some(bar) => self.ingest.stored(TOPIC, &bar.outgoing().payload),
            None => self.ingest.unloaded(barcast::bus::Doubt {
                why: "a test says so",
                flows: false,
            }),
        }
        self.ingest.connected();
    }

    /// The past is read: these bars.
    fn recall(&mut self, bars: impl IntoIterator<Item = Candle>) {
        let topic = TOPIC.parse().unwrap();
        let bars: Vec<_> = bars.into_iter().map(|bar| bar.outgoing().payload).collect();
        self.ingest.recalling(&[topic]);
        let bars = bars.iter().map(Vec::as_slice).collect();
        self.ingest.recalled(&topic, Ok(bars));
    }

    /// What whoever asks for all since a bar lacks, and the times of what it gets, in minutes.
    fn since(&self, minute: i64) -> (Vec<Hole>, Vec<i64>) {
        let entry = self.registry.get(&TOPIC.parse().unwrap()).unwrap();
        let state = entry.lock();
        let missing = state
            .history
            .missing(entry.topic.resolution, at(minute), at(30));
        let bars = state.history.since(at(minute));
        let minutes = bars.map(|bar| (bar.time() - START) / MINUTE).collect();
        (missing, minutes)
    }
}

/// The bus was lost, and the store could not be read when it was back: bars behind the newest one known are
/// not taken when the past is asked for, so it must not count as whole.
#[test]
fn bars_of_the_store_that_are_not_taken_prove_nothing() {
    let mut scene = Scene::new();
    scene.connect(Some(candle("A", 6, 5)));
    scene.ingest.lost("a test says so");
    scene.connect(None);
    // Not provable by `seq`, so doubted up to now.
    let (doubted, _) = scene.since(6);
    assert_eq!(doubted.len(), 1);
    scene.recall((0..=9).map(closed));
    let (missing, minutes) = scene.since(6);
    assert_eq!(minutes, [6]);
    assert_eq!(missing, doubted, "7 to 9 are in the store and not here");
    // What lies before it is whole.
    let (missing, minutes) = scene.since(0);
    assert_eq!(minutes, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(missing, doubted);
}

/// No bars between the two newest of the store: it proves that, too.
#[test]
fn the_store_proves_all_up_to_the_newest_bar_known() {
    let mut scene = Scene::new();
    scene.connect(Some(closed(0)));
    scene.ingest.lost("a test says so");
    scene.connect(Some(closed(6)));
    let holes = |scene: &Scene| {
        let missing = scene.since(0).0;
        missing.iter().filter(|hole| hole.from < at(6)).count()
    };
    assert_eq!(holes(&scene), 1);
    scene.recall([0, 1, 2, 6].map(closed));
    assert_eq!(scene.since(0).1, [0, 1, 2, 6]);
    assert_eq!(holes(&scene), 0, "{:?}", scene.since(0).0);
}

/// Revised bars from before what the store gave are no beginning of a hole.
#[test]
fn a_past_that_was_not_read_to_its_end_doubts_nothing_before_it() {
    let mut scene = Scene::new();
    scene.connect(None);
    for bar in (0..6).chain([1]).map(closed) {
        let changed = Candle { price: 7, ..bar };
        scene.ingest.message(TOPIC, &bar.outgoing().payload);
        scene.ingest.message(TOPIC, &changed.outgoing().payload);
    }
    let entry = scene.registry.get(&TOPIC.parse().unwrap()).unwrap();
    let mut state = entry.lock();
    let first = *state
        .history
        .since(at(3))
        .find(|b| b.time() == at(3))
        .unwrap();
    let stored = Stored::new(&State::new(0), &first);
    state.stored(entry.topic.resolution, &stored, false);
    assert!(!state.history.has_holes());
}

/// A correction that was published and not stored stays; one that was stored and not heard comes. Price 1 is
/// what was heard, 2 what the store has.
#[test]
fn the_store_replaces_what_was_heard_only_by_what_is_newer() {
    let heard = candle("A", 1, 1).closed();
    let stored = candle("A", 1, 2).closed();
    let rev = |bar, rev| Candle { rev, ..bar };
    let table = [
        ("nothing tells them apart", heard, stored, 1),
        ("it was forming", candle("A", 1, 1), stored, 2),
        ("a correction was heard", rev(heard, Some(1)), stored, 1),
        ("one was stored", heard, rev(stored, Some(1)), 2),
        (
            "a later one was stored",
            rev(heard, Some(1)),
            rev(stored, Some(2)),
            2,
        ),
        (
            "a later one was heard",
            rev(heard, Some(2)),
            rev(stored, Some(1)),
            1,
        ),
        (
            "both have the same",
            rev(heard, Some(1)),
            rev(stored, Some(1)),
            1,
        ),
        (
            "seq of one run, later",
            heard.seq(7, 5),
            stored.seq(7, 9),
            2,
        ),
        (
            "seq of one run, earlier",
            heard.seq(7, 5),
            stored.seq(7, 4),
            1,
        ),
        ("seq of another run", heard.seq(7, 5), stored.seq(8, 9), 1),
        (
            "rev before seq",
            rev(heard.seq(7, 5), Some(1)),
            stored.seq(7, 9),
            1,
        ),
    ];
    for (what, heard, stored, expected) in table {
        let mut next = candle("A", 2, 1);
        if heard.seq.is_some() {
            next = next.seq(7, 6);
        }
        for is_asked_for in [false, true] {
            let mut scene = Scene::new();
            scene.connect(Some(closed(0)));
            for bar in [heard, next] {
                scene.ingest.message(TOPIC, &bar.outgoing().payload);
            }
            scene.ingest.lost("a test says so");
            if is_asked_for {
                scene.connect(Some(candle("A", 2, 1)));
                scene.recall([closed(0), stored, next]);
            } else {
                scene.ingest.loading();
                for bar in [next, closed(0), stored] {
                    scene.ingest.stored(TOPIC, &bar.outgoing().payload);
                }
                scene.ingest.connected();
            }
            let entry = scene.registry.get(&TOPIC.parse().unwrap()).unwrap();
            let state = entry.lock();
            let bar = state.history.since(at(1)).find(|bar| bar.time() == at(1));
            let price = bar.unwrap().numbers()[3].value();
            assert_eq!(price, f64::from(expected), "{what}, {is_asked_for}");
        }
    }
}

/// Without room, and with nothing to let go of, topics are not all looked at for each past that is asked for.
#[test]
fn a_full_memory_is_not_searched_again_and_again() {
    let registry = Registry::new(100, 10);
    let mut memory = Memory::new(1_000);
    memory.resized(0, 1_000);
    for _ in 0..100 {
        memory.make_room(&registry);
    }
    assert_eq!(memory.searches(), 1);
}

/// What was read before the bus was lost, or only in part, still makes room for another past.
#[test]
fn after_a_loss_the_past_that_is_kept_still_gives_way() {
    const BARS: i64 = 40;
    for is_lost in [true, false] {
        // Room for one past and a half.
        let mut scene = Scene::new();
        scene.ingest = scene.ingest.history_within(60 * size_of::<Bar>());
        let parts = |symbol: &'static str, bars: i64| {
            let bars = (0..bars).map(move |m| candle(symbol, m, 5).closed());
            bars.map(|bar| bar.outgoing().payload).collect::<Vec<_>>()
        };
        // With more bars than there is room for, it is read in part.
        let first = parts("A", if is_lost { BARS } else { 90 });
        let other = parts("B", BARS);
        let topics = ["A", "B"].map(|symbol| format!("bars:{symbol}:1"));
        let load = |scene: &mut Scene| {
            scene.ingest.loading();
            for (topic, bars) in topics.iter().zip([&first, &other]) {
                scene.ingest.stored(topic, bars.last().unwrap());
            }
            scene.ingest.connected();
        };
        load(&mut scene);
        let recall = |scene: &mut Scene, at: usize, bars: &[Vec<u8>]| {
            let topic = topics[at].parse().unwrap();
            scene.ingest.recalling(&[topic]);
            let bars = bars.iter().map(Vec::as_slice).collect();
            scene.ingest.recalled(&topic, Ok(bars));
            let entry = scene.registry.get(&topic).unwrap();
            entry.lock().history.count()
        };
        assert!(recall(&mut scene, 0, &first) >= 40);
        if is_lost {
            scene.ingest.lost("a test says so");
            load(&mut scene);
        }
        assert_eq!(recall(&mut scene, 1, &other), 40, "lost: {is_lost}");
    }
}

/// `--history-bars 0`: there is no past to ask for.
#[test]
fn without_a_past_nothing_is_asked_of_the_store() {
    let server = RedisServer::start();
    let bars: Vec<_> = (0..3).map(closed).collect();
    assert_eq!(Feed::new(&server.bus().keeping(9)).keep(&bars), None);
    let gateway = Running::start(
        Config {
            history_bars: 0,
            ..config()
        },
        server.bus().loading(100, 0),
    );
    let mut client = gateway.client();
    client.ask(&format!(
        r#"{{"type":"bars.subscribe","payload":{{"topics":["{TOPIC}"],"since":{START}}}}}"#
    ));
    assert_eq!(client.json()["type"], "bars.gap");
    assert_eq!(client.json()["type"], "bars.snapshot");
    assert_eq!(gateway.node.metrics.store_failures.get(), 0);
}

/// A store that answers nobody for a while, and a client of a gateway.
fn silent_store(settings: Config) -> (RedisServer, Running, Client) {
    let server = RedisServer::start();
    let bars: Vec<_> = (0..3).map(closed).collect();
    assert_eq!(Feed::new(&server.bus().keeping(9)).keep(&bars), None);
    let gateway = Running::start(settings, server.bus().loading(100, 1_000));
    let client = gateway.client();
    // `command` would wait for its end.
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.write_all(b"CLIENT PAUSE 7000 ALL\r\n").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    (server, gateway, client)
}

fn since_start() -> String {
    format!(r#"{{"type":"bars.subscribe","payload":{{"topics":["{TOPIC}"],"since":{START}}}}}"#)
}

/// While its request waits for the store nothing is read of a client: it is not silent.
#[test]
fn who_waits_for_the_store_is_not_silent() {
    let mut settings = config();
    settings.limits.ping_interval = Duration::from_secs(1);
    let (_server, _gateway, mut client) = silent_store(settings);
    client.send(since_start());
    assert_eq!(client.json()["type"], "bars.subscribe.response");
    assert_eq!(client.json()["type"], "bars.gap");
}

/// Nor does a drain wait for the store.
#[test]
fn who_waits_for_the_store_holds_up_no_drain() {
    let (_server, gateway, mut client) = silent_store(config());
    // Both in one read: a pong shows that the other one waits by now.
    client.send(r#"{"type":"ping"}"#);
    client.send(since_start());
    assert_eq!(client.json()["type"], "pong");
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    gateway.stop();
    assert_eq!(client.wire.frame().unwrap().opcode, CLOSE);
    drop(client);
    assert_eq!(gateway.ended().cut, 0);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}
