//! The producer of an experiment: publishes on schedule, whatever becomes of it (open loop).

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
        for tick in 0..ticks {
            #[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^53")]
            let offset = Duration::from_secs_f64(tick as f64 / rate);
            let planned = start + micros(offset);
            clock.sleep_until(planned);
            if stop.load(Ordering::Relaxed) {
                return Ok(tick);
            }
            before(tick);
            let late = clock.now_us() - planned;
            self.tick(planned)?;
            let took = clock.now_us() - planned - late;
            self.lateness.start_max_us = self.lateness.start_max_us.max(late);
            self.lateness.publish_max_us = self.lateness.publish_max_us.max(took);
        }
        Ok(ticks)
    }

    /// One update of every topic, with `planned` (µs since the epoch) as its publish time.
    fn tick(&mut self, planned: u64) -> Result<()> {
        let seq = self.seq + 1;
        let mut pipeline = redis::pipe();
        for (topic, channel) in (0_u32..).zip(&self.channels) {
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
                    .publish(BATCH_CHANNEL, self.batch.take(false)?)
                    .ignore();
            }
        }
        if !self.batch.is_empty() {
            pipeline
                .publish(BATCH_CHANNEL, self.batch.take(false)?)
                .ignore();
        }
        pipeline
            .query::<()>(&mut self.connection)
            .context("publishing to Redis")?;
        self.seq = seq;
        Ok(())
    }
}
