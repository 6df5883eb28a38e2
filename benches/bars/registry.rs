//! The names of topics among 10,000 of them: ingest looks one up for each bar, a worker watches one for
//! each subscription. Elements are bars or subscriptions, not bytes.

use std::hint::black_box;

use barcast::gateway::registry::Registry;
use criterion::{BatchSize, Criterion, Throughput};

use crate::common;

/// Topics of a large node.
const TOPICS: usize = 10_000;

pub fn bench(criterion: &mut Criterion) {
    let topics: Vec<_> = (0..TOPICS).map(common::topic).collect();
    let names: Vec<_> = topics.iter().map(ToString::to_string).collect();
    let fill = |registry: Registry| {
        for topic in &topics {
            registry.of_bar(black_box(topic), |_| ()).expect("room");
        }
        registry
    };
    let full = fill(Registry::new(TOPICS, 0));
    let mut group = criterion.benchmark_group("registry of 10,000 topics");
    group.throughput(Throughput::Elements(TOPICS as u64));
    group.bench_function("read the name", |bencher| {
        bencher.iter(|| {
            for name in &names {
                let topic: Result<barcast::bar::Topic, _> = black_box(name).parse();
                black_box(topic.is_ok());
            }
        });
    });
    group.bench_function("intern new topics", |bencher| {
        let empty = || Registry::new(TOPICS, 0);
        bencher.iter_batched(empty, &fill, BatchSize::PerIteration);
    });
    group.bench_function("look up for a bar", |bencher| {
        bencher.iter(|| {
            for topic in &topics {
                let id = full.of_bar(black_box(topic), |entry| entry.id);
                black_box(id.is_ok());
            }
        });
    });
    group.bench_function("watch and let go", |bencher| {
        bencher.iter(|| {
            for topic in &topics {
                let entry = full.watch(black_box(topic), 0).expect("room");
                full.unwatch(&entry, 0);
            }
        });
    });
    group.finish();
}
