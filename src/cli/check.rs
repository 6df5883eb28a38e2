use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::{AddressArgs, RedisArgs, values};
use crate::check::Config;

/// `barcast check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    address: AddressArgs,
    #[command(flatten)]
    redis: RedisArgs,
    /// Publish nothing: wait for the next bar of a producer instead [default: off]
    #[arg(long, env = "BARCAST_CHECK_NO_PUBLISH", value_parser = BoolishValueParser::new())]
    no_publish: bool,
    /// Seconds that each step may take
    #[arg(long, env = "BARCAST_CHECK_TIMEOUT", default_value = "5", value_parser = values::seconds)]
    timeout: Duration,
    /// One JSON object instead of lines for people [default: off]
    #[arg(long, env = "BARCAST_CHECK_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

/// How a check is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Json,
    Lines { colours: bool },
}

impl CheckArgs {
    /// What to check, and how to tell it.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed.
    pub fn validate(self) -> Result<(Config, Told), String> {
        let told = if self.json {
            Told::Json
        } else {
            let colours = values::colours(&console::Term::stdout());
            Told::Lines { colours }
        };
        let config = Config {
            address: self.address.address()?,
            bus: self.redis.bus()?,
            publish: !self.no_publish,
            limit: self.timeout,
        };
        Ok((config, told))
    }
}
