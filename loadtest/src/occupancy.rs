//! Who used the cores while it was measured. A saturated swarm, or a stranger on the server's core,
//! must not be taken for the server's cost.

use std::time::Instant;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::pins::Pins;
use crate::process::{Busy, Cpu, cpu};
use crate::rig::{Rig, Watched};
use crate::swarm::Swarm;

/// From this share of its cores on, the swarm may have been what was measured.
const SATURATED: f64 = 0.9;
/// From this share on, strangers on a core are told of.
const DISTURBED: f64 = 0.1;

/// Whose time is read.
#[derive(Debug, Clone)]
pub struct Watch {
    servers: Vec<Watched>,
    redis: Vec<u32>,
    /// This process, and those of its clients.
    swarm: Vec<u32>,
    pins: Pins,
}

impl Watch {
    pub fn of<'a>(rigs: impl IntoIterator<Item = &'a Rig>, pins: &Pins) -> Self {
        let rigs: Vec<&Rig> = rigs.into_iter().collect();
        Self {
            servers: rigs.iter().map(|rig| rig.process.clone()).collect(),
            redis: rigs.iter().filter_map(|rig| rig.redis_pid()).collect(),
            swarm: vec![std::process::id()],
            pins: pins.clone(),
        }
    }

    /// With the processes of these clients, too.
    #[must_use]
    pub fn with(mut self, swarm: &Swarm) -> Self {
        self.swarm.extend(swarm.pids());
        self
    }
}

/// CPU time so far, of everyone.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    at: Instant,
    pub servers: Option<Cpu>,
    redis: u64,
    swarm: u64,
    server_cores: Busy,
    swarm_cores: Busy,
}

impl Reading {
    /// # Errors
    /// When a server has ended.
    pub fn take(watch: &Watch) -> Result<Self> {
        let mut servers: Option<Cpu> = None;
        for server in &watch.servers {
            if let Some(used) = server.cpu()? {
                servers = Some(used.plus(servers.unwrap_or_default()));
            }
        }
        let mut redis = 0;
        for pid in &watch.redis {
            redis += cpu(&[*pid])?.total_ns;
        }
        Ok(Self {
            at: Instant::now(),
            servers,
            redis,
            swarm: cpu(&watch.swarm)?.total_ns,
            server_cores: Busy::read(&watch.pins.server)?,
            swarm_cores: Busy::read(&watch.pins.swarm)?,
        })
    }
}

/// Average use of the cores between two readings; 1 is one core.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Occupancy {
    pub seconds: f64,
    /// By clients and publisher.
    pub swarm: f64,
    /// By the redis-servers that were started here.
    pub redis: f64,
    /// By the servers, when their processes are known.
    pub servers: Option<f64>,
    /// There were so many for the swarm.
    pub swarm_cores: usize,
    /// Share of the swarm's cores that strangers used, 0 to 1.
    pub strangers_on_swarm_cores: f64,
    /// Share of the server's cores that strangers used, 0 to 1, when it is known who is none.
    pub strangers_on_server_cores: Option<f64>,
    /// The swarm may have been the bottleneck.
    pub saturated: bool,
}

impl Occupancy {
    #[expect(clippy::cast_precision_loss, reason = "shares need no more")]
    pub fn between(start: &Reading, end: &Reading, pins: &Pins) -> Self {
        let seconds = (end.at - start.at).as_secs_f64().max(1e-9);
        let cores = |now: u64, before: u64| now.saturating_sub(before) as f64 / 1e9 / seconds;
        let swarm = cores(end.swarm, start.swarm);
        let redis = cores(end.redis, start.redis);
        let servers = end.servers.zip(start.servers);
        let servers = servers.map(|(end, start)| cores(end.total_ns, start.total_ns));
        let swarm_cores = pins.swarm.list().len();
        let count = (swarm_cores as f64).max(1.0);
        let server_count = (pins.server.list().len() as f64).max(1.0);
        // On shared cores everyone is where everyone is.
        let shared = |other: f64| if pins.overlap() { other } else { 0.0 };
        let busy = end.swarm_cores.share_since(start.swarm_cores);
        let ours = (swarm + redis + shared(servers.unwrap_or(0.0))) / count;
        let server_busy = end.server_cores.share_since(start.server_cores);
        Self {
            seconds,
            swarm,
            redis,
            servers,
            swarm_cores,
            strangers_on_swarm_cores: (busy - ours).max(0.0),
            strangers_on_server_cores: servers.map(|servers| {
                (server_busy - (servers + shared(swarm + redis)) / server_count).max(0.0)
            }),
            saturated: (swarm + redis) / count >= SATURATED,
        }
    }

    /// For people: use, and what casts doubt on the figures.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "clients and publisher {:.2}, Redis {:.2} of {} cores",
            self.swarm, self.redis, self.swarm_cores
        )];
        if self.saturated {
            lines.push("WARNING: the swarm was saturated: latency is its own, too".into());
        }
        for (whose, share) in [
            ("swarm's", Some(self.strangers_on_swarm_cores)),
            ("server's", self.strangers_on_server_cores),
        ] {
            if let Some(share) = share.filter(|share| *share >= DISTURBED) {
                let percent = share * 100.0;
                lines.push(format!(
                    "WARNING: something else used {percent:.0} % of the {whose} cores"
                ));
            }
        }
        lines
    }
}
