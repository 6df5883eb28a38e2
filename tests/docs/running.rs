//! What running processes expose is what the documents list: metrics, routes and close codes.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use barcast::gateway::ws::CloseCode;

use crate::pages::{read, rows_below, words};
use crate::settings::barcast;

/// After this something that should happen has not.
const DEADLINE: Duration = Duration::from_secs(30);
/// Nobody listens there: no server may have this port. What is asked here needs no Redis.
const NO_REDIS: &str = "redis://127.0.0.1:1";

/// A process of ours, ended on drop.
pub struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts `barcast` and waits until its log tells an address.
    fn start(arguments: &[&str]) -> Self {
        let mut child = barcast()
            .args(arguments)
            .args(["--redis-url", NO_REDIS, "--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        // Reads to the end, so that the process never waits for its log to be read.
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let address = line
                    .split_once("\"address\":\"")
                    .and_then(|(_, after)| after.split('"').next()?.parse().ok());
                if let Some(address) = address {
                    // Nobody waits for a second one.
                    let _ = sender.send(address);
                }
            }
        });
        let address = receiver.recv_timeout(DEADLINE);
        if address.is_err() {
            child.kill().unwrap();
        }
        let address = address.expect("the log tells an address in time");
        let process = Self { child, address };
        assert_ne!(address.port(), 0, "the log tells the port that 0 became");
        process
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn gateway() -> Process {
    Process::start(&["serve", "--listen", "127.0.0.1:0", "--workers", "1"])
}

pub fn ingest() -> Process {
    Process::start(&[
        "ingest",
        "--stream",
        "trades",
        "--health-listen",
        "127.0.0.1:0",
    ])
}

/// Neither its Redis nor its database is there.
pub fn recorder() -> Process {
    Process::start(&[
        "record",
        "--postgres-url",
        "postgres://nobody@127.0.0.1:1/none",
        "--health-listen",
        "127.0.0.1:0",
    ])
}

pub fn generator() -> Process {
    Process::start(&["generate", "--health-listen", "127.0.0.1:0"])
}

/// Name, type and labels of every metric in a Prometheus text, and the values of its labels.
fn metrics(text: &str) -> (BTreeSet<[String; 3]>, BTreeSet<String>) {
    let mut names = BTreeSet::new();
    let mut values = BTreeSet::new();
    for line in text.lines() {
        let Some(described) = line.strip_prefix("# TYPE ") else {
            continue;
        };
        let (name, kind) = described.split_once(' ').unwrap();
        let name = name.to_owned();
        // A histogram's buckets have a label more, its count has those that tell histograms apart.
        let counted = match kind {
            "histogram" => format!("{name}_count"),
            _ => name.clone(),
        };
        let mut label = String::new();
        for sample in text.lines() {
            let labels = sample
                .strip_prefix(counted.as_str())
                .and_then(|rest| rest.strip_prefix('{')?.split_once("\"}"));
            if let Some((pair, _)) = labels {
                let pairs = pair
                    .split("\",")
                    .map(|pair| pair.split_once("=\"").unwrap());
                let (keys, told): (Vec<_>, Vec<_>) = pairs.unzip();
                label = keys.join(", ");
                values.extend(told.into_iter().map(str::to_owned));
            }
        }
        names.insert([name, kind.to_owned(), label]);
    }
    (names, values)
}

fn metrics_in_docs(heading: &str) -> BTreeSet<[String; 3]> {
    let rows = rows_below(&read("docs/metrics.md"), heading);
    let listed: BTreeSet<_> = rows
        .iter()
        .map(|row| [row[0].clone(), row[1].clone(), row[2].clone()])
        .collect();
    assert_eq!(listed.len(), rows.len(), "a metric is listed twice");
    listed
}

/// The metrics below a heading, and those that every process has.
fn with_common(heading: &str) -> BTreeSet<[String; 3]> {
    let own = metrics_in_docs(heading);
    let common = metrics_in_docs("## Metrics of every process");
    assert!(own.is_disjoint(&common));
    own.union(&common).cloned().collect()
}

#[test]
fn the_documents_list_every_metric_of_a_gateway() {
    let (exposed, mut label_values) = metrics(&gateway().get("/metrics").1);
    // The version changes with every release.
    label_values.remove(env!("CARGO_PKG_VERSION"));
    let listed = with_common("## Metrics of a gateway");
    assert_eq!(listed, exposed, "left: docs/metrics.md, right: /metrics");
    let told = read("docs/metrics.md") + &read("docs/protocol.md");
    let told: BTreeSet<_> = words(&told, |c| c.is_ascii_alphanumeric() || c == '_').collect();
    for value in label_values {
        assert!(
            told.contains(value.as_str()),
            "{value} is explained nowhere"
        );
    }
}

#[test]
fn the_documents_list_every_metric_of_a_generator() {
    let (exposed, _) = metrics(&generator().get("/metrics").1);
    let listed = with_common("## Metrics of a generator");
    assert_eq!(listed, exposed, "left: docs/metrics.md, right: /metrics");
}

#[test]
fn the_documents_list_every_metric_of_an_ingest() {
    let (mut exposed, _) = metrics(&ingest().get("/metrics").1);
    let shared = with_common("## Metrics of a generator");
    assert!(exposed.is_superset(&shared), "a generator's are among them");
    exposed.retain(|metric| !shared.contains(metric));
    let listed = metrics_in_docs("## Metrics of an ingest");
    assert_eq!(listed, exposed, "left: docs/metrics.md, right: /metrics");
}

#[test]
fn the_documents_list_every_metric_of_a_recorder() {
    let (exposed, _) = metrics(&recorder().get("/metrics").1);
    let listed = with_common("## Metrics of a recorder");
    assert_eq!(listed, exposed, "left: docs/metrics.md, right: /metrics");
}

#[test]
fn the_routes_are_there() {
    let gateway = gateway();
    let rows = rows_below(&read("docs/protocol.md"), "## HTTP");
    assert!(rows.len() >= 5, "{rows:?}");
    for row in rows {
        let (status, _) = gateway.get(&row[0]);
        // Without a Redis the gateway is alive but not ready.
        let expected = if row[0] == "/readyz" { 503 } else { 200 };
        assert_eq!(status, expected, "{}", row[0]);
    }
    for path in ["/ws", "/api/v1/ws"] {
        assert_eq!(gateway.get(path).0, 426, "{path}");
    }
}

#[test]
fn every_close_code_is_explained() {
    let codes: BTreeSet<String> = CloseCode::ALL.iter().map(ToString::to_string).collect();
    let rows = rows_below(&read("docs/protocol.md"), "### Close codes");
    let explained: BTreeSet<String> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(explained, codes, "left: docs/protocol.md, right: CloseCode");
    let readme = read("README.md");
    let numbers: BTreeSet<_> = words(&readme, |c| c.is_ascii_digit()).collect();
    for code in &codes {
        assert!(numbers.contains(code.as_str()), "README.md: {code}");
    }
}
