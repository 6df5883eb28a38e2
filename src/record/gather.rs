//! What is done with batches on their way: few of them into the log, each bar once out of it.

use std::collections::BTreeMap;

use super::{Batch, Closed};

/// As few batches as their arrivals allow: those from the store have none.
pub(super) fn merge(batches: Vec<Batch>) -> Vec<Batch> {
    let mut merged: Vec<Batch> = Vec::new();
    for batch in batches {
        match merged.last_mut() {
            Some(last) if last.arrived_ms.is_some() == batch.arrived_ms.is_some() => {
                last.bars.extend(batch.bars);
                last.gaps.extend(batch.gaps);
            }
            _ => merged.push(batch),
        }
    }
    merged
}

/// Each bar once, as it was last, by time. What the store has does not undo what was heard.
pub(super) fn newest(batches: &[Batch]) -> Vec<Closed> {
    let mut newest: BTreeMap<_, Closed> = BTreeMap::new();
    for closed in batches.iter().flat_map(|batch| &batch.bars) {
        let key = (closed.bar.time(), closed.topic);
        let kept = newest.entry(key).or_insert(*closed);
        if !closed.is_stored || kept.is_stored || closed.is_newer_than(kept) {
            *kept = *closed;
        }
    }
    newest.into_values().collect()
}
