//! What a bar costs Redis: to take it in, and to send it to each subscriber.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use barcast::bar::CHANNEL_PATTERN;

use crate::clock::Clock;
use crate::market::Market;
use crate::process::cpu;
use crate::publisher::{Publish, Publisher};
use crate::servers::Redis;

/// Subscribers of the two measurements: their difference is what one costs.
const SUBSCRIBERS: [u32; 2] = [1, 6];
/// Ticks a second: far below what Redis can do, so that messages are pipelined as in life.
const RATE: f64 = 10.0;
/// Longest wait for the last bytes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for them.
const POLL: Duration = Duration::from_millis(20);
/// Room for one read, in bytes.
const READ_BYTES: usize = 256 << 10;

/// CPU time for a bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RedisCost {
    pub in_us: f64,
    /// For each subscriber.
    pub out_us: f64,
}

impl RedisCost {
    /// From the CPU per bar with few and with many subscribers.
    fn of(costs: [f64; 2]) -> Self {
        let [few, many] = SUBSCRIBERS.map(f64::from);
        let out_us = ((costs[1] - costs[0]) / (many - few)).max(0.0);
        Self {
            in_us: (costs[0] - few * out_us).max(0.0),
            out_us,
        }
    }
}

/// Measures it with a redis-server of its own: ticks of `topics` bars for about so many seconds.
///
/// # Errors
/// When there is no Redis.
pub fn measure(
    publish: Publish,
    topics: u32,
    seconds: f64,
    stop: impl Fn() -> Result<()>,
) -> Result<RedisCost> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "minutes at most"
    )]
    let ticks = (seconds * RATE).ceil() as u64;
    let mut costs = [0.0; 2];
    for (cost, subscribers) in costs.iter_mut().zip(SUBSCRIBERS) {
        stop()?;
        *cost = cpu_per_bar(publish, topics, ticks, subscribers)?;
    }
    Ok(RedisCost::of(costs))
}

/// µs of Redis's CPU per bar published.
fn cpu_per_bar(publish: Publish, topics: u32, ticks: u64, subscribers: u32) -> Result<f64> {
    let redis = Redis::start()?;
    let market = Arc::new(Market::new("T", topics, 10, 1)?);
    let readers = (0..subscribers)
        .map(|_| Subscriber::start(redis.port()))
        .collect::<Result<Vec<_>>>()?;
    let mut publisher = Publisher::new(&redis.url(), market, publish)?;
    let clock = Clock::start();
    let go_on = AtomicBool::new(false);
    // The first tick makes Redis's buffers.
    publisher.run(1, RATE, clock, &go_on, |_| {})?;
    wait_even(&readers)?;
    let before = cpu(&[redis.pid()])?;
    publisher.run(ticks, RATE, clock, &go_on, |_| {})?;
    wait_even(&readers)?;
    let used = cpu(&[redis.pid()])?.since(before);
    #[expect(clippy::cast_precision_loss, reason = "a figure needs no more")]
    let per_bar = used.total_ns as f64 / 1e3 / (ticks * u64::from(topics)) as f64;
    Ok(per_bar)
}

/// Waits until every subscriber has got as much, and nothing more comes.
fn wait_even(readers: &[Subscriber]) -> Result<()> {
    let start = Instant::now();
    let mut last = Vec::new();
    loop {
        let now: Vec<u64> = readers
            .iter()
            .map(|r| r.bytes.load(Ordering::Relaxed))
            .collect();
        if now == last && now.iter().all(|bytes| *bytes > 0 && *bytes == now[0]) {
            return Ok(());
        }
        last = now;
        ensure!(
            start.elapsed() < PATIENCE,
            "Redis's subscribers did not get the same"
        );
        thread::sleep(POLL);
    }
}

/// Reads and counts bytes until Redis ends.
struct Subscriber {
    bytes: Arc<AtomicU64>,
}

impl Subscriber {
    fn start(port: u16) -> Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connecting to Redis")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "PSUBSCRIBE {CHANNEL_PATTERN}\r\n")?;
        let mut buffer = vec![0; READ_BYTES];
        if stream.read(&mut buffer)? == 0 {
            bail!("Redis refused a subscriber");
        }
        let bytes = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&bytes);
        thread::spawn(move || {
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                count.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
        Ok(Self { bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_what_a_subscriber_costs() {
        // 0.7 to take it in, 0.4 for each of 1 and of 6.
        let cost = RedisCost::of([1.1, 3.1]);
        assert!((cost.in_us - 0.7).abs() < 1e-9 && (cost.out_us - 0.4).abs() < 1e-9);
        // Noise makes nothing negative.
        assert_eq!(
            RedisCost::of([1.0, 0.9]),
            RedisCost {
                in_us: 1.0,
                out_us: 0.0
            }
        );
    }

    #[test]
    fn a_real_redis_is_measured() {
        let cost = measure(Publish::Single, 100, 0.2, || Ok(())).unwrap();
        assert!(cost.in_us + cost.out_us > 0.0, "{cost:?}");
    }
}
