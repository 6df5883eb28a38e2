//! `loadtest plan` as a command: what it refuses, and plans beside runs.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

mod support;

use support::{loadtest, report, run};

#[test]
fn what_cannot_be_planned_is_said() {
    for (line, named) in [
        ("--users 0", "--users 0"),
        ("--per-client 20 --topics 10", "--per-client 20"),
        ("--headroom 1", "--headroom 1"),
        ("--cost tea_us=1", "write_us"),
        ("--cost write_us=-1", "write_us=-1"),
        ("--topics 1000000 --memory 8", "--history-bars"),
        ("--from /nowhere.json", "/nowhere.json"),
        ("--check --users 1.5", "--users 1.5"),
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = loadtest().arg("plan").args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(named) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_load_is_planned_run_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("plan.json");
    let output = run(
        "plan --check --server floor --users 60 --topics 10 --per-client 5 --rate 20 --rounds 1 \
         --seconds 0.5 --calibrate-clients 80 --publish batch --explain",
        &json,
    );
    let said = String::from_utf8_lossy(&output.stderr);
    let report = report(&json);
    assert_eq!(report["kind"], "plan");
    // Whether it agrees is a matter of the machine: code 1 says that it does not.
    let agrees = report["check"]["agrees"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!agrees)), "{said}");
    let compared = report["check"]["compared"].as_array().unwrap();
    let names: Vec<&str> = compared
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["gateway CPU", "sent to clients", "gateway memory"]);
    for row in compared {
        assert!(row["measured"].as_f64().unwrap() > 0.0, "{row}");
    }
    // Bytes are no matter of the machine: 60 clients × 5 topics × 20 a second.
    let sent = compared[1]["measured"].as_f64().unwrap() / (60.0 * 5.0 * 20.0 / 1e6);
    assert!((200.0..230.0).contains(&sent), "{sent} bytes a bar");
    assert!(
        compared[1]["difference"].as_f64().unwrap().abs() < 0.05,
        "{compared:?}"
    );
    assert_eq!(report["calibration"].as_array().unwrap().len(), 5);
    let inputs = report["inputs"].as_array().unwrap();
    for name in [
        "write_us",
        "bar_us",
        "ingest_single_us",
        "redis_in_batch_us",
    ] {
        let cost = inputs.iter().find(|input| input["name"] == name).unwrap();
        assert_eq!(cost["source"]["source"], "measured", "{cost}");
        assert!(
            cost["source"]["from"]
                .as_str()
                .unwrap()
                .contains("loadtest "),
            "{cost}"
        );
    }
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        table.contains("Planned and run") && table.contains("Every number"),
        "{table}"
    );
}

#[test]
fn costs_are_learned_from_reports() {
    let dir = tempfile::tempdir().unwrap();
    let ran = dir.path().join("run.json");
    let line = "run --spawn --server floor --clients 20 --topics 5 --per-client 2 --rate 20 --duration 0.5 --warmup 0";
    assert!(run(line, &ran).status.success());
    let thinned = dir.path().join("thinned.json");
    assert!(
        run(&format!("{line} --max-rate 2"), &thinned)
            .status
            .success()
    );
    let words = ["plan", "--from", thinned.to_str().unwrap()];
    let said = loadtest().args(words).output().unwrap().stderr;
    assert!(String::from_utf8_lossy(&said).contains("without --max-rate"));
    let json = dir.path().join("plan.json");
    let output = run(
        &format!("plan --users 1000 --from {}", ran.display()),
        &json,
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report = report(&json);
    // One run cannot tell the costs apart: all are scaled, so that it is explained exactly.
    let run = &report["calibration"][0];
    let (measured, fitted) = (
        run["measured_cores"].as_f64().unwrap(),
        run["fitted_cores"].as_f64().unwrap(),
    );
    assert!(
        measured > 0.0 && (fitted / measured - 1.0).abs() < 1e-6,
        "{run}"
    );
    let inputs = report["inputs"].as_array().unwrap();
    let write = inputs
        .iter()
        .find(|input| input["name"] == "write_us")
        .unwrap();
    assert!(
        write["source"]["from"]
            .as_str()
            .unwrap()
            .starts_with("default 8.2 × "),
        "{write}"
    );
}

#[test]
fn compressed_batches_are_priced_as_batches() {
    let dir = tempfile::tempdir().unwrap();
    let batch = |publish: &str| {
        let json = dir.path().join(publish);
        assert!(
            run(&format!("plan --users 1000 --publish {publish}"), &json)
                .status
                .success()
        );
        let report = report(&json);
        let inputs = report["inputs"].as_array().unwrap();
        let input = inputs
            .iter()
            .find(|input| input["name"] == "batch")
            .unwrap();
        input["value"].as_f64()
    };
    assert_eq!(batch("single"), Some(0.0));
    assert_eq!(batch("batch"), Some(1.0));
    assert_eq!(batch("zstd"), Some(1.0));
}
