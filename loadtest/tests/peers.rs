//! The servers under `loadtest/peers` deliver everything, as barcast beside them does. Ignored unless asked for, since
//! `loadtest/peers/install` has to come first: `scripts/test` does both.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

mod support;

use support::{report, run};

fn everything_comes(peer: &str, more: &str) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let line = format!(
        "compare --servers barcast,{peer} --clients 50 --topics 20 --per-client 5 --rate 20 --pulses 2 \
         --pulse 0.5 --warmup-pulses 1 --bar-ticks 3 {more}"
    );
    let output = run(&line, &json);
    let said = String::from_utf8_lossy(&output.stdout);
    let code = output.status.code();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(code, Some(0), "{said}{errors}");
    let report = report(&json);
    let servers = report["servers"].as_array().unwrap();
    let names: Vec<_> = servers.iter().map(|server| &server["server"]).collect();
    assert_eq!(names, ["barcast", peer]);
    for server in servers {
        assert_eq!(server["expected"], 2 * 10 * 50 * 5);
        assert_eq!(server["delivered"], server["expected"]);
        for none in [
            "lost",
            "conflated",
            "gapped",
            "out_of_order",
            "duplicates",
            "altered",
            "gone",
        ] {
            assert_eq!(server[none], 0, "{none}");
        }
    }
}

#[test]
#[ignore = "needs loadtest/peers/install fastapi"]
fn fastapi_delivers_everything() {
    everything_comes("fastapi", "");
}

#[test]
#[ignore = "needs loadtest/peers/install node-ws"]
fn node_ws_delivers_everything() {
    everything_comes("node-ws", "--publish batch");
}

#[test]
#[ignore = "needs loadtest/peers/install nchan"]
fn nchan_delivers_everything() {
    everything_comes("nchan", "--shape uniform");
}
