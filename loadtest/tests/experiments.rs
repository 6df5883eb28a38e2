//! Whole experiments with the binary, real servers and a real Redis.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

mod support;

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};

use loadtest::process::family;
use loadtest::publisher::connect;
use loadtest::servers::Redis;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{loadtest, report, run, until};

/// 50 clients × 5 of 20 topics.
const SMALL: &str = "--clients 50 --topics 20 --per-client 5 --rate 20";

fn everything_comes(more: &str) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let line = format!("run --spawn {SMALL} --duration 2 --warmup 0.5 {more}");
    let output = run(&line, &json);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let report = report(&json);
    // 40 ticks of 2 s.
    assert_eq!(report["expected"], 40 * 50 * 5);
    assert_eq!(report["delivered"], report["expected"]);
    for none in [
        "conflated",
        "gapped",
        "lost",
        "out_of_order",
        "duplicates",
        "altered",
        "gone",
    ] {
        assert_eq!(report[none], 0, "{none}");
    }
    assert_eq!(report["latency_us"]["count"], report["expected"]);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("delivered  10,000 (100.00 %)"), "{table}");
    report
}

#[test]
fn the_gathering_yardstick_delivers_everything() {
    let report = everything_comes("--server floor:gather --shape uniform");
    assert!(report["cpu"]["total_ns"].as_u64().unwrap() > 0);
    assert!(report["memory"]["after_bytes"].as_u64().unwrap() > 0);
    assert!(report["bytes_per_bar"].as_f64().unwrap() > 100.0);
    assert!(
        report["machine"]["command"]
            .as_str()
            .unwrap()
            .contains("--shape uniform")
    );
}

#[test]
fn the_bare_yardstick_delivers_batches() {
    let report =
        everything_comes("--server floor:bare --shape zipf --publish batch --client-threads 2");
    assert_eq!(report["scenario"]["publish"], "batch");
}

#[test]
fn pairs_are_measured_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let line = format!(
        "pair --a floor:bare --b floor:gather {SMALL} --pulses 3 --pulse 0.2 --warmup-pulses 1"
    );
    let output = run(&line, &json);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report = report(&json);
    for side in ["a", "b"] {
        assert_eq!(report[side]["delivered"], 3 * 4 * 50 * 5);
        assert_eq!(report[side]["expected"], report[side]["delivered"]);
        let pulses = report[side]["pulses"].as_array().unwrap();
        assert_eq!(pulses.len(), 3);
        for pulse in pulses {
            assert_eq!(pulse["delivered"], 4 * 50 * 5);
            assert!(pulse["cpu_ns"].as_u64().unwrap() > 0);
        }
    }
    assert!(report["cpu_ratio"]["median"].as_f64().unwrap() > 0.0);
}

#[test]
fn several_are_compared_with_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let line = format!(
        "compare --servers floor:gather,no-such-server-{{port}},floor:bare {SMALL} --pulses 3 --pulse 0.2 --warmup-pulses 1"
    );
    let output = run(&line, &json);
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{table}");
    let report = report(&json);
    let failed = report["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["server"], "no-such-server-{port}");
    assert!(
        table.contains("no-such-server-{port}: NOT MEASURED: "),
        "{table}"
    );

    let servers = report["servers"].as_array().unwrap();
    let names: Vec<_> = servers.iter().map(|server| &server["server"]).collect();
    assert_eq!(names, ["floor:gather", "floor:bare"]);
    for server in servers {
        assert_eq!(server["expected"], 3 * 4 * 50 * 5);
        assert_eq!(server["delivered"], server["expected"]);
        assert_eq!(server["lost"], 0);
        assert_eq!(server["pulses"].as_array().unwrap().len(), 3);
        assert!(server["cores_needed"].as_f64().unwrap() > 0.0);
        for ratio in ["cpu", "p50", "p99"] {
            assert_eq!(server["ratios"][ratio]["count"], 3, "{ratio}");
        }
    }
    assert_eq!(servers[0]["ratios"]["cpu"]["median"], 1.0);
    let cost = |server: usize, pulse: usize| {
        servers[server]["pulses"][pulse]["ns_per_bar"]
            .as_f64()
            .unwrap()
    };
    let ratios = (0..3).map(|pulse| cost(1, pulse) / cost(0, pulse));
    let told = servers[1]["ratios"]["cpu"]["max"].as_f64().unwrap();
    assert!((ratios.fold(0.0, f64::max) - told).abs() < 1e-9);
}

#[test]
fn loss_is_told_and_ends_with_code_1() {
    let redis = Redis::start().unwrap();
    let mut connection = connect(&redis.url()).unwrap();
    let mut subscription = connection.as_pubsub();
    subscription.psubscribe("bars:*").unwrap();
    // A server that takes every client and never sends a bar.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut clients = Vec::new();
        for stream in listener.incoming() {
            clients.push(tungstenite::accept(stream.unwrap()).unwrap());
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = run(
        &format!(
            "run --url {url} --redis-url {} --no-answer --clients 3 --topics 2 --per-client 2 \
             --rate 20 --duration 0.5 --warmup 0",
            redis.url()
        ),
        &json,
    );
    assert_eq!(output.status.code(), Some(1));
    let report = report(&json);
    assert_eq!(report["expected"], 10 * 3 * 2);
    assert_eq!(
        (&report["lost"], &report["delivered"]),
        (&report["expected"], &0.into())
    );
    let topics = report["lost_topics"].as_array().unwrap();
    assert_eq!(topics.len(), 2);
    assert_eq!(topics[0][1], 30);
    assert!(String::from_utf8_lossy(&output.stdout).contains("LOST on bars:"));
}

/// Starts a run of ten minutes and waits for its first figures.
fn long_run(dir: &Path) -> (Child, impl Fn() -> String) {
    let errors = dir.join("errors");
    let line = format!("run --spawn --server floor {SMALL} --duration 600 --warmup 0");
    let mut child = loadtest()
        .args(line.split_whitespace())
        .arg("--json")
        .arg(dir.join("report.json"))
        .stdout(Stdio::null())
        .stderr(File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let said = move || std::fs::read_to_string(&errors).unwrap();
    until("the first figures", || {
        said().contains("bars/s") || child.try_wait().unwrap().is_some()
    });
    (child, said)
}

fn interrupt(child: &Child) {
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
}

#[test]
fn ctrl_c_ends_early_with_a_valid_report() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, said) = long_run(dir.path());
    interrupt(&child);
    assert!(child.wait().unwrap().success(), "{}", said());
    let report = report(&dir.path().join("report.json"));
    assert_eq!(report["ended_early"], true);
    assert!(report["delivered"].as_u64().unwrap() > 0);
    assert_eq!(report["delivered"], report["expected"], "{report}");
}

#[test]
fn a_second_ctrl_c_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, said) = long_run(dir.path());
    let started = family(child.id());
    assert_eq!(started.len(), 3, "loadtest, redis-server and the yardstick");
    interrupt(&child);
    until("the answer", || said().contains("ending early"));
    interrupt(&child);
    child.wait().unwrap();
    // Whoever adopts them may take its time to reap them.
    let runs = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, state)| !state.starts_with('Z'))
    };
    until("the end of all", || !started.iter().any(runs));
}

#[test]
fn what_cannot_be_done_is_said_before_anything_starts() {
    for (line, named) in [
        ("run --spawn --clients 2000000000", "open files"),
        ("run --spawn --per-client 2 --topics 1", "--per-client 2"),
        ("pair --pulse 0", "--pulse 0"),
    ] {
        let output = loadtest().args(line.split_whitespace()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(named) && said.lines().count() == 1, "{said}");
    }
}
