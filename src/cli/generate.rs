use std::net::SocketAddr;

use clap::Args;

use super::{MarketArgs, RedisArgs, StoreArgs, values};
use crate::generator::Generate;
use crate::generator::pack::{Compress, Form, Publish};

/// `barcast generate`.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub market: MarketArgs,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// How bars are published
    #[arg(
        long,
        env = "BARCAST_GENERATOR_PUBLISH",
        value_enum,
        default_value = "single"
    )]
    publish: Publish,
    /// Compression of batches
    #[arg(
        long,
        env = "BARCAST_GENERATOR_COMPRESS",
        value_enum,
        default_value = "none"
    )]
    compress: Compress,
    /// Address for /healthz, /readyz and /metrics, as 127.0.0.1:9100; none without it
    #[arg(long, env = "BARCAST_GENERATOR_HEALTH_LISTEN", value_parser = values::address)]
    health_listen: Option<SocketAddr>,
}

impl GenerateArgs {
    /// What to run.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed.
    pub fn validate(self) -> Result<Generate, String> {
        let form = Form::new(self.publish, self.compress)?;
        Ok(Generate {
            config: self.market.validate(form, 0)?,
            bus: self.store.keeping(self.redis.bus()?),
            health_listen: self.health_listen,
        })
    }
}
