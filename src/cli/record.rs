use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{AheadArgs, RedisArgs, Store, values};
use crate::record::Record;
use crate::record::postgres::Address;

/// `barcast record`.
#[derive(Debug, Clone, Args)]
pub struct RecordArgs {
    /// Write to this PostgreSQL database, as postgres://user:password@host/database; with
    /// ?sslmode=require over TLS; none without it
    #[arg(long, env = "BARCAST_RECORD_POSTGRES_URL", hide_env_values = true)]
    postgres_url: Option<String>,
    /// Write Parquet files by UTC day into this folder; none without it
    #[arg(long, env = "BARCAST_RECORD_PARQUET", value_name = "DIR")]
    parquet: Option<PathBuf>,
    /// Seconds between two writes of the Parquet files
    #[arg(long, env = "BARCAST_RECORD_PARQUET_INTERVAL", default_value = "60", value_parser = values::interval)]
    parquet_interval: Duration,
    /// Folder where bars wait on disk until they are written, of this recorder alone; bars wait in
    /// memory, and there is none without it
    #[arg(long, env = "BARCAST_RECORD_SPOOL", value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Bytes that may wait there for each output; then bars are refused
    #[arg(long, env = "BARCAST_RECORD_SPOOL_BYTES", default_value = "1073741824", value_parser = values::spool_bytes)]
    spool_bytes: u64,
    #[command(flatten)]
    redis: RedisArgs,
    /// Where bars are read that were missed
    #[arg(long, env = "BARCAST_STORE", value_enum, default_value = "redis")]
    store: Store,
    #[command(flatten)]
    ahead: AheadArgs,
    /// Address for /healthz, /readyz and /metrics, as 127.0.0.1:9102; none without it
    #[arg(long, env = "BARCAST_RECORD_HEALTH_LISTEN", value_parser = values::address)]
    health_listen: Option<SocketAddr>,
}

impl RecordArgs {
    /// What to run.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed, and never holds a URL.
    pub fn validate(self) -> Result<Record, String> {
        if self.postgres_url.is_none() && self.parquet.is_none() {
            return Err("--postgres-url (BARCAST_RECORD_POSTGRES_URL) or --parquet \
                 (BARCAST_RECORD_PARQUET) is missing: one of them says where bars go"
                .to_owned());
        }
        let address = self.postgres_url.as_deref().map(Address::parse);
        let postgres = address
            .transpose()
            .map_err(|why| format!("--postgres-url (BARCAST_RECORD_POSTGRES_URL): {why}"))?;
        Ok(Record {
            bus: self.redis.bus()?,
            load: self.store == Store::Redis,
            max_ahead: self.ahead.max_ahead,
            postgres,
            parquet: self.parquet,
            parquet_interval: self.parquet_interval,
            spool: self.spool,
            spool_bytes: self.spool_bytes,
            health_listen: self.health_listen,
        })
    }
}
