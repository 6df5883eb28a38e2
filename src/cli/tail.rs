use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use console::Term;

use super::{AddressArgs, values};
use crate::bar::Pattern;
use crate::client::follow;
use crate::tail::table::MAX_SPARK_BARS;
use crate::tail::{Config, Shape};

/// `barcast tail`.
#[derive(Debug, Clone, Args)]
pub struct TailArgs {
    /// Topics, as bars:AAPL:1 or AAPL:1 or AAPL (one minute); * may stand for the symbol or the resolution
    #[arg(required = true, value_name = "TOPIC", value_parser = values::pattern)]
    topics: Vec<Pattern>,
    #[command(flatten)]
    address: AddressArgs,
    /// Newest bars of each topic to begin with [default: 0; on a terminal: 30]
    #[arg(long, env = "BARCAST_TAIL_HISTORY", value_parser = values::whole::<usize>)]
    history: Option<usize>,
    /// End after so many bars, those of the history counted; none without it
    #[arg(long, env = "BARCAST_TAIL_COUNT", value_parser = values::count)]
    count: Option<u64>,
    /// Updates per second and topic at most, closed bars not counted; none without it
    #[arg(long, env = "BARCAST_TAIL_MAX_RATE", value_parser = values::rate)]
    max_rate: Option<f64>,
    /// Seconds that the first connection may take, and each later attempt (8 s at most)
    #[arg(long, env = "BARCAST_TAIL_CONNECT_TIMEOUT", default_value = "8", value_parser = values::seconds)]
    connect_timeout: Duration,
    /// JSON lines on a terminal, too [default: off]
    #[arg(long, env = "BARCAST_TAIL_NDJSON", value_parser = BoolishValueParser::new())]
    ndjson: bool,
}

impl TailArgs {
    /// What to run.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed.
    pub fn validate(self) -> Result<Config, String> {
        let shape = self.shape();
        let history = match shape {
            Shape::Lines => 0,
            Shape::Table { .. } => MAX_SPARK_BARS,
        };
        Ok(Config {
            follow: follow::Config {
                address: self.address.address()?,
                patterns: self.topics,
                history: self.history.unwrap_or(history),
                history_is_optional: self.history.is_none(),
                max_rate: self.max_rate,
                connect_timeout: self.connect_timeout,
            },
            count: self.count,
            shape,
        })
    }

    /// A table where one can be drawn.
    fn shape(&self) -> Shape {
        let can_move = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        if self.ndjson || !std::io::stdout().is_terminal() || !can_move {
            return Shape::Lines;
        }
        Shape::Table {
            colours: values::colours(&Term::stdout()),
        }
    }
}
