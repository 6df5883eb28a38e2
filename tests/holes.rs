//! What a gateway missed is not forgotten: whoever comes back later, asks for a snapshot or fetches history
//! is told of it as those were who watched.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use barcast::bus::Sink;
use barcast::gateway::Config;
use barcast::gateway::ingest::{BusState, Ingest};
use barcast::gateway::mailbox::Mailbox;
use barcast::gateway::registry::Registry;
use barcast::metrics::GatewayMetrics;
use common::client::{Client, get};
use common::gateway::{Candle, MINUTE, Running, START, candle, config};
use common::script::Scripted;
use serde_json::{Value, json};

/// A gateway whose bus is called by the test.
struct Scene {
    gateway: Running,
    bus: Scripted,
}

impl Scene {
    fn with(config: Config) -> Self {
        let bus = Scripted::new();
        let gateway = Running::start(config, bus.clone());
        Self { gateway, bus }
    }

    fn new() -> Self {
        Self::with(Config {
            proof_wait: Duration::ZERO,
            ..config()
        })
    }

    fn send(&self, bars: impl IntoIterator<Item = Candle>) {
        let bars: Vec<_> = bars.into_iter().map(|bar| bar.outgoing()).collect();
        self.bus.call(move |sink| {
            for out in bars {
                sink.message(&out.channel, &out.payload);
            }
            sink.flush();
        });
    }

    /// The bus is lost and back, while the store gives these bars, of which the newest comes first as in
    /// Redis; `is_whole`: to its end.
    fn load(&self, bars: impl IntoIterator<Item = Candle>, is_whole: bool) {
        let bars: Vec<_> = bars.into_iter().map(|bar| bar.outgoing()).collect();
        self.bus.call(move |sink| {
            sink.lost("a test says so");
            sink.loading();
            for out in bars.iter().rev() {
                sink.stored(&out.channel, &out.payload);
            }
            if !is_whole {
                sink.unloaded(barcast::bus::Doubt {
                    why: "a test says so",
                    flows: false,
                });
            }
            sink.connected();
        });
    }

    /// The bus is lost and back.
    fn lose(&self) {
        self.bus.call(|sink| {
            sink.lost("a test says so");
            sink.connected();
            sink.flush();
        });
    }

    /// What comes of one `bars.subscribe` with these parameters: gaps, and the times of the bars.
    fn asks(&self, wish: &str) -> (Vec<(i64, i64)>, Vec<i64>) {
        answer(&mut self.gateway.client(), "bars:A:1", wish)
    }
}

fn gap(told: &Value) -> (i64, i64) {
    assert_eq!(told["type"], "bars.gap", "{told}");
    let payload = &told["payload"];
    assert_eq!(payload["reason"], "upstream");
    let time = |name: &str| payload[name].as_i64().unwrap();
    (time("from"), time("to"))
}

