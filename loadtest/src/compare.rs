//! `loadtest compare`: the same load on several servers [in turn](crate::turns).

use anyhow::{Error, Result, bail};
use clap::Args;

use crate::compare_report::{Absent, CompareReport, Compared, Ratios};
use crate::floor::Mode;
use crate::load::Load;
use crate::peers::Peer;
use crate::servers::Kind;
use crate::turns::{self, AllTaken, Ground, TurnArgs};

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

/// Runs the rounds, and says what came of them.
///
/// # Errors
/// When no server could be measured, or something broke off that all need; a report with losses or
/// with some servers absent is no error.
pub fn compare(args: &CompareArgs) -> Result<CompareReport> {
    let kinds = if args.servers.is_empty() {
        everything()
    } else {
        args.servers.clone()
    };
    let ground = Ground::prepare(&args.load, &args.turns, kinds.len())?;
    let (mut rigs, mut failed, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    for kind in &kinds {
        match ground.spawn(kind) {
            Ok(rig) => rigs.push(rig),
            // By default those peers take part that can.
            Err(why) if args.servers.is_empty() && matches!(kind, Kind::Peer(_)) => {
                skipped.push(absent(kind.to_string(), &why));
            }
            Err(why) => failed.push(absent(kind.to_string(), &why)),
        }
    }
    if rigs.is_empty() {
        let why: Vec<String> = failed.iter().map(Absent::to_string).collect();
        bail!("no server could be started\n{}", why.join("\n"));
    }
    let AllTaken {
        scenario,
        ended_early,
        servers,
        around,
    } = turns::take(ground, rigs)?;
    let mut taken = Vec::new();
    for (server, outcome) in servers {
        match outcome {
            Ok(figures) => taken.push(figures),
            Err(why) => failed.push(absent(server, &why)),
        }
    }
    let first = taken.first().map(|taken| taken.side.pulses.clone());
    let first = first.unwrap_or_default();
    let bars_per_second = per_second(args);
    let servers = taken.into_iter().map(|taken| Compared {
        cores_needed: taken.side.ns_per_bar.median / 1e9 * bars_per_second,
        ratios: Ratios::of(&taken.side.pulses, &first),
        user_ns_per_bar: taken.user_ns_per_bar,
        side: taken.side,
    });
    Ok(CompareReport {
        scenario,
        ended_early,
        servers: servers.collect(),
        failed,
        skipped,
        around,
    })
}

/// barcast first: the others are compared with it.
fn everything() -> Vec<Kind> {
    let mut kinds = vec![
        Kind::Barcast,
        Kind::Floor(Mode::Bare),
        Kind::Floor(Mode::Gather),
    ];
    kinds.extend(Peer::ALL.map(Kind::Peer));
    kinds
}

/// Updates that one server sends in a second of this load.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn per_second(args: &CompareArgs) -> f64 {
    args.load.per_tick() as f64 * args.load.rate
}

fn absent(server: String, why: &Error) -> Absent {
    Absent {
        server,
        why: format!("{why:#}"),
    }
}
