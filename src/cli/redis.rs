use std::path::PathBuf;

use clap::Args;

use super::values;
use crate::bus::RedisBus;
use crate::bus::redis::Settings;

/// Which Redis server is the bus, how it is reached, and what is ours in it.
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
    /// File with the password of Redis, read again at each connect; none without it
    #[arg(long, env = "BARCAST_REDIS_PASSWORD_FILE", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,
    /// PEM file of the authorities to trust with rediss:// instead of the system's, read again at each connect; none without it
    #[arg(long, env = "BARCAST_REDIS_TLS_CA", value_name = "FILE")]
    redis_tls_ca: Option<PathBuf>,
    /// PEM file of the client certificate for rediss://, read again at each connect; none without it
    #[arg(long, env = "BARCAST_REDIS_TLS_CERT", value_name = "FILE")]
    redis_tls_cert: Option<PathBuf>,
    /// PEM file of the client certificate's key, unencrypted; none without it
    #[arg(long, env = "BARCAST_REDIS_TLS_KEY", value_name = "FILE")]
    redis_tls_key: Option<PathBuf>,
    /// Prefix of the names of channels and keys, so that environments can share a Redis, as staging:; none without it
    #[arg(
        long,
        env = "BARCAST_REDIS_PREFIX",
        value_name = "PREFIX",
        default_value = "",
        hide_default_value = true
    )]
    redis_prefix: String,
}

impl RedisArgs {
    /// The bus at that address; nothing is connected yet.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed, and never holds the URL.
    pub fn bus(&self) -> Result<RedisBus, String> {
        values::redis(&Settings {
            url: self.redis_url.clone(),
            password_file: self.redis_password_file.clone(),
            tls_ca: self.redis_tls_ca.clone(),
            tls_cert: self.redis_tls_cert.clone(),
            tls_key: self.redis_tls_key.clone(),
            prefix: self.redis_prefix.clone(),
        })
    }
}
