//! What the store still owes the outputs: topics whose past each of them has yet to be given.
//!
//! Whatever an output could not take from the store, and whatever it refused of what came live, is a topic here
//! until the store was read again: asked for only as there is room, so that nothing that Redis has is given up,
//! and by one output while the other has none.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use super::intake::MAX_TOPICS;
use crate::bar::Topic;
use crate::health::Concern;
use crate::metrics::OutputMetrics;

/// Topics that are asked for at once: as one is handed on, the next is read. Their bars wait in memory.
const MAX_ASKED: usize = 2;
/// Topics whose past cannot be read now, beyond which no others are asked for until one of them can: the bus tries
/// them again by itself.
const MAX_UNREAD: usize = 100;

/// Bars that came live and were refused: the first and the last of their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub from: i64,
    pub to: i64,
}

impl Refused {
    /// One bar.
    pub fn at(time: i64) -> Self {
        Self {
            from: time,
            to: time,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        }
    }
}

/// An output that is owed a topic, and what it refused of it.
pub(super) type Share = (usize, Option<Refused>);

struct Output {
    name: &'static str,
    metrics: OutputMetrics,
    topics: BTreeMap<Topic, Option<Refused>>,
    has_room: bool,
}

impl Output {
    fn owe(&mut self, topic: Topic, refused: Option<Refused>) {
        if self.topics.len() >= MAX_TOPICS && !self.topics.contains_key(&topic) {
            return;
        }
        let owed = self.topics.entry(topic).or_default();
        *owed = match (*owed, refused) {
            (Some(before), Some(refused)) => Some(before.and(refused)),
            (before, refused) => before.or(refused),
        };
    }
}

struct State {
    outputs: Vec<Output>,
    /// Asked for, and by whom. Never twice at once: the first answer may be older than the second question.
    asked: BTreeMap<Topic, Asked>,
}

#[derive(Default)]
struct Asked {
    shares: Vec<Share>,
    /// It could not be read, and is tried again.
    is_unread: bool,
}

impl State {
    fn tell(&self) {
        for (at, output) in self.outputs.iter().enumerate() {
            let asked = self.asked.values().flat_map(|asked| &asked.shares);
            let left = output.topics.len() + asked.filter(|(of, _)| *of == at).count();
            let health = &output.metrics.health;
            output
                .metrics
                .owed
                .set(i64::try_from(left).unwrap_or(i64::MAX));
            match left {
                0 => health.clear(Concern::Past),
                _ => {
                    let name = output.name;
                    let why = format!("{name}: {left} topics of the store are still to be read");
                    health.warn(Concern::Past, why);
                }
            }
        }
    }
}

/// Shared by the intake, which learns of topics and gets answers, and the lanes, which know whether there is room.
pub(super) struct Owing {
    state: Mutex<State>,
    bell: Notify,
    /// Whether there is a store.
    reads: bool,
}

