//! A process that we start: in a group of its own, its output kept, ended with all its children.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Longest wait for a server to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for one to end by itself.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is looked whether it has.
const POLL: Duration = Duration::from_millis(10);
/// So much of a failed server's output is shown, in bytes.
const SHOWN_BYTES: usize = 2_000;

/// The process groups that run now, with their folders: for an end without destructors.
static STARTED: Mutex<Vec<(i32, PathBuf)>> = Mutex::new(Vec::new());

fn started() -> MutexGuard<'static, Vec<(i32, PathBuf)>> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills everything that was started here: only for when this process ends at once.
pub fn kill_all() {
    for (group, folder) in started().iter() {
        let _ = kill(Pid::from_raw(-group), Signal::SIGKILL);
        let _ = fs::remove_dir_all(folder);
    }
}

/// A process that ends with this value.
#[derive(Debug)]
pub struct Child {
    child: process::Child,
    output: PathBuf,
    // Dropped after the process has ended: it writes into it.
    _dir: TempDir,
}

impl Child {
    /// Starts it. `at_home`: in an empty folder of its own; otherwise in ours, which a command may name paths from.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, at_home: bool) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        if at_home {
            command.current_dir(dir.path());
        }
        let output = dir.path().join("output");
        let file = File::create(&output)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // A group of its own: Ctrl-C on the terminal must not end it before it was measured.
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        started().push((i32::try_from(child.id())?, dir.path().to_owned()));
        Ok(Self {
            child,
            output,
            _dir: dir,
        })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready`.
    ///
    /// # Errors
    /// When it ends before, or is not ready in time: with the end of its output.
    pub fn wait_for(&mut self, what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            let ended = self.child.try_wait()?;
            // One that has ended is not what answers there.
            if ended.is_none() && ready() {
                return Ok(());
            }
            if ended.is_some() || start.elapsed() > READY_TIMEOUT {
                let output = fs::read(&self.output).unwrap_or_default();
                let output = &output[output.len().saturating_sub(SHOWN_BYTES)..];
                let how = ended.map_or("is not ready".to_owned(), |code| format!("ended ({code})"));
                bail!("{what} {how}:\n{}", String::from_utf8_lossy(output).trim());
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            let group = Pid::from_raw(-id);
            let _ = kill(group, Signal::SIGTERM);
            let start = Instant::now();
            while start.elapsed() < END_TIMEOUT {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(POLL);
            }
            // Whatever is left of it, children included.
            let _ = kill(group, Signal::SIGKILL);
            started().retain(|(other, _)| *other != id);
        }
        let _ = self.child.wait();
    }
}
