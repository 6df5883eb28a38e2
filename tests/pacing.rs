//! `max_rate` in the hub, by a clock of the test's own: how much is written, and what is kept for it. And
//! what is compressed for whom.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barcast::gateway::batch::{Batch, Head, Kind};
use barcast::gateway::hub::{Hub, SessionId, Socket};
use barcast::gateway::registry::{Entry, Registry};
use barcast::gateway::rendition::Rendition;

/// A socket that takes all; what it took is kept.
#[derive(Debug, Clone, Default)]
struct End(Rc<RefCell<Vec<u8>>>);

impl Socket for End {
    type Handle<'a> = &'a Self;

    fn handle(&self) -> &Self {
        self
    }

    fn send(handle: &Self, bytes: &[u8]) -> io::Result<usize> {
        handle.try_write(bytes)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl End {
    /// The messages since the last call, `version/time` each.
    fn take(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.take()).into_owned();
        let parts = text.split(|c: char| c != '/' && !c.is_ascii_digit());
        let parts = parts.filter(|part| part.contains('/'));
        parts.map(str::to_owned).collect()
    }
}

struct Rig {
    hub: Hub<End>,
    topics: Vec<Arc<Entry>>,
    versions: Vec<u64>,
    start: Instant,
    now: Instant,
}

impl Rig {
    fn new(topics: usize) -> Self {
        let registry = Registry::new(topics, 10);
        let topic = |n: usize| format!("bars:T{n}:1").parse().unwrap();
        let start = Instant::now();
        Self {
            hub: Hub::new(1 << 20),
            topics: (0..topics)
                .map(|n| registry.watch(&topic(n), 0).unwrap())
                .collect(),
            versions: vec![0; topics],
            start,
            now: start,
        }
    }

    fn client(&mut self, max_rate: f64) -> (SessionId, End) {
        let end = End::default();
        let id = self.hub.add(end.clone());
        for topic in &self.topics {
            self.hub.subscribe(id, topic, 0, Some(max_rate));
        }
        (id, end)
    }

    /// Lets time go on to so many milliseconds after the start, and takes the turns up to then.
    fn until(&mut self, ms: u64) {
        let until = self.start + Duration::from_millis(ms);
        while let Some(next) = self.hub.next_turn().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.hub.take_turns(self.now);
        }
        self.now = until;
    }

    /// A bar of this time of each of these topics, as one batch.
    fn bars(&mut self, topics: impl IntoIterator<Item = usize>, time: i64, kind: Kind) {
        let mut batch = Batch::default();
        for at in topics {
            self.versions[at] += 1;
            let version = self.versions[at];
            let head = Head {
                topic: self.topics[at].id,
                version,
                time,
                from: time,
                kind,
                ts: None,
            };
            batch.push(head, |out| {
                out.extend_from_slice(format!("<{version}/{time}>").as_bytes());
            });
        }
        self.hub.fan_out(&batch, self.now);
    }
}

/// Also where the bars come in several batches, over a part of the interval.
#[test]
fn a_rate_over_many_topics_takes_few_writes() {
    let mut rig = Rig::new(200);
    let (_, end) = rig.client(2.0);
    let tenth = |rig: &mut Rig, n: u64| {
        for (part, topics) in [0..70, 70..140, 140..200].into_iter().enumerate() {
            rig.until(n * 100 + 1 + 13 * part as u64);
            rig.bars(topics, 0, Kind::Forming);
        }
    };
    // The first update comes at once.
    for n in 0..10 {
        tenth(&mut rig, n);
    }
    rig.hub.take_tally();
    end.take();
    for n in 10..60 {
        tenth(&mut rig, n);
    }
    let tally = rig.hub.take_tally();
    assert!(
        tally.writes <= 15,
        "{} writes in five seconds",
        tally.writes
    );
    let updates = end.take().len();
    assert!((1_800..=2_000).contains(&updates), "{updates}");
    assert_eq!(tally.due, 200 * 50);
    rig.until(10_000);
    let rest = rig.hub.take_tally();
    assert_eq!(
        tally.delivered + tally.conflated + rest.delivered,
        tally.due + 200
    );
}

