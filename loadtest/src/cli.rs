//! Flags. Everything is checked before anything starts.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::churn::ChurnArgs;
use crate::floor::FloorArgs;
use crate::html::ReportArgs;
use crate::load::{Load, OTHER_FILES, files_of_a_process};
use crate::plan::args::PlanArgs;
use crate::ramp::RampArgs;
use crate::servers::Kind;

/// Measures barcast and what it is compared with: publishes bars through Redis on a fixed schedule and
/// receives them with very many WebSocket clients.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// One experiment against one server: latency, completeness, CPU and memory
    Run(RunArgs),
    /// Two servers alive at once, pulses to one and the other in turn: the ratio of their costs
    Pair(PairArgs),
    /// A page with plots and tables from what --json wrote
    Report(ReportArgs),
    /// Several servers likewise, and what people use today among them: what the same load costs each
    Compare(CompareArgs),
    /// How many gateways, cores, memory, network and Redis a load needs, from measured costs
    Plan(PlanArgs),
    /// Steps of load until an objective breaks: what this node carries
    Ramp(RampArgs),
    /// Clients that come and go while bars flow: what they do to those that stay
    Churn(ChurnArgs),
    /// Clients of another loadtest, which gives its orders on stdin
    #[command(name = crate::swarm::crew::COMMAND, hide = true)]
    Crew,
    /// The yardstick server: subscribe to Redis, build frames, send; nothing else
    Floor(FloorArgs),
}

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

/// `loadtest run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub site: Site,
    /// Measured seconds
    #[arg(long, default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds before them that are not measured
    #[arg(long, default_value_t = 2.0)]
    pub warmup: f64,
}

/// `loadtest pair`.
#[derive(Debug, Clone, Args)]
pub struct PairArgs {
    #[command(flatten)]
    pub load: Load,
    /// barcast, floor:bare, floor:gather, a peer, or a command with {port} and {redis_port}
    #[arg(long, default_value = "barcast")]
    pub a: Kind,
    /// What it is compared with, likewise
    #[arg(long, default_value = "floor:gather")]
    pub b: Kind,
    #[command(flatten)]
    pub turns: TurnArgs,
}

/// `loadtest compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    pub load: Load,
    /// barcast, floor:bare, floor:gather, fastapi, node-ws, nchan, or commands with {port} and
    /// {redis_port}; the others are compared with the first [default: all these, without the peers
    /// that are not installed]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub servers: Vec<Kind>,
    #[command(flatten)]
    pub turns: TurnArgs,
}

/// Pulses to several servers in turn.
#[derive(Debug, Clone, Args)]
pub struct TurnArgs {
    /// Measured pulses of each server
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub pulses: u32,
    /// Pulses of each server before them that are not measured
    #[arg(long, default_value_t = 2)]
    pub warmup_pulses: u32,
    /// Seconds of a pulse
    #[arg(long, default_value_t = 1.0)]
    pub pulse: f64,
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
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
        Cli::try_parse_from(["loadtest", "run", "--spawn"]).unwrap();
        Cli::try_parse_from([
            "loadtest",
            "run",
            "--url",
            "ws://h:1/",
            "--redis-url",
            "redis://h",
        ])
        .unwrap();
        for bad in [
            &["run"][..],
            &["run", "--url", "ws://h:1/"],
            &["run", "--spawn", "--server", "x"],
        ] {
            assert!(
                Cli::try_parse_from([&["loadtest"], bad].concat()).is_err(),
                "{bad:?}"
            );
        }
    }

    /// The words of a command line, `'` and line ends with `\` understood.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (nth, part) in line.split('\'').enumerate() {
            if nth % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }

    #[test]
    fn commands_in_the_documents_can_be_run() {
        let mut count = 0;
        for page in ["README.md", "PERF.md"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("..")
                .join(page);
            let text = std::fs::read_to_string(path).unwrap().replace("\\\n", " ");
            for line in text.lines() {
                let line = line
                    .split(" #")
                    .next()
                    .unwrap()
                    .trim()
                    .trim_end_matches(" &");
                let start = [
                    "loadtest ",
                    "target/release/loadtest ",
                    "cargo run --release -p loadtest -- ",
                ];
                let Some(rest) = start.iter().find_map(|start| line.strip_prefix(start)) else {
                    continue;
                };
                let words = [vec!["loadtest".to_owned()], words(rest)].concat();
                let parsed = Cli::try_parse_from(&words);
                assert!(parsed.is_ok(), "{page}: {line}: {}", parsed.unwrap_err());
                count += 1;
            }
        }
        assert!(count >= 5, "only {count} commands were found");
    }

    #[test]
    fn urls_are_taken_apart() {
        let (addr, path) = ws_url("ws://127.0.0.1:8000/api/v1/ws").unwrap();
        assert_eq!((addr.port(), path.as_str()), (8000, "/api/v1/ws"));
        assert_eq!(ws_url("ws://127.0.0.1:1").unwrap().1, "/");
        assert!(ws_url("http://127.0.0.1:1/").is_err());
        assert!(ws_url("ws://127.0.0.1/").is_err());
    }
}
