//! Whose requests a proxy hands on: `--trusted-proxies` and `--proxy-protocol` over real sockets, from two
//! addresses of this machine of which one is a proxy.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use barcast::gateway::Config;
use common::client::{Answer, Wire, handshake, metric};
use common::eventually_blocking;
use common::gateway::{Running, config, in_process};
use common::process::{Serve, output};
use socket2::{Domain, Socket, Type};

/// The proxy; and whoever comes without one.
const PROXY: &str = "127.0.0.1:0";
const STRANGER: &str = "127.0.0.2:0";
const PROBE: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn trusting(per_address: usize, proxy_protocol: bool) -> Config {
    let mut config = config();
    config.trusted_proxies = vec![
        "127.0.0.1/32".parse().unwrap(),
        "10.0.0.0/8".parse().unwrap(),
    ];
    config.proxy_protocol = proxy_protocol;
    config.limits.max_clients_per_address = per_address;
    config
}

fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: SocketAddr = from.parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(common::DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The status of the answer to what is sent, and the connection; 0 when it just ends.
fn status(mut stream: &TcpStream, bytes: impl AsRef<[u8]>) -> u16 {
    stream.write_all(bytes.as_ref()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return 0,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

fn upgrade(headers: &str) -> String {
    handshake().replacen("Host", &format!("{headers}Host"), 1)
}

/// Clients stay while their connections are kept.
struct Door<'a> {
    gateway: &'a Running,
    kept: Vec<TcpStream>,
}

impl Door<'_> {
    fn enters(&mut self, from: &str, bytes: impl AsRef<[u8]>) -> u16 {
        let stream = connect(from, self.gateway.address);
        let found = status(&stream, bytes);
        self.kept.push(stream);
        found
    }
}

#[test]
fn clients_of_a_trusted_proxy_are_counted_by_their_own_addresses() {
    let (gateway, _feed) = in_process(trusting(1, false));
    let mut door = Door {
        gateway: &gateway,
        kept: Vec::new(),
    };
    for (headers, expected) in [
        ("X-Forwarded-For: 192.0.2.1\r\n", 101),
        ("X-Forwarded-For: 192.0.2.1\r\n", 429),
        ("X-Forwarded-For: 9.9.9.9, 192.0.2.1\r\n", 429),
        ("X-Forwarded-For: 192.0.2.1, 10.1.2.3\r\n", 429),
        ("X-Forwarded-For: 192.0.2.2:4711\r\n", 101),
        ("Forwarded: for=192.0.2.2\r\n", 429),
        ("Forwarded: for=\"[2001:db8::1]:4711\"\r\n", 101),
        ("X-Forwarded-For: 2001:db8::2\r\n", 429),
        ("X-Forwarded-For: 2001:db8:0:1::2\r\n", 101),
        ("X-Forwarded-For: ::ffff:192.0.2.1\r\n", 429),
        // Its own place: what cannot be read counts as the proxy.
        ("X-Forwarded-For: 192.0.2.9, nobody\r\n", 101),
        ("", 429),
        ("Forwarded: for=unknown\r\n", 429),
    ] {
        assert_eq!(door.enters(PROXY, upgrade(headers)), expected, "{headers}");
    }
    // Nobody believes a stranger.
    for (headers, expected) in [
        ("X-Forwarded-For: 192.0.2.100\r\n", 101),
        ("X-Forwarded-For: 192.0.2.101\r\n", 429),
        ("Forwarded: for=192.0.2.102\r\n", 429),
    ] {
        assert_eq!(
            door.enters(STRANGER, upgrade(headers)),
            expected,
            "{headers}"
        );
    }
}

/// A proxy keeps connections: one request of theirs is one client's, the next another's.
#[test]
fn each_request_of_a_connection_counts_for_its_own_address() {
    let (gateway, _feed) = in_process(trusting(1, false));
    let mut kept = Vec::new();
    for (address, expected) in [("192.0.2.1", 101), ("192.0.2.2", 101), ("192.0.2.1", 429)] {
        let stream = connect(PROXY, gateway.address);
        let probe = "GET /healthz HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.77\r\n\r\n";
        (&stream).write_all(probe.as_bytes()).unwrap();
        let mut bytes = [0; 1_024];
        assert!((&stream).read(&mut bytes).unwrap() > 0);
        let found = status(&stream, upgrade(&format!("X-Forwarded-For: {address}\r\n")));
        assert_eq!(found, expected, "{address}");
        kept.push(stream);
    }
}

#[test]
fn a_proxy_that_was_not_named_is_told_once() {
    let gateway = Serve::start(
        "redis://127.0.0.1:1",
        &[
            "--max-clients-per-address",
            "1",
            "--trusted-proxies",
            "10.0.0.0/8,192.0.2.1",
        ],
    );
    let first = connect(PROXY, gateway.address);
    assert_eq!(
        status(&first, upgrade("X-Forwarded-For: 192.0.2.1\r\n")),
        101
    );
    for _ in 0..3 {
        let other = connect(PROXY, gateway.address);
        assert_eq!(
            status(&other, upgrade("X-Forwarded-For: 192.0.2.2\r\n")),
            429
        );
    }
    gateway.process.until_logged("name it in --trusted-proxies");
    let log = gateway.process.log();
    assert_eq!(
        log.matches("name it in --trusted-proxies").count(),
        1,
        "{log}"
    );
    assert!(log.contains("peer=127.0.0.1"), "{log}");
}

fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn of(source: [u8; 4]) -> Vec<u8> {
    [&source[..], &[127, 0, 0, 1, 0x12, 0x67, 0, 80]].concat()
}

#[test]
fn a_proxy_header_tells_whose_the_connection_is() {
    let (gateway, _feed) = in_process(trusting(1, true));
    let mut door = Door {
        gateway: &gateway,
        kept: Vec::new(),
    };
    let mut long = of([192, 0, 2, 3]);
    long.resize(536, 4);
    for (header, expected) in [
        (b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n".to_vec(), 101),
        (b"PROXY TCP4 192.0.2.1 127.0.0.1 4712 80\r\n".to_vec(), 429),
        (b"PROXY TCP6 2001:db8::1 ::1 4711 80\r\n".to_vec(), 101),
        (b"PROXY TCP6 2001:db8::2 ::1 4711 80\r\n".to_vec(), 429),
        (version_2(0x21, 0x11, &of([192, 0, 2, 1])), 429),
        (version_2(0x21, 0x11, &of([192, 0, 2, 2])), 101),
        (version_2(0x21, 0x11, &long), 101),
        // The proxy's own.
        (version_2(0x20, 0x00, &[]), 101),
        (b"PROXY UNKNOWN\r\n".to_vec(), 429),
        // Behind another proxy that adds a header.
        (b"PROXY TCP4 10.1.1.1 127.0.0.1 4711 80\r\n".to_vec(), 101),
    ] {
        let bytes = [&header, handshake().as_bytes()].concat();
        let text = String::from_utf8_lossy(&header).into_owned();
        assert_eq!(door.enters(PROXY, bytes), expected, "{text}");
    }
    let behind = "PROXY TCP4 10.1.1.1 127.0.0.1 4711 80\r\n".to_owned();
    let behind = behind + &upgrade("X-Forwarded-For: 192.0.2.1\r\n");
    assert_eq!(door.enters(PROXY, behind), 429);
    // What is no proxy's speaks plain HTTP: a probe, and a client.
    assert_eq!(door.enters(STRANGER, PROBE), 200);
    assert_eq!(door.enters(STRANGER, handshake()), 101);
}

#[test]
fn a_proxy_header_may_come_in_pieces() {
    let (gateway, _feed) = in_process(trusting(1, true));
    let headers = [
        b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n".to_vec(),
        version_2(0x21, 0x11, &of([192, 0, 2, 1])),
    ];
    for header in headers {
        let stream = connect(PROXY, gateway.address);
        let (last, most) = header.split_last().unwrap();
        for byte in most {
            (&stream).write_all(&[*byte]).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        let rest = [&[*last], PROBE.as_bytes()].concat();
        assert_eq!(status(&stream, rest), 200);
    }
}

#[test]
fn without_a_good_header_a_proxys_connection_ends() {
    let (gateway, _feed) = in_process(trusting(0, true));
    let cases = [
        PROBE.as_bytes().to_vec(),
        handshake().into_bytes(),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 4711\r\n".to_vec(),
        b"PROXY TCP4 nobody 127.0.0.1 4711 80\r\n".to_vec(),
        format!("PROXY UNKNOWN {}", "a".repeat(200)).into_bytes(),
        version_2(0x21, 0x11, &[1, 2, 3]),
        version_2(0x2f, 0x11, &of([192, 0, 2, 1])),
        version_2(0x21, 0x11, &[0; 4_000]),
    ];
    for case in &cases {
        let stream = connect(PROXY, gateway.address);
        assert_eq!(status(&stream, case), 0, "{case:?}");
    }
    let name = r#"barcast_refused_clients_total{reason="proxy_header"}"#;
    let counted = || {
        let stream = connect(STRANGER, gateway.address);
        let request = "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        (&stream).write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        (&stream).read_to_string(&mut text).unwrap();
        common::client::sample(&text, name)
    };
    eventually_blocking("all are counted", || counted() == Some(cases.len() as u64));
}

fn told(mut wire: Wire, bytes: &[u8]) -> Answer {
    wire.send(bytes);
    let answer = wire.answer();
    wire.expect_end();
    answer
}

#[test]
fn a_proxy_header_that_is_not_awaited_is_refused_with_what_to_do() {
    let (gateway, _feed) = in_process(config());
    for header in [
        b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n".to_vec(),
        version_2(0x21, 0x11, &of([192, 0, 2, 1])),
    ] {
        let bytes = [&header, PROBE.as_bytes()].concat();
        let answer = told(Wire::connect(gateway.address), &bytes);
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains("--proxy-protocol"), "{}", answer.body);
    }
    let name = r#"barcast_refused_clients_total{reason="proxy_header"}"#;
    assert_eq!(metric(gateway.address, name), 2);
    // Awaited, but not from there.
    let mut elsewhere = trusting(0, true);
    elsewhere.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    let (gateway, _feed) = in_process(elsewhere);
    let bytes = format!("PROXY UNKNOWN\r\n{PROBE}");
    let answer = told(Wire::connect(gateway.address), bytes.as_bytes());
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("--trusted-proxies"), "{}", answer.body);
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    for (arguments, variables, parts) in [
        (
            &["serve", "--proxy-protocol"][..],
            &[][..],
            ["--proxy-protocol", "--trusted-proxies"],
        ),
        (
            &["dev"],
            &[("BARCAST_PROXY_PROTOCOL", "true")],
            ["BARCAST_PROXY_PROTOCOL", "BARCAST_TRUSTED_PROXIES"],
        ),
        (
            &["serve", "--trusted-proxies", "10.0.0.0/8,proxy"],
            &[],
            ["proxy", "fd00::/8"],
        ),
        (
            &["serve"],
            &[("BARCAST_TRUSTED_PROXIES", "10.0.0.0/40")],
            ["10.0.0.0/40", "trusted-proxies"],
        ),
        (
            &["serve", "--base-path", "/bars/"],
            &[],
            ["/bars/", "--base-path"],
        ),
        (
            &["serve", "--base-path", "bars"],
            &[],
            ["allowed: /", "--base-path"],
        ),
        (
            &["serve", "--http-idle-timeout", "0"],
            &[],
            ["allowed: seconds from 1", "--http-idle-timeout"],
        ),
    ] {
        let ended = output(arguments, variables);
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{arguments:?}: {said}");
        }
    }
}
