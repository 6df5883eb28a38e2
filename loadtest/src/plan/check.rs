//! A plan is worth something when a load that this machine can carry costs what was planned.

use anyhow::{Context, Result, ensure};

use super::args::PlanArgs;
use super::calibrate::Load;
use super::costs::Evidence;
use super::model::{Book, Plan};
use super::report::{Check, Compared};
use crate::figures::{Spread, per};
use crate::servers::Kind;

/// Largest difference between plan and run. Between two runs of the same load on a shared machine lie
/// up to 20 % already.
pub const TOLERANCE: f64 = 0.25;

/// The very load of the plan, at its usual rate.
///
/// # Errors
/// When `loadtest run` cannot run it.
pub fn load(args: &PlanArgs) -> Result<Load> {
    let whole = |flag: &str, value: f64| -> Result<u64> {
        ensure!(
            value.fract() == 0.0 && value < 1e9,
            "--check with {flag} {value}: allowed: whole numbers"
        );
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "just checked"
        )]
        let whole = value as u64;
        Ok(whole)
    };
    Ok(Load {
        clients: whole("--users", args.users)?,
        topics: whole("--topics", args.topics)?,
        per_client: whole("--per-client", args.per_client)?,
        rate: args.rate,
        publish: args.publish,
        bar_ticks: Some(whole("--bar-ticks", args.bar_ticks)?),
        max_rate: None,
    })
}

/// The same load of clients that ask for `--max-rate`, where that is less than all and the server knows
/// of it.
pub fn load_with_max_rate(args: &PlanArgs, load: Load) -> Option<Load> {
    let knows = matches!(args.server, Kind::Barcast | Kind::Custom(_));
    (knows && args.max_rate < args.rate).then_some(Load {
        max_rate: Some(args.max_rate),
        ..load
    })
}

/// Compares runs of one load with what the costs make of it: one gateway, today, no peak, nothing kept free.
///
/// # Errors
/// When the load cannot be planned, or there is no run.
pub fn compare(costs: &Book, runs: &[Evidence]) -> Result<Check> {
    let first = runs.first().context("nothing was run")?;
    let plan = Plan::of(&as_run(costs, first))?;
    let median = |of: &dyn Fn(&Evidence) -> f64| Spread::of(runs.iter().map(of)).median;
    let mut compared = Vec::new();
    let mut row = |name: &str, unit: &str, planned: f64, measured: f64| {
        compared.push(Compared {
            name: name.to_owned(),
            unit: unit.to_owned(),
            planned,
            measured,
            difference: planned / measured - 1.0,
        });
    };
    row(
        "gateway CPU",
        "cores",
        plan.get("busy_cores"),
        median(&Evidence::cores),
    );
    row(
        "sent to clients",
        "MB/s",
        plan.get("client_mb_s"),
        median(&sent),
    );
    let memory = plan.get("memory_all") * 1_024.0;
    let resident = median(&|run| run.resident().unwrap_or(f64::NAN) / 1_048_576.0);
    if resident.is_finite() {
        row("gateway memory", "MiB", memory, resident);
    }
    let agrees = compared.iter().all(|row| row.difference.abs() <= TOLERANCE);
    Ok(Check {
        load: first.report.scenario.line(),
        command: first.from.clone(),
        compared,
        tolerance: TOLERANCE,
        agrees,
    })
}

/// WebSocket bytes that the clients got, in MB/s.
#[expect(clippy::cast_precision_loss, reason = "a figure needs no more")]
fn sent(run: &Evidence) -> f64 {
    let report = &run.report;
    report.counts.delivered as f64 * report.bytes_per_bar / run.seconds() / 1e6
}

/// The inputs of a run: its load, on one gateway that nothing is kept free of. The kernel's memory is
/// not the gateway's, and history has only what closed during the run.
fn as_run(costs: &Book, run: &Evidence) -> Book {
    const WHY: &str = "--check: as it was run";
    let scenario = &run.report.scenario;
    let ticks = scenario.warmup_ticks + scenario.measured_ticks;
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let closed = (ticks / scenario.bar_ticks.max(1)) as f64;
    [
        ("users", f64::from(scenario.clients)),
        ("topics", f64::from(scenario.topics)),
        ("per_client", f64::from(scenario.per_client)),
        ("rate", scenario.rate),
        ("bursts", scenario.rate),
        ("bar_ticks", per(scenario.bar_ticks, 1)),
        ("max_rate", scenario.max_rate.unwrap_or(scenario.rate)),
        ("peak", 1.0),
        ("year", 0.0),
        ("headroom", 0.0),
        ("failures", 0.0),
        ("kernel_kib", 0.0),
        ("write_copies", 0.0),
        ("history_bars", closed),
        // One gateway, whatever it takes.
        ("cores", 1e3),
        ("memory_gib", 1e3),
        ("egress_gbit", 1e3),
        ("max_clients", 1e9),
        ("open_files", 1e9),
    ]
    .into_iter()
    .fold(costs.clone(), |book, (name, value)| {
        book.with(name, value, WHY)
    })
}
