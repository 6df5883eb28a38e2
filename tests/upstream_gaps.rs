//! What a gateway makes of a bus that was lost, or that repeats itself: a gap is told unless `seq` and
//! `epoch` prove that there is none.
//!
//! The bus here does what a test says, call by call, so that nothing is waited for but the answers.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::time::Duration;

use barcast::bus::Sink;
use common::client::Client;
use common::gateway::{Candle, Running, START, candle, config};
use common::script::Scripted;
use serde_json::Value;

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3_600);

/// A gateway with one client that watches `bars:A:1`.
struct Scene {
    client: Client,
    gateway: Running,
    bus: Scripted,
}

impl Scene {
    fn new(proof_wait: Duration) -> Self {
        let bus = Scripted::new();
        let config = barcast::gateway::Config {
            proof_wait,
            ..config()
        };
        let gateway = Running::start(config, bus.clone());
        let mut client = gateway.client();
        client.subscribe("bars:A:1");
        Self {
            client,
            gateway,
            bus,
        }
    }

    /// The bus is lost and back again; nothing more has come since.
    fn lose(&self) {
        self.bus.call(|sink| {
            sink.lost("a test says so");
            sink.connected();
        });
    }

    /// Nothing comes, and the bus says so, as it does every few seconds.
    fn silence(&self) {
        self.bus.call(|sink| sink.flush());
    }

    /// Publishes a bar, which must come with nothing before it.
    fn whole(&mut self, bar: Candle) {
        self.send(bar);
        assert_eq!(self.client.text(), bar.update());
    }

    /// Publishes a bar, which must come after a gap from `last` to it.
    fn hole(&mut self, last: Candle, bar: Candle) {
        self.send(bar);
        assert_eq!(self.gap(), (last.time, bar.time));
        assert_eq!(self.client.text(), bar.update());
    }

    fn send(&self, bar: Candle) {
        self.bus.call(move |sink| {
            let out = bar.outgoing();
            sink.message(&out.channel, &out.payload);
            sink.flush();
        });
    }

    /// The next message, which must be a gap: from and to.
    fn gap(&mut self) -> (i64, i64) {
        let told = self.client.json();
        assert_eq!(told["type"], "bars.gap", "{told}");
        assert_eq!(told["topic"], "bars:A:1");
        let payload: &Value = &told["payload"];
        assert_eq!(payload["reason"], "upstream");
        (
            payload["from"].as_i64().unwrap(),
            payload["to"].as_i64().unwrap(),
        )
    }

    /// Nothing else comes, and so many gaps were told in all.
    fn end(&mut self, gaps: u64) {
        assert!(self.client.until_pong().is_empty());
        assert_eq!(self.gateway.node.metrics.gaps_upstream.get(), gaps);
    }
}

fn counted(minute: i64, seq: u64) -> Candle {
    candle("A", minute, seq).seq(1, seq)
}

/// Counts, but does not say in which run.
fn without_epoch(minute: i64, seq: u64) -> Candle {
    Candle {
        epoch: None,
        ..counted(minute, seq)
    }
}

#[test]
fn the_next_seq_proves_that_nothing_was_missed() {
    let mut scene = Scene::new(NEVER);
    scene.whole(counted(0, 7));
    scene.lose();
    scene.silence();
    scene.end(0);
    scene.whole(counted(5, 8));
    // Once proven it stays so.
    scene.silence();
    scene.whole(counted(6, 9));
    scene.end(0);
}

#[test]
fn a_topic_that_proves_nothing_in_time_is_told_from_its_last_bar_on() {
    let mut scene = Scene::new(Duration::ZERO);
    let last = counted(3, 7);
    scene.whole(counted(2, 6));
    scene.whole(last);
    scene.lose();
    // It could yet prove it.
    scene.end(0);
    scene.silence();
    let (from, to) = scene.gap();
    assert_eq!(from, last.time);
    assert!(to >= from);
    // Told once, also when the proof comes after all.
    scene.silence();
    scene.whole(counted(4, 8));
    scene.end(1);
    // And once for each loss.
    scene.lose();
    scene.silence();
    assert_eq!(scene.gap().0, counted(4, 8).time);
    scene.end(2);
}

#[test]
fn a_topic_without_seq_is_told_at_once() {
    let mut scene = Scene::new(NEVER);
    let last = candle("A", 3, 1);
    scene.whole(last);
    scene.lose();
    assert_eq!(scene.gap().0, last.time);
    scene.whole(candle("A", 4, 2));
    scene.end(1);
}

#[test]
fn a_jump_or_another_run_after_a_loss_is_told_before_the_bar() {
    let mut scene = Scene::new(NEVER);
    scene.whole(counted(0, 7));
    scene.lose();
    scene.hole(counted(0, 7), counted(2, 9));
    scene.lose();
    scene.hole(counted(2, 9), candle("A", 3, 1).seq(2, 10));
    scene.end(2);
}

