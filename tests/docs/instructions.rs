//! PERF.md shows the instruction counts that are stored and guarded.

use serde_json::Value;

use crate::pages::{read, rows_below};

/// Name and count of each row: "fan-out, hot topic: what it is" and "1,234 a delivery".
fn shown() -> Vec<(String, f64)> {
    let marker = "<!-- instructions: as in benches/instructions.json -->";
    let rows = rows_below(&read("PERF.md"), marker);
    rows.iter()
        .map(|row| {
            let name = row[0].split(':').next().unwrap();
            let count = row[1].split(' ').next().unwrap().replace(',', "");
            (name.to_owned(), count.parse().unwrap())
        })
        .collect()
}

#[test]
fn perf_shows_the_stored_instruction_counts() {
    let file: Value = serde_json::from_str(&read("benches/instructions.json")).unwrap();
    let stored = file["instructions"].as_object().unwrap();
    let shown = shown();
    for (name, count) in &shown {
        let stored = stored.get(name).and_then(Value::as_f64);
        let stored = stored.unwrap_or_else(|| panic!("PERF.md: {name:?} is not stored"));
        assert!(
            (count - stored).abs() <= 0.5,
            "PERF.md: {name} costs {count}, in benches/instructions.json it is {stored}"
        );
    }
    for name in stored.keys() {
        let rows = shown.iter().filter(|row| row.0 == *name).count();
        assert_eq!(rows, 1, "PERF.md: rows of {name:?}");
    }
}
