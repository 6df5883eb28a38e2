//! A worker that is far behind: ingest goes on, and the worker takes from history what it missed.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use barcast::bus::Sink;
use barcast::gateway::batch::Batch;
use barcast::gateway::hub::{Hub, SessionId, Socket};
use barcast::gateway::ingest::Ingest;
use barcast::gateway::mailbox::Mailbox;
use barcast::gateway::registry::{Entry, Registry};
use barcast::metrics::{GatewayMetrics, Tally};
use common::gateway::{Candle, MINUTE, START, candle};
use serde_json::Value;

const TOPICS: usize = 100;

/// Takes everything, and remembers it.
#[derive(Clone, Default)]
struct End(Rc<RefCell<Vec<u8>>>);

impl Socket for End {
    type Handle<'a> = &'a Self;

    fn handle(&self) -> &Self {
        self
    }

    fn send(end: &Self, bytes: &[u8]) -> io::Result<usize> {
        end.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::send(self, bytes)
    }
}

impl End {
    fn messages(&self) -> Vec<Value> {
        let taken = self.0.take();
        let (mut rest, mut messages) = (taken.as_slice(), Vec::new());
        while let Some((frame, len)) = common::client::parse(rest) {
            messages.push(serde_json::from_slice(&frame.payload).unwrap());
            rest = &rest[len..];
        }
        messages
    }
}

/// One worker without a thread, and an ingest that feeds it and another that never takes anything.
struct Rig {
    registry: Arc<Registry>,
    ingest: Ingest,
    mailbox: Arc<Mailbox>,
    entries: Vec<Arc<Entry>>,
    hub: Hub<End>,
    tally: Tally,
}

impl Rig {
    fn new(history_bars: usize) -> Self {
        let registry = Arc::new(Registry::new(TOPICS, history_bars));
        let name = |n| format!("bars:T{n}:1").parse().unwrap();
        let entries = (0..TOPICS).map(|n| {
            registry.watch(&name(n), 1).unwrap();
            registry.watch(&name(n), 0).unwrap()
        });
        let entries = entries.collect();
        let mailbox = Arc::new(Mailbox::never_full());
        let ingest = Ingest::new(
            Arc::clone(&registry),
            vec![Arc::clone(&mailbox), Arc::new(Mailbox::never_full())],
            GatewayMetrics::default(),
            Arc::default(),
            String::new(),
        );
        Self {
            registry,
            ingest,
            mailbox,
            entries,
            hub: Hub::new(1 << 20),
            tally: Tally::default(),
        }
    }

    /// Whoever has the topics up to now.
    fn join(&mut self) -> (SessionId, End) {
        let end = End::default();
        let session = self.hub.add(end.clone());
        for entry in &self.entries {
            let version = entry.lock().version;
            self.hub.subscribe(session, entry, version, None);
        }
        (session, end)
    }

    /// The same bar of every topic.
    fn publish(&mut self, bar: Candle) {
        let of = |n| bar.message().replacen("\"T\"", &format!("\"T{n}\""), 1);
        let all: Vec<_> = (0..TOPICS).map(of).collect();
        let payload = format!("[{}]", all.join(","));
        self.ingest.message("bars:@batch", payload.as_bytes());
        self.ingest.flush();
    }

    async fn take_up(&mut self) {
        let mut batches = Vec::new();
        let mut missed = self.mailbox.take(&mut batches).await;
        for batch in &batches {
            self.hub.fan_out(batch, Instant::now());
        }
        while !missed.is_empty() {
            missed.opened.clear();
            let mut batch = Batch::default();
            missed.catch_up(&mut self.hub, &mut batch);
            self.hub.fan_out(&batch, Instant::now());
        }
        self.tally = self.hub.take_tally();
    }
}

/// By topic, the states of each bar in the order in which they came, and gaps.
fn by_topic(messages: &[Value]) -> BTreeMap<&str, Vec<&Value>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for message in messages {
        let topic = message["topic"].as_str().unwrap();
        found.entry(topic).or_default().push(message);
    }
    found
}

fn time(minute: i64) -> i64 {
    START + minute * MINUTE
}

#[tokio::test]
async fn what_history_has_is_not_missed() {
    const BARS: i64 = 800;
    let mut rig = Rig::new(1_000);
    let (_, end) = rig.join();
    for minute in 0..BARS {
        // Its last update was its final state; every other is closed by its producer.
        rig.publish(candle("T", minute, 1));
        let last = candle("T", minute, 2);
        rig.publish(if minute % 2 == 0 { last.closed() } else { last });
    }
    // Who comes only now has it all.
    let (_, late) = rig.join();
    rig.take_up().await;
    let messages = end.messages();
    let topics = by_topic(&messages);
    assert_eq!(topics.len(), TOPICS);
    for messages in topics.values() {
        let mut last = BTreeMap::new();
        let mut newest = 0;
        for message in messages {
            assert_eq!(message["type"], "bars.update");
            let bar = &message["payload"];
            let time = bar["time"].as_i64().unwrap();
            assert!(newest <= time, "no step back");
            newest = time;
            last.insert(time, (bar["close"].as_i64(), bar["closed"] == true));
        }
        let expected = |minute| (time(minute), (Some(2), minute % 2 == 0));
        assert_eq!(last, (0..BARS).map(expected).collect());
        assert!(messages.len() < 2 * BARS as usize, "it was behind");
    }
    let tally = &rig.tally;
    assert_eq!(tally.due, 2 * BARS as u64 * TOPICS as u64);
    assert_eq!(tally.due, tally.delivered + tally.conflated);
    // All goes on for both.
    rig.publish(candle("T", BARS, 1));
    rig.take_up().await;
    for messages in [end.messages(), late.messages()] {
        assert_eq!(messages.len(), TOPICS);
        assert!(messages.iter().all(|m| m["payload"]["time"] == time(BARS)));
    }
}

