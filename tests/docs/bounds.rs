//! ARCHITECTURE.md lists every bound with the value that the source has.

use std::collections::{BTreeMap, BTreeSet};

use crate::pages::{files, read, root, rows_below};

/// A constant's expression as a person would write it, where it is simple enough.
fn for_people(expression: &str) -> Option<String> {
    let inside = |start: &str| expression.strip_prefix(start)?.strip_suffix(')');
    if let Some(seconds) = inside("Duration::from_secs(") {
        return Some(format!("{} s", for_people(seconds)?));
    }
    if let Some(millis) = inside("Duration::from_millis(") {
        return Some(format!("{} ms", for_people(millis)?));
    }
    if let Some((number, shift)) = expression.split_once(" << ") {
        return Some(match (number, shift) {
            ("1", "20") => "1 MiB or 1,048,576".to_owned(),
            (number, "20") => format!("{number} MiB"),
            (number, "10") => format!("{number} KiB"),
            _ => return None,
        });
    }
    let number = expression.strip_suffix(".0").unwrap_or(expression);
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    plain.then(|| number.replace('_', ","))
}

/// File, name and expression of every constant that bounds something.
fn constants() -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for file in files(".rs") {
        let path = file.strip_prefix(root()).unwrap().to_str().unwrap();
        if !path.starts_with("src/") {
            continue;
        }
        for line in read(path).lines() {
            let constant = line
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub ")
                .strip_prefix("const ");
            let parts = constant
                .and_then(|rest| rest.strip_suffix(';')?.split_once(": "))
                .and_then(|(name, rest)| Some((name, rest.split_once(" = ")?)));
            if let Some((name, (_, expression))) = parts {
                found.insert((path.to_owned(), name.to_owned()), expression.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_bound_is_listed_with_its_value() {
    let constants = constants();
    let mut listed = BTreeSet::new();
    for row in rows_below(&read("ARCHITECTURE.md"), "<!-- bounds -->") {
        let [name, value, file, why] = row.as_slice() else {
            panic!("{row:?} should have four cells")
        };
        let expression = constants
            .get(&(file.clone(), name.clone()))
            .unwrap_or_else(|| panic!("ARCHITECTURE.md: {file} has no constant {name}"));
        if let Some(expected) = for_people(expression) {
            assert!(
                expected.split(" or ").any(|form| form == value),
                "ARCHITECTURE.md: {name} is {value}, in {file} it is {expression}"
            );
        }
        assert!(!why.is_empty(), "{name} has no reason");
        assert!(listed.insert((file.clone(), name.clone())), "{name} twice");
    }
    for (key, expression) in constants {
        let bound = key.1.starts_with("MAX_") || expression.starts_with("Duration::");
        let served = ["src/gateway/", "src/bus/", "src/bar/"];
        if bound && served.iter().any(|room| key.0.starts_with(room)) {
            assert!(
                listed.contains(&key),
                "ARCHITECTURE.md does not list {key:?} = {expression}"
            );
        }
    }
}
