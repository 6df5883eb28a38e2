//! What holds for every topic of a generator.

use std::collections::HashMap;

use barcast::bar::{Field, Message, Number, Symbol, Topic};

/// 2023-10-12T09:20:00Z, a Thursday.
pub const START: i64 = 1_697_102_400_000;

pub fn symbols(names: &[&str]) -> Vec<Symbol> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

pub fn by_topic(messages: &[Message]) -> HashMap<Topic, Vec<Message>> {
    let mut topics: HashMap<Topic, Vec<Message>> = HashMap::new();
    for message in messages {
        topics.entry(message.topic).or_default().push(*message);
    }
    topics
}

/// What holds for every topic's messages, whatever the ticks.
pub fn check_topic(topic: Topic, messages: &[Message]) {
    let mut last_closed: Option<Message> = None;
    let mut forming: Option<Message> = None;
    for (at, message) in messages.iter().enumerate() {
        assert_eq!(message.seq, u64::try_from(at + 1).ok());
        assert!(topic.resolution.is_aligned(message.bar.time()));
        assert!(message.bar.value(Field::Low) >= 0.01);
        assert!(matches!(
            message.bar.get(Field::Volume),
            Number::Unsigned(_)
        ));
        if let Some(before) = forming.filter(|f| f.bar.time() == message.bar.time()) {
            assert_eq!(before.bar.get(Field::Open), message.bar.get(Field::Open));
            assert!(before.bar.value(Field::High) <= message.bar.value(Field::High));
            assert!(before.bar.value(Field::Low) >= message.bar.value(Field::Low));
            assert!(before.bar.value(Field::Volume) <= message.bar.value(Field::Volume));
        } else if let Some(closed) = last_closed {
            assert!(message.bar.time() > closed.bar.time());
            assert_eq!(message.bar.get(Field::Open), closed.bar.get(Field::Close));
            assert!(forming.is_none(), "a bar was left without being closed");
        }
        if message.bar.closed {
            last_closed = Some(*message);
            forming = None;
        } else {
            forming = Some(*message);
        }
    }
}
