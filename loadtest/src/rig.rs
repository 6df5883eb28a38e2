//! A server under test with what belongs to it, whether it was started here or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cli::{Load, RunArgs, ws_url};
use crate::market::Market;
use crate::pins::Pins;
use crate::process::{Cpu, cpu, family, resident};
use crate::publisher::Publisher;
use crate::servers::{Kind, Launch, Redis, Server, kill_all};
use crate::swarm::Target;

/// After the clients are there, a server's memory is read when it had this long to settle.
pub const SETTLE: Duration = Duration::from_millis(300);

/// A server, its Redis, its publisher.
pub struct Rig {
    /// For reports: `barcast`, `floor:gather`, a command or a URL.
    pub name: String,
    /// How it was started, when it was started here.
    pub started: Option<String>,
    addr: SocketAddr,
    path: String,
    pub publisher: Publisher,
    pub process: Watched,
    // Ended in this order: the server first, so that it does not complain of a lost Redis.
    _server: Option<Server>,
    redis: Option<Redis>,
}

impl Rig {
    /// Starts a redis-server and a server in front of it.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn spawn(kind: &Kind, load: &Load, pins: &Pins, market: &Arc<Market>) -> Result<Self> {
        let redis = Redis::start()?;
        let launch = Launch {
            workers: load.workers.unwrap_or(pins.server.list().len()),
            barcast: load.barcast.clone(),
            cores: pins.server.clone(),
        };
        let server = Server::start(kind, &redis, &launch)?;
        let mut publisher = Publisher::new(&redis.url(), Arc::clone(market), load.publish)?;
        if matches!(kind, Kind::Peer(_)) {
            // Their ports may be open before all of them stands; what comes later would look like the
            // memory of clients.
            publisher.wait_for_subscriber()?;
        }
        Ok(Self {
            name: kind.to_string(),
            started: Some(server.command.clone()),
            addr: server.addr,
            path: kind.path().to_owned(),
            publisher,
            process: Watched(Some(server.pid())),
            _server: Some(server),
            redis: Some(redis),
        })
    }

    /// Uses a server and a Redis that run already.
    ///
    /// # Errors
    /// When the URL cannot be used, or its Redis cannot be reached.
    pub fn running(args: &RunArgs, market: &Arc<Market>) -> Result<Self> {
        let url = args.url.as_deref().context("--url or --spawn is needed")?;
        let redis = args.redis_url.as_deref().context("--redis-url is needed")?;
        let (addr, path) = ws_url(url)?;
        Ok(Self {
            name: url.to_owned(),
            started: None,
            addr,
            path,
            publisher: Publisher::new(redis, Arc::clone(market), args.load.publish)?,
            process: Watched(args.server_pid),
            _server: None,
            redis: None,
        })
    }

    /// The process of its Redis, when it was started here.
    pub fn redis_pid(&self) -> Option<u32> {
        self.redis.as_ref().map(Redis::pid)
    }

    /// What the clients connect to; updates after the first `after` are counted.
    pub fn target(&self, market: &Arc<Market>, after: u64, load: &Load) -> Target {
        Target {
            addr: self.addr,
            path: self.path.clone(),
            market: Arc::clone(market),
            after,
            answers: !load.no_answer,
            compression: load.compression,
        }
    }
}

/// The server's process with its descendants, when it is known which it is.
#[derive(Debug, Clone, Copy)]
pub struct Watched(Option<u32>);

impl Watched {
    /// Its processes, when they are known.
    pub fn family(self) -> Vec<u32> {
        self.0.map(family).unwrap_or_default()
    }

    /// CPU time so far, when its process is known.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn cpu(self) -> Result<Option<Cpu>> {
        self.0.map(|pid| cpu(&family(pid))).transpose()
    }

    /// Resident memory in bytes, when its process is known.
    pub fn resident(self) -> Option<u64> {
        self.0.map(|pid| resident(&family(pid)))
    }
}

/// The code of a process that SIGINT ended, as shells have it: 128 + 2.
const INTERRUPTED: i32 = 130;

/// Turns true when the user asks to end early. A second time ends at once.
///
/// # Errors
/// When there is such a handler already.
pub fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            kill_all();
            std::process::exit(INTERRUPTED);
        }
        eprintln!("\nending early: once more ends at once");
    })?;
    Ok(stop)
}
