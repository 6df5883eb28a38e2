//! Replays in this process and as a command.

use std::path::PathBuf;
use std::process::Command;

use barcast::bar::Message;
use barcast::bus::{Bus, MemoryBus};
use barcast::generator::pack::Form;
use barcast::replay::{Config, ReplayError, Speed, Totals, Wanted, run};
use tokio_util::sync::CancellationToken;

use super::{Subscription, eventually};

pub fn config(files: Vec<PathBuf>, form: Form) -> Config {
    Config {
        files,
        postgres: Vec::new(),
        wanted: Wanted::default(),
        symbol: None,
        resolution: None,
        speed: Speed::Max,
        rebase: false,
        trades: None,
        form,
        max_ahead: Default::default(),
    }
}

pub async fn replayed(config: Config) -> (Result<Totals, ReplayError>, Vec<Message>) {
    let bus = MemoryBus::default();
    let subscription = Subscription::start(bus.clone()).await;
    let totals = run(config, bus.publisher(), CancellationToken::new()).await;
    let published = totals.as_ref().map_or(0, |totals| totals.published);
    let collector = &subscription.collector;
    eventually("bars", || collector.decoded().len() as u64 >= published).await;
    (totals, collector.decoded())
}

pub fn barcast(arguments: &[&str]) -> (Option<i32>, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_barcast"))
        .arg("replay")
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    (ended.status.code(), said)
}
