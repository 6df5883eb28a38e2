use clap::Args;

/// Settings of a gateway, wherever its bars come from.
#[derive(Debug, Clone, Args)]
pub struct GatewayArgs {}

/// `barcast serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// Where the bars come from: redis://, rediss:// or unix: with user, password and database
    #[arg(
        long,
        env = "REDIS_URL",
        default_value = "redis://127.0.0.1:6379",
        hide_env_values = true
    )]
    pub redis_url: String,
}
