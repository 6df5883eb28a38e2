//! The real binary as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::client::{Client, get};
use super::eventually_blocking;

/// The binary, with no setting taken over from who runs the tests.
pub fn barcast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barcast"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["BARCAST_", "BAR_GENERATOR_", "REDIS_URL", "RUST_LOG"];
        if ours.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command that ends by itself.
pub fn output(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = barcast(arguments);
    command.envs(variables.iter().copied());
    command.output().unwrap()
}

/// A running barcast; killed on drop.
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(barcast(arguments))
    }

    /// A command that was made by [`barcast`].
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, kept) = (child.stderr.take().unwrap(), Arc::clone(&log));
        // A pipe that is not read would stop the process at some point.
        let reader = thread::spawn(move || {
            let mut lines = BufReader::new(lines);
            let mut line = Vec::new();
            while lines
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                kept.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self {
            child,
            log,
            reader: Some(reader),
        }
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for words in the log, which is written beside what else can be seen of a process.
    pub fn until_logged(&self, words: &str) {
        let what = format!("the log says {words:?}");
        super::eventually_blocking(&what, || self.log().contains(words));
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let killed = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(killed.unwrap().success());
    }

    /// Waits for the end, and until all it logged is there, and tells the exit code; `None` after a
    /// signal.
    pub fn exit_code(&mut self) -> Option<i32> {
        eventually_blocking("the process ends", || {
            self.child.try_wait().unwrap().is_some()
        });
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("---- log of the process\n{}", self.log());
        }
    }
}

/// `barcast serve` as a process.
pub struct Serve {
    pub process: Process,
    pub address: SocketAddr,
}

impl Serve {
    /// Accepts connections when this returns; whether its bus is connected is another matter.
    pub fn start(redis_url: &str, arguments: &[&str]) -> Self {
        let mut all = vec!["serve", "--listen", "127.0.0.1:0", "--redis-url", redis_url];
        all.extend_from_slice(arguments);
        let mut process = Process::start(&all);
        let mut address = None;
        eventually_blocking("the gateway listens", || {
            assert!(process.is_running(), "it ended: {}", process.log());
            address = listening(&process.log());
            address.is_some_and(|address| TcpStream::connect(address).is_ok())
        });
        Self {
            process,
            address: address.unwrap(),
        }
    }

    pub fn readyz(&self) -> u16 {
        get(self.address, "/readyz").status
    }

    pub fn until_ready(&self) {
        eventually_blocking("/readyz answers 200", || self.readyz() == 200);
    }

    pub fn until_not_ready(&self) {
        eventually_blocking("/readyz answers 503", || self.readyz() == 503);
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }
}

/// The address that a gateway's log tells.
fn listening(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains("gateway listens"))?;
    let address = line.split("address=").nth(1)?.split(' ').next()?;
    address.parse().ok()
}
