//! Real ramps, as small as can be: what they do, not how fast.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use loadtest::servers::Redis;
use support::{Floor, loadtest, report, run};

/// Each client watches 5 of 20 topics; six measured ticks a step.
const SMALL: &str = "--topics 20 --per-client 5 --rate 20 --duration 0.3 --warmup 0.1";

fn ramp(line: &str) -> (serde_json::Value, String) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = run(&format!("ramp {SMALL} {line}"), &json);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    (report(&json), table)
}

fn numbers(of: &serde_json::Value) -> Vec<f64> {
    let list = of.as_array().unwrap().iter();
    list.map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn a_ramp_without_a_knee_ends_at_the_most() {
    let (report, table) =
        ramp("--spawn --server floor --start 10 --increment 15 --most 50 --slo lost=0,gone=0");
    let steps = report["steps"].as_array().unwrap();
    let loads: Vec<f64> = steps.iter().map(|s| s["load"].as_f64().unwrap()).collect();
    assert_eq!(loads, [10.0, 25.0, 40.0, 50.0]);
    for step in steps {
        let clients = step["clients"].as_f64().unwrap();
        assert_eq!(step["expected"].as_f64().unwrap(), clients * 5.0 * 6.0);
        assert_eq!(step["delivered"], step["expected"]);
        assert_eq!(step["holds"], true);
        let offered = step["offered_per_second"].as_f64().unwrap();
        assert!((offered - clients * 5.0 * 20.0).abs() < 1e-6, "{offered}");
    }
    assert!(report["knee"].is_null());
    // Four loads are enough for the law.
    assert_eq!(report["usl"]["points"].as_array().unwrap().len(), 4);
    let carries = report["carries"].as_str().unwrap();
    assert!(carries.contains("at least 50 clients"), "{carries}");
    assert!(table.ends_with(&format!("{carries}\n")), "{table}");
}

/// A way to `to` that lets only clients from 127.0.0.1 through.
fn gate(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            if client.peer_addr().unwrap().ip() != Ipv4Addr::LOCALHOST {
                continue;
            }
            let mut server = TcpStream::connect(to).unwrap();
            let (mut up, mut down) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut client, &mut up);
                let _ = up.shutdown(std::net::Shutdown::Both);
            });
            std::thread::spawn(move || std::io::copy(&mut server, &mut down));
        }
    });
    addr
}

#[test]
fn the_knee_is_found_by_every_bisection() {
    let redis = Redis::start().unwrap();
    let floor = Floor::start(&redis.url(), "gather");
    let gate = gate(floor.addr);
    // The 26th client comes from 127.0.0.2 and is turned away: 25 clients are carried, whatever the
    // machine.
    let (report, table) = ramp(&format!(
        "--url ws://{gate}/ws --redis-url {} --clients-per-address 25 --start 10 --factor 2 \
         --repeats 2 --slo lost=0,gone=0",
        redis.url()
    ));
    let steps = report["steps"].as_array().unwrap();
    let parts = |part: &str| {
        let steps = steps.iter().filter(|step| step["part"] == part);
        steps
            .map(|s| s["load"].as_f64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(parts("climb"), [10.0, 20.0, 40.0]);
    assert_eq!(parts("beyond"), [80.0]);
    for step in steps {
        assert_eq!(step["holds"], step["load"].as_f64().unwrap() <= 25.0);
        assert_eq!(step["holds"], step["broken"].as_array().unwrap().is_empty());
    }
    let knee = &report["knee"];
    assert_eq!(numbers(&knee["repeats"]), [25.0, 25.0]);
    assert_eq!(knee["load"], 25.0);
    assert_eq!(knee["bars_per_second"], 25.0 * 5.0 * 20.0);
    assert_eq!(knee["first_broken"], 40.0);
    assert!(
        table.contains("carries 25 clients with 5 topics each at 20 ticks/s"),
        "{table}"
    );
}

#[test]
fn a_bad_objective_is_one_clear_line() {
    for (slo, named) in [
        ("p98=5ms", "p98"),
        ("p99=5", "p99=5"),
        ("lost=1x", "lost=1x"),
    ] {
        let output = loadtest()
            .args(["ramp", "--spawn", "--slo", slo])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let first = said.lines().next().unwrap();
        assert!(first.contains("--slo") && first.contains(named), "{said}");
        assert!(first.contains("allowed: p50"), "{said}");
    }
}
