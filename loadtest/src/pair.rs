//! `loadtest pair`: what one server costs in terms of another, both measured [in turn](crate::turns).
//! The median of a dozen ratios is told.

use anyhow::Result;
use clap::Args;

use crate::load::Load;
use crate::pair_report::{PairReport, Side};
use crate::servers::Kind;
use crate::turns::{self, Ground, TurnArgs};

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

/// Runs the pulses, and says what came of them.
///
/// # Errors
/// When something could not be started or broke off; a report with losses is no error.
pub fn pair(args: &PairArgs) -> Result<PairReport> {
    let ground = Ground::prepare(&args.load, &args.turns, 2)?;
    let rigs = vec![ground.spawn(&args.a)?, ground.spawn(&args.b)?];
    let all = turns::take(ground, rigs)?;
    let sides = all.servers.into_iter().map(|(_, taken)| Ok(taken?.side));
    let sides: Vec<Side> = sides.collect::<Result<_>>()?;
    PairReport::of(all.scenario, all.ended_early, all.around, sides)
}
