//! Clients that come and go, against a real server: what is counted, not how fast.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

mod support;

use support::{loadtest, report, run};

#[test]
fn established_clients_lose_nothing_while_others_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = run(
        "churn --spawn --server floor --clients 20 --topics 20 --per-client 5 --rate 20 \
         --churn-rate 40 --resubscribe-rate 30 --storm 30 --storm-at 0.5,2 --warmup 0.3 \
         --before 0.5 --duration 3.5 --after 0.5",
        &json,
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report = report(&json);
    // 6 ticks of warm-up; 10, 70 and 10 ticks that count.
    assert_eq!(report["expected"], 90 * 20 * 5);
    assert_eq!(report["delivered"], report["expected"]);
    assert_eq!((&report["lost"], &report["gone"]), (&0.into(), &0.into()));

    let phases = report["phases"].as_array().unwrap();
    let names: Vec<&str> = phases.iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "before", "churn", "storm 1", "churn", "storm 2", "churn", "after"
        ]
    );
    let delivered = phases.iter().map(|p| p["delivered"].as_u64().unwrap());
    assert_eq!(delivered.sum::<u64>(), 90 * 20 * 5);
    for pair in phases.windows(2) {
        assert_eq!(pair[0]["to"], pair[1]["from"]);
    }
    assert_eq!(phases[0]["p99_ratio"], 1.0);

    for storm in report["storms"].as_array().unwrap() {
        assert_eq!(
            (&storm["back"], &storm["clients"]),
            (&30.into(), &30.into())
        );
        assert!(storm["seconds"].as_f64().unwrap() > 0.0);
    }
    let coming = &report["coming"];
    assert_eq!(coming["failed"], 0);
    // Two storms of 30, and 40 a second; a few may still be on their way at the end.
    let left = coming["left"].as_u64().unwrap();
    assert!((60 + 100..=60 + 140).contains(&left), "{coming}");
    assert!(left - coming["back"].as_u64().unwrap() < 20, "{coming}");
    let asked = coming["resubscribed"].as_u64().unwrap();
    assert!((60..=105).contains(&asked), "{coming}");
    assert!(
        asked - coming["answered"].as_u64().unwrap() < 20,
        "{coming}"
    );
}

#[test]
fn what_cannot_be_done_is_said_before_anything_starts() {
    for (line, named) in [
        ("", "nothing comes or goes"),
        ("--churn-rate 1e9", "--churn-rate 1000000000"),
        ("--storm 10 --storm-at 99", "--storm-at 99"),
        ("--storm 10 --guest-topics 999", "--guest-topics 999"),
    ] {
        let output = loadtest()
            .args(["churn", "--spawn"])
            .args(line.split_whitespace())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.lines().next().unwrap().contains(named), "{said}");
    }
}
