use clap::Args;

use super::values;
use crate::bus::RedisBus;

/// Which Redis server is the bus.
#[derive(Debug, Clone, Args)]
pub struct RedisArgs {
    /// The Redis server: redis://, rediss:// or unix: with user, password and database
    #[arg(
        long,
        env = "REDIS_URL",
        default_value = "redis://127.0.0.1:6379",
        hide_env_values = true
    )]
    redis_url: String,
}

impl RedisArgs {
    /// The bus at that address; nothing is connected yet.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed, and never holds the URL.
    pub fn bus(&self) -> Result<RedisBus, String> {
        values::redis_url(&self.redis_url)
    }
}
