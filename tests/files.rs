//! A low limit of open files bounds clients, and neither the bus nor a probe.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use common::client::{Client, Wire, get, handshake, metric};
use common::process::{Process, barcast};
use common::{RedisServer, eventually_blocking, free_port};

/// This command under `ulimit -n`.
fn limited(files: u32, arguments: &[&str]) -> Command {
    let inner = barcast(arguments);
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]);
    shell.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(std::process::Stdio::null());
    shell
}

fn until_ready(address: SocketAddr) {
    eventually_blocking("it listens", || TcpStream::connect(address).is_ok());
    eventually_blocking("it is ready", || get(address, "/readyz").status == 200);
}

/// Clients until one is refused, and its answer's body.
fn until_refused(address: SocketAddr) -> (Vec<Wire>, String) {
    let mut clients = Vec::new();
    loop {
        let mut wire = Wire::connect(address);
        wire.send(handshake());
        let head = wire.head();
        if head.status != 101 {
            assert_eq!(head.status, 503);
            assert_eq!(head.header("retry-after"), Some("5"));
            let mut wire = Wire::connect(address);
            wire.send(handshake());
            return (clients, wire.answer().body);
        }
        clients.push(wire);
    }
}

#[test]
fn a_gateway_full_of_clients_keeps_its_bus_and_its_probes() {
    let redis = RedisServer::start();
    let redis_url = redis.url();
    for (files, workers) in [(70, "1"), (100, "1"), (100, "2")] {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = address.to_string();
        let own = ["serve", "--listen", &listen, "--redis-url", &redis_url];
        let arguments = [own.as_slice(), &["--workers", workers]].concat();
        let process = Process::spawn(limited(files, &arguments));
        until_ready(address);
        // Strangers hold as many others as they can.
        let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(address)).collect();
        let (clients, why) = until_refused(address);
        assert!(clients.len() as u64 == metric(address, "barcast_max_clients"));
        assert!(
            why.contains(&format!("limit of {files} leaves; raise ulimit -n")),
            "{why}"
        );
        let told = format!(
            "open_files={files} max_clients=100000 clients={}",
            clients.len()
        );
        assert!(process.log().contains(&told), "{}", process.log());
        for _ in 0..3 {
            let before = metric(address, "barcast_bus_reconnects_total");
            redis.command("CLIENT KILL TYPE pubsub");
            eventually_blocking("the bus is back", || {
                metric(address, "barcast_bus_reconnects_total") > before
                    && get(address, "/readyz").status == 200
            });
        }
        assert_eq!(get(address, "/healthz").status, 200);
        assert_eq!(metric(address, "barcast_accept_failures_total"), 0);
        assert!(metric(address, "process_open_fds") < u64::from(files));
        drop((silent, clients));
        eventually_blocking("there is room again", || {
            metric(address, "barcast_clients") == 0
        });
        assert!(Client::connect(address).until_pong().is_empty());
    }
}

/// More than may be held come at once, as after a restart: each is let in or refused, and none cut off.
#[test]
fn a_rush_of_clients_is_let_in_or_refused() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let listen = address.to_string();
    let arguments = ["dev", "--listen", &listen, "--workers", "1"];
    let _process = Process::spawn(limited(100, &arguments));
    until_ready(address);
    let connect = |_| {
        let mut wire = Wire::connect(address);
        wire.send(handshake());
        wire
    };
    let mut wires: Vec<_> = (0..300).map(connect).collect();
    let statuses: Vec<_> = wires.iter_mut().map(|wire| wire.head().status).collect();
    let of = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!(of(101) as u64, metric(address, "barcast_max_clients"));
    assert_eq!(of(503), statuses.len() - of(101));
}

#[test]
fn too_few_files_are_refused_with_the_remedy() {
    let arguments = ["dev", "--listen", "127.0.0.1:0", "--workers", "1"];
    let mut process = Process::spawn(limited(40, &arguments));
    assert_eq!(process.exit_code(), Some(1));
    let why = "open-file limit (ulimit -n) = 40: 1 workers need 70 or more; raise ulimit -n";
    assert!(process.log().contains(why), "{}", process.log());
}

/// Whoever opens connections and says nothing keeps no probe from a publisher or a recorder.
#[test]
fn strangers_keep_no_probe_out_of_other_commands() {
    let redis = RedisServer::start();
    let redis_url = redis.url();
    let folder = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 3] = [
        &["generate"],
        &["ingest", "--channel", "trades"],
        &["record", "--parquet", folder.path().to_str().unwrap()],
    ];
    for command in commands {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = address.to_string();
        let own = ["--redis-url", &redis_url, "--health-listen", &listen];
        let process = Process::spawn(limited(64, &[command, &own].concat()));
        eventually_blocking("it listens", || TcpStream::connect(address).is_ok());
        let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(address)).collect();
        assert_eq!(get(address, "/healthz").status, 200, "{command:?}");
        let bus = if command[0] == "record" {
            "bus_connected"
        } else {
            "publisher_connected"
        };
        eventually_blocking("its bus is connected", || {
            metric(address, &format!("barcast_{bus}")) == 1
        });
        assert!(
            !process.log().contains("cannot accept"),
            "{}",
            process.log()
        );
        drop(silent);
    }
}
