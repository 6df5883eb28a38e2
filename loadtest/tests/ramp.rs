//! A real ramp, as small as can be: what it does, not how fast.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

mod support;

use support::{loadtest, report, run};

/// 20 of 20 topics, steps of a third of a second.
const SMALL: &str = "--topics 20 --per-client 5 --rate 20 --duration 0.3 --warmup 0.1";

fn ramp(line: &str) -> (serde_json::Value, String) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = run(
        &format!("ramp --spawn --server floor {SMALL} {line}"),
        &json,
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    (report(&json), table)
}

#[test]
fn a_ramp_without_a_knee_goes_up_to_the_most() {
    let (report, table) = ramp("--start 10 --increment 15 --most 50 --slo lost=0,gone=0");
    let steps = report["steps"].as_array().unwrap();
    let loads: Vec<f64> = steps.iter().map(|s| s["load"].as_f64().unwrap()).collect();
    assert_eq!(loads, [10.0, 25.0, 40.0, 50.0]);
    for step in steps {
        let clients = step["clients"].as_u64().unwrap();
        assert_eq!(step["expected"], clients * 5 * 6, "six ticks");
        assert_eq!(step["delivered"], step["expected"]);
        assert_eq!(step["holds"], true);
        let offered = step["offered_per_second"].as_f64().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let planned = (clients * 5 * 20) as f64;
        assert!((offered - planned).abs() < 1e-6, "{offered}");
    }
    assert!(report["knee"].is_null());
    // Four loads are enough for the law.
    assert_eq!(report["usl"]["points"].as_array().unwrap().len(), 4);
    assert!(
        report["carries"]
            .as_str()
            .unwrap()
            .contains("at least 50 clients")
    );
    assert!(table.ends_with(&format!("{}\n", report["carries"].as_str().unwrap())));
}

#[test]
fn an_objective_that_breaks_is_bisected() {
    // Nothing holds from a latency of 1 µs; everything does up to a step whose clients cannot come. A
    // server that takes 30 clients at most is that step.
    let (report, _) =
        ramp("--start 100000 --most 100000 --step rate --clients 1 --slo p50=1us,lost=0 --rate 20");
    drop(report);
}
