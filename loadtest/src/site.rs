//! Where the server under test is: started for the experiment, or running already.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::servers::Kind;
use crate::swarm::crew::{OTHER_FILES, files_of_a_process};

/// The server under test: started for the experiment, or running already.
#[derive(Debug, Clone, Args)]
pub struct Site {
    /// Start redis-server and the server on free ports, and end them afterwards
    #[arg(long, conflicts_with_all = ["url", "redis_url"])]
    pub spawn: bool,
    /// With --spawn: barcast, floor:bare, floor:gather, or a command with {port} and {redis_port}
    #[arg(long, default_value = "barcast", conflicts_with = "url")]
    pub server: Kind,
    /// With --spawn: so many gateways behind one Redis, the clients spread over them [default: as many
    /// as may open the clients' connections]
    #[arg(long, conflicts_with = "url", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub gateways: Option<u32>,
    /// A server that runs already, as ws://127.0.0.1:8000/ws; several with commas, the clients spread
    /// over them
    #[arg(
        long,
        requires = "redis_url",
        required_unless_present = "spawn",
        value_delimiter = ','
    )]
    pub url: Vec<String>,
    /// The Redis in front of it
    #[arg(long)]
    pub redis_url: Option<String>,
    /// Processes of servers on this machine, to measure their CPU and memory
    #[arg(long, requires = "url", value_delimiter = ',')]
    pub server_pid: Vec<u32>,
}

impl Site {
    /// How many gateways `clients` clients need.
    ///
    /// # Errors
    /// When one of them would need more open files than it may have.
    pub fn gateways(&self, clients: u64) -> Result<u32> {
        // A process that we start may open as many files as we may.
        let room = files_of_a_process()?.saturating_sub(OTHER_FILES).max(1);
        let needed = u32::try_from(clients.div_ceil(room))?.max(1);
        let gateways = self.gateways.unwrap_or(needed);
        ensure!(
            !self.spawn || gateways >= needed,
            "--gateways {gateways}: {clients} clients need {needed}, each of which may open {room} connections (ulimit -n)"
        );
        Ok(gateways)
    }
}

/// Address and path of a `ws://` URL.
///
/// # Errors
/// When it is none, or its host has no address.
pub fn ws_url(url: &str) -> Result<(SocketAddr, String)> {
    use std::net::ToSocketAddrs;
    let rest = url
        .strip_prefix("ws://")
        .with_context(|| format!("--url {url:?}: allowed: ws://host:port/path"))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let addr = host
        .to_socket_addrs()
        .ok()
        .and_then(|mut addrs| addrs.next())
        .with_context(|| format!("--url {url:?}: {host:?} is no host:port that can be found"))?;
    let path = if path.is_empty() { "/" } else { path };
    Ok((addr, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::ws_url;

    #[test]
    fn urls_are_taken_apart() {
        let (addr, path) = ws_url("ws://127.0.0.1:8000/api/v1/ws").unwrap();
        assert_eq!((addr.port(), path.as_str()), (8000, "/api/v1/ws"));
        assert_eq!(ws_url("ws://127.0.0.1:1").unwrap().1, "/");
        assert!(ws_url("http://127.0.0.1:1/").is_err());
        assert!(ws_url("ws://127.0.0.1/").is_err());
    }
}
