//! The hub against a model: random subscriptions, frames and full sockets. No network: the hub writes
//! to whatever is a `Socket`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use barcast::gateway::batch::{Batch, Head, Kind};
use barcast::gateway::hub::{Hub, SessionId, Socket};
use barcast::gateway::registry::{Entry, Registry};
use barcast::gateway::ws::FrameBuilder;
use barcast::metrics::Tally;
use proptest::prelude::*;

const SESSIONS: usize = 5;
const TOPICS: usize = 4;

/// A socket with room for so many bytes; what it took is kept.
#[derive(Debug, Default)]
struct Pipe {
    room: usize,
    taken: Vec<u8>,
    dead: bool,
}

#[derive(Debug, Clone, Default)]
struct End(Rc<RefCell<Pipe>>);

impl Socket for End {
    type Handle<'a> = &'a Self;

    fn handle(&self) -> &Self {
        self
    }

    fn send(handle: &Self, bytes: &[u8]) -> io::Result<usize> {
        handle.try_write(bytes)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.0.borrow_mut();
        if pipe.dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let written = bytes.len().min(pipe.room);
        if written == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        pipe.room -= written;
        pipe.taken.extend_from_slice(&bytes[..written]);
        Ok(written)
    }
}

impl End {
    fn with_room(room: usize) -> Self {
        let end = Self::default();
        end.0.borrow_mut().room = room;
        end
    }

    /// The text messages that came, all of them whole.
    fn messages(&self) -> Vec<String> {
        let pipe = self.0.borrow();
        let mut rest = pipe.taken.as_slice();
        let mut messages = Vec::new();
        while let Some((frame, len)) = common::client::parse(rest) {
            messages.push(String::from_utf8(frame.payload).unwrap());
            rest = &rest[len..];
        }
        assert!(rest.is_empty(), "a frame was cut");
        messages
    }
}

fn entries(count: usize) -> Vec<Arc<Entry>> {
    let registry = Registry::new(count, 10);
    let topic = |n: usize| format!("bars:T{n}:1").parse().unwrap();
    (0..count)
        .map(|n| registry.watch(&topic(n), 0).unwrap())
        .collect()
}

fn frame(entry: &Entry, version: u64, time: i64, kind: Kind) -> (Head, String) {
    let head = Head {
        topic: entry.id,
        version,
        time,
        from: time,
        kind,
        ts: None,
    };
    (head, format!("{}/{version}/{time}", entry.topic.symbol))
}

fn batch(frames: Vec<(Head, String)>) -> Batch {
    let mut batch = Batch::default();
    for (head, text) in frames {
        batch.push(head, |out| out.extend_from_slice(text.as_bytes()));
    }
    batch
}

#[derive(Debug, Clone)]
enum Step {
    /// Ingest makes a frame of a topic; it waits for the worker.
    Produce(usize),
    /// The worker fans out what waits, as one batch.
    Deliver,
    /// A session subscribes: it has seen what was produced so far.
    Subscribe(usize, usize),
    Unsubscribe(usize, usize),
    /// A session ends and another takes its place.
    Replace(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..TOPICS).prop_map(Step::Produce),
        2 => Just(Step::Deliver),
        3 => (0..SESSIONS, 0..TOPICS).prop_map(|(s, t)| Step::Subscribe(s, t)),
        2 => (0..SESSIONS, 0..TOPICS).prop_map(|(s, t)| Step::Unsubscribe(s, t)),
        1 => (0..SESSIONS).prop_map(Step::Replace),
    ]
}

/// What must come out, written as naively as can be.
struct Model {
    produced: Vec<u64>,
    waiting: Vec<(usize, u64)>,
    /// By session and topic: subscribed, having seen up to that version.
    seen: HashMap<(usize, usize), u64>,
    expected: Vec<Vec<String>>,
    due: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Every subscriber gets exactly the frames after the version it joined at, in order.
    #[test]
    fn fan_out_is_what_the_naive_model_says(steps in prop::collection::vec(step(), 1..120)) {
        let entries = entries(TOPICS);
        let mut hub = Hub::new(1 << 20);
        let mut ends: Vec<_> = (0..SESSIONS).map(|_| End::with_room(usize::MAX)).collect();
        let mut ids: Vec<_> = ends.iter().map(|end| hub.add(end.clone())).collect();
        let mut model = Model {
            produced: vec![0; TOPICS],
            waiting: Vec::new(),
            seen: HashMap::new(),
            expected: vec![Vec::new(); SESSIONS],
            due: 0,
        };
        for step in steps.into_iter().chain([Step::Deliver]) {
            run(&mut hub, &mut model, &entries, &mut ends, &mut ids, &step);
            for (n, entry) in entries.iter().enumerate() {
                let count = model.seen.keys().filter(|(_, topic)| *topic == n).count();
                prop_assert_eq!(entry.subscribers.load(Ordering::Relaxed) as usize, count);
                prop_assert_eq!(hub.is_watched(entry.id), count > 0);
            }
        }
        for (end, expected) in ends.iter().zip(&model.expected) {
            prop_assert_eq!(&end.messages(), expected);
        }
        let tally = hub.take_tally();
        prop_assert_eq!((tally.due, tally.delivered), (model.due, model.due));
    }
}

