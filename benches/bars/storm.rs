//! All clients of a node that was drained come at once: subscriptions of all workers, through registry and
//! hubs, without sockets. Elements are subscriptions. What is known already needs no lock that workers
//! share but the table's own, for reading, once a worker and topic: counted, and not hoped.

use std::io;
use std::sync::Arc;
use std::thread;

use barcast::bar::Topic;
use barcast::gateway::hub::{Hub, Socket};
use barcast::gateway::registry::Registry;
use barcast::gateway::watching::Watching;
use criterion::{Criterion, Throughput};

use crate::common;

/// Workers of a large node.
const WORKERS: usize = 32;
/// Its clients, and how many there are when the bench is only tried.
const CLIENTS: usize = 100_000;
const FEW_CLIENTS: usize = 320;
/// Topics of each.
const EACH: usize = 20;
/// Topics that are known; each worker's clients watch all of them, where there are clients enough.
const TOPICS: usize = 10_000;
/// Bytes that may wait for a client: nothing is sent.
const OUTBOX_BYTES: usize = 1 << 10;
/// The least that criterion takes: one turn is two million subscriptions.
const SAMPLES: usize = 10;

/// A socket that is never written to.
struct Nowhere;

impl Socket for Nowhere {
    type Handle<'a> = ();

    fn handle(&self) {}

    fn send((): (), bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
}

/// One worker's clients come, one after the other.
fn come(registry: &Arc<Registry>, topics: &[Topic], worker: usize, clients: usize) {
    let mut watching = Watching::new(worker, Arc::clone(registry));
    let mut hub = Hub::new(OUTBOX_BYTES);
    for client in 0..clients {
        let session = hub.add(Nowhere);
        for nth in 0..EACH {
            let topic = &topics[(client * 7 + nth * 13 + worker) % topics.len()];
            let entry = watching.watch(topic).expect("it is known");
            hub.subscribe(session, &entry, 0, None);
        }
    }
}

pub fn bench(criterion: &mut Criterion) {
    let clients = crate::measured(CLIENTS, FEW_CLIENTS);
    let registry = Arc::new(Registry::new(TOPICS, 0).for_workers(WORKERS));
    let topics: Vec<_> = (0..TOPICS).map(common::topic).collect();
    for topic in &topics {
        registry.of_bar(topic, |_| ()).expect("room");
    }
    let made = registry.makings();
    let mut group = criterion.benchmark_group("storm");
    group.sample_size(SAMPLES);
    group.throughput(Throughput::Elements((clients * EACH) as u64));
    group.bench_function("subscribe, 32 workers", |bencher| {
        bencher.iter(|| {
            thread::scope(|scope| {
                for worker in 0..WORKERS {
                    let (registry, topics) = (&registry, &topics);
                    scope.spawn(move || come(registry, topics, worker, clients / WORKERS));
                }
            });
        });
    });
    group.finish();
    assert_eq!(registry.makings(), made, "no lock for what is known");
}
