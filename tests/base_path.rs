//! `--base-path`, and pages that find all they need wherever a proxy puts them.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use barcast::gateway::Config;
use common::client::{Wire, get, handshake};
use common::gateway::{config, in_process};
use common::process::barcast;

fn below() -> Config {
    Config {
        base_path: "/bars".parse().unwrap(),
        ..config()
    }
}

#[test]
fn everything_is_below_the_path_and_probes_are_at_the_root_too() {
    let (gateway, _feed) = in_process(below());
    let everything = [
        "/",
        "/ops",
        "/ui/page.js",
        "/ui/barcast.js",
        "/api/v1/topics",
        "/api/v1/openapi.json",
        "/api/v1/asyncapi.json",
        "/udf/config",
        "/udf/time",
        "/healthz",
        "/readyz",
        "/metrics",
    ];
    for path in everything {
        let found = get(gateway.address, &format!("/bars{path}"));
        assert_eq!(found.status, 200, "{path}");
        let is_probe = ["/healthz", "/readyz", "/metrics"].contains(&path);
        let at_root = get(gateway.address, path).status;
        assert_eq!(at_root, if is_probe { 200 } else { 404 }, "{path}");
    }
    for path in ["/barsx", "/barsx/", "/bars/nothing", "/bar", "/bars//ops"] {
        let answer = get(gateway.address, path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("/bars/ops"), "{}", answer.body);
    }
    for (path, target) in [("/bars", "/bars/"), ("/bars?a=b", "/bars/?a=b")] {
        let answer = get(gateway.address, path);
        assert_eq!(
            (answer.status, answer.header("location")),
            (308, Some(target))
        );
    }
}

#[test]
fn websockets_are_below_the_path() {
    let (gateway, _feed) = in_process(below());
    for (path, expected) in [
        ("/bars/ws", 101),
        ("/bars/api/v1/ws", 101),
        ("/bars/ws?a=b", 101),
        ("/ws", 404),
        ("/api/v1/ws", 404),
        ("/bars/bars/ws", 404),
    ] {
        let mut wire = Wire::connect(gateway.address);
        wire.send(handshake().replacen("/ws", path, 1));
        assert_eq!(wire.head().status, expected, "{path}");
        // Also as what follows another request, on the thread that serves HTTP.
        let mut wire = Wire::connect(gateway.address);
        wire.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        wire.answer();
        wire.send(handshake().replacen("/ws", path, 1));
        assert_eq!(wire.head().status, expected, "{path}");
    }
}

/// What the pages and their scripts name by path.
fn named(address: SocketAddr, page: &str) -> BTreeSet<String> {
    let text = get(address, page).body;
    assert!(!text.is_empty(), "{page}");
    // Comments name routes as the documents do.
    let is_code = |line: &&str| !line.trim_start().starts_with(['*', '/']);
    let text: String = text.lines().filter(is_code).collect();
    let quoted = text.split(['"', '`']);
    let paths = quoted.filter(|part| {
        let path = part.trim_start_matches(['.', '/']);
        ["ui/", "udf/", "api/", "ops", "metrics"]
            .iter()
            .any(|start| path.starts_with(start))
    });
    paths.map(str::to_owned).collect()
}

/// A proxy may serve them below a path that the gateway knows nothing of.
#[test]
fn pages_name_everything_relative_to_themselves() {
    let (gateway, _feed) = in_process(config());
    for (page, some) in [
        ("/", "ui/page.js"),
        ("/ops", "ui/ops/main.js"),
        ("/ui/page.js", "udf/time"),
        ("/ui/listing.js", "api/v1/topics"),
        ("/ui/bars.js", "udf/history"),
        ("/ui/search.js", "udf/search"),
        ("/ui/ops/main.js", "metrics"),
    ] {
        let named = named(gateway.address, page);
        assert!(
            named.iter().any(|path| path.starts_with(some)),
            "{page}: {named:?}"
        );
        let absolute: Vec<_> = named.iter().filter(|path| path.starts_with('/')).collect();
        assert!(absolute.is_empty(), "{page}: {absolute:?}");
    }
    for page in ["/", "/ops"] {
        let text = get(gateway.address, page).body;
        assert!(
            !text.contains("href=\"/") && !text.contains("src=\"/"),
            "{page}"
        );
    }
}

#[test]
fn dev_says_where_its_pages_are() {
    let mut command = barcast(&[
        "dev",
        "--listen",
        "127.0.0.1:0",
        "--base-path",
        "/site/bars",
    ]);
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut next = |start: &str| {
        let found =
            lines.find_map(|line| line.unwrap().trim().strip_prefix(start).map(str::to_owned));
        found.unwrap().trim().to_owned()
    };
    let (charts, operation, socket) = (next("charts"), next("operation"), next("WebSocket"));
    child.kill().unwrap();
    child.wait().unwrap();
    let host = charts.strip_suffix("/site/bars/").unwrap();
    assert_eq!(operation, format!("{host}/site/bars/ops"));
    assert_eq!(
        socket,
        format!("{}/site/bars/api/v1/ws", host.replace("http", "ws"))
    );
}