fn answer(client: &mut Client, topic: &str, wish: &str) -> (Vec<(i64, i64)>, Vec<i64>) {
    let answer = client.ask(&format!(
        r#"{{"type":"bars.subscribe","payload":{{"topics":["{topic}"],{wish}}}}}"#
    ));
    assert!(answer.contains(r#""status":"ok""#), "{answer}");
    let mut gaps = Vec::new();
    loop {
        let told = client.json();
        if told["type"] == "bars.snapshot" {
            let bars = told["payload"]["bars"].as_array().unwrap();
            let times = bars.iter().map(|bar| bar["time"].as_i64().unwrap());
            return (gaps, times.collect());
        }
        gaps.push(gap(&told));
    }
}

fn at(minute: i64) -> i64 {
    START + minute * MINUTE
}

fn since(minute: i64) -> String {
    format!(r#""since":{}"#, at(minute))
}

fn times<const N: usize>(minutes: [i64; N]) -> Vec<i64> {
    minutes.map(at).to_vec()
}

fn counted(minute: i64, seq: u64) -> Candle {
    candle("A", minute, seq).seq(1, seq)
}

#[test]
fn a_jump_of_seq_is_told_to_whoever_comes_back() {
    let scene = Scene::new();
    let mut watching = scene.gateway.client();
    watching.subscribe("bars:A:1");
    scene.send([counted(0, 1), counted(5, 6), counted(6, 7)]);
    assert_eq!(watching.text(), counted(0, 1).update());
    assert_eq!(gap(&watching.json()), (at(0), at(5)), "what was told live");
    assert_eq!(
        scene.asks(&since(0)),
        (vec![(at(0), at(5))], times([0, 5, 6]))
    );
    assert_eq!(scene.asks(&since(3)), (vec![(at(3), at(5))], times([5, 6])));
    let both = (vec![(at(-2), at(-1)), (at(0), at(5))], times([0, 5, 6]));
    assert_eq!(scene.asks(&since(-2)), both);
    // Whoever has the bar after it was told, or had the others from elsewhere.
    assert_eq!(scene.asks(&since(5)), (vec![], times([5, 6])));
    // Snapshots that span it.
    let spans = (vec![(at(0), at(5))], times([0, 5, 6]));
    assert_eq!(scene.asks(r#""snapshot":3"#), spans);
    assert_eq!(scene.asks(r#""snapshot":2"#), (vec![], times([5, 6])));
    assert_eq!(scene.asks(r#""snapshot":0"#), (vec![], vec![]));
}

#[test]
fn a_hole_that_nobody_watched_is_known_and_late_bars_fill_it() {
    let scene = Scene::new();
    scene.send([counted(0, 1), counted(5, 6)]);
    scene.send([counted(2, 7).closed()]);
    let split = vec![(at(0), at(2)), (at(3), at(5))];
    assert_eq!(scene.asks(&since(0)), (split, times([0, 2, 5])));
    scene.send([counted(0, 8), counted(1, 9), counted(3, 10), counted(4, 11)]);
    assert_eq!(scene.asks(&since(0)), (vec![], times([0, 1, 2, 3, 4, 5])));
}

#[test]
fn a_lost_bus_is_remembered_until_the_next_message_in_order_proves_it_harmless() {
    let scene = Scene::new();
    scene.send([counted(0, 1)]);
    scene.lose();
    let (gaps, bars) = scene.asks(&since(0));
    let [(from, to)] = gaps[..] else {
        panic!("{gaps:?}")
    };
    assert!(from == at(0) && to > at(5), "{gaps:?}");
    assert_eq!(bars, times([0]));
    scene.send([counted(4, 2)]);
    assert_eq!(scene.asks(&since(0)), (vec![], times([0, 4])));
    // Another run of the producer proves nothing.
    scene.lose();
    scene.send([counted(6, 1).seq(2, 1)]);
    let (gaps, _) = scene.asks(&since(0));
    assert_eq!(gaps[0], (at(4), at(6)), "{gaps:?}");
    assert_eq!(gaps[1].0, at(7), "until it was back: {gaps:?}");
}

#[test]
fn a_revision_after_missed_bars_says_nothing_of_how_far_they_go() {
    let scene = Scene::new();
    scene.send([counted(0, 1).closed(), counted(1, 2)]);
    let revised = Candle {
        rev: Some(1),
        ..counted(0, 9).closed()
    };
    scene.send([revised, counted(6, 10), counted(7, 11)]);
    let (gaps, bars) = scene.asks(&since(0));
    assert_eq!(gaps[0], (at(1), at(6)), "{gaps:?}");
    assert_eq!(bars, times([0, 1, 6, 7]));
}

#[test]
fn a_gateway_that_knows_nothing_says_so() {
    let scene = Scene::new();
    let mut client = scene.gateway.client();
    let (gaps, bars) = answer(&mut client, "bars:A:1", &since(0));
    let [(from, to)] = gaps[..] else {
        panic!("{gaps:?}")
    };
    let day = barcast::clock::now_ms() - START > 86_400_000;
    assert!(from == at(0) && to > at(5) && day, "{gaps:?}");
    assert_eq!(to.rem_euclid(MINUTE), 0);
    assert!(bars.is_empty());
    // It heard all from there on.
    scene.send([counted(10, 1)]);
    assert_eq!(client.text(), counted(10, 1).update());
    // From before what is known, by now with a bar.
    assert_eq!(scene.asks(&since(0)), (vec![(at(0), at(9))], times([10])));
    // A time to come, of which nothing can be missing.
    let mut other = scene.gateway.client();
    let later = format!(r#""since":{}"#, barcast::clock::now_ms() + 600_000);
    assert_eq!(answer(&mut other, "bars:B:1", &later), (vec![], vec![]));
    // The bus breaks before its first bar: that may have been missed.
    let (gaps, _) = answer(&mut other, "bars:B:1", &since(0));
    scene.lose();
    let (from, _) = gap(&other.json());
    assert!(
        from <= gaps[0].1 + MINUTE,
        "no time between them is left out"
    );
}

#[test]
fn the_store_heals_as_far_as_it_reaches() {
    let scene = Scene::new();
    scene.send([counted(0, 1)]);
    let stored = [3, 4, 6, 7].map(|minute| counted(minute, 10 + minute.unsigned_abs()).closed());
    scene.load(stored, true);
    scene.send([counted(8, 18)]);
    let (gaps, bars) = scene.asks(&since(0));
    assert_eq!(gaps, [(at(0), at(3))], "no trades at 5, as the store says");
    assert_eq!(bars, times([0, 3, 4, 6, 7, 8]));
    // Another look finds the rest.
    let all = [0, 1, 2, 3, 8].map(|minute| counted(minute, 10 + minute.unsigned_abs()).closed());
    scene.load(all, true);
    scene.send([counted(9, 19)]);
    let (gaps, bars) = scene.asks(&since(0));
    assert_eq!((gaps, bars.len()), (vec![], 9));
}

#[test]
fn a_store_that_was_not_read_to_its_end_proves_only_the_bars_it_gave() {
    let scene = Scene::new();
    scene.send([counted(0, 1)]);
    let stored = [2, 3, 5].map(|minute| counted(minute, 10 + minute.unsigned_abs()).closed());
    scene.load(stored, false);
    scene.send([counted(6, 16)]);
    let (gaps, bars) = scene.asks(&since(0));
    assert_eq!(gaps, [(at(0), at(2)), (at(4), at(5))]);
    assert_eq!(bars, times([0, 2, 3, 5, 6]));
}

/// The bar that was forming when this gateway began, and ended while the bus was lost: who left before it
/// was told has the next one already.
#[test]
fn the_end_of_the_first_bar_that_was_heard_is_no_old_news() {
    let scene = Scene::new();
    scene.send([candle("A", 0, 1)]);
    scene.load([candle("A", 0, 2).closed(), candle("A", 1, 1)], true);
    assert_eq!(scene.asks(&since(1)).1, times([0, 1]));
}

/// A topic that only the store has, while other bars flow already.
#[test]
fn a_pattern_means_what_the_store_brings_too() {
    let scene = Scene::new();
    let mut client = scene.gateway.client();
    client.subscribe("bars:*:1");
    let stored = candle("A", 0, 1).outgoing();
    scene.bus.call(move |sink| {
        sink.lost("a test says so");
        sink.loading();
        sink.stored(&stored.channel, &stored.payload);
        sink.flush();
        sink.connected();
    });
    let next = candle("A", 0, 2);
    scene.send([next]);
    // After the notice of what the store brought.
    while client.text() != next.update() {}
}

/// The bus is lost once more while a store is read that there is no room for.
#[test]
fn a_store_that_there_was_no_room_for_says_nothing_of_the_next() {
    let scene = Scene::with(Config {
        history_bytes: 1,
        ..config()
    });
    scene.send([candle("A", 1, 1)]);
    let [old, new] = [0, 2].map(|minute| candle("A", minute, 2).closed().outgoing());
    scene.bus.call(move |sink| {
        for out in [old, new] {
            sink.lost("a test says so");
            sink.loading();
            sink.stored(&out.channel, &out.payload);
        }
        sink.connected();
    });
    assert_eq!(scene.gateway.node.metrics.store_failures.get(), 0);
}

#[test]
fn since_may_be_any_number() {
    let scene = Scene::new();
    let resolutions = ["1S", "1", "45", "240", "D", "W", "M"];
    for resolution in resolutions {
        let mut client = scene.gateway.client();
        for topic in ["bars:A", "bars:NEW"] {
            let topic = format!("{topic}:{resolution}");
            for since in [i64::MAX, i64::MAX - 1, i64::MIN, i64::MIN + 1] {
                let (gaps, _) = answer(&mut client, &topic, &format!(r#""since":{since}"#));
                assert_eq!(
                    gaps.len(),
                    usize::from(since < 0),
                    "{topic} {since}: {gaps:?}"
                );
                assert!(gaps.iter().all(|(from, to)| from < to), "{gaps:?}");
            }
        }
        let bar = Candle {
            time: 1_696_118_400_000 + if resolution == "W" { 86_400_000 } else { 0 },
            ..candle("A", 0, 1).resolution(resolution)
        };
        scene.send([bar]);
        let mut client = scene.gateway.client();
        for since in [i64::MAX, i64::MIN] {
            let topic = format!("bars:A:{resolution}");
            let (gaps, bars) = answer(&mut client, &topic, &format!(r#""since":{since}"#));
            assert_eq!(
                (gaps.len(), bars.len()),
                match since {
                    i64::MAX => (0, 0),
                    _ => (1, 1),
                }
            );
        }
    }
}

#[test]
fn a_chart_is_told_in_a_field_that_it_may_leave_alone() {
    let scene = Scene::new();
    scene.send([counted(0, 1), counted(1, 2), counted(5, 6), counted(6, 7)]);
    let history = |from: i64, to: i64| -> Value {
        let (from, to) = (at(from) / 1_000, at(to) / 1_000);
        let path = format!("/udf/history?symbol=A&resolution=1&from={from}&to={to}");
        serde_json::from_str(&get(scene.gateway.address, &path).body).unwrap()
    };
    let gaps = |from: i64, to: i64| json!([{"from": at(from) / 1_000, "to": at(to) / 1_000}]);
    assert_eq!(history(0, 9)["gaps"], gaps(1, 5));
    assert_eq!(history(0, 3)["gaps"], gaps(1, 2));
    let nothing = history(2, 4);
    assert_eq!(nothing["s"], "no_data");
    assert_eq!(nothing["gaps"], gaps(2, 3));
    assert_eq!(history(5, 9).get("gaps"), None);
    assert_eq!(history(7, 9).get("gaps"), None);
}

/// What is told of all topics at once comes in batches of bounded size.
#[test]
fn a_lost_bus_is_told_of_many_topics_in_several_batches() {
    const TOPICS: usize = 3_000;
    let registry = Arc::new(Registry::new(TOPICS, 0));
    let mailbox = Arc::new(Mailbox::default());
    let mut ingest = Ingest::new(
        Arc::clone(&registry),
        vec![Arc::clone(&mailbox)],
        GatewayMetrics::default(),
        Arc::new(BusState::default()),
        "a test".to_owned(),
    );
    ingest.connected();
    for n in 0..TOPICS {
        let topic = format!("bars:S{n}:1").parse().unwrap();
        registry.watch(&topic, 0).unwrap();
        let bar = candle("A", 0, 1).outgoing().payload;
        let bar = String::from_utf8(bar).unwrap();
        let bar = bar.replace(r#""A""#, &format!(r#""S{n}""#));
        ingest.message(&format!("bars:S{n}:1"), bar.as_bytes());
    }
    ingest.flush();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut taken = Vec::new();
    runtime.block_on(mailbox.take(&mut taken));
    taken.clear();
    ingest.lost("a test says so");
    ingest.connected();
    runtime.block_on(mailbox.take(&mut taken));
    let sizes: Vec<_> = taken.iter().map(|batch| batch.frames.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), TOPICS);
    assert!(sizes.iter().all(|size| *size <= 1_024), "{sizes:?}");
}

/// A producer's clock may be ahead: how far a hole reaches is seen by the first bar after it.
#[test]
fn a_hole_ends_at_the_next_bar_if_that_is_ahead_of_the_clock() {
    use barcast::gateway::state::State;
    let ahead = barcast::bar::Resolution::M1.floor(barcast::clock::now_ms()) + 60 * MINUTE;
    let message = |minute: i64| {
        let mut bar = counted(0, 1);
        bar.time = ahead + minute * MINUTE;
        bar.seq = None;
        bar.epoch = None;
        let mut decoded = None;
        let outgoing = bar.outgoing();
        barcast::bar::Decoder::default().decode(
            &outgoing.channel,
            &outgoing.payload.clone(),
            |m| {
                decoded = Some(m.unwrap());
            },
        );
        decoded.unwrap()
    };
    let mut state = State::new(100);
    assert_eq!(state.apply(&message(0), 0), None);
    state.heard.losses = 1;
    let now = barcast::clock::now_ms();
    let told = state.doubt(message(0).topic.resolution, now).unwrap();
    assert_eq!((told.from, told.to), (ahead, ahead));
    let beyond = state.apply(&message(5), 1).unwrap();
    assert_eq!((beyond.from, beyond.to), (ahead, ahead + 5 * MINUTE));
    assert_eq!(state.apply(&message(6), 1), None, "once");
}
