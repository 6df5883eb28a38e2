//! The pages that a gateway serves, and `--no-ui`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::SocketAddr;

use barcast::gateway::Config;
use common::client::get;
use common::gateway::{config, in_process};
use common::process::{Process, Serve, barcast};

/// Pages and parts of them, with their kind.
const PAGES: [(&str, &str); 7] = [
    ("/", "text/html"),
    ("/ops", "text/html"),
    ("/ui/style.css", "text/css"),
    ("/ui/ops.css", "text/css"),
    ("/ui/theme.js", "text/javascript"),
    ("/ui/ops/main.js", "text/javascript"),
    ("/ui/favicon.svg", "image/svg+xml"),
];
const DATA: [&str; 5] = [
    "/metrics",
    "/healthz",
    "/api/v1/topics",
    "/udf/config",
    "/udf/time",
];

fn without_pages(address: SocketAddr) {
    for (path, _) in PAGES {
        let answer = get(address, path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.body.contains("/ops"), "{}", answer.body);
    }
    for path in DATA {
        assert_eq!(get(address, path).status, 200, "{path}");
    }
    for path in ["/ws", "/api/v1/ws"] {
        assert_eq!(get(address, path).status, 426, "{path}");
    }
}

#[test]
fn pages_load_nothing_from_elsewhere() {
    let (gateway, _feed) = in_process(config());
    for (path, kind) in PAGES {
        let answer = get(gateway.address, path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").unwrap().starts_with(kind));
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'self'"), "{policy}");
    }
    let tests = get(gateway.address, "/ui/test/format.test.mjs");
    assert_eq!(tests.status, 404, "tests are not served");
}

#[test]
fn without_pages_the_data_stays() {
    let (gateway, _feed) = in_process(Config {
        ui: false,
        ..config()
    });
    without_pages(gateway.address);
    let mut client = gateway.client();
    client.subscribe("bars:AAPL:1");
}

#[test]
fn serve_takes_pages_away_by_flag() {
    // Nobody listens there, and what is asked here needs no Redis.
    let gateway = Serve::start("redis://127.0.0.1:1", &["--no-ui"]);
    without_pages(gateway.address);
}

/// The address that a log tells.
fn address(process: &Process) -> Option<SocketAddr> {
    let log = process.log();
    let (_, after) = log.split_once("gateway listens address=")?;
    after.split(' ').next()?.parse().ok()
}

#[test]
fn dev_takes_pages_away_by_variable() {
    let mut command = barcast(&["dev", "--listen", "127.0.0.1:0"]);
    command.env("BARCAST_NO_UI", "true");
    let process = Process::spawn(command);
    common::eventually_blocking("the gateway listens", || address(&process).is_some());
    without_pages(address(&process).unwrap());
}
