//! What this process uses of its machine, read from `/proc` at a scrape (proc(5)), under the names that
//! every Prometheus client uses.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::output;

/// Ticks of a second in `/proc/self/stat`: USER_HZ is 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes of a kilobyte in `/proc/self/status`.
const KILOBYTE: u64 = 1_024;

/// What is read. Absent is what the system does not tell: all of it where there is no `/proc`.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Process {
    /// On a processor, in user space and in the kernel, in seconds.
    pub cpu_seconds: Option<f64>,
    /// In RAM, in bytes.
    pub resident_bytes: Option<u64>,
    /// When it started, in seconds since the epoch.
    pub start_seconds: Option<f64>,
    /// Files and sockets that are open.
    pub open_files: Option<u64>,
    /// As many of them may be open.
    pub max_files: Option<u64>,
}

impl Process {
    /// As it is now.
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let limits = rlimit::getrlimit(rlimit::Resource::NOFILE);
        Self {
            cpu_seconds: ticks(&stat, 14).zip(ticks(&stat, 15)).map(|(u, s)| u + s),
            resident_bytes: after(&status, "VmRSS:").map(|kilobytes| kilobytes * KILOBYTE),
            #[expect(
                clippy::cast_precision_loss,
                reason = "seconds since the epoch are small"
            )]
            start_seconds: after(&boot, "btime")
                .zip(ticks(&stat, 22))
                .map(|(boot, since)| boot as f64 + since),
            open_files: open_files(),
            max_files: limits.ok().map(|(soft, _)| soft),
        }
    }
}

/// A time in `/proc/PID/stat`, by its number in proc(5), in seconds.
fn ticks(stat: &str, number: usize) -> Option<f64> {
    // The name, which is the second field, may hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: f64 = fields.split_whitespace().nth(number - 3)?.parse().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

/// The number behind a word at the start of a line.
fn after(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_files() -> Option<u64> {
    // Linux tells the count as the size of the folder since 6.2. Before, it must be counted, which takes a
    // third of a millisecond for each 1,000 clients.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok(),
        count => Some(count),
    }
}

/// The figures of this process and which barcast it is.
#[derive(Debug)]
pub struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let process = Process::read();
        let mut show = |name, help, metric: &dyn EncodeMetric| {
            let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(encoder)
        };
        if let Some(seconds) = process.cpu_seconds {
            let help = "Seconds on a processor, in user space and in the kernel.";
            show("process_cpu_seconds", help, &ConstCounter::new(seconds))?;
        }
        if let Some(seconds) = process.start_seconds {
            let help = "When the process started, in seconds since the epoch.";
            show(
                "process_start_time_seconds",
                help,
                &ConstGauge::new(seconds),
            )?;
        }
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory in RAM, in bytes.",
                process.resident_bytes,
            ),
            (
                "process_open_fds",
                "Files and sockets that are open.",
                process.open_files,
            ),
            (
                "process_max_fds",
                "Files and sockets that may be open.",
                process.max_files,
            ),
        ] {
            if let Some(value) = value {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                show(name, help, &ConstGauge::new(value))?;
            }
        }
        show(
            "barcast_log_lines_dropped",
            "Log lines dropped because the reader of stderr took none.",
            &ConstCounter::new(output::STDERR.dropped()),
        )?;
        let gauge = ConstGauge::new(1_i64);
        let mut family = encoder.encode_descriptor(
            "barcast_build_info",
            "Which barcast this is; always 1.",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(family.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_whatever_the_name_of_the_process() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 12345 20";
        assert_eq!(ticks(stat, 14), Some(1.5));
        assert_eq!(ticks(stat, 15), Some(0.5));
        assert_eq!(ticks(stat, 22), Some(123.45));
        assert_eq!(ticks("", 14), None);
        let status = "VmSize:\t  99 kB\nVmRSS:\t  12 kB\n";
        assert_eq!(after(status, "VmRSS:"), Some(12));
        assert_eq!(after(status, "VmSwap:"), None);
    }
}
