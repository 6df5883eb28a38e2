use clap::Args;

use super::values;
use crate::ahead::MaxAhead;

/// `--max-ahead`, the same at every door.
#[derive(Debug, Clone, Args)]
pub struct AheadArgs {
    /// Seconds that a bar may start ahead of this machine's clock, bars of D, W and M a day more; off takes
    /// any, for simulations
    #[arg(long, env = "BARCAST_MAX_AHEAD", value_name = "SECONDS", default_value = "60", value_parser = values::max_ahead)]
    pub max_ahead: MaxAhead,
}
