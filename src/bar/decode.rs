//! From the bytes of a Redis message to validated [`Message`]s, once per bar.
//!
//! simd-json pays only when its buffers are reused, so a [`Decoder`] is kept for the life of the
//! ingest and copies each payload into one padded buffer of its own (150 bytes: a few nanoseconds);
//! the copy also leaves the original whole for salvage, since simd-json unescapes in place.

use std::io::Read;

use simd_json::{Buffers, Node, StaticNode, Tape, fill_tape_padded};

use super::{
    BATCH_CHANNEL, Bar, BarError, Field, Message, Number, ResolutionError, SymbolError, Topic,
    TopicError,
};

/// Largest payload looked at, in bytes: some 100,000 bars. Redis itself would take 512 MiB.
pub const MAX_PAYLOAD_BYTES: usize = 16 << 20;
/// Largest batch after decompression, in bytes: bounds what a small zstd bomb can unfold to.
pub const MAX_BATCH_BYTES: usize = 64 << 20;
/// Largest zstd window, as a power of two (8 MiB): bounds the memory a frame can ask for.
const MAX_ZSTD_WINDOW_LOG: u32 = 23;
/// First bytes of a zstd frame (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A buffer that grew beyond this for one large payload is given back, in bytes.
const KEEP_BUFFER_BYTES: usize = 1 << 20;

/// Why a message was dropped. [`reason`](Malformed::reason) is the label it is counted under.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Malformed {
    #[error("payload of {0} bytes is larger than {MAX_PAYLOAD_BYTES}")]
    TooLarge(usize),
    #[error("zstd: {0}")]
    Zstd(String),
    #[error("not JSON: {0}")]
    Json(String),
    #[error("{0} expected")]
    Shape(&'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is not {1}")]
    Type(&'static str, &'static str),
    #[error(transparent)]
    Symbol(#[from] SymbolError),
    #[error(transparent)]
    Resolution(#[from] ResolutionError),
    #[error(transparent)]
    Bar(#[from] BarError),
    #[error("channel: {0}")]
    Channel(TopicError),
    #[error("channel is {channel}, payload is {payload}")]
    Disagrees { channel: Topic, payload: Topic },
}

impl Malformed {
    /// Every label there is.
    pub const REASONS: [&'static str; 10] = [
        "too_large",
        "zstd",
        "json",
        "shape",
        "field",
        "symbol",
        "resolution",
        "bar",
        "channel",
        "disagrees",
    ];

    /// A short, stable label for metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::Zstd(_) => "zstd",
            Self::Json(_) => "json",
            Self::Shape(_) => "shape",
            Self::Missing(_) | Self::Type(..) => "field",
            Self::Symbol(_) => "symbol",
            Self::Resolution(_) => "resolution",
            Self::Bar(_) => "bar",
            Self::Channel(_) => "channel",
            Self::Disagrees { .. } => "disagrees",
        }
    }
}

/// Decodes payloads one after the other with the same buffers.
pub struct Decoder {
    input: Vec<u8>,
    unpacked: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            input: Vec::new(),
            unpacked: Vec::new(),
            buffers: Buffers::new(1024),
            tape: Tape(Vec::new()),
        }
    }
}

