use clap::Args;

use super::{GatewayArgs, MarketArgs};
use crate::gateway;
use crate::generator;
use crate::generator::pack::Form;

/// Closed bars of every topic that `dev` starts with: a chart's width.
const BACKFILL: usize = 300;

/// `barcast` and `barcast dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    market: MarketArgs,
}

impl DevArgs {
    /// What to run.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed.
    pub fn validate(self) -> Result<(gateway::Config, generator::Config), String> {
        let market = self.market.validate(Form::default(), BACKFILL)?;
        Ok((self.gateway.config()?, market))
    }
}
