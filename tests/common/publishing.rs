//! The commands that publish, as processes, and what a subscriber and the store have of them.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::client::get;
use super::gateway::{MINUTE, START};
use super::process::{Process, barcast};
use super::{RedisServer, eventually_blocking, free_port};

/// Bars of an ingest or a replay, of which all but the last are closed.
pub const BARS: i64 = 16;
/// Between two bars.
pub const PACE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Generate,
    Ingest,
    Replay,
}

pub const KINDS: [Kind; 3] = [Kind::Generate, Kind::Ingest, Kind::Replay];

/// A command that publishes `bars:A:1`, or `bars:A:1S` of a generator.
pub struct Publishing {
    kind: Kind,
    pub process: Process,
    health: Option<SocketAddr>,
    _folder: tempfile::TempDir,
}

pub fn row(minute: i64) -> String {
    let time = START + minute * MINUTE;
    format!(
        "{{\"symbol\":\"A\",\"time\":{time},\"open\":1,\"high\":2,\"low\":1,\"close\":1.5,\"volume\":{minute}}}\n"
    )
}

impl Publishing {
    pub fn start(kind: Kind, url: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = address.to_string();
        let health = (kind != Kind::Replay).then_some(address);
        let file = folder.path().join("A_1.csv");
        let fifo = folder.path().join("rows");
        let (file_name, fifo_name) = (file.display().to_string(), fifo.display().to_string());
        let mut arguments = match kind {
            Kind::Generate => vec!["generate", "--symbols", "A", "--resolutions", "1S"],
            Kind::Ingest => vec![
                "ingest",
                &fifo_name,
                "--input",
                "bars",
                "--resolutions",
                "1",
            ],
            Kind::Replay => vec!["replay", &file_name, "--speed", "240x"],
        };
        match kind {
            Kind::Generate if !more.contains(&"--interval") => {
                arguments.extend(["--interval", "0.25"]);
            }
            Kind::Generate => {}
            Kind::Ingest => {
                let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
                assert!(made.success());
                // Both ways, so that opening waits for nobody and nobody sees its end.
                let mut rows = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&fifo)
                    .unwrap();
                thread::spawn(move || {
                    for minute in 0..=BARS {
                        rows.write_all(row(minute).as_bytes()).unwrap();
                        thread::sleep(PACE);
                    }
                    thread::sleep(super::DEADLINE * 2);
                });
            }
            Kind::Replay => {
                let mut text = "time,open,high,low,close,volume\n".to_owned();
                for minute in 0..BARS {
                    let time = (START + minute * MINUTE) / 1_000;
                    text.push_str(&format!("{time},1,2,1,1.5,{minute}\n"));
                }
                std::fs::write(&file, text).unwrap();
            }
        }
        arguments.extend(["--redis-url", url]);
        if health.is_some() {
            arguments.extend(["--health-listen", &listen]);
        }
        arguments.extend(more);
        Self {
            kind,
            process: Process::spawn(barcast(&arguments)),
            health,
            _folder: folder,
        }
    }

    pub fn topic(&self) -> &'static str {
        match self.kind {
            Kind::Generate => "bars:A:1S",
            _ => "bars:A:1",
        }
    }

    /// Waits until `/readyz` answers so, and returns why.
    pub fn until_ready(&self, is_ready: bool) -> String {
        let Some(address) = self.health else {
            return String::new();
        };
        let expected = if is_ready { 200 } else { 503 };
        let mut body = String::new();
        eventually_blocking(&format!("/readyz answers {expected}"), || {
            if TcpStream::connect(address).is_err() {
                return false;
            }
            let answer = get(address, "/readyz");
            body = answer.body;
            answer.status == expected
        });
        let alive = get(address, "/healthz");
        assert_eq!(alive.status, 200);
        body
    }

    pub fn is_ready(&self) -> bool {
        get(self.health.unwrap(), "/readyz").status == 200
    }

    pub fn metric(&self, name: &str) -> f64 {
        let text = get(self.health.unwrap(), "/metrics").body;
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Waits until it has published what it was to, and ends it.
    pub fn finish(&mut self, heard: &Heard) {
        match self.kind {
            Kind::Generate => {
                let enough = heard.closed().len() + 2;
                eventually_blocking("bars go on", || heard.closed().len() >= enough);
                self.process.terminate();
            }
            Kind::Ingest => {
                let last = START + BARS * MINUTE;
                eventually_blocking("the last bar", || heard.times().contains(&last));
                self.until_ready(true);
                self.process.terminate();
            }
            Kind::Replay => {}
        }
        assert_eq!(self.process.exit_code(), Some(0), "{:?}", self.kind);
    }

    /// What must be there in the end: all that were ever heard of, without a hole.
    pub fn expected(&self, found: &BTreeSet<i64>) -> BTreeSet<i64> {
        match self.kind {
            Kind::Generate => {
                let (first, last) = (*found.first().unwrap(), *found.last().unwrap());
                (0..=(last - first) / 1_000)
                    .map(|n| first + n * 1_000)
                    .collect()
            }
            _ => (0..BARS).map(|minute| START + minute * MINUTE).collect(),
        }
    }
}

/// All that a subscriber hears, who never leaves by himself and knows nothing of what is tested.
#[derive(Clone)]
pub struct Heard(Arc<Mutex<String>>);

impl Heard {
    pub fn at(port: u16) -> Self {
        let heard = Self(Arc::default());
        let (sender, text) = std::sync::mpsc::channel();
        let kept = heard.clone();
        thread::spawn(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"PSUBSCRIBE bars:*\r\n").unwrap();
            let mut buffer = [0; 65_536];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                kept.0
                    .lock()
                    .unwrap()
                    .push_str(std::str::from_utf8(&buffer[..read]).unwrap());
                let _ = sender.send(());
            }
        });
        text.recv_timeout(super::DEADLINE).unwrap();
        heard
    }

    pub fn messages(&self) -> Vec<Value> {
        let text = self.0.lock().unwrap();
        let lines = text.split("\r\n").filter(|line| line.starts_with('{'));
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    pub fn seqs(&self) -> BTreeSet<u64> {
        let messages = self.messages();
        let seqs = messages.iter().map(|message| message["seq"].as_u64());
        seqs.map(Option::unwrap).collect()
    }

    pub fn times(&self) -> BTreeSet<i64> {
        let messages = self.messages();
        messages
            .iter()
            .map(|message| message["bar"]["time"].as_i64().unwrap())
            .collect()
    }

    pub fn closed(&self) -> BTreeSet<i64> {
        let messages = self.messages();
        let closed = messages
            .iter()
            .filter(|message| message["bar"]["closed"] == true);
        closed
            .map(|message| message["bar"]["time"].as_i64().unwrap())
            .collect()
    }
}

/// Times of the closed bars that are stored of a topic, each of which must be there once.
pub fn stored(server: &RedisServer, topic: &str) -> BTreeSet<i64> {
    let answer = server.command(&format!("ZRANGE barcast:history:{topic} 0 -1"));
    let lines = answer.lines().filter(|line| line.starts_with('{'));
    let times: Vec<_> = lines
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["bar"]["time"]
                .as_i64()
                .unwrap()
        })
        .collect();
    let set: BTreeSet<_> = times.iter().copied().collect();
    assert_eq!(set.len(), times.len(), "{times:?}");
    set
}
