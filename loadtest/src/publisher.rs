//! The producer of an experiment: publishes on schedule, whatever becomes of it (open loop).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use barcast::bar::{BATCH_CHANNEL, BatchEncoder, write_message};
use clap::ValueEnum;
use redis::io::tcp::TcpSettings;
use redis::{Client, Connection, IntoConnectionInfo};

use crate::clock::{Clock, micros};
use crate::market::Market;

/// Longest wait for Redis to take a tick.
const REDIS_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether somebody subscribed.
const POLL: Duration = Duration::from_millis(10);
/// A batch message is sent when it has grown to this many bytes; a gateway takes 16 MiB.
const BATCH_BYTES: usize = 4 << 20;

/// How a tick's bars travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Publish {
    /// One message a bar, all of a tick in one pipelined write
    Single,
    /// One message a tick on bars:@batch
    Batch,
    /// The same, compressed with zstd
    Zstd,
}

/// How a tick's bars lie in time.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Burst {
    /// All at once, as candles of many symbols change together
    #[default]
    Together,
    /// Evenly over the time until the next tick, in steps of a millisecond or more
    Spread,
}

/// Shortest time between two parts of a tick that is spread, in seconds: timers are no better.
const SHORTEST_STEP: f64 = 0.001;

impl Burst {
    /// Into how many parts a tick of `topics` bars falls.
    fn parts(self, topics: usize, rate: f64) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "steps of one tick, positive"
        )]
        match self {
            Self::Together => 1,
            Self::Spread => topics.min((1.0 / rate / SHORTEST_STEP) as usize).max(1),
        }
    }
}

/// Connects to a Redis without Nagle's delay.
///
/// # Errors
/// When the URL cannot be used or nothing answers there.
pub fn connect(url: &str) -> Result<Connection> {
    let info = url
        .into_connection_info()
        .with_context(|| format!("--redis-url {url:?}"))?;
    let client = Client::open(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))?;
    let connection = client
        .get_connection_with_timeout(REDIS_TIMEOUT)
        .context("cannot connect to Redis")?;
    connection.set_read_timeout(Some(REDIS_TIMEOUT))?;
    connection.set_write_timeout(Some(REDIS_TIMEOUT))?;
    Ok(connection)
}

/// How far behind its schedule the publisher was.
#[derive(Debug, Default, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Lateness {
    /// The worst tick's start after its planned time, µs.
    pub start_max_us: u64,
    /// The longest time from a tick's start until Redis had taken it, µs.
    pub publish_max_us: u64,
}

/// Publishes every topic of a market at every tick.
pub struct Publisher {
    connection: Connection,
    market: Arc<Market>,
    publish: Publish,
    pub burst: Burst,
    /// The last tick, which is also the last `seq` of every topic.
    seq: u64,
    channels: Vec<String>,
    text: Vec<u8>,
    batch: BatchEncoder,
    pub lateness: Lateness,
}

impl Publisher {
    /// # Errors
    /// When Redis cannot be reached.
    pub fn new(url: &str, market: Arc<Market>, publish: Publish) -> Result<Self> {
        Ok(Self {
            connection: connect(url)?,
            channels: market.topics().iter().map(ToString::to_string).collect(),
            market,
            publish,
            burst: Burst::default(),
            seq: 0,
            text: Vec::new(),
            batch: BatchEncoder::default(),
            lateness: Lateness::default(),
        })
    }

    /// Waits until somebody is subscribed to this Redis: what is published before is for nobody.
    ///
    /// # Errors
    /// When nobody is for long.
    pub fn wait_for_subscriber(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let mut ask = redis::cmd("CLIENT");
            let list: String = ask
                .arg("LIST")
                .arg("TYPE")
                .arg("pubsub")
                .query(&mut self.connection)?;
            if !list.trim().is_empty() {
                return Ok(());
            }
            ensure!(
                start.elapsed() < REDIS_TIMEOUT,
                "the server is not subscribed to Redis"
            );
            std::thread::sleep(POLL);
        }
    }

    /// The last `seq` published, of every topic.
    pub fn published(&self) -> u64 {
        self.seq
    }

    /// Publishes `ticks` ticks, `rate` a second, the first one now, and says how many it were before
    /// `stop`. A late tick is published at once and keeps its planned time. `before` is called before
    /// each tick with its number from 0.
    ///
    /// # Errors
    /// When Redis cannot be reached any more.
    pub fn run(
        &mut self,
        ticks: u64,
        rate: f64,
        clock: Clock,
        stop: &AtomicBool,
        mut before: impl FnMut(u64),
    ) -> Result<u64> {
        let start = clock.now_us();
        let parts = self.burst.parts(self.channels.len(), rate);
        for tick in 0..ticks {
            for part in 0..parts {
                #[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^53")]
                let ticks = tick as f64 + part as f64 / parts as f64;
                let planned = start + micros(Duration::from_secs_f64(ticks / rate));
                clock.sleep_until(planned);
                if part == 0 {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(tick);
                    }
                    before(tick);
                }
                let late = clock.now_us() - planned;
                let topics = self.channels.len();
                self.publish(topics * part / parts..topics * (part + 1) / parts, planned)?;
                let took = clock.now_us() - planned - late;
                self.lateness.start_max_us = self.lateness.start_max_us.max(late);
                self.lateness.publish_max_us = self.lateness.publish_max_us.max(took);
            }
            self.seq += 1;
        }
        Ok(ticks)
    }

    /// The next update of these topics, with `planned` (µs since the epoch) as its publish time.
    fn publish(&mut self, topics: Range<usize>, planned: u64) -> Result<()> {
        let seq = self.seq + 1;
        let compress = self.publish == Publish::Zstd;
        let mut pipeline = redis::pipe();
        for topic in topics {
            let channel = &self.channels[topic];
            let topic = u32::try_from(topic)?;
            let message = self.market.message(topic, seq, planned)?;
            if self.publish == Publish::Single {
                self.text.clear();
                write_message(&mut self.text, &message);
                pipeline.publish(channel, self.text.as_slice()).ignore();
                continue;
            }
            self.batch.push(&message);
            if self.batch.len() >= BATCH_BYTES {
                pipeline
                    .publish(BATCH_CHANNEL, self.batch.take(compress)?)
                    .ignore();
            }
        }
        if !self.batch.is_empty() {
            pipeline
                .publish(BATCH_CHANNEL, self.batch.take(compress)?)
                .ignore();
        }
        pipeline
            .query::<()>(&mut self.connection)
            .context("publishing to Redis")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_spread_in_steps_that_timers_can_keep() {
        assert_eq!(Burst::Together.parts(200, 2.0), 1);
        assert_eq!(Burst::Spread.parts(200, 2.0), 200);
        assert_eq!(Burst::Spread.parts(200, 10.0), 100);
        assert_eq!(Burst::Spread.parts(200, 5_000.0), 1);
    }
}
