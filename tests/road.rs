//! The road from `tail` and `check` to a gateway: slow, dead, half, or another's. Each wait has a bound and
//! says what was waited for, and what comes slowly is waited for.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use barcast::client::follow::{self, Event, follow};
use barcast::client::{Address, ClientError, Socket};
use common::RedisServer;
use common::gateway::{Feed, candle};
use common::process::{Serve, barcast, output};
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(1);

/// Serves each connection with `serve` on a thread of its own, until the test ends.
fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address
}

/// The head of a request; empty when the connection ended.
fn head(stream: &TcpStream) -> String {
    let mut reader = stream.try_clone().unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match reader.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return String::new(),
        }
    }
    String::from_utf8(head).unwrap()
}

/// A good 101 to a request, with `more` headers.
fn switching(head: &str, more: &str) -> String {
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then_some(value)
    });
    let mut request = hyper::Request::get("/")
        .header("Sec-WebSocket-Key", key.unwrap())
        .header("Sec-WebSocket-Version", "13")
        .body(())
        .unwrap();
    let (response, _) = fastwebsockets::upgrade::upgrade(&mut request).unwrap();
    let accept = response.headers()["sec-websocket-accept"].to_str().unwrap();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}

/// A server's text frame.
fn text(payload: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 127];
    frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    frame.extend_from_slice(payload.as_bytes());
    frame
}

/// Keeps a connection open, as long as the other side does.
fn hold(mut stream: TcpStream) {
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

fn url(scheme: &str, address: SocketAddr) -> Address {
    format!("{scheme}://{address}/ws").parse().unwrap()
}

async fn refused(scheme: &str, answer: impl Fn(TcpStream) + Clone + Send + 'static) -> ClientError {
    let address = url(scheme, server(answer));
    let began = Instant::now();
    let why = Socket::connect(&address, LIMIT).await.unwrap_err();
    assert!(began.elapsed() < LIMIT * 5, "{why}");
    why
}

#[tokio::test]
async fn an_attempt_has_one_bound_and_names_its_stage() {
    for (scheme, stage) in [("ws", "WebSocket handshake"), ("wss", "TLS handshake")] {
        let why = refused(scheme, hold).await;
        assert!(
            matches!(why, ClientError::Timeout { limit: LIMIT, .. }),
            "{why}"
        );
        assert!(why.to_string().contains(stage), "{why}");
    }
    let half = |mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 101 Switching");
        hold(stream);
    };
    let why = refused("ws", half).await.to_string();
    assert!(why.contains("WebSocket handshake"), "{why}");
    let gone = |mut stream: TcpStream| {
        head(&stream);
        let _ = stream.write_all(b"HTTP/1.1 101 Switching");
    };
    let why = refused("ws", gone).await;
    assert!(
        matches!(why, ClientError::Connection(_)) && !why.is_final(),
        "{why}"
    );
}

#[tokio::test]
async fn a_101_that_does_not_answer_our_key_is_refused() {
    for (what, change) in [
        ("Sec-WebSocket-Accept", ("Accept: ", "Accept: A")),
        ("Sec-WebSocket-Accept", ("Sec-WebSocket-Accept", "X-Accept")),
        ("Upgrade", ("Upgrade: websocket", "Upgrade: h2c")),
        ("Upgrade", ("Connection: upgrade", "Connection: close, x")),
        (
            "extensions",
            ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: x\r\n\r\n"),
        ),
        (
            "protocol",
            ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: x\r\n\r\n"),
        ),
    ] {
        let answer = move |mut stream: TcpStream| {
            let good = switching(&head(&stream), "");
            let _ = stream.write_all(good.replace(change.0, change.1).as_bytes());
            hold(stream);
        };
        let why = refused("ws", answer).await;
        assert!(
            why.is_final() && why.to_string().contains(what),
            "{what}: {why}"
        );
    }
    // And a good one is taken, however slowly it comes.
    let slow = |mut stream: TcpStream| {
        for byte in switching(&head(&stream), "").bytes() {
            stream.write_all(&[byte]).unwrap();
            thread::sleep(Duration::from_millis(2));
        }
        hold(stream);
    };
    let address = url("ws", server(slow));
    Socket::connect(&address, LIMIT * 5).await.unwrap();
}

fn following(address: SocketAddr) -> follow::Config {
    follow::Config {
        address: url("ws", address),
        patterns: vec!["bars:A:1".parse().unwrap()],
        history: 0,
        history_is_optional: false,
        max_rate: None,
        // The answer to a subscription may take as long.
        connect_timeout: LIMIT,
    }
}