fn run(
    hub: &mut Hub<End>,
    model: &mut Model,
    entries: &[Arc<Entry>],
    ends: &mut [End],
    ids: &mut [SessionId],
    step: &Step,
) {
    match *step {
        Step::Produce(topic) => {
            model.produced[topic] += 1;
            model.waiting.push((topic, model.produced[topic]));
        }
        Step::Deliver => {
            let mut frames = Vec::new();
            for (topic, version) in std::mem::take(&mut model.waiting) {
                let made = frame(&entries[topic], version, 0, Kind::Forming);
                for session in 0..SESSIONS {
                    if model
                        .seen
                        .get(&(session, topic))
                        .is_some_and(|seen| *seen < version)
                    {
                        model.expected[session].push(format!("T{topic}/{version}/0"));
                        model.due += 1;
                    }
                }
                frames.push(made);
            }
            hub.fan_out(&batch(frames), Instant::now());
        }
        Step::Subscribe(session, topic) => {
            let version = model.produced[topic];
            // A second subscription changes nothing.
            model.seen.entry((session, topic)).or_insert(version);
            hub.subscribe(ids[session], &entries[topic], version, None);
        }
        Step::Unsubscribe(session, topic) => {
            let was = model.seen.remove(&(session, topic)).is_some();
            assert_eq!(hub.unsubscribe(ids[session], entries[topic].id), was);
        }
        Step::Replace(session) => {
            model.seen.retain(|(of, _), _| *of != session);
            assert_eq!(ends[session].messages(), model.expected[session]);
            model.expected[session].clear();
            hub.remove(ids[session]).unwrap();
            ends[session] = End::with_room(usize::MAX);
            ids[session] = hub.add(ends[session].clone());
        }
    }
}

// ---- full sockets -------------------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Pressure {
    /// Updates of these topics, some of which close their bar or begin a new one without that.
    Bars(Vec<(usize, u8)>),
    /// A socket takes so many bytes more.
    Room(usize, usize),
    Answer(usize),
}

fn pressure() -> impl Strategy<Value = Pressure> {
    prop_oneof![
        5 => prop::collection::vec((0..TOPICS, 0..4_u8), 1..8).prop_map(Pressure::Bars),
        2 => (0..SESSIONS, 1..200_usize).prop_map(|(s, room)| Pressure::Room(s, room)),
        1 => (0..SESSIONS).prop_map(Pressure::Answer),
    ]
}

/// One topic's market: which version came with which time, and which were final.
#[derive(Default)]
struct Market {
    time: i64,
    ended: bool,
    versions: Vec<i64>,
}

impl Market {
    fn next(&mut self, how: u8) -> Kind {
        if self.ended || how == 3 {
            self.time += 1;
        }
        self.ended = how == 2;
        self.versions.push(self.time);
        if self.ended {
            Kind::Closed
        } else {
            Kind::Forming
        }
    }

    /// Versions that were the last of their bar.
    fn finals(&self) -> impl Iterator<Item = (u64, i64)> {
        let versions = self.versions.iter().zip(1_u64..);
        let next = self.versions.iter().skip(1).map(Some).chain([None]);
        versions
            .zip(next)
            .filter(|((time, _), next)| next.is_none_or(|next| next != *time))
            .map(|((time, version), _)| (version, *time))
    }
}

