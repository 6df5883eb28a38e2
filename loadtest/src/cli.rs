//! Flags. Everything is checked before anything starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};

use crate::churn::ChurnArgs;
use crate::floor::FloorArgs;
use crate::html::ReportArgs;
use crate::market::{MAX_TOPICS, Market};
use crate::pins::Cores;
use crate::plan::args::PlanArgs;
use crate::publisher::{Burst, Publish};
use crate::ramp::RampArgs;
use crate::servers::Kind;
use crate::swarm::crew::Crew;
use crate::swarm::{CLIENTS_PER_ADDRESS, Target, check_template};
use crate::watchlist::{Shape, Watchlists};

/// Open files that a process needs beside its clients': Redis, epoll, logs, libraries.
pub const OTHER_FILES: u64 = 100;
/// Most ticks a second: a tick shorter than this is not planned any more but rushed.
pub const FASTEST_RATE: f64 = 10_000.0;

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

/// What is published, and who watches it.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// Clients (of each server, where there are several)
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
    /// Topics; every tick updates all of them
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_TOPICS)))]
    pub topics: u32,
    /// Topics that each client watches
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub per_client: u32,
    /// Ticks per second, fractions allowed
    #[arg(long, default_value_t = 2.0)]
    pub rate: f64,
    /// How the watchlists are drawn
    #[arg(long, value_enum, default_value = "contiguous")]
    pub shape: Shape,
    /// How a tick's bars travel through Redis
    #[arg(long, value_enum, default_value = "single")]
    pub publish: Publish,
    /// How a tick's bars lie in time
    #[arg(long, value_enum, default_value = "together")]
    pub burst: Burst,
    /// Updates that make a bar: the last one closes it
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub bar_ticks: u64,
    /// Seed of the watchlists
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Beginning of the symbols; with --url a new one for each run, so that no old bar is in the way
    #[arg(long)]
    pub prefix: Option<String>,
    /// Processes of the clients; more clients than a process may open files need more of them
    /// [default: as many as are needed]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub client_processes: Option<u32>,
    /// Clients from one source address: 127.0.0.1, then .2, .3 … when the server is on this machine
    #[arg(long, default_value_t = CLIENTS_PER_ADDRESS, value_parser = values::<1, 28_000>)]
    pub clients_per_address: usize,
    /// Threads of the clients, of each process
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub client_threads: u32,
    /// Do not wait for bars.subscribe.response: for servers that do not send it
    #[arg(long)]
    pub no_answer: bool,
    /// Offer permessage-deflate: a server that takes the offer is measured with it
    #[arg(long)]
    pub compression: bool,
    /// What a client sends to subscribe, for servers that do not speak barcast's protocol: with {topics}
    /// for all topics in quotes, or with {topic}, {symbol} and {resolution} for one message each. An
    /// update is then any message that names a topic's symbol and has "seq" and "ts"
    #[arg(long, value_name = "TEMPLATE")]
    pub subscribe: Option<String>,
    /// Cores of the server, as 0,2-3 or all [default: the first half, in turns the first; all when
    /// there is only one]
    #[arg(long, value_name = "LIST")]
    pub server_cpu: Option<Cores>,
    /// Cores of clients, publisher and Redis [default: the others]
    #[arg(long, value_name = "LIST")]
    pub swarm_cpu: Option<Cores>,
    /// barcast's binary [default: the one beside this program, or built from the source]
    #[arg(long, value_name = "FILE")]
    pub barcast: Option<PathBuf>,
    /// Workers of barcast and of peers [default: one per core of the server]
    #[arg(long)]
    pub workers: Option<usize>,
    /// Count the server's system calls in a pass of its own at the end, with strace
    #[arg(long)]
    pub strace: bool,
    /// Write everything to this file, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Load {
    /// The rules that one flag alone cannot check; raises the limit of open files.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn check(&self, servers: u32) -> Result<()> {
        ensure!(
            self.per_client <= self.topics,
            "--per-client {}: allowed: up to --topics {}",
            self.per_client,
            self.topics
        );
        ensure!(
            self.rate > 0.0 && self.rate <= FASTEST_RATE,
            "--rate {}: allowed: above 0, up to {FASTEST_RATE}",
            self.rate
        );
        if let Some(template) = &self.subscribe {
            check_template(template)?;
        }
        let clients = u64::from(self.clients) * u64::from(servers);
        let processes = self.crew(clients)?.processes as u64;
        let limit = files_of_a_process()?;
        ensure!(
            clients.div_ceil(processes) + OTHER_FILES <= limit,
            "--clients {}: {clients} connections are too many for {processes} processes with {limit} open files each (ulimit -n)",
            self.clients
        );
        self.market(0).map(drop)
    }

    /// Who runs `clients` clients: as many processes as were asked for, or as few as may open so many
    /// files.
    ///
    /// # Errors
    /// When the limit of open files cannot be read.
    pub fn crew(&self, clients: u64) -> Result<Crew> {
        /// More would no longer be an experiment on one machine.
        const MOST: u64 = 256;
        let room = files_of_a_process()?.saturating_sub(OTHER_FILES).max(1);
        let needed = clients.div_ceil(room).clamp(1, MOST);
        let processes = self.client_processes.map_or(needed, u64::from);
        Ok(Crew {
            processes: usize::try_from(processes)?,
            threads: usize::try_from(self.client_threads)?,
        })
    }

    /// Fills in what the clients expect of a server.
    pub fn target(&self, target: Target) -> Target {
        Target {
            answers: !self.no_answer,
            compression: self.compression,
            subscribe: self.subscribe.clone(),
            per_address: self.clients_per_address,
            ..target
        }
    }

    /// The market that is published; `epoch` names the run.
    ///
    /// # Errors
    /// When the symbols cannot be made.
    pub fn market(&self, epoch: u64) -> Result<Market> {
        let prefix = self.prefix.as_deref().unwrap_or("T");
        Market::new(prefix, self.topics, self.bar_ticks, epoch)
    }

    /// Each client's topics.
    pub fn watchlists(&self) -> impl Iterator<Item = Vec<u32>> {
        Watchlists::new(self.shape, self.topics, self.per_client, self.seed)
            .take(usize::try_from(self.clients).unwrap_or(usize::MAX))
    }

    /// Updates that one tick makes for all clients together.
    pub fn per_tick(&self) -> u64 {
        u64::from(self.clients) * u64::from(self.per_client)
    }

    /// Ticks in so many seconds, at least one when there are any seconds.
    ///
    /// # Errors
    /// When it is no duration.
    pub fn ticks(&self, flag: &str, seconds: f64) -> Result<u64> {
        /// Longest duration, in seconds: a week.
        const LONGEST: f64 = 604_800.0;
        if !(0.0..=LONGEST).contains(&seconds) {
            bail!("{flag} {seconds}: allowed: seconds from 0 to {LONGEST}");
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive and at most a week at the fastest rate"
        )]
        let ticks = (seconds * self.rate).round() as u64;
        Ok(if seconds > 0.0 { ticks.max(1) } else { 0 })
    }
}

