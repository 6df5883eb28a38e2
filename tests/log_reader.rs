//! A reader of stderr that stands still costs log lines, and nothing else: no bar, no probe, no end.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{PipeReader, Read, Write, pipe};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus};
use std::thread;

use common::client::{get, metric};
use common::process::barcast;
use common::{RedisServer, eventually_blocking, free_port};

/// What a pipe of Linux takes while nobody reads.
const PIPE_BYTES: usize = 64 << 10;

/// A process whose stdout and stderr are full pipes from its first line on; killed on drop.
struct Stuck {
    child: Child,
    stderr: PipeReader,
    _stdout: PipeReader,
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stuck {
    fn start(arguments: &[&str]) -> Self {
        let (stderr, mut errors) = pipe().unwrap();
        let (stdout, mut lines) = pipe().unwrap();
        for full in [&mut errors, &mut lines] {
            full.write_all(&vec![b'\n'; PIPE_BYTES]).unwrap();
        }
        let mut command = barcast(arguments);
        let child = command.stderr(errors).stdout(lines).spawn().unwrap();
        Self {
            child,
            stderr,
            _stdout: stdout,
        }
    }

    /// Sends SIGTERM and waits for the end.
    fn ended(&mut self) -> ExitStatus {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(&id).status().unwrap().success());
        self.end()
    }

    fn end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually_blocking("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

fn until_alive(process: &mut Stuck, address: SocketAddr, what: &str) {
    eventually_blocking(&format!("{what} answers its probe"), || {
        assert!(process.child.try_wait().unwrap().is_none(), "{what} ended");
        TcpStream::connect(address).is_ok()
    });
    assert_eq!(get(address, "/healthz").status, 200, "{what}");
}

#[test]
fn no_command_waits_for_who_reads_its_log() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let market = [
        "--symbols",
        "AAPL",
        "--resolutions",
        "1",
        "--interval",
        "0.05",
    ];
    let redis_url = redis.url();
    let from_redis = ["--redis-url", redis_url.as_str()];
    let commands: [(&[&str], &str, Vec<&str>); 5] = [
        (&["serve"], "--listen", from_redis.to_vec()),
        (&["dev"], "--listen", market.to_vec()),
        (
            &["generate"],
            "--health-listen",
            [&from_redis[..], &market].concat(),
        ),
        (
            &["ingest", "--channel", "trades"],
            "--health-listen",
            from_redis.to_vec(),
        ),
        (
            &["record", "--parquet", folder],
            "--health-listen",
            from_redis.to_vec(),
        ),
    ];
    for (command, listen, more) in commands {
        for level in ["info", "trace"] {
            let address = format!("127.0.0.1:{}", free_port());
            let own = [listen, &address, "--log-level", level];
            let mut process = Stuck::start(&[command, &own[..], &more].concat());
            let what = format!("{} at {level}", command[0]);
            until_alive(&mut process, address.parse().unwrap(), &what);
            assert!(process.ended().success(), "{what}");
        }
    }
}

#[test]
fn a_replay_ends_though_nobody_reads_its_log() {
    let redis = RedisServer::start();
    let rows = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/GOOG_D.csv");
    let url = redis.url();
    for level in ["info", "trace"] {
        let own = ["replay", rows, "--speed", "max", "--log-level", level];
        let arguments = [own.as_slice(), &["--redis-url", &url]].concat();
        assert!(Stuck::start(&arguments).end().success(), "{level}");
    }
}

#[test]
fn wrong_settings_end_the_process_though_nobody_reads_why() {
    let mut process = Stuck::start(&["serve", "--workers", "none"]);
    assert_eq!(process.end().code(), Some(2));
}

#[test]
fn dropped_lines_are_counted_and_told_once_the_reader_takes_again() {
    let port = free_port();
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let listen = address.to_string();
    let symbols = (0..50).map(|n| format!("S{n}")).collect::<Vec<_>>();
    let symbols = symbols.join(",");
    let own = ["dev", "--listen", &listen, "--log-level", "trace"];
    let market = ["--symbols", &symbols, "--interval", "0.02"];
    let mut process = Stuck::start(&[own.as_slice(), &market].concat());
    until_alive(&mut process, address, "dev");
    eventually_blocking("lines are dropped", || {
        metric(address, "barcast_log_lines_dropped_total") > 0
    });
    let mut stderr = process.stderr.try_clone().unwrap();
    let read = thread::spawn(move || {
        let mut log = String::new();
        let mut buffer = [0; 4096];
        while let Ok(bytes @ 1..) = stderr.read(&mut buffer) {
            log.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
            if let Some((_, told)) = log.split_once("log lines dropped")
                && let Some((told, _)) = told.split_once('\n')
            {
                return told.to_owned();
            }
        }
        log
    });
    eventually_blocking("it is told", || read.is_finished());
    let told = read.join().unwrap();
    let (_, number) = told.split_once("lines=").expect(&told);
    let number = number.split(' ').next().unwrap();
    assert!(number.parse::<u64>().unwrap() > 0, "{told}");
    // Its reader is there, and takes nothing again.
    assert!(process.ended().success());
}
