//! The Grafana dashboard and the alert rules ask for metrics and labels that running processes have, and
//! lead to help that is there.

use std::collections::{BTreeMap, BTreeSet};

use crate::links::anchor;
use crate::pages::{read, words};
use crate::running::{gateway, generator, ingest, recorder};

const DASHBOARD: &str = "deploy/grafana/barcast.json";
const ALERTS: &str = "deploy/prometheus/alerts.yml";
const ALERT_TESTS: &str = "deploy/prometheus/tests/alerts.test.yml";
/// Labels that Prometheus itself gives.
const GIVEN: [&str; 2] = ["instance", "job"];
/// Metrics that Prometheus itself gives, or another program.
const NOT_OURS: [&str; 1] = ["up"];

/// The names of all samples that our processes show, with the labels of each and their values.
type Shown = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn shown() -> Shown {
    let mut found = Shown::new();
    for process in [gateway(), generator(), ingest(), recorder()] {
        for line in process.get("/metrics").1.lines() {
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let (name, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            let of = found.entry(name.to_owned()).or_default();
            for label in labels.trim_end_matches('}').split(',') {
                if let Some((key, value)) = label.split_once('=') {
                    let values = of.entry(key.to_owned()).or_default();
                    values.insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    found
}

/// The queries of a dashboard, wherever they stand in it.
fn queries(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if ["expr", "definition"].contains(&key.as_str()) => {
                        found.push(text.to_owned());
                    }
                    _ => queries(value, found),
                }
            }
        }
        serde_json::Value::Array(all) => all.iter().for_each(|each| queries(each, found)),
        _ => {}
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_metric(word: &str) -> bool {
    (word.starts_with("barcast_") || word.starts_with("process_")) || NOT_OURS.contains(&word)
}

/// The metrics that a query names, each with the matchers behind it.
fn metrics_of(query: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found = Vec::new();
    for word in words(query, is_word).filter(|word| is_metric(word)) {
        let at = word.as_ptr() as usize - query.as_ptr() as usize + word.len();
        let inside = query[at..]
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let matchers = inside.map_or_else(Vec::new, |(inside, _)| {
            let parts = inside.split(", ").map(|part| part.trim());
            let pairs = parts.map(|part| part.split_once(['=', '!']).unwrap());
            pairs
                .map(|(key, value)| {
                    let value = value.trim_start_matches(['=', '~']).trim_matches('"');
                    (key.to_owned(), value.to_owned())
                })
                .collect()
        });
        found.push((word.to_owned(), matchers));
    }
    found
}

/// The labels by which a query adds up.
fn grouped_by(query: &str) -> BTreeSet<String> {
    let parts = query.split(" by (").skip(1);
    let lists = parts.map(|part| part.split(')').next().unwrap());
    lists
        .flat_map(|list| words(list, is_word).map(str::to_owned))
        .collect()
}

/// What is wrong with a query.
fn faults(query: &str, shown: &Shown) -> Vec<String> {
    let mut faults = Vec::new();
    let metrics = metrics_of(query);
    if metrics.is_empty() {
        faults.push(format!("{query}: names no metric"));
    }
    let mut labels: BTreeSet<&str> = GIVEN.into();
    for (name, matchers) in &metrics {
        if NOT_OURS.contains(&name.as_str()) {
            continue;
        }
        let Some(known) = shown.get(name) else {
            faults.push(format!("{query}: no process shows {name}"));
            continue;
        };
        labels.extend(known.keys().map(String::as_str));
        for (label, value) in matchers {
            if GIVEN.contains(&label.as_str()) {
                continue;
            }
            if !known.get(label).is_some_and(|of| of.contains(value)) {
                faults.push(format!("{query}: {name} has no {label} {value:?}"));
            }
        }
    }
    for label in grouped_by(query) {
        if !labels.contains(label.as_str()) {
            faults.push(format!("{query}: nothing in it has the label {label}"));
        }
    }
    faults
}

#[test]
fn the_dashboard_shows_what_there_is() {
    let shown = shown();
    let dashboard: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    assert!(found.len() > 40, "only {} queries", found.len());
    let faults: Vec<_> = found.iter().flat_map(|q| faults(q, &shown)).collect();
    assert!(faults.is_empty(), "{DASHBOARD}:\n{}", faults.join("\n"));

    // Whatever is shown is worth a panel.
    let named: BTreeSet<_> = found.iter().flat_map(|query| metrics_of(query)).collect();
    let named: BTreeSet<_> = named.iter().map(|(name, _)| name.as_str()).collect();
    for name in shown.keys().filter(|name| name.starts_with("barcast_")) {
        let base = name.trim_end_matches("_sum").trim_end_matches("_count");
        let bucket = format!("{base}_bucket");
        assert!(
            named.contains(name.as_str())
                || named.contains(bucket.as_str())
                || name == "barcast_draining",
            "{DASHBOARD} shows nothing of {name}"
        );
    }

    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: id");
        let told = panel["description"].as_str().is_some_and(|d| d.len() > 10);
        assert!(told || panel["type"] == "row", "{title} has no description");
    }
}

#[test]
fn variables_of_the_dashboard_are_there() {
    let text = read(DASHBOARD);
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let list = dashboard["templating"]["list"].as_array().unwrap();
    let mut known: BTreeSet<_> = list.iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert!(known.is_superset(&["datasource", "instance"].into()));
    // Grafana's own.
    known.extend(["__rate_interval", "__all"]);
    for after in text.split('$').skip(1) {
        let name = after.trim_start_matches('{');
        let name = words(name, is_word).next().unwrap();
        assert!(known.contains(name), "${name} is no variable");
    }
}

/// The values of a key, one a line.
fn values<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let lines = text
        .lines()
        .map(|line| line.trim().trim_start_matches("- "));
    let values = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    values.map(|value| value.trim_matches('"')).collect()
}

#[test]
fn alerts_watch_what_there_is_and_lead_to_help() {
    let shown = shown();
    let text = read(ALERTS);
    let names = values(&text, "alert");
    let distinct: BTreeSet<_> = names.iter().collect();
    assert!(names.len() >= 12 && distinct.len() == names.len());
    let exprs = values(&text, "expr");
    let faults: Vec<_> = exprs.iter().flat_map(|e| faults(e, &shown)).collect();
    assert!(faults.is_empty(), "{ALERTS}:\n{}", faults.join("\n"));
    for key in ["expr", "severity", "summary", "description", "runbook"] {
        assert_eq!(values(&text, key).len(), names.len(), "a {key} is absent");
    }
    for severity in values(&text, "severity") {
        assert!(["critical", "warning"].contains(&severity), "{severity}");
    }
    for target in values(&text, "runbook") {
        let (page, part) = target.split_once('#').unwrap();
        assert_eq!(page, "docs/troubleshooting.md");
        let help = read(page);
        let mut headings = help.lines().filter(|line| line.starts_with('#'));
        assert!(headings.any(|heading| anchor(heading) == part), "{target}");
    }
    // What is tested is a rule.
    for tested in values(&read(ALERT_TESTS), "alertname") {
        assert!(names.contains(&tested), "{ALERT_TESTS}: {tested}");
    }
}
