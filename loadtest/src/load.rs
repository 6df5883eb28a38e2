//! The load of an experiment: what is published, who watches it, and what that needs of this machine.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::market::{MAX_TOPICS, Market};
use crate::pins::Cores;
use crate::publisher::{Burst, Publish};
use crate::swarm::crew::{Crew, OTHER_FILES, files_of_a_process};
use crate::swarm::{CLIENTS_PER_ADDRESS, Target, check_template};
use crate::watchlist::{Shape, Watchlists};

/// Most ticks a second: a tick shorter than this is not planned any more but rushed.
pub const FASTEST_RATE: f64 = 10_000.0;

/// Fewest updates a second that clients ask for: a run waits for the last turn, 100 s at this.
pub const LEAST_MAX_RATE: f64 = 0.01;

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
    /// Updates a second of a topic that clients ask for: set by commands that have a flag for it.
    #[arg(skip)]
    pub max_rate: Option<f64>,
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
        if let Some(rate) = self.max_rate {
            ensure!(
                (LEAST_MAX_RATE..=FASTEST_RATE).contains(&rate),
                "--max-rate {rate}: allowed: {LEAST_MAX_RATE} to {FASTEST_RATE}"
            );
        }
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
            max_rate: self.max_rate,
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

/// A whole number from `FROM` to `TO`.
fn values<const FROM: usize, const TO: usize>(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (FROM..=TO).contains(number))
        .ok_or(format!("allowed: whole numbers from {FROM} to {TO}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Load;
    use crate::cli::{Cli, Command};

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
}
