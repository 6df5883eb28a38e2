use super::*;
use crate::bar::{Number, Resolution};

fn bar(second: i64, close: f64) -> Bar {
    let price = Number::Float(close);
    let numbers = [price, price, price, price, Number::Unsigned(1)];
    Bar::new(Resolution::S1, second * 1000, numbers, false).unwrap()
}

fn seconds<'a>(bars: impl Iterator<Item = &'a Bar>) -> Vec<i64> {
    bars.map(|bar| bar.time() / 1000).collect()
}

#[test]
fn keeps_the_limit_and_the_newest() {
    let mut history = History::new(3);
    for second in 0..10 {
        history.apply(bar(second, 1.0));
    }
    assert_eq!(seconds(history.newest(100)), [6, 7, 8, 9]);
    assert_eq!(seconds(history.newest(2)), [8, 9]);
    assert_eq!(seconds(history.since(8_000)), [8, 9]);
    assert_eq!(seconds(history.between(7_000, 9_000)), [7, 8]);
    assert_eq!(seconds(history.between(i64::MIN, i64::MAX)), [6, 7, 8, 9]);
    assert_eq!(history.between(9_000, 7_000).count(), 0);
}

#[test]
fn the_same_time_replaces_and_an_earlier_time_revises() {
    let mut history = History::new(3);
    for second in [1, 2, 4] {
        history.apply(bar(second, 1.0));
    }
    history.apply(bar(4, 2.0));
    history.apply(bar(2, 3.0));
    history.apply(bar(3, 4.0));
    assert_eq!(seconds(history.newest(9)), [1, 2, 3, 4]);
    let closes: Vec<f64> = history
        .newest(9)
        .map(|b| b.value(crate::bar::Field::Close))
        .collect();
    assert_eq!(closes, [1.0, 3.0, 4.0, 2.0]);
    history.apply(bar(0, 1.0));
    assert_eq!(
        seconds(history.newest(9)),
        [1, 2, 3, 4],
        "full: too old to keep"
    );
}

#[test]
fn who_comes_back_gets_what_was_revised_meanwhile() {
    let mut history = History::new(5);
    for second in 1..=4 {
        history.apply(bar(second, 1.0));
    }
    history.apply(bar(1, 1.0));
    assert_eq!(seconds(history.since(4_000)), [4], "nothing changed");
    history.apply(bar(2, 2.0));
    assert_eq!(seconds(history.since(4_000)), [2, 4]);
    assert_eq!(seconds(history.since(3_000)), [2, 3, 4], "once, in order");
    assert_eq!(seconds(history.since(1_000)), [1, 2, 3, 4]);
    history.apply(bar(5, 1.0));
    assert_eq!(seconds(history.since(5_000)), [5], "seen by then");
    assert_eq!(seconds(history.since(4_500)), [5]);
    history.apply(bar(3, 2.0));
    history.apply(bar(2, 3.0));
    assert_eq!(seconds(history.since(5_000)), [2, 3, 5]);
    assert_eq!(history.lacking(5_000), None);
    // Bars 1 and 2 are forgotten, and what is known of 2 is that it was revised at 5.
    history.apply(bar(6, 1.0));
    history.apply(bar(7, 1.0));
    assert_eq!(history.lacking(5_000), None);
    history.apply(bar(8, 1.0));
    assert_eq!(seconds(history.since(5_000)), [3, 5, 6, 7, 8]);
    assert_eq!(history.lacking(5_000), Some(2_000));
    assert_eq!(history.lacking(4_000), Some(1_000));
    assert_eq!(history.lacking(5_001), None);
    history.apply(bar(1, 9.0));
    assert_eq!(history.lacking(8_000), Some(1_000), "too old to keep");
    assert_eq!(history.lacking(8_001), None);
}

fn told(history: &History, since: i64) -> Vec<(i64, i64)> {
    let missing = history.missing(Resolution::S1, since * 1_000, 99_000);
    let told = missing.iter();
    told.map(|hole| (hole.from / 1_000, hole.to / 1_000))
        .collect()
}