impl Owing {
    pub fn new(outputs: &[(&'static str, OutputMetrics)], reads: bool) -> Self {
        let output = |(name, metrics): &(&'static str, OutputMetrics)| Output {
            name,
            metrics: metrics.clone(),
            topics: BTreeMap::new(),
            has_room: false,
        };
        let state = State {
            outputs: outputs.iter().map(output).collect(),
            asked: BTreeMap::new(),
        };
        Self {
            state: Mutex::new(state),
            bell: Notify::new(),
            reads,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The maps are whole after every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These topics are to be read for an output: since it refused bars of them, or for what the store has.
    pub fn owe(&self, output: usize, topics: impl IntoIterator<Item = (Topic, Option<Refused>)>) {
        if !self.reads {
            return;
        }
        let mut state = self.lock();
        for (topic, refused) in topics {
            state.outputs[output].owe(topic, refused);
        }
        state.tell();
        drop(state);
        self.bell.notify_one();
    }

    /// The store has these topics.
    pub fn found(&self, topics: &[Topic]) {
        let outputs = self.lock().outputs.len();
        for output in 0..outputs {
            self.owe(output, topics.iter().map(|topic| (*topic, None)));
        }
    }

    /// Whether an output takes the past now.
    pub fn set_room(&self, output: usize, has_room: bool) {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.outputs[output].has_room, has_room);
        drop(state);
        if has_room && !before {
            self.bell.notify_one();
        }
    }

    /// The next topic to ask for, if there is one and room for it.
    fn next(&self) -> Option<Topic> {
        let mut state = self.lock();
        let State { outputs, asked } = &mut *state;
        let unread = asked.values().filter(|asked| asked.is_unread).count();
        if asked.len() - unread >= MAX_ASKED || unread >= MAX_UNREAD {
            return None;
        }
        let open = outputs.iter().filter(|output| output.has_room);
        let mut topics = open.flat_map(|output| output.topics.keys());
        let topic = *topics.find(|topic| !asked.contains_key(topic))?;
        let mut shares = Vec::new();
        for (at, output) in outputs.iter_mut().enumerate() {
            if output.has_room
                && let Some(refused) = output.topics.remove(&topic)
            {
                shares.push((at, refused));
            }
        }
        let is_unread = false;
        asked.insert(topic, Asked { shares, is_unread });
        Some(topic)
    }

    /// The past of a topic could not be read, and is tried again: others need not wait for that.
    pub fn unread(&self, topic: &Topic) {
        let mut state = self.lock();
        if let Some(asked) = state.asked.get_mut(topic) {
            asked.is_unread = true;
        }
        drop(state);
        self.bell.notify_one();
    }

    /// The answer is there: for whom.
    pub fn answered(&self, topic: &Topic) -> Vec<Share> {
        let mut state = self.lock();
        let shares = state.asked.remove(topic).unwrap_or_default().shares;
        state.tell();
        drop(state);
        self.bell.notify_one();
        shares
    }

    /// Asks for one topic after the other. Never ends.
    pub async fn ask(&self, asks: mpsc::Sender<Topic>) {
        loop {
            while let Some(topic) = self.next() {
                if asks.send(topic).await.is_err() {
                    return std::future::pending().await;
                }
            }
            self.bell.notified().await;
        }
    }
}

/// A way to ask that never holds a question up.
pub(super) fn questions() -> (mpsc::Sender<Topic>, mpsc::Receiver<Topic>) {
    mpsc::channel(MAX_ASKED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::RecordMetrics;

    #[test]
    fn each_output_is_given_all_as_it_has_room() {
        let metrics = RecordMetrics::default();
        let outputs = ["a", "b"].map(|name| (name, metrics.output(name)));
        let owing = Owing::new(&outputs, true);
        let topics: Vec<Topic> = (0..3)
            .map(|n| format!("bars:T{n}:1").parse().unwrap())
            .collect();
        owing.found(&topics);
        assert_eq!(owing.next(), None, "nobody has room");
        owing.set_room(1, true);
        assert_eq!(owing.next(), Some(topics[0]));
        owing.set_room(0, true);
        assert_eq!(owing.next(), Some(topics[1]));
        assert_eq!(owing.next(), None, "enough for now");
        // What comes after the question needs another one.
        owing.owe(1, [(topics[0], Some(Refused::at(5)))]);
        owing.owe(1, [(topics[0], Some(Refused::at(3)))]);
        assert_eq!(owing.answered(&topics[0]), [(1, None)]);
        assert_eq!(owing.answered(&topics[1]), [(0, None), (1, None)]);
        let (from, to) = (3, 5);
        assert_eq!(owing.next(), Some(topics[0]));
        let both = [(0, None), (1, Some(Refused { from, to }))];
        assert_eq!(owing.answered(&topics[0]), both);
        assert!(outputs[1].1.health.status().contains("b: 1 topics"));
        assert_eq!(owing.next(), Some(topics[2]));
        // What cannot be read holds up no other.
        owing.unread(&topics[2]);
        owing.found(&topics[..2]);
        assert_eq!(
            [owing.next(), owing.next()],
            [Some(topics[0]), Some(topics[1])]
        );
        topics.iter().for_each(|topic| _ = owing.answered(topic));
        assert_eq!(owing.next(), None);
        assert_eq!(
            outputs[0].1.health.unready().as_deref(),
            Some("a: nothing was written yet")
        );
        assert!(!outputs[1].1.health.status().contains("topics"));
    }
}
