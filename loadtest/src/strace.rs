//! System calls of a server, counted by strace(1). It slows the server down many times, so this is a
//! pass of its own, apart from every other figure.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Longest wait for strace to take hold of every thread.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const POLL: Duration = Duration::from_millis(10);

/// System calls during a pass.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SystemCalls {
    pub total: u64,
    pub by_name: BTreeMap<String, u64>,
    /// Updates that the clients got meanwhile.
    pub delivered: u64,
    pub per_bar: f64,
}

impl SystemCalls {
    /// In one line, the most frequent first.
    pub fn line(&self) -> String {
        /// More would fill the line.
        const NAMED: usize = 5;
        let mut names: Vec<_> = self.by_name.iter().collect();
        names.sort_by_key(|(_, calls)| std::cmp::Reverse(**calls));
        let names = names.iter().take(NAMED);
        let names: Vec<String> = names
            .map(|(name, calls)| format!("{name} {calls}"))
            .collect();
        format!("{:.4} per bar ({})", self.per_bar, names.join(", "))
    }
}

/// A strace that counts.
pub struct Strace {
    child: Child,
    out: PathBuf,
    _dir: TempDir,
}

impl Strace {
    /// Takes hold of these processes and all their threads.
    ///
    /// # Errors
    /// When there is no strace, or it may not.
    pub fn attach(family: &[u32]) -> Result<Self> {
        ensure!(
            !family.is_empty(),
            "--strace needs to know the server's process: --server-pid"
        );
        let dir = tempfile::tempdir()?;
        let out = dir.path().join("counts");
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-q", "-o"]).arg(&out);
        for pid in family {
            command.args(["-p", &pid.to_string()]);
        }
        let errors = fs::File::create(dir.path().join("errors"))?;
        let child = command
            .stdin(Stdio::null())
            .stderr(errors)
            .spawn()
            .context("--strace needs strace")?;
        let mut strace = Self {
            child,
            out,
            _dir: dir,
        };
        let start = Instant::now();
        while !family.iter().all(|pid| traced(*pid)) {
            if strace.child.try_wait()?.is_some() || start.elapsed() > ATTACH_TIMEOUT {
                let why = fs::read_to_string(strace.out.with_file_name("errors"));
                bail!("strace cannot attach: {}", why.unwrap_or_default().trim());
            }
            std::thread::sleep(POLL);
        }
        Ok(strace)
    }

    /// Lets go and counts; `delivered` updates came meanwhile.
    ///
    /// # Errors
    /// When strace left no counts.
    pub fn finish(mut self, delivered: u64) -> Result<SystemCalls> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGINT,
        )?;
        self.child.wait()?;
        let text = fs::read_to_string(&self.out).context("strace's counts")?;
        let by_name = parse(&text);
        let total = by_name.values().sum();
        #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
        let per_bar = total as f64 / delivered.max(1) as f64;
        Ok(SystemCalls {
            total,
            by_name,
            delivered,
            per_bar,
        })
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Whether every thread of the process has a tracer.
fn traced(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    tasks.flatten().all(|task| {
        fs::read_to_string(task.path().join("status"))
            .is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    })
}

/// Calls by name from the table of `strace -c`.
fn parse(table: &str) -> BTreeMap<String, u64> {
    table
        .lines()
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (name, calls) = (columns.last()?, columns.get(3)?.parse().ok()?);
            (*name != "total").then(|| ((*name).to_owned(), calls))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_strace_is_read() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 99.05    0.012345          12      1000           sendto
  0.95    0.000100           2        41         3 read
------ ----------- ----------- --------- --------- ----------------
100.00    0.012445          11      1041         3 total
";
        let counted = BTreeMap::from([("sendto".to_owned(), 1_000), ("read".to_owned(), 41)]);
        assert_eq!(parse(table), counted);
    }
}