/// Checks what one session got of one topic: in order, the newest state, every final state or a gap
/// that names it.
fn check(messages: &[String], topic: usize, market: &Market) -> Result<(), TestCaseError> {
    let mut got = Vec::new();
    let mut gaps = Vec::new();
    for message in messages {
        if let Some(rest) = message.strip_prefix(&format!("T{topic}/")) {
            let (version, _) = rest.split_once('/').unwrap();
            got.push(version.parse::<u64>().unwrap());
        } else if message.contains(&format!("\"bars:T{topic}:1\"")) {
            let gap: serde_json::Value = serde_json::from_str(message).unwrap();
            let payload = &gap["payload"];
            prop_assert_eq!(&payload["reason"], "slow_client");
            gaps.push((
                payload["from"].as_i64().unwrap(),
                payload["to"].as_i64().unwrap(),
            ));
        }
    }
    prop_assert!(got.is_sorted_by(|a, b| a < b), "{:?}", got);
    let newest = market.versions.len() as u64;
    prop_assert_eq!(got.last().copied().unwrap_or(0), newest);
    for (version, time) in market.finals() {
        let told = gaps.iter().any(|(from, to)| (*from..=*to).contains(&time));
        prop_assert!(
            got.contains(&version) || told,
            "bar {} of topic {}",
            time,
            topic
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However full the sockets are: nothing older after newer, no final state lost in silence, every
    /// delivery accounted for.
    #[test]
    fn slow_sockets_lose_nothing_in_silence(
        steps in prop::collection::vec(pressure(), 1..80),
        limit in 0..4_000_usize,
    ) {
        let entries = entries(TOPICS);
        let mut hub = Hub::new(limit);
        let ends: Vec<_> = (0..SESSIONS).map(|n| End::with_room(n * 40)).collect();
        let ids: Vec<_> = ends.iter().map(|end| hub.add(end.clone())).collect();
        for id in &ids {
            for entry in &entries {
                hub.subscribe(*id, entry, 0, None);
            }
        }
        let mut markets: Vec<Market> = (0..TOPICS).map(|_| Market::default()).collect();
        let mut answers = 0;
        for step in steps {
            match step {
                Pressure::Bars(bars) => {
                    let frames = bars.into_iter().map(|(topic, how)| {
                        let kind = markets[topic].next(how);
                        let version = markets[topic].versions.len() as u64;
                        frame(&entries[topic], version, markets[topic].time, kind)
                    });
                    hub.fan_out(&batch(frames.collect()), Instant::now());
                }
                Pressure::Room(session, room) => {
                    ends[session].0.borrow_mut().room += room;
                    hub.flush(ids[session]);
                }
                Pressure::Answer(session) => {
                    let text = format!("answer {answers}");
                    let bytes = FrameBuilder::default().text(|out| out.extend_from_slice(text.as_bytes()));
                    hub.send(ids[session], bytes);
                    answers += 1;
                }
            }
            for id in &ids {
                let waiting = hub.lag(*id).map_or(0, |lag| lag.bytes() - lag.answer_bytes());
                // The limit, one frame a topic with its place, and the part that was begun.
                prop_assert!(waiting <= limit + TOPICS * 160 + (16 << 10) + 20);
            }
        }
        for (end, id) in ends.iter().zip(&ids) {
            end.0.borrow_mut().room = usize::MAX;
            prop_assert!(hub.flush(*id));
            prop_assert!(hub.lag(*id).is_none());
        }
        let tally = hub.take_tally();
        prop_assert_eq!(tally.due, tally.delivered + tally.conflated + tally.gapped_slow);
        let mut answered = 0;
        for end in &ends {
            let messages = end.messages();
            answered += messages.iter().filter(|m| m.starts_with("answer")).count();
            for (topic, market) in markets.iter().enumerate() {
                check(&messages, topic, market)?;
            }
        }
        prop_assert_eq!(answered, answers, "every answer comes once");
    }
}

fn gapped(tally: &Tally) -> u64 {
    tally.gapped_slow + tally.gapped_left
}

#[test]
fn what_waits_for_a_session_that_leaves_is_accounted_for() {
    let entries = entries(1);
    let mut hub = Hub::new(1 << 20);
    let end = End::with_room(15);
    let id = hub.add(end.clone());
    hub.subscribe(id, &entries[0], 0, None);
    let frames = (1..=10).map(|n| frame(&entries[0], n, i64::try_from(n).unwrap(), Kind::Forming));
    hub.fan_out(&batch(frames.collect()), Instant::now());
    assert_eq!(hub.take_todo().lagging, [id]);
    hub.remove(id).unwrap();
    let tally = hub.take_tally();
    assert_eq!((tally.due, tally.delivered, gapped(&tally)), (10, 1, 9));
}

#[test]
fn a_dead_socket_is_reported_and_its_bars_are_accounted_for() {
    let entries = entries(1);
    let mut hub = Hub::new(1 << 20);
    let (dead, well) = (End::with_room(0), End::with_room(usize::MAX));
    dead.0.borrow_mut().dead = true;
    let ids = [hub.add(dead), hub.add(well.clone())];
    for id in ids {
        hub.subscribe(id, &entries[0], 0, None);
    }
    hub.fan_out(
        &batch(vec![frame(&entries[0], 1, 0, Kind::Forming)]),
        Instant::now(),
    );
    assert_eq!(hub.take_todo().dead, [ids[0]]);
    assert_eq!(well.messages().len(), 1);
    let tally = hub.take_tally();
    assert_eq!((tally.due, tally.delivered, gapped(&tally)), (2, 1, 1));
}

/// A snapshot asked for while bars wait stands behind them, and the bars after it behind it.
#[test]
fn a_new_subscription_replaces_nothing_of_the_old_one() {
    let entries = entries(1);
    let mut hub = Hub::new(1 << 20);
    let end = End::default();
    let id = hub.add(end.clone());
    hub.subscribe(id, &entries[0], 0, None);
    let forming = |version| batch(vec![frame(&entries[0], version, 0, Kind::Forming)]);
    hub.fan_out(&forming(1), Instant::now());
    hub.unsubscribe(id, entries[0].id);
    hub.send(
        id,
        FrameBuilder::default().text(|out| out.extend_from_slice(b"snapshot")),
    );
    hub.subscribe(id, &entries[0], 1, None);
    hub.fan_out(&forming(2), Instant::now());
    hub.fan_out(&forming(3), Instant::now());
    end.0.borrow_mut().room = usize::MAX;
    assert!(hub.flush(id));
    assert_eq!(end.messages(), ["T0/1/0", "snapshot", "T0/3/0"]);
    assert_eq!(hub.take_tally().conflated, 1);
}
