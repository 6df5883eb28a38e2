//! A gap keeps its whole range wherever it waits, and a notice of one is no bar that could be lost.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Instant;

use barcast::gateway::batch::{Head, Kind, TopicId};
use barcast::gateway::lag::Lag;
use barcast::gateway::outbox::{Out, Outbox, Taken};
use barcast::metrics::Tally;

/// Nothing but the first fits.
const NO_ROOM: usize = 0;
const TOPIC: TopicId = TopicId(3);

fn head(kind: Kind, from: i64, time: i64) -> Head {
    Head {
        topic: TOPIC,
        version: 0,
        time,
        from,
        kind,
        ts: None,
    }
}

fn bar(time: i64) -> Head {
    head(Kind::Closed, time, time)
}

fn notice(from: i64, to: i64) -> Head {
    head(Kind::Gap, from, to)
}

/// Offers all of them at the bound; tells what came of each, and what leaves.
fn offered(heads: &[Head]) -> (Vec<Taken>, Vec<Out>) {
    let mut outbox = Outbox::default();
    let offer = |head| outbox.push(head, b"frame", NO_ROOM, Instant::now());
    let taken = heads.iter().map(offer).collect();
    (taken, std::iter::from_fn(|| outbox.pop()).collect())
}

fn gap(from: i64, to: i64) -> Out {
    Out::Gap {
        topic: TOPIC,
        from,
        to,
    }
}

fn frame(counted: bool) -> Out {
    Out::Frame {
        bytes: b"frame".as_slice().into(),
        counted,
    }
}

#[test]
fn a_notice_of_the_past_keeps_its_whole_range() {
    let (taken, out) = offered(&[bar(10), notice(2, 5)]);
    assert_eq!(taken, [Taken::Queued, Taken::Merged]);
    assert_eq!(out, [gap(2, 5), frame(true)]);
}

#[test]
fn a_notice_that_gives_way_to_a_bar_keeps_its_whole_range() {
    let (taken, out) = offered(&[notice(2, 9), bar(10), bar(11)]);
    assert_eq!(taken, [Taken::Queued, Taken::Merged, Taken::Gapped]);
    assert_eq!(out, [gap(2, 10), frame(true)]);
}

#[test]
fn a_bar_that_gives_way_to_a_notice_is_told_beside_it() {
    let (taken, out) = offered(&[bar(10), notice(11, 19)]);
    assert_eq!(taken, [Taken::Queued, Taken::Gapped]);
    assert_eq!(out, [gap(10, 10), frame(false)]);
}

/// A producer whose `seq` jumps all the time must not fill the memory of its slow clients.
#[test]
fn many_notices_take_no_more_room_than_one() {
    let all = |at: i64| [notice(10 * at, 10 * at + 8), bar(10 * at + 9)];
    let heads: Vec<_> = (0..1_000).flat_map(all).collect();
    let (taken, out) = offered(&heads);
    assert_eq!(out, [gap(0, 9_998), frame(true)]);
    let lost = taken.iter().filter(|taken| **taken == Taken::Gapped);
    assert_eq!(lost.count(), 999);
}

#[test]
fn a_notice_does_not_count_as_a_lost_bar() {
    let (mut lag, mut tally) = (Lag::default(), Tally::default());
    for head in [bar(10), notice(2, 5), notice(3, 4)] {
        lag.offer(&head, b"frame", NO_ROOM, Instant::now(), &mut tally);
    }
    assert_eq!((tally.gapped_slow, lag.bars()), (0, 1));
    lag.offer(&bar(11), b"frame", NO_ROOM, Instant::now(), &mut tally);
    assert_eq!((tally.gapped_slow, lag.bars()), (1, 1));
}