#[test]
fn what_is_missing_begins_before_what_is_kept_and_ends_with_the_holes() {
    let mut history = History::new(3);
    assert_eq!(told(&history, 98), [(98, 99)]);
    assert_eq!(told(&history, 99), [(99, 99)]);
    assert_eq!(told(&history, 100), []);
    for second in [5, 6, 9] {
        history.apply(bar(second, 1.0));
    }
    assert!(!history.has_holes());
    history.note_hole(6_000, 9_000);
    assert_eq!(told(&history, 4), [(4, 4), (6, 9)]);
    assert_eq!(told(&history, 5), [(6, 9)]);
    assert_eq!(told(&history, 8), [(8, 9)]);
    assert_eq!(told(&history, 9), []);
    // Whoever left with the bar of 9 was not told yet; with a later one it was.
    let hole = Hole {
        from: 6_000,
        to: 9_000,
    };
    history.told_late(hole, 0);
    history.apply(bar(10, 1.0));
    assert_eq!(told(&history, 9), [(6, 9)]);
    assert_eq!(told(&history, 10), []);
    // It goes with the bar that it begins at.
    history.apply(bar(11, 1.0));
    assert_eq!(told(&history, 5), [(5, 5), (6, 9)]);
    history.apply(bar(12, 1.0));
    assert!(!history.has_holes());
    assert_eq!(told(&history, 6), [(6, 8)]);
    assert_eq!(told(&history, 9), [(6, 8)], "not told, and not kept");
    assert_eq!(told(&history, 10), []);
    let hole = Hole {
        from: 7_000,
        to: 11_000,
    };
    history.told_late(hole, 12_000);
    assert_eq!(told(&history, 10), [], "from before it was heard");
    history.told_late(hole, 8_000);
    assert_eq!(told(&history, 12), [(6, 8)]);
    assert_eq!(told(&history, 13), []);
    history.note_hole(3_000, 10_000);
    let kept_from_9 = [(3, 8), (9, 10)];
    assert_eq!(told(&history, 3), kept_from_9);
}

#[test]
fn only_what_changed_before_the_newest_bar_is_noted_as_revised() {
    let mut history = History::new(3);
    history.apply(bar(1, 1.0));
    history.mark(1_000);
    assert!(history.revised.is_empty(), "the newest comes anyway");
    history.apply(bar(1, 2.0));
    assert!(history.revised.is_empty());
    history.apply(bar(2, 1.0));
    history.mark(1_000);
    assert_eq!(history.revised.len(), 1);
}

#[test]
fn a_history_is_full_with_the_limit_and_the_newest() {
    let full = |count: i64| {
        let mut history = History::new(3);
        for second in 1..=count {
            history.apply(bar(second, 1.0));
        }
        history
    };
    // One short of full, an older bar is kept; then it is only remembered that there was one.
    let mut history = full(3);
    history.apply(bar(0, 1.0));
    assert_eq!(seconds(history.newest(9)), [0, 1, 2, 3]);
    assert_eq!(history.lacking(3_000), None);
    let mut history = full(4);
    history.apply(bar(0, 1.0));
    assert_eq!(seconds(history.newest(9)), [1, 2, 3, 4]);
    assert_eq!(history.lacking(4_000), Some(0));
    let mut history = full(3);
    assert!(history.restore(bar(0, 1.0), false));
    assert!(!history.restore(bar(-1, 1.0), false));
    assert_eq!(seconds(history.newest(9)), [0, 1, 2, 3]);
    assert!(history.restore(bar(5, 1.0), false), "newer ones push out");
    assert_eq!(seconds(history.newest(9)), [1, 2, 3, 5]);
}

#[test]
fn what_was_let_go_does_not_come_back() {
    let mut history = History::new(1_000);
    for second in 0..100 {
        history.apply(bar(second, 1.0));
    }
    let before = history.bytes();
    assert!(before <= 120 * size_of::<Bar>(), "not doubled: {before}");
    history.apply(bar(10, 2.0));
    history.trim_oldest(60);
    assert!(history.bytes() <= 40 * size_of::<Bar>());
    assert_eq!(history.known_from(), Some(60_000));
    assert_eq!(
        history.lacking(99_000),
        Some(10_000),
        "its revision is not forgotten"
    );
    // Otherwise it would seem as if all bars since then were known.
    history.apply(bar(20, 3.0));
    assert!(!history.restore(bar(30, 3.0), false));
    assert_eq!(history.known_from(), Some(60_000));
    history.trim_oldest(usize::MAX);
    assert_eq!(seconds(history.newest(9)), [99]);
}

#[test]
fn a_stored_bar_never_replaces_a_better_one() {
    let closed = |second, close| {
        let mut bar = bar(second, close);
        bar.closed = true;
        bar
    };
    let mut history = History::new(3);
    history.apply(closed(2, 1.0));
    history.apply(bar(4, 1.0));
    // Fills what is missing; says what it had.
    assert!(history.restore(closed(1, 1.0), false));
    assert!(history.restore(closed(3, 1.0), true));
    assert!(!history.restore(closed(3, 1.0), false));
    assert_eq!(seconds(history.newest(9)), [1, 2, 3, 4]);
    // Full.
    assert!(!history.restore(closed(0, 1.0), false));
    // Forming never replaces closed; what came live stays, but for its end.
    assert!(!history.restore(bar(2, 2.0), false));
    assert!(!history.restore(bar(4, 2.0), true));
    assert!(history.restore(bar(4, 2.0), false));
    assert!(history.restore(closed(4, 3.0), true));
    assert!(!history.restore(closed(4, 4.0), true));
    assert_eq!(history.last(), Some(&closed(4, 3.0)));
    assert!(history.restore(closed(4, 5.0), false), "revised meanwhile");
}
