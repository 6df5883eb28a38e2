//! The commands; each one's flags are in its own room. Everything is checked before anything starts.

use clap::{Parser, Subcommand};

use crate::churn::ChurnArgs;
use crate::compare::CompareArgs;
use crate::floor::FloorArgs;
use crate::html::ReportArgs;
use crate::pair::PairArgs;
use crate::plan::args::PlanArgs;
use crate::ramp::RampArgs;
use crate::run::RunArgs;

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
}