/// One message that takes four times as long as an answer may: its bytes are the sign of life.
#[tokio::test]
async fn a_message_that_comes_slowly_is_not_silence() {
    let slow = |mut stream: TcpStream| {
        let good = switching(&head(&stream), "Date: Sat, 01 Jan 2000 00:00:00 GMT\r\n");
        stream.write_all(good.as_bytes()).unwrap();
        let bar = r#"{"time":0,"open":1,"high":1,"low":1,"close":1,"volume":1},"#;
        let bars = bar.repeat(500);
        let snapshot = format!(
            r#"{{"type":"bars.snapshot","topic":"bars:A:1","payload":{{"bars":[{}]}}}}"#,
            bars.trim_end_matches(',')
        );
        let done = r#"{"type":"bars.subscribe.response","id":1,"payload":{}}"#;
        let all = [text(&snapshot), text(done)].concat();
        for part in all.chunks(all.len() / 40 + 1) {
            if stream.write_all(part).is_err() {
                return;
            }
            thread::sleep(LIMIT / 10);
        }
        hold(stream);
    };
    let (sender, mut events) = mpsc::channel(1_000);
    let followed = tokio::spawn(follow(following(server(slow)), sender));
    loop {
        match events.recv().await {
            Some(Event::Connected { time, .. }) => {
                // The gateway's year, whatever ours is.
                let ms = time.unwrap().ms_at(Instant::now());
                assert!((946_684_800_000..946_685_800_000).contains(&ms), "{ms}");
                break;
            }
            Some(Event::Lost { why, .. }) => panic!("lost: {why}"),
            Some(_) => {}
            None => panic!("ended: {:?}", followed.await),
        }
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_is_named() {
    let mute = |mut stream: TcpStream| {
        let good = switching(&head(&stream), "");
        stream.write_all(good.as_bytes()).unwrap();
        hold(stream);
    };
    let (sender, _events) = mpsc::channel(1_000);
    let why = follow(following(server(mute)), sender).await.unwrap_err();
    assert!(
        why.to_string().contains("answer to a subscription"),
        "{why}"
    );
}

/// Passes what comes on to `to`, after an answer to CONNECT; tells what was asked of it.
fn proxy(to: SocketAddr, answer: &'static str) -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let (tell, told) = std::sync::mpsc::channel();
    let serve = move |mut stream: TcpStream| {
        let _ = tell.send(head(&stream));
        let _ = stream.write_all(answer.as_bytes());
        let Ok(mut there) = TcpStream::connect(to) else {
            return;
        };
        let (mut back, mut from) = (stream.try_clone().unwrap(), there.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut back));
        let _ = std::io::copy(&mut stream, &mut there);
    };
    (server(serve), told)
}

#[test]
fn the_environments_proxy_is_used_and_its_refusal_told() {
    let redis = RedisServer::start();
    let serve = Serve::start(&redis.url(), &[]);
    serve.until_ready();
    let mut feed = Feed::new(&redis.bus());
    feed.bar(&candle("A", 0, 1));
    let arguments = [
        "tail",
        "A",
        "--count",
        "1",
        "--url",
        "ws://gateway.test:81/ws",
    ];
    let (good, asked) = proxy(serve.address, "HTTP/1.1 200 OK\r\nX: y\r\n\r\n");
    let told = output(&arguments, &[("HTTP_PROXY", &format!("http://u:p@{good}"))]);
    assert!(
        told.status.success(),
        "{}",
        String::from_utf8_lossy(&told.stderr)
    );
    assert!(String::from_utf8(told.stdout).unwrap().contains("bars:A:1"));
    let request = asked.recv().unwrap();
    assert!(
        request.starts_with("CONNECT gateway.test:81 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("Basic dTpw\r\n"), "{request}");
    for (answer, expected) in [
        ("HTTP/1.1 407 No\r\n\r\n", "login"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden"),
        ("nonsense\r\n\r\n", "HTTP"),
    ] {
        let (bad, _asked) = proxy(serve.address, answer);
        let told = output(&arguments, &[("all_proxy", &format!("http://{bad}"))]);
        let told = String::from_utf8(told.stderr).unwrap();
        assert!(
            told.contains(expected) && told.contains("all_proxy"),
            "{told}"
        );
    }
    // This machine's own are reached without it.
    let here = format!("ws://{}", serve.address);
    let told = output(
        &["tail", "A", "--count", "1", "--url", &here],
        &[("HTTP_PROXY", "http://127.0.0.1:1")],
    );
    assert!(told.status.success());
}

/// A list that cannot be had is not an empty one.
#[test]
fn check_tells_a_list_that_failed_from_an_empty_one() {
    let serve = |mut stream: TcpStream| {
        let head = head(&stream);
        if head.starts_with("GET /ws ") {
            let _ = stream.write_all(switching(&head, "").as_bytes());
            return hold(stream);
        }
        let status = if head.contains("topics") { 503 } else { 200 };
        let body = r#"{"topics":[]}"#;
        let length = body.len();
        let _ = write!(
            stream,
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
    };
    let url = format!("ws://{}/ws", server(serve));
    let redis = RedisServer::start();
    let told = output(
        &[
            "check",
            "--no-publish",
            "--url",
            &url,
            "--redis-url",
            &redis.url(),
        ],
        &[],
    );
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains("503") && !told.contains("knows no topic"),
        "{told}"
    );
}

#[test]
fn an_attempt_that_hangs_does_not_hold_the_end_up() {
    let url = format!("ws://{}/ws", server(hold));
    let mut tail = barcast(&["tail", "A", "--url", &url]).spawn().unwrap();
    thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    let id = tail.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status();
    assert!(sent.unwrap().success() && tail.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(4));
}
