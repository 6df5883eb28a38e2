//! From messages to what goes over the bus: one each, or gathered into batches.

use std::collections::HashMap;
use std::io;

use clap::ValueEnum;

use crate::bar::{BATCH_CHANNEL, BatchEncoder, Message, Topic, write_message};
use crate::bus::{Kept, Outgoing};
use crate::clock::now_us;

/// A batch is sent when its JSON has this many bytes. As large as the buffer that a gateway's decoder
/// keeps, and about 6,000 bars: what more would save is nothing.
const BATCH_BYTES: usize = 1 << 20;
/// Room for one message, in bytes, so that writing it allocates once.
const MESSAGE_BYTES: usize = 256;

/// How messages are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Each on its topic's channel.
    #[default]
    Single,
    /// Gathered into arrays on the batch channel.
    Batch { compress: bool },
}

/// `--publish`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Publish {
    /// One message per bar on the topic's channel
    Single,
    /// Many bars per message on the batch channel
    Batch,
}

/// `--compress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compress {
    /// Plain JSON
    None,
    /// Batches as zstd frames
    Zstd,
}

impl Form {
    /// The form that two flags mean together.
    ///
    /// # Errors
    /// One line, when they contradict each other.
    pub fn new(publish: Publish, compress: Compress) -> Result<Self, String> {
        match (publish, compress) {
            (Publish::Single, Compress::None) => Ok(Self::Single),
            (Publish::Single, Compress::Zstd) => Err(
                "--compress zstd: only batches are compressed; allowed with --publish batch"
                    .to_owned(),
            ),
            (Publish::Batch, compress) => Ok(Self::Batch {
                compress: compress == Compress::Zstd,
            }),
        }
    }
}

/// Packs messages in one form.
#[derive(Debug)]
pub struct Packer {
    form: Form,
    batch: BatchEncoder,
}

impl Packer {
    pub fn new(form: Form) -> Self {
        Self {
            form,
            batch: BatchEncoder::default(),
        }
    }

    /// All messages, in order, stamped with the time of now.
    ///
    /// # Errors
    /// When a batch cannot be compressed for want of memory.
    pub fn pack(&mut self, messages: &mut [Message]) -> io::Result<Vec<Outgoing>> {
        let ts = now_us();
        for message in messages.iter_mut() {
            message.ts = Some(ts);
        }
        let Form::Batch { compress } = self.form else {
            return Ok(messages.iter().map(single).collect());
        };
        let mut packed = Vec::new();
        for message in messages.iter() {
            self.batch.push(message);
            if self.batch.len() >= BATCH_BYTES {
                packed.push(batch(self.batch.take(compress)?));
            }
        }
        if !self.batch.is_empty() {
            packed.push(batch(self.batch.take(compress)?));
        }
        Ok(packed)
    }
}

/// What the store is to keep of messages that are published together: closed bars, and of each topic the
/// newest bar's last state.
pub fn keep(messages: &[Message]) -> Vec<Kept> {
    let mut newest: HashMap<Topic, (i64, usize)> = HashMap::new();
    for (at, message) in messages.iter().enumerate() {
        let time = message.bar.time();
        let newest = newest.entry(message.topic).or_insert((time, at));
        if newest.0 <= time {
            *newest = (time, at);
        }
    }
    let is_newest = |at: usize| newest.get(&messages[at].topic).is_some_and(|n| n.1 == at);
    let wanted = |(at, message): &(usize, &Message)| message.bar.closed || is_newest(*at);
    let kept = messages.iter().enumerate().filter(wanted);
    kept.map(|(_, message)| Kept {
        topic: message.topic,
        time: message.bar.time(),
        closed: message.bar.closed,
        payload: json(message),
    })
    .collect()
}

fn json(message: &Message) -> Vec<u8> {
    let mut payload = Vec::with_capacity(MESSAGE_BYTES);
    write_message(&mut payload, message);
    payload
}

fn single(message: &Message) -> Outgoing {
    Outgoing {
        channel: message.topic.to_string(),
        payload: json(message),
    }
}

fn batch(payload: Vec<u8>) -> Outgoing {
    Outgoing {
        channel: BATCH_CHANNEL.to_owned(),
        payload,
    }
}
