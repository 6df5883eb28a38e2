//! A process that was stopped judges nobody by the time in which it did not run.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::process::Command;
use std::thread;
use std::time::Duration;

use common::client::{Client, Wire, get, metric};
use common::eventually_blocking;
use common::process::Serve;

/// Longer than all patience of the gateway below.
const STOPPED: Duration = Duration::from_secs(6);

fn signal(serve: &Serve, name: &str) {
    let id = serve.process.id().to_string();
    let killed = Command::new("kill").args([name, &id]).status();
    assert!(killed.unwrap().success());
}

#[test]
fn nobody_is_ended_for_time_in_which_the_gateway_did_not_run() {
    let impatient = ["--workers", "1", "--ping-interval", "2"];
    let handshakes = ["--handshake-timeout", "4"];
    let arguments = [impatient.as_slice(), &handshakes].concat();
    let serve = Serve::start("redis://127.0.0.1:1", &arguments);
    let mut clients: Vec<_> = (0..4).map(|_| serve.client()).collect();
    for client in &mut clients {
        client.until_pong();
    }
    // One that asks for nothing yet, one in the middle of a handshake and one in the middle of a request.
    let mut halves = Vec::new();
    for start in [
        "",
        "GET /ws HTTP/1.1\r\nHost: x\r\n",
        "GET /healthz HTTP/1.1\r\n",
    ] {
        let mut wire = Wire::connect(serve.address);
        wire.send(start);
        halves.push((start, wire));
    }
    assert_eq!(get(serve.address, "/healthz").status, 200);
    signal(&serve, "-STOP");
    thread::sleep(STOPPED);
    signal(&serve, "-CONT");
    eventually_blocking("it is told", || {
        serve.process.log().contains("process did not run")
    });
    for (start, wire) in &mut halves {
        let rest = match *start {
            "" => "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
            start if start.contains("/ws") => "\r\n",
            _ => "Host: x\r\n\r\n",
        };
        wire.send(rest);
        // 426 is an answer, too: a handshake that lacks what it needs.
        assert!([200, 426].contains(&wire.head().status), "{start:?}");
    }
    // They sleep over the first rounds, and then answer their pings as they come.
    thread::sleep(Duration::from_millis(2_500));
    for client in &mut clients {
        assert!(client.until_pong().is_empty());
    }
    for code in ["4408", "4503"] {
        let closed = format!("barcast_closed_clients_total{{code=\"{code}\"}}");
        assert_eq!(metric(serve.address, &closed), 0, "{code}");
    }
    assert_eq!(metric(serve.address, "barcast_clients"), 4);
    // Judged they are all the same.
    let silent = Client::connect(serve.address);
    let closed = "barcast_closed_clients_total{code=\"4408\"}";
    eventually_blocking("the silent are closed", || {
        metric(serve.address, closed) > 0
    });
    drop(silent);
}
