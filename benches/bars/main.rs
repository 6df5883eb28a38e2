//! What each part of barcast carries by itself, in bars per second.
//!
//! ```text
//! cargo bench                  all, in some minutes
//! cargo bench -- fan-out       the groups and benches whose names hold that
//! ```
//!
//! Each module is one group and says what it is for. `cargo test` runs every bench once, on a smaller
//! scale, so that they keep working.

#[path = "../common/mod.rs"]
mod common;
mod fan_out;
mod ingest;
mod outbox;
mod path;
#[path = "../common/plain.rs"]
mod plain;
mod registry;
mod storm;
#[path = "../../tests/common/mod.rs"]
mod support;
mod words;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// Before each bench: caches and branch predictors are warm long before.
const WARM_UP: Duration = Duration::from_millis(500);
/// For each bench. Some forty of them must end within minutes.
const MEASURE: Duration = Duration::from_secs(3);
/// The least that criterion takes; the parts with sockets are slow.
const SAMPLES: usize = 20;

/// `full` where figures are wanted, `small` where only the bench itself is tried: without `--bench`,
/// which cargo passes, and with `--test`.
fn measured<T>(full: T, small: T) -> T {
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    if given("--bench") && !given("--test") {
        full
    } else {
        small
    }
}

fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(WARM_UP)
        .measurement_time(MEASURE)
        .sample_size(SAMPLES)
}

criterion_group! {
    name = benches;
    config = settings();
    targets = words::bench, registry::bench, storm::bench, fan_out::bench, outbox::bench, ingest::bench, path::bench
}
criterion_main!(benches);
