//! Where a figure was taken: without it a figure says nothing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::pins::Pins;

/// Machine, versions and the command that was run. What cannot be had is left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Unix time at which it was asked, in seconds.
    pub at: u64,
    /// As it was typed.
    pub command: String,
    pub cores: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rustc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<String>,
    /// Of the source, with `+` when it has changes that are not committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether the load test itself was built without optimization.
    pub debug_build: bool,
    pub pins: Pins,
}

fn says(program: &str, args: &[&str]) -> Option<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(program);
    command.args(args);
    if source.is_dir() {
        command.current_dir(source);
    }
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

impl Machine {
    /// Asks the machine.
    pub fn ask(pins: &Pins) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        let changed = says("git", &["status", "--porcelain"]).is_some_and(|text| !text.is_empty());
        let commit = says("git", &["rev-parse", "--short=12", "HEAD"]);
        let words: Vec<String> = std::env::args().skip(1).map(|word| quoted(&word)).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            at: now.unwrap_or_default().as_secs(),
            command: format!("loadtest {}", words.join(" ")),
            cores: crate::process::cores(),
            processor: processor(),
            kernel: kernel.map(|text| text.trim().to_owned()),
            rustc: says("rustc", &["--version"]),
            redis: says("redis-server", &["--version"]),
            commit: commit.map(|commit| if changed { commit + "+" } else { commit }),
            debug_build: cfg!(debug_assertions),
            pins: pins.clone(),
        }
    }

    /// In a few lines.
    pub fn lines(&self) -> Vec<String> {
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
        let mut lines = vec![
            format!(
                "{} cores ({}), Linux {}",
                self.cores,
                known(&self.processor),
                known(&self.kernel)
            ),
            format!("{}, commit {}", known(&self.rustc), known(&self.commit)),
            format!(
                "server on core {}; clients, publisher and Redis on core {}",
                self.pins.server, self.pins.swarm
            ),
            self.command.clone(),
        ];
        if self.pins.overlap() {
            lines.push("WARNING: server and clients share cores: they slow each other down".into());
        }
        if self.debug_build {
            lines.push("WARNING: built without optimization: use cargo run --release".into());
        }
        lines
    }
}

/// A word as a shell needs it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_a_shell_needs_them() {
        assert_eq!(quoted("--rate=2"), "--rate=2");
        assert_eq!(quoted("./hub {port}"), "'./hub {port}'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