#[tokio::test]
async fn what_history_lacks_is_told() {
    const BARS: i64 = 800;
    const KEPT: usize = 20;
    let mut rig = Rig::new(KEPT);
    let (_, end) = rig.join();
    for minute in 0..BARS {
        rig.publish(candle("T", minute, 1).closed());
    }
    rig.take_up().await;
    let messages = end.messages();
    for messages in by_topic(&messages).values() {
        let (mut came, mut gaps) = (Vec::new(), Vec::new());
        for message in messages {
            let payload = &message["payload"];
            if message["type"] == "bars.gap" {
                assert_eq!(payload["reason"], "gateway");
                gaps.push(payload["from"].as_i64()..=payload["to"].as_i64());
            } else {
                came.push(payload["time"].as_i64());
            }
        }
        assert_eq!(gaps.len(), 1);
        assert!(came.is_sorted());
        for minute in 0..BARS {
            let time = Some(time(minute));
            assert_ne!(came.contains(&time), gaps[0].contains(&time), "{minute}");
        }
    }
    let tally = &rig.tally;
    assert_eq!(tally.due, BARS as u64 * TOPICS as u64);
    assert_eq!(tally.due, tally.delivered + tally.gapped_gateway);
    assert!(tally.gapped_gateway > 0);
}

/// Who came when the worker was behind already, and lacks bars that came later.
#[tokio::test]
async fn what_history_lacks_is_told_to_who_came_meanwhile_too() {
    const BARS: i64 = 800;
    const COMES_AT: i64 = 650;
    let mut rig = Rig::new(20);
    rig.join();
    let mut late = None;
    for minute in 0..BARS {
        if minute == COMES_AT {
            late = Some(rig.join());
        }
        rig.publish(candle("T", minute, 1).closed());
    }
    rig.take_up().await;
    let messages = late.unwrap().1.messages();
    let topics = by_topic(&messages);
    assert_eq!(topics.len(), TOPICS);
    for messages in topics.values() {
        let covers = |message: &Value, time: i64| {
            let payload = &message["payload"];
            let number = |name: &str| payload[name].as_i64();
            number("time") == Some(time)
                || number("from").is_some_and(|from| from <= time) && number("to") >= Some(time)
        };
        for minute in COMES_AT..BARS {
            let is_known = messages.iter().any(|m| covers(m, time(minute)));
            assert!(is_known, "{minute}: {messages:?}");
        }
    }
}

/// One notice more than are kept.
#[tokio::test]
async fn a_notice_that_is_not_kept_is_told_with_its_whole_range() {
    const NOTICES: usize = 16;
    let mut rig = Rig::new(20);
    rig.ingest.connected();
    let (_, end) = rig.join();
    let mut minute = 0;
    while rig.mailbox.waiting_bytes() <= 8 << 20 {
        rig.publish(candle("T", minute, 1).closed());
        minute += 1;
    }
    let breaks = |rig: &mut Rig| {
        rig.ingest.lost("a test says so");
        rig.ingest.connected();
    };
    for _ in 0..NOTICES {
        breaks(&mut rig);
    }
    rig.publish(candle("T", minute, 1));
    breaks(&mut rig);
    rig.take_up().await;
    let messages = end.messages();
    for messages in by_topic(&messages).values() {
        let last = messages.last().unwrap();
        assert_eq!(last["payload"]["from"], time(minute), "{last}");
        assert_eq!(last["type"], "bars.gap");
    }
}

/// A name that nobody asks for any more gives its number to another, while a notice of it is on its way.
#[tokio::test]
async fn a_notice_of_a_name_that_is_gone_goes_to_nobody() {
    let mut rig = Rig::new(20);
    let (session, end) = rig.join();
    // Nobody knows whether there were bars before.
    rig.ingest.connected();
    let gone = rig.entries.remove(0);
    rig.hub.unsubscribe(session, gone.id);
    let registry = Arc::clone(&rig.registry);
    for worker in [0, 1] {
        registry.unwatch(&gone, worker);
    }
    let new = registry.watch(&"bars:NEW:1".parse().unwrap(), 0).unwrap();
    assert_eq!(new.id, gone.id);
    let version = new.lock().version;
    rig.hub.subscribe(session, &new, version, None);
    rig.take_up().await;
    let messages = end.messages();
    let topics = by_topic(&messages);
    assert_eq!(topics.len(), TOPICS - 1);
    assert!(!topics.contains_key("bars:T0:1"));
    rig.ingest
        .message("bars:NEW:1", candle("NEW", 0, 1).message().as_bytes());
    rig.ingest.flush();
    rig.take_up().await;
    assert_eq!(end.messages().len(), 1, "its own come");
}
