//! A server under test with what belongs to it, whether it was started here or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::child::kill_all;
use crate::load::Load;
use crate::market::Market;
use crate::pins::Pins;
use crate::process::{Cpu, cpu, family, resident};
use crate::publisher::Publisher;
use crate::servers::{Kind, Launch, Redis, Server};
use crate::site::{Site, ws_url};
use crate::swarm::Target;

/// After the clients are there, a server's memory is read when it had this long to settle.
pub const SETTLE: Duration = Duration::from_millis(300);

/// A server, its Redis, its publisher.
pub struct Rig {
    /// For reports: `barcast`, `floor:gather`, a command or a URL.
    pub name: String,
    /// How it was started, when it was started here.
    pub started: Option<String>,
    /// Of every gateway.
    addrs: Vec<SocketAddr>,
    path: String,
    pub publisher: Publisher,
    pub process: Watched,
    // Ended in this order: the servers first, so that they do not complain of a lost Redis.
    _servers: Vec<Server>,
    redis: Option<Redis>,
}

impl Rig {
    /// Starts a redis-server and a server in front of it.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn spawn(kind: &Kind, load: &Load, pins: &Pins, market: &Arc<Market>) -> Result<Self> {
        Self::spawn_many(kind, 1, load, pins, market)
    }

    /// Starts a redis-server and some gateways behind it.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn spawn_many(
        kind: &Kind,
        gateways: u32,
        load: &Load,
        pins: &Pins,
        market: &Arc<Market>,
    ) -> Result<Self> {
        let redis = Redis::start()?;
        let cores = pins.server.list().len();
        let launch = Launch {
            workers: load
                .workers
                .unwrap_or((cores / gateways.max(1) as usize).max(1)),
            barcast: load.barcast.clone(),
            cores: pins.server.clone(),
        };
        let servers = (0..gateways)
            .map(|_| Server::start(kind, &redis, &launch))
            .collect::<Result<Vec<_>>>()?;
        let mut publisher = publisher(&redis.url(), load, market)?;
        if matches!(kind, Kind::Peer(_)) {
            // Their ports may be open before all of them stands; what comes later would look like the
            // memory of clients.
            publisher.wait_for_subscriber()?;
        }
        let started: Vec<&str> = servers.iter().map(|s| s.command.as_str()).collect();
        Ok(Self {
            name: match gateways {
                1 => kind.to_string(),
                n => format!("{n} × {kind}"),
            },
            started: Some(started.join(" & ")),
            addrs: servers.iter().map(|server| server.addr).collect(),
            path: kind.path().to_owned(),
            publisher,
            process: Watched(servers.iter().map(Server::pid).collect()),
            _servers: servers,
            redis: Some(redis),
        })
    }

    /// Uses a server and a Redis that run already.
    ///
    /// # Errors
    /// When a URL cannot be used, two of them have different paths, or the Redis cannot be reached.
    pub fn running(site: &Site, load: &Load, market: &Arc<Market>) -> Result<Self> {
        let redis = site.redis_url.as_deref().context("--redis-url is needed")?;
        let mut paths = Vec::new();
        let mut addrs = Vec::new();
        for url in &site.url {
            let (addr, path) = ws_url(url)?;
            addrs.push(addr);
            paths.push(path);
        }
        paths.dedup();
        let Ok([path]) = <[String; 1]>::try_from(paths) else {
            bail!("--url {}: allowed: one path for all", site.url.join(","));
        };
        Ok(Self {
            name: site.url.join(" "),
            started: None,
            addrs,
            path,
            publisher: publisher(redis, load, market)?,
            process: Watched(site.server_pid.clone()),
            _servers: Vec::new(),
            redis: None,
        })
    }

    /// The process of its Redis, when it was started here.
    pub fn redis_pid(&self) -> Option<u32> {
        self.redis.as_ref().map(Redis::pid)
    }

    /// What the clients connect to; updates after the first `after` are counted.
    pub fn target(&self, market: &Arc<Market>, after: u64, load: &Load) -> Target {
        let target = Target {
            addrs: self.addrs.clone(),
            after,
            ..Target::new(self.addrs[0], &self.path, Arc::clone(market))
        };
        load.target(target)
    }
}

fn publisher(redis: &str, load: &Load, market: &Arc<Market>) -> Result<Publisher> {
    let mut publisher = Publisher::new(redis, Arc::clone(market), load.publish)?;
    publisher.burst = load.burst;
    Ok(publisher)
}

/// The server's processes with their descendants, as far as it is known which they are.
#[derive(Debug, Clone)]
pub struct Watched(Vec<u32>);

impl Watched {
    /// All of them; none when they are not known.
    pub fn family(&self) -> Vec<u32> {
        self.0.iter().flat_map(|pid| family(*pid)).collect()
    }

    /// CPU time so far, when its process is known.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn cpu(&self) -> Result<Option<Cpu>> {
        let mut sum: Option<Cpu> = None;
        for pid in &self.0 {
            let used = cpu(&family(*pid))?;
            sum = Some(used.plus(sum.unwrap_or_default()));
        }
        Ok(sum)
    }

    /// Resident memory in bytes, when its process is known.
    pub fn resident(&self) -> Option<u64> {
        (!self.0.is_empty()).then(|| resident(&self.family()))
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
