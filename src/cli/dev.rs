use clap::Args;

use super::GatewayArgs;

/// `barcast` and `barcast dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    #[command(flatten)]
    pub gateway: GatewayArgs,
}
