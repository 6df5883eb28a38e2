//! What the tests share: the binary, and waiting without sleeping blindly.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use loadtest::outcome::Outcome;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn loadtest() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
}

/// Runs the binary with the words of `line`, and a JSON report into `json`.
pub fn run(line: &str, json: &Path) -> Output {
    let mut command = loadtest();
    command
        .args(line.split_whitespace())
        .arg("--json")
        .arg(json);
    command.output().unwrap()
}

pub fn report(json: &Path) -> serde_json::Value {
    Outcome::read(json).expect("what was written can be read back");
    serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap()
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A yardstick on a port of its own.
pub struct Floor {
    pub addr: SocketAddr,
    child: Child,
}

impl Floor {
    pub fn start(redis: &str, mode: &str) -> Self {
        let mut child = loadtest()
            .args([
                "floor",
                "--listen",
                "127.0.0.1:0",
                "--redis-url",
                redis,
                "--mode",
                mode,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let addr = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .parse()
            .unwrap();
        Self { addr, child }
    }

    /// The next line that it writes to stderr.
    pub fn says(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.child.stderr.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        line
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