#[test]
fn many_paced_clients_of_a_topic_are_written_once_a_turn() {
    let mut rig = Rig::new(1);
    let ends: Vec<_> = (0..3_000).map(|_| rig.client(2.0).1).collect();
    for n in 0..40 {
        rig.until(n * 100);
        rig.bars([0], 0, Kind::Forming);
    }
    rig.until(5_000);
    let tally = rig.hub.take_tally();
    assert!(tally.writes <= 3_000 * 9, "{}", tally.writes);
    assert_eq!(tally.delivered + tally.conflated, tally.due);
    for end in ends {
        assert_eq!(end.take().last().unwrap(), "40/0");
    }
}

#[test]
fn turns_are_bounded_by_subscriptions_and_go_with_them() {
    let mut rig = Rig::new(10);
    let ids: Vec<_> = (0..20).map(|_| rig.client(0.001).0).collect();
    for minute in 0..100 {
        rig.bars(0..10, minute, Kind::Forming);
        rig.bars(0..10, minute, Kind::Forming);
        rig.bars(0..10, minute, Kind::Closed);
    }
    assert!(rig.hub.turns_kept() <= 200, "{}", rig.hub.turns_kept());
    for (n, id) in ids.iter().enumerate() {
        if n % 2 == 0 {
            rig.hub.remove(*id).unwrap();
        } else {
            for topic in &rig.topics {
                rig.hub.unsubscribe(*id, topic.id);
            }
        }
    }
    assert_eq!((rig.hub.turns_kept(), rig.hub.next_turn()), (0, None));
    let tally = rig.hub.take_tally();
    let lost = tally.gapped_left + tally.unsubscribed;
    assert_eq!(tally.due, tally.delivered + tally.conflated + lost);
}

#[test]
fn a_revision_of_the_past_lets_the_newest_wait() {
    let mut rig = Rig::new(1);
    let (_, end) = rig.client(1.0);
    rig.bars([0], 5, Kind::Forming);
    assert_eq!(end.take(), ["1/5"]);
    rig.until(100);
    rig.bars([0], 5, Kind::Forming);
    rig.bars([0], 4, Kind::Forming);
    rig.bars([0], 4, Kind::Forming);
    assert!(end.take().is_empty(), "neither goes before its turn");
    // What is said to be closed goes at once, and what waits goes on waiting.
    rig.bars([0], 3, Kind::Closed);
    assert_eq!(end.take(), ["5/3"]);
    rig.until(3_000);
    assert_eq!(end.take(), ["4/4", "2/5"], "in the order of time");
    let tally = rig.hub.take_tally();
    assert_eq!((tally.due, tally.delivered, tally.conflated), (5, 4, 1));
}

#[test]
fn final_states_of_earlier_batches_go_first_in_one_write() {
    let mut rig = Rig::new(50);
    let (_, end) = rig.client(0.001);
    rig.bars(0..50, 0, Kind::Forming);
    rig.bars(0..50, 0, Kind::Forming);
    rig.hub.take_tally();
    end.take();
    rig.bars(0..50, 1, Kind::Closed);
    let tally = rig.hub.take_tally();
    assert_eq!((tally.writes, tally.delivered), (2, 100));
    let came = end.take();
    assert!(came[..50].iter().all(|m| m == "2/0"), "{came:?}");
    assert!(came[50..].iter().all(|m| m == "3/1"), "{came:?}");
}

#[test]
fn frames_are_compressed_once_and_only_for_those_who_watch_them() {
    let mut rig = Rig::new(3);
    let idle = rig.hub.add(End::default());
    rig.hub.set_rendition(idle, Rendition::Deflated);
    rig.client(1_000.0);
    rig.bars(0..3, 0, Kind::Closed);
    assert_eq!(rig.hub.deflated(), 0, "nobody who watches takes it");
    let another = rig.hub.add(End::default());
    rig.hub.set_rendition(another, Rendition::Deflated);
    for session in [idle, another] {
        rig.hub.subscribe(session, &rig.topics[1], 1, None);
    }
    rig.bars(0..3, 1, Kind::Closed);
    assert_eq!(rig.hub.deflated(), 1, "once for both");
}
