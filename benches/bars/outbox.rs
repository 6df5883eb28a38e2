//! What a client that fell behind costs while its socket is full, and when it takes again: a watchlist
//! of 20 topics, ten updates of each, no socket. Elements are the frames that were offered.

use std::hint::black_box;
use std::time::Instant;

use barcast::gateway::batch::Kind;
use barcast::gateway::outbox::Outbox;
use criterion::{Criterion, Throughput};

use crate::common::{Offers, UPDATES, WATCHLIST};

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("outbox");
    group.throughput(Throughput::Elements((WATCHLIST * UPDATES) as u64));
    // A tenth of what is offered fits: the rest is told as gaps.
    let narrow = WATCHLIST * UPDATES * 150 / 10;
    for (name, kind, limit) in [
        ("queue closed bars and take them", Kind::Closed, usize::MAX),
        ("conflate forming bars", Kind::Forming, usize::MAX),
        ("closed bars at the bound", Kind::Closed, narrow),
    ] {
        let offers = Offers::new(kind);
        let mut outbox = Outbox::default();
        let now = Instant::now();
        group.bench_function(name, |bencher| {
            bencher.iter(|| offers.offer(black_box(&mut outbox), limit, now));
        });
    }
    group.finish();
}
