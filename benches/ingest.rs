//! How many bars per second one ingest thread takes in while nobody watches, from the bytes of the
//! Redis protocol on: recorded replies are poured over loopback into the real subscriber.
//!
//! ```text
//! cargo bench --bench ingest
//! ```

use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use barcast::bar::{BATCH_CHANNEL, BatchEncoder, CHANNEL_PATTERN, Message};
use barcast::bus::{Bus, RedisBus};
use barcast::gateway::{ingest::Ingest, node::Node};
use barcast::generator::market::Market;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio_util::sync::CancellationToken;

/// Bars poured for one measurement.
const BARS: usize = 200_000;
/// Bars of one batch message.
const BATCH: usize = 200;

/// Bars of 200 symbols, as a generator makes them.
fn messages() -> Vec<Message> {
    let symbols: Vec<_> = (0..BATCH)
        .map(|n| format!("SYM{n}").parse().expect("a symbol"))
        .collect();
    let resolutions = ["1".parse().expect("a resolution")];
    let mut market = Market::new(&symbols, &resolutions, 1, 1);
    let mut messages = Vec::with_capacity(BARS);
    let mut now = 1_700_000_000_000;
    while messages.len() < BARS {
        market.tick(now, &mut messages);
        now += 250;
    }
    messages.truncate(BARS);
    for message in &mut messages {
        message.ts = Some(1_700_000_000_000_000);
    }
    messages
}

/// One push of a `PSUBSCRIBE`d message in RESP3.
fn push(out: &mut Vec<u8>, channel: &str, payload: &[u8]) {
    let _ = write!(
        out,
        ">4\r\n$8\r\npmessage\r\n${}\r\n{CHANNEL_PATTERN}\r\n${}\r\n{channel}\r\n${}\r\n",
        CHANNEL_PATTERN.len(),
        channel.len(),
        payload.len()
    );
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

fn recorded_single(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut payload = Vec::new();
    for message in messages {
        payload.clear();
        barcast::bar::write_message(&mut payload, message);
        push(&mut out, &message.topic.to_string(), &payload);
    }
    out
}

fn recorded_batches(messages: &[Message], compress: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in messages.chunks(BATCH) {
        let mut batch = BatchEncoder::default();
        for message in chunk {
            batch.push(message);
        }
        push(
            &mut out,
            BATCH_CHANNEL,
            &batch.take(compress).expect("memory for zstd"),
        );
    }
    out
}

/// Answers a subscriber's greeting and returns the connection to pour into.
fn greet(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("the subscriber connects");
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    let mut answer = stream.try_clone().expect("a second handle");
    for line in lines.by_ref() {
        let line = line.expect("the subscriber speaks");
        let reply: &[u8] = match line.as_str() {
            "HELLO" => b"%1\r\n$5\r\nproto\r\n:3\r\n",
            "CLIENT" => b"+OK\r\n",
            "PSUBSCRIBE" => b">3\r\n$10\r\npsubscribe\r\n$6\r\nbars:*\r\n:1\r\n",
            _ => continue,
        };
        answer.write_all(reply).expect("the subscriber listens");
        if line == "PSUBSCRIBE" {
            break;
        }
    }
    // Pings come later; nothing but the first is answered within a measurement.
    thread::spawn(move || lines.for_each(drop));
    stream
}

/// Time from the first poured byte until every bar is in.
fn pour(recorded: &[u8], bars: usize) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let node = Arc::new(Node::new(Default::default(), Default::default()));
    let stop = CancellationToken::new();
    let ingest = Ingest::new(
        Arc::clone(&node.registry),
        vec![Arc::default()],
        node.metrics.clone(),
        Arc::clone(&node.bus),
        String::new(),
    );
    let bus = RedisBus::new(&format!("redis://127.0.0.1:{port}")).expect("a URL");
    let thread = thread::spawn({
        let stop = stop.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(bus.subscribe(ingest, stop));
        }
    });
    let mut stream = greet(&listener);
    let begun = Instant::now();
    stream.write_all(recorded).expect("the subscriber reads");
    while node.metrics.received.get() < bars as u64 {
        thread::sleep(Duration::from_micros(200));
    }
    let took = begun.elapsed();
    stop.cancel();
    thread.join().expect("the subscriber ends");
    took
}

fn ingest(criterion: &mut Criterion) {
    let messages = messages();
    let mut group = criterion.benchmark_group("ingest, nobody watching");
    group
        .throughput(Throughput::Elements(BARS as u64))
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500));
    for (name, recorded) in [
        ("single messages", recorded_single(&messages)),
        ("batches of 200", recorded_batches(&messages, false)),
        ("zstd batches of 200", recorded_batches(&messages, true)),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                (0..times)
                    .map(|_| pour(black_box(&recorded), BARS))
                    .sum::<Duration>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, ingest);
criterion_main!(benches);
