//! What the documents quote is what is really said: log lines, names of metrics, and the headings that alerts
//! send people to.

use std::collections::BTreeSet;
use std::fs;

use barcast::bus::redis::reply::{Meaning, table};
use barcast::record::schema::{CREATE_NEWEST, NEWEST, REFUSED, TABLE};

use crate::links::anchor;
use crate::pages::{files, prose, read, root, rows_below, words};

#[test]
fn log_lines_of_the_documents_are_those_of_the_source() {
    let mut source = String::new();
    for file in files(".rs") {
        if file.starts_with(root().join("src")) {
            source += &fs::read_to_string(file).unwrap();
        }
    }
    let mut count = 0;
    for line in read("docs/troubleshooting.md").lines() {
        let level = ["WARN ", "INFO "];
        let Some(said) = level.iter().find_map(|level| line.strip_prefix(level)) else {
            continue;
        };
        let words: Vec<_> = said.split(' ').take_while(|w| !w.contains('=')).collect();
        let message = words.join(" ");
        assert!(source.contains(&format!("\"{message}\"")), "{message:?}");
        count += 1;
    }
    assert!(count > 5, "only {count} log lines were found");
}

#[test]
fn metrics_of_the_documents_are_in_the_list() {
    let list = read("docs/metrics.md");
    let listed: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert!(listed.contains("barcast_clients"));
    for page in files(".md") {
        let text = fs::read_to_string(&page).unwrap();
        for word in words(&text, |c| c.is_ascii_alphanumeric() || c == '_') {
            let name = word.strip_suffix("_bucket").unwrap_or(word);
            // What is in a database is named alike: tables, their indexes and partitions, a function.
            let is_stored = name.starts_with(TABLE) || [NEWEST, REFUSED].contains(&name);
            if name.starts_with("barcast_") && !is_stored {
                assert!(listed.contains(name), "{}: {word}", page.display());
            }
        }
    }
}

#[test]
fn the_function_for_an_older_table_is_that_of_a_new_one() {
    let page = read("docs/recorded.md");
    assert!(page.contains(&format!("<!-- newest -->\n```sql\n{CREATE_NEWEST};\n```")));
}

#[test]
fn alerts_lead_to_headings() {
    let page = prose(&read("docs/troubleshooting.md"));
    let headings: BTreeSet<_> = page.lines().filter(|l| l.starts_with('#')).collect();
    let anchors: BTreeSet<_> = headings.into_iter().map(anchor).collect();
    for file in files("")
        .iter()
        .filter(|f| f.starts_with(root().join("deploy")))
    {
        let text = fs::read_to_string(file).unwrap();
        for after in text.split("troubleshooting.md#").skip(1) {
            let mut parts = words(after, |c| c.is_ascii_alphanumeric() || c == '-');
            let wanted = parts.next().unwrap();
            assert!(anchors.contains(wanted), "{}: {wanted}", file.display());
        }
    }
}

/// What Redis can answer is told as the source has it.
#[test]
fn every_reply_of_redis_is_explained() {
    let word = |meaning| match meaning {
        Meaning::Alive => "alive",
        Meaning::TryAgain => "again",
        Meaning::GoElsewhere => "elsewhere",
        Meaning::Mistake => "mistake",
    };
    let known: Vec<_> = table()
        .map(|(reply, meanings, remedy)| {
            let words = meanings.map(|meaning| word(meaning).to_owned());
            [vec![reply], words.to_vec(), vec![remedy.to_owned()]].concat()
        })
        .collect();
    let told = rows_below(&read("docs/troubleshooting.md"), "<!-- replies -->");
    for row in &known {
        assert!(told.contains(row), "| {} |", row.join(" | "));
    }
    assert_eq!(told.len(), known.len());
}
