//! Flags of `loadtest plan`, and the numbers that they state.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::pins::Cores;
use crate::publisher::Publish;
use crate::servers::Kind;

/// `loadtest plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Users connected at the same time at the busiest hour, today
    #[arg(long, default_value_t = 100_000.0, help_heading = "The load")]
    pub users: f64,
    /// Topics that are published
    #[arg(long, default_value_t = 500.0, help_heading = "The load")]
    pub topics: f64,
    /// Topics that a user watches
    #[arg(long, default_value_t = 10.0, help_heading = "The load")]
    pub per_client: f64,
    /// Updates a second of a topic, usually
    #[arg(long, default_value_t = 1.0, help_heading = "The load")]
    pub rate: f64,
    /// Updates a second at the busiest moment, as a multiple of the usual
    #[arg(long, default_value_t = 2.0, help_heading = "The load")]
    pub peak: f64,
    /// Moments a second at which updates come, each a burst of many topics [default: --rate, all
    /// topics together]
    #[arg(long, help_heading = "The load")]
    pub bursts: Option<f64>,
    /// Every update comes by itself: no two topics share a burst
    #[arg(long, conflicts_with = "bursts", help_heading = "The load")]
    pub spread: bool,
    /// How a producer publishes
    #[arg(long, value_enum, default_value = "single", help_heading = "The load")]
    pub publish: Publish,
    /// Bytes of a bar to a client (bars.update) [default: those of loadtest run]
    #[arg(long, help_heading = "The load")]
    pub bar_bytes: Option<f64>,
    /// Bytes of a bar as it is published [default: those of loadtest run]
    #[arg(long, help_heading = "The load")]
    pub message_bytes: Option<f64>,
    /// Growth of the users in a year, as a share: 0.5 is half as many more
    #[arg(long, default_value_t = 0.0, help_heading = "The load")]
    pub growth: f64,
    /// Years ahead that are planned for
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=50), help_heading = "The load")]
    pub years: u32,
    /// Updates that make a bar, usually: the last one closes it, and closed bars do not wait for max_rate
    #[arg(long, default_value_t = 60.0, help_heading = "The load")]
    pub bar_ticks: f64,
    /// What if clients asked for at most so many updates a second of a topic (max_rate)
    #[arg(long, default_value_t = 1.0, help_heading = "The load")]
    pub max_rate: f64,

    /// Cores of a node
    #[arg(long, default_value_t = 8.0, help_heading = "A node")]
    pub cores: f64,
    /// Memory of a node in GiB
    #[arg(long, default_value_t = 16.0, help_heading = "A node")]
    pub memory: f64,
    /// Network of a node in Gbit/s, each way
    #[arg(long, default_value_t = 10.0, help_heading = "A node")]
    pub egress: f64,
    /// Clients that a gateway lets in [default: that of barcast serve --max-clients]
    #[arg(long, default_value_t = 100_000.0, help_heading = "A node")]
    pub max_clients: f64,
    /// Files that a gateway may open [default: systemd's hard limit]
    #[arg(long, default_value_t = 524_288.0, help_heading = "A node")]
    pub open_files: f64,
    /// Closed bars that a gateway keeps of each topic [default: that of barcast serve]
    #[arg(long, default_value_t = 1_000.0, help_heading = "A node")]
    pub history_bars: f64,
    /// Share of everything that is kept free
    #[arg(long, default_value_t = 0.3, help_heading = "A node")]
    pub headroom: f64,
    /// Gateways that may fail at the same time, in each shard
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=1_000), help_heading = "A node")]
    pub failures: u32,

    /// Learn the costs from these reports of loadtest run
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "What it costs")]
    pub from: Vec<PathBuf>,
    /// Learn the costs by short runs here and now
    #[arg(long, help_heading = "What it costs")]
    pub calibrate: bool,
    /// State a cost by the name that it has in the report, as write_us=8.5
    #[arg(long, value_name = "NAME=VALUE", help_heading = "What it costs")]
    pub cost: Vec<String>,
    /// Calibrate, run this very load here at its usual rate, and compare; where --max-rate is below
    /// --rate, run and compare it with that, too. Ends with code 1 where they differ by more than 25 %
    #[arg(long, conflicts_with_all = ["spread", "bursts"], help_heading = "What it costs")]
    pub check: bool,
    /// Rounds of calibrating (and checking): what is measured in turn sees the same machine
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "What it costs")]
    pub rounds: u32,
    /// Measured seconds of each run
    #[arg(long, default_value_t = 3.0, help_heading = "What it costs")]
    pub seconds: f64,
    /// Clients of the largest calibrating run
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(20..=1_000_000), help_heading = "What it costs")]
    pub calibrate_clients: u32,
    /// What is run: barcast, floor:bare, floor:gather, or a command with {port} and {redis_port}
    #[arg(long, default_value = "barcast", help_heading = "What it costs")]
    pub server: Kind,
    /// barcast's binary [default: the one beside this program, or built from the source]
    #[arg(long, value_name = "FILE", help_heading = "What it costs")]
    pub barcast: Option<PathBuf>,
    /// barcast's workers [default: one per core of the server]
    #[arg(long, help_heading = "What it costs")]
    pub workers: Option<usize>,
    /// Cores of the server, as 0,2-3 or all [default: the first half]
    #[arg(long, value_name = "LIST", help_heading = "What it costs")]
    pub server_cpu: Option<Cores>,
    /// Cores of clients, publisher and Redis [default: the others]
    #[arg(long, value_name = "LIST", help_heading = "What it costs")]
    pub swarm_cpu: Option<Cores>,

    /// Tell of every number where it comes from
    #[arg(long)]
    pub explain: bool,
    /// Write everything to this file, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl PlanArgs {
    /// What is wrong with what the flags say.
    ///
    /// # Errors
    /// The flag, its value and what is allowed.
    pub fn check_values(&self) -> Result<()> {
        /// Nothing that is counted here is larger.
        const MOST: f64 = 1e12;
        for (flag, value, least, most) in [
            ("--users", self.users, 1.0, MOST),
            ("--topics", self.topics, 1.0, MOST),
            ("--per-client", self.per_client, 1.0, self.topics),
            ("--rate", self.rate, 1e-6, 1e6),
            ("--peak", self.peak, 1.0, 1e6),
            (
                "--bursts",
                self.bursts.unwrap_or(self.rate),
                self.rate,
                MOST,
            ),
            ("--bar-bytes", self.bar_bytes.unwrap_or(1.0), 1.0, 1e6),
            (
                "--message-bytes",
                self.message_bytes.unwrap_or(1.0),
                1.0,
                1e6,
            ),
            ("--growth", self.growth, -0.99, 100.0),
            ("--bar-ticks", self.bar_ticks, 1.0, 1e5),
            ("--max-rate", self.max_rate, 1e-6, 1e6),
            ("--cores", self.cores, 1.0, 1e4),
            ("--memory", self.memory, 0.1, 1e6),
            ("--egress", self.egress, 1e-3, 1e5),
            ("--max-clients", self.max_clients, 1.0, MOST),
            ("--open-files", self.open_files, 1.0, MOST),
            ("--history-bars", self.history_bars, 1.0, 1e9),
            ("--headroom", self.headroom, 0.0, 0.95),
            ("--seconds", self.seconds, 0.1, 600.0),
        ] {
            ensure!(
                (least..=most).contains(&value),
                "{flag} {value}: allowed: {least} to {most}"
            );
        }
        ensure!(
            self.per_client.fract() == 0.0,
            "--per-client {}: allowed: whole numbers",
            self.per_client
        );
        Ok(())
    }
}
