//! Starting what is measured: a Redis and a server of one kind or another, on free ports, and ending
//! them again.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::child::Child;
use crate::floor::Mode;
use crate::peers::Peer;
use crate::pins::Cores;

/// Longest wait for an answer to a question about readiness.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// What serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Barcast,
    Floor(Mode),
    Peer(Peer),
    /// A command with `{port}` and `{redis_port}` in it.
    Custom(String),
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "barcast" => Ok(Self::Barcast),
            "floor" | "floor:gather" => Ok(Self::Floor(Mode::Gather)),
            "floor:bare" => Ok(Self::Floor(Mode::Bare)),
            command if command.contains("{port}") => Ok(Self::Custom(command.to_owned())),
            name => Peer::named(name).map(Self::Peer).ok_or_else(|| {
                format!(
                    "allowed: barcast, floor, floor:bare, floor:gather, {}, or a command with {{port}} and {{redis_port}} in it",
                    Peer::ALL.map(|peer| peer.name).join(", ")
                )
            }),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Barcast => f.write_str("barcast"),
            Self::Floor(Mode::Bare) => f.write_str("floor:bare"),
            Self::Floor(Mode::Gather) => f.write_str("floor:gather"),
            Self::Peer(peer) => f.write_str(peer.name),
            Self::Custom(command) => f.write_str(command),
        }
    }
}

/// The path of our servers' WebSocket.
const PATH: &str = "/ws";

impl Kind {
    /// The path of its WebSocket, as [`crate::swarm::Target`] has it.
    pub fn path(&self) -> &'static str {
        match self {
            Self::Peer(peer) => peer.path,
            _ => PATH,
        }
    }
}

/// How servers are started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// barcast's workers, or a peer's.
    pub workers: usize,
    /// barcast's binary, when it is not to be looked for.
    pub barcast: Option<PathBuf>,
    pub cores: Cores,
}

/// A port that is free now, on 127.0.0.1.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// A redis-server of our own, without persistence.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    process: Child,
}

impl Redis {
    /// # Errors
    /// When redis-server is not installed or does not come up.
    pub fn start() -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--save", "", "--appendonly", "no"]);
        let mut process =
            Child::start(command, true).context("redis-server has to be installed")?;
        let url = format!("redis://127.0.0.1:{port}");
        // The port was free a moment ago: another experiment's Redis may have taken it meanwhile.
        let pid = format!("process_id:{}\r\n", process.id());
        process.wait_for("redis-server", || {
            let info = crate::publisher::connect(&url).and_then(|mut connection| {
                let info = redis::cmd("INFO").arg("server").query(&mut connection);
                Ok::<String, _>(info?)
            });
            info.is_ok_and(|info| info.contains(&pid))
        })?;
        Ok(Self { port, process })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// On 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// A running server that we started.
#[derive(Debug)]
pub struct Server {
    pub addr: SocketAddr,
    /// What was started, for the report.
    pub command: String,
    process: Child,
}

impl Server {
    /// Starts a server in front of `redis` and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started or does not become ready; with the end of its output.
    pub fn start(kind: &Kind, redis: &Redis, launch: &Launch) -> Result<Self> {
        let port = free_port()?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let command = command(kind, addr, redis, launch)?;
        let mut words = vec![command.get_program()];
        words.extend(command.get_args());
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let text = words.join(" ");
        // Peers write files.
        let at_home = matches!(kind, Kind::Peer(_));
        let mut process = launch.cores.with(|| Child::start(command, at_home))?;
        let asks = matches!(kind, Kind::Barcast | Kind::Floor(_));
        process.wait_for(&text, || {
            if asks {
                is_ready(addr)
            } else {
                TcpStream::connect(addr).is_ok()
            }
        })?;
        Ok(Self {
            addr,
            command: text,
            process,
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

fn command(kind: &Kind, addr: SocketAddr, redis: &Redis, launch: &Launch) -> Result<Command> {
    let (listen, url) = (addr.to_string(), redis.url());
    let (program, args): (OsString, Vec<String>) = match kind {
        Kind::Custom(template) => {
            let text = template
                .replace("{port}", &addr.port().to_string())
                .replace("{redis_port}", &redis.port.to_string());
            // exec, so that the process measured is not the shell.
            ("sh".into(), vec!["-c".into(), format!("exec {text}")])
        }
        Kind::Peer(peer) => return peer.command(addr.port(), &url, launch.workers),
        Kind::Floor(mode) => {
            let mode = if *mode == Mode::Bare {
                "bare"
            } else {
                "gather"
            };
            let args = [
                "floor",
                "--listen",
                &listen,
                "--redis-url",
                &url,
                "--mode",
                mode,
            ];
            let me = std::env::current_exe()?;
            (me.into(), args.map(str::to_owned).into())
        }
        Kind::Barcast => {
            let binary = match &launch.barcast {
                Some(path) => path
                    .canonicalize()
                    .with_context(|| path.display().to_string())?,
                None => find_barcast()?,
            };
            let workers = launch.workers.to_string();
            let args = [
                "serve",
                "--listen",
                &listen,
                "--redis-url",
                &url,
                "--workers",
                &workers,
            ];
            (binary.into(), args.map(str::to_owned).into())
        }
    };
    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

/// Whether `/readyz` answers 200.
pub fn is_ready(addr: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&addr, ASK_TIMEOUT)?;
        stream.set_read_timeout(Some(ASK_TIMEOUT))?;
        write!(
            stream,
            "GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
        )?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// barcast beside our own binary, or built now.
fn find_barcast() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let beside = me.with_file_name("barcast");
    if beside.is_file() {
        return Ok(beside);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    eprintln!("building barcast: there is none beside {}", me.display());
    let built = Command::new(option_env!("CARGO").unwrap_or("cargo"))
        .args([
            "build",
            "--release",
            "-p",
            "barcast",
            "--message-format=json",
        ])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo build --release -p barcast")?;
    if !built.status.success() {
        bail!("barcast cannot be built");
    }
    built
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .filter_map(|line| line.get("executable")?.as_str().map(PathBuf::from))
        .find(|path| path.file_name().is_some_and(|name| name == "barcast"))
        .context("cargo built no barcast")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_servers_are_read_and_written() {
        for text in [
            "barcast",
            "floor:bare",
            "floor:gather",
            "fastapi",
            "./hub {port} {redis_port}",
        ] {
            assert_eq!(text.parse::<Kind>().unwrap().to_string(), text);
        }
        assert_eq!("floor".parse::<Kind>().unwrap(), Kind::Floor(Mode::Gather));
        assert!("flour".parse::<Kind>().is_err());
    }

    #[test]
    fn what_a_server_said_is_told_when_it_ends_too_early() {
        let redis = Redis::start().unwrap();
        let launch = Launch {
            workers: 1,
            barcast: None,
            cores: Cores::all().unwrap(),
        };
        let kind = Kind::Custom("sh -c 'echo no {port} for $0; exit 3' me".to_owned());
        let why = Server::start(&kind, &redis, &launch)
            .unwrap_err()
            .to_string();
        assert!(
            why.contains("exit status: 3") && why.contains("for me"),
            "{why}"
        );
    }
}