impl Decoder {
    /// Hands every message of one payload to `each`, in order; what is malformed comes as its error,
    /// and the good messages of the same batch come all the same.
    pub fn decode(
        &mut self,
        channel: &str,
        payload: &[u8],
        mut each: impl FnMut(Result<Message, Malformed>),
    ) {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return each(Err(Malformed::TooLarge(payload.len())));
        }
        if channel == BATCH_CHANNEL {
            self.decode_batch(payload, &mut each);
        } else {
            let message = channel
                .parse()
                .map_err(Malformed::Channel)
                .and_then(|topic| self.decode_single(topic, payload));
            each(message);
        }
        if self.input.capacity() > KEEP_BUFFER_BYTES {
            *self = Self::default();
        }
    }

    fn decode_single(&mut self, channel: Topic, payload: &[u8]) -> Result<Message, Malformed> {
        let message = self.with_tape(payload, message)??;
        if message.topic != channel {
            return Err(Malformed::Disagrees {
                channel,
                payload: message.topic,
            });
        }
        Ok(message)
    }

    fn decode_batch(&mut self, payload: &[u8], each: &mut impl FnMut(Result<Message, Malformed>)) {
        if !payload.starts_with(&ZSTD_MAGIC) {
            return self.decode_array(payload, each);
        }
        let mut unpacked = std::mem::take(&mut self.unpacked);
        match unpack(payload, &mut unpacked) {
            Ok(()) => self.decode_array(&unpacked, each),
            Err(why) => each(Err(Malformed::Zstd(why.to_string()))),
        }
        self.unpacked = unpacked;
    }

    fn decode_array(&mut self, json: &[u8], each: &mut impl FnMut(Result<Message, Malformed>)) {
        let whole = self.with_tape(json, |nodes| {
            let Some((Node::Array { len, .. }, mut rest)) = nodes.split_first() else {
                return each(Err(Malformed::Shape("an array of messages")));
            };
            for _ in 0..*len {
                let (element, after) = rest.split_at(size(rest));
                each(message(element));
                rest = after;
            }
        });
        if whole.is_err() {
            // One broken element makes the whole document no JSON. The others are still good.
            for element in elements(json) {
                each(self.with_tape(element, message).and_then(|m| m));
            }
        }
    }

    /// Parses `json` and shows `view` the tape, whose memory is reused.
    fn with_tape<T>(
        &mut self,
        json: &[u8],
        view: impl FnOnce(&[Node<'_>]) -> T,
    ) -> Result<T, Malformed> {
        self.input.clear();
        self.input.extend_from_slice(json);
        self.input
            .resize(json.len() + simd_json::INPUT_PADDING, b' ');
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let parsed = fill_tape_padded(&mut self.input, json.len(), &mut self.buffers, &mut tape)
            .map_err(|why| Malformed::Json(why.to_string()))
            .map(|()| view(&tape.0));
        self.tape = tape.reset();
        parsed
    }
}

fn unpack(payload: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    out.clear();
    let mut reader = zstd::stream::read::Decoder::new(payload)?;
    reader.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
    let limit = u64::try_from(MAX_BATCH_BYTES).unwrap_or(u64::MAX);
    reader.take(limit + 1).read_to_end(out)?;
    if out.len() > MAX_BATCH_BYTES {
        return Err(std::io::Error::other(format!(
            "unpacks to more than {MAX_BATCH_BYTES} bytes"
        )));
    }
    Ok(())
}

/// Splits the text of an array at its outermost commas without parsing the elements. Only for arrays
/// that are broken somewhere: an element with unbalanced brackets takes those after it along.
fn elements(json: &[u8]) -> Vec<&[u8]> {
    let text = json.trim_ascii();
    let Some(inner) = text.strip_prefix(b"[") else {
        return vec![text];
    };
    let inner = inner.strip_suffix(b"]").unwrap_or(inner);
    let mut found = Vec::new();
    let (mut depth, mut in_string, mut escaped, mut from) = (0_usize, false, false, 0);
    for (at, &byte) in inner.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                found.push(&inner[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    found.push(&inner[from..]);
    found
}

/// Nodes that the value at the front takes up.
fn size(nodes: &[Node<'_>]) -> usize {
    match nodes.first() {
        Some(Node::Object { count, .. } | Node::Array { count, .. }) => count + 1,
        Some(_) => 1,
        None => 0,
    }
}

/// Calls `each` with every key of the object at the front and its value.
fn fields<'t, 'i>(
    nodes: &'t [Node<'i>],
    expected: &'static str,
    mut each: impl FnMut(&'i str, &'t [Node<'i>]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let Some((Node::Object { len, .. }, mut rest)) = nodes.split_first() else {
        return Err(Malformed::Shape(expected));
    };
    for _ in 0..*len {
        let [Node::String(key), after @ ..] = rest else {
            return Err(Malformed::Shape(expected));
        };
        let (value, after) = after.split_at(size(after));
        each(key, value)?;
        rest = after;
    }
    Ok(())
}

fn message(nodes: &[Node<'_>]) -> Result<Message, Malformed> {
    let (mut symbol, mut resolution, mut bar) = (None, None, None);
    let (mut seq, mut epoch, mut ts, mut rev) = (None, None, None, None);
    fields(nodes, "an object", |key, value| {
        match key {
            "symbol" => symbol = Some(text("symbol", value)?),
            "resolution" => resolution = Some(text("resolution", value)?),
            "bar" => bar = Some(value),
            "seq" => seq = Some(unsigned("seq", value)?),
            "epoch" => epoch = Some(unsigned("epoch", value)?),
            "ts" => ts = Some(unsigned("ts", value)?),
            "rev" => rev = Some(unsigned("rev", value)?),
            _ => {}
        }
        Ok(())
    })?;
    let topic = Topic {
        symbol: symbol.ok_or(Malformed::Missing("symbol"))?.parse()?,
        resolution: resolution
            .ok_or(Malformed::Missing("resolution"))?
            .parse()?,
    };
    Ok(Message {
        topic,
        bar: bar_of(topic, bar.ok_or(Malformed::Missing("bar"))?)?,
        seq,
        epoch,
        ts,
        rev,
    })
}

fn bar_of(topic: Topic, nodes: &[Node<'_>]) -> Result<Bar, Malformed> {
    // Looked at anew only when it is no bar with prices, so that those pay nothing.
    candle(topic, nodes).or_else(|why| empty(topic, nodes).unwrap_or(Err(why)))
}

/// The bar of an interval without trades, if the object is that: closed, no volume, and every price null.
#[cold]
fn empty(topic: Topic, nodes: &[Node<'_>]) -> Option<Result<Bar, Malformed>> {
    let mut time = None;
    let mut nulls = [false; 4];
    let (mut is_closed, mut is_still) = (false, false);
    fields(nodes, "bar: an object", |key, value| {
        let is_null = matches!(value, [Node::Static(StaticNode::Null)]);
        match key {
            "time" => time = Some(integer("time", value)?),
            "closed" => is_closed = boolean("closed", value)?,
            "open" => nulls[0] = is_null,
            "high" => nulls[1] = is_null,
            "low" => nulls[2] = is_null,
            "close" => nulls[3] = is_null,
            "volume" => is_still = number("volume", value)? == Number::Unsigned(0),
            _ => {}
        }
        Ok(())
    })
    .ok()?;
    let is_empty = nulls == [true; 4] && is_closed && is_still;
    let bar = Bar::empty(topic.resolution, time.filter(|_| is_empty)?);
    Some(bar.map_err(Malformed::from))
}

fn candle(topic: Topic, nodes: &[Node<'_>]) -> Result<Bar, Malformed> {
    let mut time = None;
    let mut numbers = [None; 5];
    let mut closed = false;
    fields(nodes, "bar: an object", |key, value| {
        let field = match key {
            "time" => {
                time = Some(integer("time", value)?);
                return Ok(());
            }
            "closed" => {
                closed = boolean("closed", value)?;
                return Ok(());
            }
            "open" => Field::Open,
            "high" => Field::High,
            "low" => Field::Low,
            "close" => Field::Close,
            "volume" => Field::Volume,
            _ => return Ok(()),
        };
        numbers[field as usize] = Some(number(field.name(), value)?);
        Ok(())
    })?;
    let time = time.ok_or(Malformed::Missing("time"))?;
    let mut complete = [Number::Unsigned(0); 5];
    for (field, number) in Field::ALL.into_iter().zip(numbers) {
        complete[field as usize] = number.ok_or(Malformed::Missing(field.name()))?;
    }
    Ok(Bar::new(topic.resolution, time, complete, closed)?)
}

fn text<'i>(name: &'static str, value: &[Node<'i>]) -> Result<&'i str, Malformed> {
    match value {
        [Node::String(text)] => Ok(text),
        _ => Err(Malformed::Type(name, "a string")),
    }
}

fn boolean(name: &'static str, value: &[Node<'_>]) -> Result<bool, Malformed> {
    match value {
        [Node::Static(StaticNode::Bool(yes))] => Ok(*yes),
        _ => Err(Malformed::Type(name, "true or false")),
    }
}

fn number(name: &'static str, value: &[Node<'_>]) -> Result<Number, Malformed> {
    match value {
        [Node::Static(StaticNode::U64(n))] => Ok(Number::Unsigned(*n)),
        [Node::Static(StaticNode::I64(n))] => Ok(Number::from(*n)),
        [Node::Static(StaticNode::F64(n))] => Ok(Number::Float(*n)),
        _ => Err(Malformed::Type(name, "a number")),
    }
}

fn unsigned(name: &'static str, value: &[Node<'_>]) -> Result<u64, Malformed> {
    match number(name, value)? {
        Number::Unsigned(n) => Ok(n),
        _ => Err(Malformed::Type(name, "an integer from 0")),
    }
}

/// A time may come as a double with no fraction, as some JSON libraries write all numbers.
#[expect(
    clippy::cast_possible_truncation,
    reason = "checked to be integral and small"
)]
fn integer(name: &'static str, value: &[Node<'_>]) -> Result<i64, Malformed> {
    /// Integers up to here are exact in a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let n = number(name, value)?;
    match n {
        Number::Unsigned(n) => i64::try_from(n).ok(),
        Number::Negative(n) => Some(n),
        Number::Float(n) if n.fract() == 0.0 && n.abs() <= EXACT => Some(n as i64),
        Number::Float(_) => None,
    }
    .ok_or(Malformed::Type(name, "an integer"))
}
