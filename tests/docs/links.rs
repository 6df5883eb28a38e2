//! Links lead to files and headings that exist.

use std::fs;
use std::path::Path;

use crate::pages::{files, prose};

/// What GitHub makes of a heading.
pub fn anchor(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = title.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect()
}

fn fault_of_link(from: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, part) = target.split_once('#').unwrap_or((target, ""));
    let file = match path {
        "" => from.to_owned(),
        path => from.parent().unwrap().join(path),
    };
    if !file.exists() {
        return Some("there is no such file".to_owned());
    }
    if part.is_empty() {
        return None;
    }
    let text = prose(&fs::read_to_string(file).unwrap());
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    (!headings.any(|heading| anchor(heading) == part))
        .then(|| format!("there is no heading for #{part}"))
}

#[test]
fn links_lead_somewhere() {
    let mut faults = Vec::new();
    let mut count = 0;
    for page in files(".md") {
        let text = prose(&fs::read_to_string(&page).unwrap());
        for after in text.split("](").skip(1) {
            let target = after.split([')', ' ']).next().unwrap();
            count += 1;
            if let Some(fault) = fault_of_link(&page, target) {
                faults.push(format!("{}: {target}: {fault}", page.display()));
            }
        }
    }
    assert!(count > 10, "only {count} links were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
