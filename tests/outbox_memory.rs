//! What an outbox says it takes up is weighed: every allocation is counted.
//!
//! One test, in a binary of its own without a harness: an allocation of another thread would be counted
//! with it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Instant;

use barcast::gateway::batch::{Head, Kind, TopicId};
use barcast::gateway::outbox::Outbox;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const STEPS: usize = 4_000;
const LIMIT: usize = 100_000;
/// An outbox that holds next to nothing: a few places, and the smallest table of topics.
const EMPTY_BYTES: usize = 512;

/// Without the test harness, whose own thread allocates when it likes.
fn main() {
    an_outbox_takes_up_no_more_than_it_counts();
    println!("test an_outbox_takes_up_no_more_than_it_counts ... ok");
}

/// Filling, draining and filling again, with frames so short that what lies beside them weighs most.
fn an_outbox_takes_up_no_more_than_it_counts() {
    let _profiler = dhat::Profiler::builder().testing().build();
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let topics = [1, 30, 1_000][random.usize(0..3)];
        let longest = [1, 8, 400][random.usize(0..3)];
        let bytes = vec![b'x'; longest];
        let before = dhat::HeapStats::get().curr_bytes;
        let mut outbox = Outbox::default();
        let mut most = 0;
        for step in 0..STEPS {
            // In turns of some hundred steps, more comes than goes and then less.
            let coming = if step / 500 % 2 == 0 { 9 } else { 2 };
            let part = &bytes[..random.usize(0..=longest)];
            if random.u8(0..12) > coming {
                outbox.pop();
            } else if random.u8(0..8) == 0 {
                outbox.push_answer(part);
            } else {
                let head = Head {
                    topic: TopicId(random.u32(0..topics)),
                    version: 0,
                    time: i64::try_from(step).unwrap(),
                    from: 0,
                    kind: [Kind::Forming, Kind::Closed][random.usize(0..2)],
                    ts: None,
                };
                outbox.push(&head, part, LIMIT, Instant::now());
            }
            let taken = dhat::HeapStats::get().curr_bytes - before;
            let counted = outbox.bar_bytes() + outbox.answer_bytes();
            assert!(
                taken <= counted + EMPTY_BYTES,
                "{taken} bytes taken, {counted} counted, seed {seed}, step {step}"
            );
            most = most.max(counted);
        }
        // Not the count alone is right: it is what the limit holds.
        let room_for_each = usize::try_from(topics).unwrap() * (2 * longest + 128);
        assert!(most > LIMIT / 2, "{most}: never near the limit");
        assert!(outbox.bar_bytes() <= LIMIT + room_for_each);
        while outbox.pop().is_some() {}
        assert_eq!(outbox.bar_bytes() + outbox.answer_bytes(), 0);
        let left = dhat::HeapStats::get().curr_bytes - before;
        assert!(
            left <= EMPTY_BYTES,
            "{left} bytes are held by an empty outbox"
        );
    }
}
