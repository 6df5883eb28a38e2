//! How many bars per second one ingest thread takes in while nobody watches, from the bytes of the
//! Redis protocol on: recorded replies are poured over loopback into the real subscriber. This bounds
//! what a node can be fed, whatever its clients.

use std::hint::black_box;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use barcast::bus::Bus;
use barcast::gateway::node::Node;
use criterion::{Criterion, Throughput};
use tokio_util::sync::CancellationToken;

use crate::common::redis::{Form, greet, listen};
use crate::common::{self, SYMBOLS};

/// Bars poured for one measurement: a third of a second's worth.
const BARS: usize = 200_000;

/// Time from the first poured byte until every bar is in.
fn pour(recorded: &[u8], bars: usize) -> Duration {
    let (listener, bus) = listen();
    let node = Node::new(Default::default(), Default::default());
    let stop = CancellationToken::new();
    let ingest = common::ingest(&node);
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

pub fn bench(criterion: &mut Criterion) {
    let bars = crate::measured(BARS, SYMBOLS);
    let messages = common::messages(SYMBOLS, bars);
    let mut group = criterion.benchmark_group("ingest");
    group
        .throughput(Throughput::Elements(bars as u64))
        .sample_size(10);
    for (name, form) in Form::ALL {
        let recorded = form.record(&messages);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let pours = (0..times).map(|_| pour(black_box(&recorded), bars));
                pours.sum::<Duration>()
            });
        });
    }
    group.finish();
}
