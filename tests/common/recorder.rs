//! `barcast record` as a process, and what it should have written.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client::get;
use super::gateway::{Candle, candle};
use super::postgres::{PostgresServer, Row};
use super::process::Process;
use super::{DEADLINE, RedisServer, eventually_blocking};

/// `barcast record` as a process.
pub struct Recorder {
    pub process: Process,
    pub address: SocketAddr,
}

impl Recorder {
    /// Listens to the bus when this returns.
    pub fn start(redis: &RedisServer, arguments: &[&str]) -> Self {
        let url = redis.url();
        let mut all = vec!["record", "--redis-url", &url];
        all.extend(["--health-listen", "127.0.0.1:0"]);
        all.extend(arguments);
        let mut process = Process::start(&all);
        let mut address = None;
        eventually_blocking("the recorder tells its address", || {
            assert!(process.is_running(), "it ended");
            let log = process.log();
            let line = log.lines().find(|line| line.contains("health and metrics"));
            let told = line.and_then(|line| line.split("address=").nth(1)?.split(' ').next());
            address = told.and_then(|told| told.trim().parse().ok());
            address.is_some()
        });
        let recorder = Self {
            process,
            address: address.unwrap(),
        };
        recorder.until("barcast_bus_connected", 1);
        recorder
    }

    pub fn metric(&self, name: &str) -> u64 {
        let text = get(self.address, "/metrics").body;
        let line = text.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.strip_prefix(' ')
        });
        let value: f64 = line
            .unwrap_or_else(|| panic!("{name}: {text}"))
            .parse()
            .unwrap();
        value as u64
    }

    pub fn until(&self, name: &str, least: u64) {
        eventually_blocking(name, || self.metric(name) >= least);
    }

    /// Ends it in good order.
    pub fn end(mut self) -> Option<i32> {
        self.process.terminate();
        self.process.exit_code()
    }
}

/// A metric of the lane to PostgreSQL.
pub fn postgres(name: &str) -> String {
    format!("{name}{{output=\"postgres\"}}")
}

pub fn row(bar: &Candle) -> Row {
    let price = bar.price as f64;
    let numbers = [price, price, price, price, 1.0];
    let (symbol, resolution) = (bar.symbol.to_owned(), bar.resolution.to_owned());
    (symbol, resolution, bar.time, numbers)
}

pub fn closed(symbol: &'static str, minutes: std::ops::Range<i64>) -> Vec<Candle> {
    minutes
        .map(|m| candle(symbol, m, 10 + m.unsigned_abs()).closed())
        .collect()
}

pub fn until_rows(database: &PostgresServer, expected: &[Candle]) {
    let expected: Vec<_> = expected.iter().map(row).collect();
    let mut rows = Vec::new();
    eventually_blocking("the bars are in the database", || {
        rows = database.rows();
        rows.len() >= expected.len() && rows == expected
    });
}

/// Waits as long as rows come.
pub fn until_count(database: &PostgresServer, rows: usize) {
    while_it_grows(rows, || database.count());
}

/// Waits until there are so many, as long as there are more and more.
pub fn while_it_grows(wanted: usize, count: impl Fn() -> usize) {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let count = count();
        if count >= wanted {
            return;
        }
        if count > last {
            (last, since) = (count, Instant::now());
        }
        assert!(since.elapsed() < 2 * DEADLINE, "{count} of {wanted}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
