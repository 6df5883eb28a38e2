//! A low limit of open files bounds clients, and neither the bus nor a probe.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::client::{Client, Wire, get, handshake, metric};
use common::process::{Process, barcast};
use common::{RedisServer, eventually_blocking, free_port};
use socket2::{Domain, Socket, Type};

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
        let silent: Vec<_> = (0..200).map(|_| from([9, 9], address)).collect();
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
        process.until_logged(&told);
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

/// Connects from an address of this machine.
fn from(last: [u8; 2], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = SocketAddr::from(([127, 1, last[0], last[1]], 0));
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(common::DEADLINE)).unwrap();
    stream
}

/// As after a restart: all connect first, and ask a round trip later. By themselves, through a proxy that tells whose
/// they are, and through one that does not.
#[test]
fn a_rush_is_answered_whoever_has_the_addresses() {
    const CLIENTS: u8 = 60;
    let proxied: &[&str] = &["--proxy-protocol", "--trusted-proxies", "127.1.0.0"];
    for (settings, addresses) in [
        (&[][..], CLIENTS),
        (proxied, CLIENTS),
        (&[], 1),
        (proxied, 1),
    ] {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = address.to_string();
        let own = ["dev", "--listen", &listen, "--workers", "1"];
        let _process = Process::spawn(limited(256, &[&own, settings].concat()));
        until_ready(address);
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let mut stream = from([0, n % addresses * u8::from(settings.is_empty())], address);
                let header = format!("PROXY TCP4 192.0.2.{} 127.0.0.1 1 2\r\n", n % addresses);
                if !settings.is_empty() {
                    stream.write_all(header.as_bytes()).unwrap();
                }
                stream
            })
            .collect();
        thread::sleep(Duration::from_millis(50));
        for stream in &mut clients {
            let _ = stream.write_all(handshake().as_bytes());
        }
        let is_in = |stream: &mut TcpStream| {
            let mut start = [0; 12];
            stream.read_exact(&mut start).is_ok() && start == *b"HTTP/1.1 101"
        };
        let entered = clients.iter_mut().map(is_in).filter(|is| *is).count();
        assert_eq!(entered, usize::from(CLIENTS), "{addresses} {settings:?}");
    }
}

/// A stranger that opens connections all the time, silent or with what is not awaited, keeps no probe of another
/// address waiting.
#[test]
fn a_flood_of_one_address_holds_no_other_up() {
    for says in ["", "PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n"] {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = address.to_string();
        let arguments = ["dev", "--listen", &listen, "--workers", "1"];
        let _process = Process::spawn(limited(256, &arguments));
        until_ready(address);
        let is_over = AtomicBool::new(false);
        let worst = thread::scope(|scope| {
            scope.spawn(|| {
                let mut held = VecDeque::new();
                while !is_over.load(Ordering::Relaxed) {
                    for _ in 0..6 {
                        let mut stream = from([9, 9], address);
                        let _ = stream.write_all(says.as_bytes());
                        held.push_back(stream);
                    }
                    while held.len() > 500 {
                        held.pop_front();
                    }
                    thread::sleep(Duration::from_millis(10));
                }
            });
            let mut worst = Duration::ZERO;
            for _ in 0..8 {
                thread::sleep(Duration::from_millis(250));
                let asked = Instant::now();
                assert_eq!(get(address, "/healthz").status, 200);
                worst = worst.max(asked.elapsed());
            }
            is_over.store(true, Ordering::Relaxed);
            worst
        });
        // Seconds before, and half a second of standing at most.
        assert!(worst < Duration::from_secs(1), "{says:?}: {worst:?}");
    }
}

#[test]
fn too_few_files_are_refused_with_the_remedy() {
    let arguments = ["dev", "--listen", "127.0.0.1:0", "--workers", "1"];
    let mut process = Process::spawn(limited(40, &arguments));
    assert_eq!(process.exit_code(), Some(1));
    let why = "open-file limit (ulimit -n) = 40: 1 workers need 70 or more; raise ulimit -n";
    process.until_logged(why);
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
