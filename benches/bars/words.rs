//! What a bar costs as words: from a payload to a checked bar, beside serde_json as a yardstick, and
//! from a bar to the bytes that producers publish and that clients get. Once per bar and node, however
//! many clients there are.

use std::hint::black_box;

use barcast::bar::{BATCH_CHANNEL, Decoder, Message, write_message};
use barcast::gateway::batch::Batch;
use barcast::gateway::registry::Registry;
use criterion::{Criterion, Throughput};
use serde::Deserialize;

use crate::common::{self, SYMBOLS};

/// The same message as serde_json reads it: nothing is checked but the types.
#[derive(Deserialize)]
#[expect(dead_code, reason = "read as a whole")]
struct Plain<'a> {
    symbol: &'a str,
    resolution: &'a str,
    bar: PlainBar,
    seq: Option<u64>,
    epoch: Option<u64>,
    ts: Option<u64>,
    rev: Option<u64>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read as a whole")]
struct PlainBar {
    time: i64,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    volume: f64,
    #[serde(default)]
    closed: bool,
}

pub fn bench(criterion: &mut Criterion) {
    decode(criterion);
    encode(criterion);
}

fn decode(criterion: &mut Criterion) {
    let messages = common::messages(SYMBOLS, SYMBOLS);
    let single: Vec<_> = messages.iter().map(common::payload).collect();
    let channels: Vec<_> = messages.iter().map(|m| m.topic.to_string()).collect();
    let batch = common::batch_payload(&messages, false);
    let zstd = common::batch_payload(&messages, true);
    let mut decoder = Decoder::default();
    let mut good = move |channel: &str, payload: &[u8]| {
        let mut good = 0;
        decoder.decode(channel, black_box(payload), |message| {
            good += usize::from(black_box(message).is_ok());
        });
        good
    };
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(SYMBOLS as u64));
    group.bench_function("single messages", |bencher| {
        bencher.iter(|| {
            let each = channels.iter().zip(&single);
            let bars: usize = each.map(|(channel, payload)| good(channel, payload)).sum();
            assert_eq!(bars, SYMBOLS);
        });
    });
    for (name, payload) in [("batch of 200", &batch), ("zstd batch of 200", &zstd)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(good(BATCH_CHANNEL, payload), SYMBOLS));
        });
    }
    group.bench_function("yardstick: serde_json, single messages", |bencher| {
        bencher.iter(|| {
            for payload in &single {
                let plain: Plain = serde_json::from_slice(black_box(payload)).expect("good JSON");
                black_box(plain);
            }
        });
    });
    group.bench_function("yardstick: serde_json, batch of 200", |bencher| {
        bencher.iter(|| {
            let plain: Vec<Plain> = serde_json::from_slice(black_box(&batch)).expect("good JSON");
            black_box(plain);
        });
    });
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let messages = common::messages(SYMBOLS, SYMBOLS);
    let entries = common::watched(&Registry::new(SYMBOLS, 0), &messages);
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(SYMBOLS as u64));
    let mut batch = Batch::default();
    group.bench_function("frames for clients", |bencher| {
        bencher.iter(|| {
            batch.clear();
            common::encode(&mut batch, black_box(&messages), &entries);
        });
    });
    let mut out = Vec::new();
    group.bench_function("single messages for the bus", |bencher| {
        bencher.iter(|| {
            out.clear();
            for message in black_box(&messages) {
                write_message(&mut out, message);
            }
        });
    });
    for (name, compress) in [("batch of 200", false), ("zstd batch of 200", true)] {
        group.bench_function(format!("{name} for the bus"), |bencher| {
            bencher.iter(|| common::batch_payload(black_box::<&[Message]>(&messages), compress));
        });
    }
    group.finish();
}
