//! History: whoever comes back has, with what `since` gives, all bars as they are now, or is told which
//! may be missing. Random markets, revisions far back, and clients that left at random moments.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;

use barcast::bar::{Bar, Field, Message, Number, Resolution};
use barcast::gateway::registry::Registry;
use barcast::gateway::state::Stored;
use barcast::history::History;
use proptest::prelude::*;

fn bar(second: i64, price: usize) -> Bar {
    let price = Number::Unsigned(price as u64);
    let numbers = [price, price, price, price, Number::Unsigned(1)];
    Bar::new(Resolution::S1, second * 1_000, numbers, false).unwrap()
}

fn price(bar: &Bar) -> Number {
    bar.get(Field::Close)
}

#[derive(Debug, Clone)]
enum Step {
    /// The newest bar goes on.
    Update,
    /// A bar opens, some intervals later.
    Open(i64),
    /// A bar so far back changes, or comes late.
    Revise(i64),
    /// A client leaves with all there is.
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Update),
        4 => (1_i64..3).prop_map(Step::Open),
        3 => (1_i64..12).prop_map(Step::Revise),
        2 => Just(Step::Leave),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_comes_back_has_all_or_knows_what_is_missing(
        steps in prop::collection::vec(step(), 1..150),
        limit in 0_usize..20,
    ) {
        let mut history = History::new(limit);
        let mut truth = BTreeMap::new();
        let mut newest = 0;
        let mut left: Vec<BTreeMap<i64, Number>> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let second = match step {
                Step::Update => newest,
                Step::Open(ahead) => newest + ahead,
                Step::Revise(back) => newest - back,
                Step::Leave => {
                    left.extend((!truth.is_empty()).then(|| truth.clone()));
                    continue;
                }
            };
            newest = newest.max(second);
            let bar = bar(second, at);
            history.apply(bar);
            truth.insert(bar.time(), price(&bar));
        }
        let kept = history.newest(usize::MAX).count();
        prop_assert!(kept <= limit + 1);
        for mut bars in left {
            let since = *bars.keys().next_back().unwrap();
            let told: Vec<_> = history.since(since).collect();
            prop_assert!(told.is_sorted_by(|a, b| a.time() < b.time()), "oldest first, none twice");
            prop_assert!(told.len() <= kept);
            bars.extend(told.iter().map(|bar| (bar.time(), price(bar))));
            // As the gateway tells it in a `bars.gap`.
            let first = history.known_from().unwrap();
            let lacking = history.lacking(since).unwrap_or(since)..first;
            bars.retain(|time, _| !lacking.contains(time));
            let mut whole = truth.clone();
            whole.retain(|time, _| !lacking.contains(time));
            prop_assert_eq!(bars, whole, "since {}", since);
        }
    }
}

/// A client may have watched while the node itself missed bars, and have left before it was told.
#[test]
fn what_a_node_got_later_by_the_store_is_for_who_comes_back() {
    let topic = "bars:A:1S".parse().unwrap();
    let registry = Registry::new(1, 100);
    let entry = registry.watch(&topic, 0).unwrap();
    let mut state = entry.lock();
    let revised = Message {
        rev: Some(1),
        ..Message::new(topic, bar(2, 1))
    };
    // Heard from 10 on, but for 12; the store has all.
    state.apply(&Message::new(topic, bar(10, 1)), 0);
    state.apply(&Message::new(topic, bar(13, 1)), 0);
    let stored = Stored::new(&state, &bar(1, 1));
    for second in [1, 3, 10, 12] {
        state.restore(&Message::new(topic, bar(second, 1)), false, &stored);
    }
    state.restore(&revised, false, &stored);
    let told = state.history.since(13_000).map(|bar| bar.time() / 1_000);
    assert_eq!(told.collect::<Vec<_>>(), [2, 12, 13]);
}