/// Raises the limit of open files as far as it goes, and says how far that is.
///
/// # Errors
/// When the kernel does not say.
pub fn files_of_a_process() -> Result<u64> {
    /// Enough for any process here; some programs that we start go through all that they may open.
    const ENOUGH: u64 = 1 << 20;
    rlimit::increase_nofile_limit(ENOUGH).context("limit of open files")
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

/// A whole number from `FROM` to `TO`.
fn values<const FROM: usize, const TO: usize>(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (FROM..=TO).contains(number))
        .ok_or(format!("allowed: whole numbers from {FROM} to {TO}"))
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

    fn load(flags: &[&str]) -> Load {
        match Cli::try_parse_from([&["loadtest", "run", "--spawn"], flags].concat())
            .unwrap()
            .command
        {
            Command::Run(args) => args.load,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_flags_say_together_is_checked() {
        load(&[]).check(1).unwrap();
        for (flags, named) in [
            (["--per-client", "201"], "--topics 200"),
            (["--rate", "0"], "--rate 0"),
            (["--clients", "4000000000"], "open files"),
            (["--prefix", "a b"], "--prefix"),
        ] {
            let why = format!("{:#}", load(&flags).check(1).unwrap_err());
            assert!(why.contains(named), "{why}");
        }
    }

    #[test]
    fn seconds_become_ticks() {
        let load = load(&["--rate", "2.5"]);
        assert_eq!(load.ticks("--duration", 2.0).unwrap(), 5);
        assert_eq!(load.ticks("--duration", 0.1).unwrap(), 1);
        assert_eq!(load.ticks("--warmup", 0.0).unwrap(), 0);
        assert!(load.ticks("--warmup", -1.0).is_err());
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
