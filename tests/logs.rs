//! A log that nobody reads any more harms nobody.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::eventually_blocking;
use common::process::barcast;

#[test]
fn a_closed_log_does_not_keep_sigterm_from_ending_the_process() {
    let mut child = barcast(&["dev", "--listen", "127.0.0.1:0", "--log-level", "debug"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("gateway listens") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended too soon");
    }
    // As `barcast 2>&1 | head` does.
    drop(log);
    let id = child.id().to_string();
    assert!(Command::new("kill").arg(&id).status().unwrap().success());
    let mut status = None;
    let mut ended = || {
        status = child.try_wait().unwrap();
        status.is_some()
    };
    eventually_blocking("the process ends", &mut ended);
    assert!(status.unwrap().success(), "{status:?}");
}