#[test]
fn repeated_messages_are_no_hole_and_leave_none_unseen() {
    let mut scene = Scene::new(NEVER);
    for seq in [5, 6, 7, 5, 6] {
        scene.whole(counted(0, seq));
    }
    // What was there before the repetition is still known.
    scene.whole(counted(0, 8));
    scene.whole(counted(0, 6));
    scene.hole(counted(0, 6), counted(1, 10));
    scene.end(1);
}

/// A chunk of a replay that was cut off comes again, perhaps from before the loss on.
#[test]
fn repeated_messages_prove_nothing_after_a_loss() {
    let mut scene = Scene::new(NEVER);
    scene.whole(counted(0, 7));
    scene.lose();
    scene.whole(counted(0, 6));
    scene.whole(counted(0, 7));
    scene.whole(counted(0, 8));
    scene.end(0);
    scene.lose();
    scene.whole(counted(0, 7));
    scene.hole(counted(0, 7), counted(1, 10));
    scene.end(1);

    let mut scene = Scene::new(Duration::ZERO);
    scene.whole(counted(0, 7));
    scene.lose();
    // As long as it repeats, the proof is still to come; here it comes too late.
    scene.whole(counted(0, 7));
    assert_eq!(scene.gap().0, counted(0, 7).time);
    scene.end(1);
}

/// A producer that says no epoch may have been started again.
#[test]
fn a_step_back_without_an_epoch_proves_nothing() {
    let mut scene = Scene::new(NEVER);
    scene.whole(without_epoch(0, 1_000));
    scene.whole(without_epoch(1, 1));
    scene.whole(without_epoch(1, 2));
    scene.hole(without_epoch(1, 2), without_epoch(2, 4));
    scene.lose();
    scene.hole(without_epoch(2, 4), without_epoch(3, 1));
    scene.lose();
    scene.whole(without_epoch(4, 2));
    scene.end(2);
}

/// Hands a bar over as the store does.
fn store(sink: &mut dyn Sink, bar: Candle) {
    let out = bar.outgoing();
    sink.stored(&out.channel, &out.payload);
}

#[test]
fn bars_of_the_store_are_told_once_history_holds_them() {
    let mut scene = Scene::new(NEVER);
    scene.whole(counted(0, 1));
    scene.bus.call(|sink| {
        sink.lost("a test says so");
        sink.loading();
        for bar in [
            counted(2, 6),
            counted(0, 3).closed(),
            counted(1, 5).closed(),
        ] {
            store(sink, bar);
        }
        sink.flush();
    });
    assert!(scene.client.until_pong().is_empty(), "still loading");
    scene.bus.call(|sink| sink.connected());
    assert_eq!(scene.gap(), (START, counted(2, 6).time));
    let since = format!(
        r#"{{"type":"bars.subscribe","payload":{{"topics":["bars:A:1"],"since":{START}}}}}"#
    );
    scene.client.ask(&since);
    let bars = scene.client.json()["payload"]["bars"].clone();
    assert_eq!(bars.as_array().unwrap().len(), 3, "{bars}");
    // The store had all that was published, so the next one is whole.
    scene.whole(counted(2, 7));
    scene.end(1);
    // What is known already is not told again.
    scene.bus.call(|sink| {
        sink.lost("a test says so");
        sink.loading();
        store(sink, counted(2, 7));
        store(sink, counted(1, 5).closed());
        sink.connected();
    });
    scene.whole(counted(3, 8));
    scene.end(1);
}

#[test]
fn while_the_store_is_read_live_wins_and_holes_wait() {
    let mut scene = Scene::new(NEVER);
    scene.whole(counted(0, 1));
    let live = counted(3, 9);
    scene.bus.call(move |sink| {
        sink.lost("a test says so");
        sink.loading();
        sink.message(&live.outgoing().channel, &live.outgoing().payload);
        sink.flush();
    });
    assert_eq!(scene.client.text(), live.update(), "no gap before it");
    scene.bus.call(|sink| {
        store(sink, counted(3, 8));
        store(sink, counted(2, 6).closed());
        sink.connected();
    });
    assert_eq!(scene.gap(), (START, live.time));
    scene.client.subscribe("bars:A:1");
    scene.end(1);
    // Whoever comes sees what came live.
    let mut other = scene.gateway.client();
    other.subscribe("bars:A:1");
    assert_eq!(other.text(), live.update());
}

#[test]
fn a_loss_while_the_store_is_read_is_a_loss() {
    let mut scene = Scene::new(NEVER);
    scene.whole(counted(0, 1));
    let live = candle("A", 1, 2).seq(2, 1);
    scene.bus.call(move |sink| {
        sink.lost("a test says so");
        sink.loading();
        sink.message(&live.outgoing().channel, &live.outgoing().payload);
        sink.lost("again");
    });
    assert_eq!(scene.client.text(), live.update());
    assert_eq!(scene.gap(), (START, live.time));
    scene.bus.call(|sink| sink.connected());
    scene.hole(live, candle("A", 2, 3).seq(3, 1));
    scene.end(2);
}
