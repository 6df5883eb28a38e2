//! Writing JSON by hand: the shapes are fixed and every string is known to need no escape, so a
//! general serializer would only add work.

use std::io;

use super::{Bar, Field, Message};

/// zstd's level for batches: its default of 3 costs twice the time of 1 for a few percent of size on
/// bars.
pub const ZSTD_LEVEL: i32 = 1;

fn write_integer(out: &mut Vec<u8>, n: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Appends `"time":…,…,"volume":…` and `,"closed":true` when it is.
pub fn write_bar_fields(out: &mut Vec<u8>, bar: &Bar) {
    out.extend_from_slice(b"\"time\":");
    write_integer(out, bar.time());
    for field in Field::ALL {
        out.extend_from_slice(match field {
            Field::Open => b",\"open\":".as_slice(),
            Field::High => b",\"high\":",
            Field::Low => b",\"low\":",
            Field::Close => b",\"close\":",
            Field::Volume => b",\"volume\":",
        });
        bar.get(field).write(out);
    }
    if bar.closed {
        out.extend_from_slice(b",\"closed\":true");
    }
}

/// Appends the bar as a JSON object.
pub fn write_bar(out: &mut Vec<u8>, bar: &Bar) {
    out.push(b'{');
    write_bar_fields(out, bar);
    out.push(b'}');
}

fn write_extras(out: &mut Vec<u8>, message: &Message) {
    for (key, value) in [
        (b",\"seq\":".as_slice(), message.seq),
        (b",\"epoch\":", message.epoch),
        (b",\"ts\":", message.ts),
        (b",\"rev\":", message.rev),
    ] {
        if let Some(value) = value {
            out.extend_from_slice(key);
            write_integer(out, value);
        }
    }
}

/// Appends the message as producers publish it.
pub fn write_message(out: &mut Vec<u8>, message: &Message) {
    out.extend_from_slice(b"{\"symbol\":\"");
    out.extend_from_slice(message.topic.symbol.as_str().as_bytes());
    out.extend_from_slice(b"\",\"resolution\":\"");
    out.extend_from_slice(message.topic.resolution.as_str().as_bytes());
    out.extend_from_slice(b"\",\"bar\":");
    write_bar(out, &message.bar);
    write_extras(out, message);
    out.push(b'}');
}

/// Appends the message as clients receive it: `bars.update`.
pub fn write_update(out: &mut Vec<u8>, message: &Message) {
    out.extend_from_slice(b"{\"type\":\"bars.update\",\"topic\":\"");
    message.topic.write(out);
    out.push(b'"');
    write_extras(out, message);
    out.extend_from_slice(b",\"payload\":");
    write_bar(out, &message.bar);
    out.push(b'}');
}

/// Gathers messages into the payload of one batch.
#[derive(Debug, Default)]
pub struct BatchEncoder {
    json: Vec<u8>,
}

impl BatchEncoder {
    /// Adds one message.
    pub fn push(&mut self, message: &Message) {
        self.json
            .push(if self.json.is_empty() { b'[' } else { b',' });
        write_message(&mut self.json, message);
    }

    /// Bytes so far, before compression.
    pub fn len(&self) -> usize {
        self.json.len()
    }

    /// Whether nothing was added since the last [`take`](Self::take).
    pub fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    /// The payload, compressed with zstd if wanted; the encoder is empty afterwards.
    ///
    /// # Errors
    /// When zstd cannot get memory.
    pub fn take(&mut self, compress: bool) -> io::Result<Vec<u8>> {
        if self.json.is_empty() {
            self.json.push(b'[');
        }
        self.json.push(b']');
        let json = std::mem::take(&mut self.json);
        if compress {
            zstd::bulk::compress(&json, ZSTD_LEVEL)
        } else {
            Ok(json)
        }
    }
}
