//! Short runs on the spot, each a `loadtest run` of its own: what they measured can be repeated by the
//! command that the plan names.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};

use super::args::PlanArgs;
use super::costs::Evidence;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::publisher::Publish;
use crate::rig::stop_on_signal;

/// A load as `loadtest run` takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    pub clients: u64,
    pub topics: u64,
    pub per_client: u64,
    pub rate: f64,
    pub publish: Publish,
    /// Updates that make a bar; without, as many as `loadtest run` has by default.
    pub bar_ticks: Option<u64>,
    /// What clients ask for.
    pub max_rate: Option<f64>,
}

/// Turns that a run with `max_rate` has at least: fewer would measure its ends.
const TURNS: f64 = 6.0;

/// The loads that tell the costs apart: many clients and one bar a write; a few bars a write; many;
/// almost nobody watching, as single messages and as batches. Together they are light: a machine that is busy
/// with something else shows that first.
pub fn loads(clients: u32) -> [Load; 5] {
    let clients = u64::from(clients);
    let load = |clients, topics, per_client, rate, publish| Load {
        clients,
        topics,
        per_client,
        rate,
        publish,
        bar_ticks: None,
        max_rate: None,
    };
    [
        load(clients, 1, 1, 5.0, Publish::Single),
        load(clients / 2, 20, 5, 5.0, Publish::Single),
        load(clients / 4, 200, 50, 5.0, Publish::Single),
        load(1, clients, 1, 5.0, Publish::Single),
        load(1, clients, 1, 5.0, Publish::Batch),
    ]
}

/// Runs loads one after the other.
pub struct Runner<'a> {
    args: &'a PlanArgs,
    folder: tempfile::TempDir,
    runs: usize,
    stop: Arc<AtomicBool>,
    pub progress: Progress,
}

impl<'a> Runner<'a> {
    /// # Errors
    /// When there is no place for the reports, or a handler of Ctrl-C already.
    pub fn start(args: &'a PlanArgs) -> Result<Self> {
        Ok(Self {
            args,
            folder: tempfile::tempdir()?,
            runs: 0,
            stop: stop_on_signal()?,
            progress: Progress::start(),
        })
    }

    /// Whether the user wants it to end.
    ///
    /// # Errors
    /// When so.
    pub fn go_on(&self) -> Result<()> {
        ensure!(
            !self.stop.load(Ordering::Relaxed),
            "ended early: there is no plan without all runs"
        );
        Ok(())
    }

    /// Runs a load.
    ///
    /// # Errors
    /// When it cannot be run, loses an update or is broken off.
    pub fn run(&mut self, load: Load) -> Result<Evidence> {
        self.go_on()?;
        self.runs += 1;
        let json = self.folder.path().join(format!("{}.json", self.runs));
        let words = self.words(load);
        self.progress
            .phase(&format!("run {}: {}", self.runs, words.join(" ")));
        // Its own process: what one run did to memory and caches is not in the next.
        let mut command = Command::new(std::env::current_exe()?);
        let output = command
            .args(&words)
            .arg("--json")
            .arg(&json)
            .stdin(Stdio::null())
            .output()
            .context("starting loadtest run")?;
        self.go_on()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let why = said.lines().last().unwrap_or_default();
        ensure!(
            output.status.success(),
            "loadtest {}: {} {why}",
            words.join(" "),
            output.status
        );
        read(&json, &words)
    }

    /// `run --spawn …`
    fn words(&self, load: Load) -> Vec<String> {
        let args = self.args;
        let mut words: Vec<String> = vec!["run".into(), "--spawn".into()];
        let mut flag = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        flag("clients", load.clients.to_string());
        flag("topics", load.topics.to_string());
        flag("per-client", load.per_client.to_string());
        flag("rate", load.rate.to_string());
        flag("shape", "uniform".to_owned());
        flag("publish", format!("{:?}", load.publish).to_lowercase());
        let turns = load.max_rate.map_or(0.0, |rate| TURNS / rate);
        flag("duration", args.seconds.max(turns).to_string());
        flag("warmup", WARMUP_SECONDS.to_string());
        flag("server", args.server.to_string());
        let path = |path: &PathBuf| path.display().to_string();
        for (name, value) in [
            ("barcast", args.barcast.as_ref().map(path)),
            ("bar-ticks", load.bar_ticks.map(|n| n.to_string())),
            ("max-rate", load.max_rate.map(|rate| rate.to_string())),
            ("workers", args.workers.map(|n| n.to_string())),
            (
                "server-cpu",
                args.server_cpu.as_ref().map(ToString::to_string),
            ),
            (
                "swarm-cpu",
                args.swarm_cpu.as_ref().map(ToString::to_string),
            ),
        ] {
            if let Some(value) = value {
                flag(name, value);
            }
        }
        words
    }
}

/// Seconds before each run that are not measured: caches and allocator have met the load by then.
const WARMUP_SECONDS: f64 = 1.0;

fn read(json: &Path, words: &[String]) -> Result<Evidence> {
    let Outcome::Run(report) = Outcome::read(json)? else {
        bail!("loadtest run wrote something else");
    };
    Evidence::of(format!("loadtest {}", words.join(" ")), report)
}

#[cfg(test)]
mod tests {
    use super::super::fit::{Row, fit};
    use super::*;

    #[test]
    fn the_loads_tell_all_costs_apart() {
        let costs = [8.5, 0.06, 1.8, 0.6];
        for clients in [20, 4_000] {
            let rows = loads(clients).map(|load| {
                #[expect(clippy::cast_precision_loss, reason = "small")]
                let [clients, topics, each] =
                    [load.clients, load.topics, load.per_client].map(|n| n as f64);
                let batch = f64::from(u8::from(load.publish == Publish::Batch));
                let mut row = Row {
                    load: vec![
                        clients * load.rate,
                        clients * each * load.rate,
                        topics * load.rate * (1.0 - batch),
                        topics * load.rate * batch,
                    ],
                    measured: 0.0,
                };
                row.measured = row.cost(&costs);
                row
            });
            let fitted = fit(&rows).expect("they differ");
            for (found, cost) in fitted.iter().zip(costs) {
                assert!((found.unwrap() / cost - 1.0).abs() < 1e-3, "{fitted:?}");
            }
        }
    }
}
