//! What tests of several behaviours share: a real Redis, subscribers, waiting with a deadline.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![allow(dead_code, reason = "every test file uses its own part")]

pub mod client;
pub mod fault;
pub mod gateway;
pub mod harm;
pub mod market;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod publishing;
pub mod recorder;
pub mod replay;
pub mod script;
pub mod sentinel;
pub mod udf;
pub mod words;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use barcast::bar::{Decoder, Malformed, Message};
use barcast::bus::{Bus, Outgoing, Publisher, RedisBus, Sink};
use tokio_util::sync::CancellationToken;

/// After this something that should happen has not. No test takes as long when all is well.
pub const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// Waits until `done`, and fails with `what` at the deadline.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Like [`eventually`], on this thread.
pub fn eventually_blocking(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(POLL);
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A redis-server of this test's own, ended on drop.
pub struct RedisServer {
    port: u16,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// With further arguments, given the folder of its data.
    pub fn start_with(arguments: impl Fn(&std::path::Path) -> Vec<String>) -> Self {
        let mut server = Self::absent();
        server.arguments = arguments(server.folder.path());
        server.restart();
        server
    }

    /// A port where no server is yet.
    pub fn absent() -> Self {
        Self {
            port: free_port(),
            arguments: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
            child: None,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn bus(&self) -> RedisBus {
        RedisBus::new(&self.url()).unwrap()
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it (again) on the same port, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        eventually_blocking("redis-server starts", || {
            let child = self.child.get_or_insert_with(|| {
                Command::new("redis-server")
                    .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
                    .args(["--save", "", "--appendonly", "no", "--dir"])
                    .arg(self.folder.path())
                    .args(&self.arguments)
                    .stdout(Stdio::null())
                    .spawn()
                    .expect("redis-server must be installed for this test")
            });
            if let Some(status) = child.try_wait().unwrap() {
                // The port's last connections may linger; or another test took the port.
                eprintln!("redis-server ended with {status}");
                self.child = None;
                return false;
            }
            answers(self.port)
        });
    }

    /// What a command answers, as Redis sends it.
    pub fn command(&self, line: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        stream.write_all(b"\r\nQUIT\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut first = [0];
    // Any answer will do, also that a password is needed.
    stream.write_all(b"PING\r\n").is_ok() && stream.read(&mut first).is_ok_and(|read| read == 1)
}

/// What a [`Collector`] saw.
#[derive(Default)]
pub struct Seen {
    pub messages: Vec<(String, Vec<u8>)>,
    /// Topics, each as often as something of it was read from the store.
    pub stored: Vec<String>,
    pub connected: usize,
    /// How many messages there were when the subscription last stood.
    pub at_connected: usize,
    pub lost: Vec<String>,
    pub flushed: usize,
}

/// A sink that keeps everything, and blocks while its gate is shut.
#[derive(Clone, Default)]
pub struct Collector {
    seen: Arc<Mutex<Seen>>,
    shut: Arc<(Mutex<bool>, Condvar)>,
}

impl Collector {
    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    pub fn len(&self) -> usize {
        self.seen(|seen| seen.messages.len())
    }

    pub fn shut(&self) {
        *self.shut.0.lock().unwrap() = true;
    }

    pub fn open(&self) {
        *self.shut.0.lock().unwrap() = false;
        self.shut.1.notify_all();
    }

    pub fn payloads(&self) -> Vec<String> {
        self.seen(|seen| {
            let payloads = seen.messages.iter();
            payloads
                .map(|(_, payload)| String::from_utf8_lossy(payload).into_owned())
                .collect()
        })
    }

    /// Everything decoded; fails when something was malformed.
    pub fn decoded(&self) -> Vec<Message> {
        let mut decoder = Decoder::default();
        let mut all: Vec<Result<Message, Malformed>> = Vec::new();
        self.seen(|seen| {
            for (channel, payload) in &seen.messages {
                decoder.decode(channel, payload, |message| all.push(message));
            }
        });
        all.into_iter().collect::<Result<_, _>>().unwrap()
    }
}

impl Sink for Collector {
    fn connected(&mut self) {
        let mut seen = self.seen.lock().unwrap();
        seen.connected += 1;
        seen.at_connected = seen.messages.len();
    }

    fn lost(&mut self, why: &str) {
        self.seen.lock().unwrap().lost.push(why.to_owned());
    }

    fn message(&mut self, channel: &str, payload: &[u8]) {
        let message = (channel.to_owned(), payload.to_owned());
        self.seen.lock().unwrap().messages.push(message);
        let mut shut = self.shut.0.lock().unwrap();
        while *shut {
            shut = self.shut.1.wait(shut).unwrap();
        }
    }

    fn stored(&mut self, channel: &str, _: &[u8]) {
        self.seen.lock().unwrap().stored.push(channel.to_owned());
    }

    fn flush(&mut self) {
        self.seen.lock().unwrap().flushed += 1;
    }
}

/// A subscription on a thread and a runtime of its own, as the gateway's ingest has; ends on drop.
pub struct Subscription {
    pub collector: Collector,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Subscription {
    /// Does not wait for the connection.
    pub fn begin<B: Bus>(bus: B) -> Self {
        let collector = Collector::default();
        let stop = CancellationToken::new();
        let (sink, stopped) = (collector.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(bus.subscribe(sink, stopped));
        });
        Self {
            collector,
            stop,
            thread: Some(thread),
        }
    }

    /// Stands when this returns.
    pub async fn start<B: Bus>(bus: B) -> Self {
        let subscription = Self::begin(bus);
        subscription.connected(1).await;
        subscription
    }

    /// Waits until it was connected so many times.
    pub async fn connected(&self, times: usize) {
        let seen = || self.collector.seen(|seen| seen.connected);
        eventually("subscribed", || seen() >= times).await;
    }

    /// Waits until so many messages came.
    pub async fn received(&self, messages: usize) {
        eventually("messages", || self.collector.len() >= messages).await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.collector.open();
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Messages whose payloads are numbers.
pub fn numbered(channel: &str, numbers: std::ops::Range<usize>) -> Vec<Outgoing> {
    numbers
        .map(|n| Outgoing {
            channel: channel.to_owned(),
            payload: n.to_string().into_bytes(),
        })
        .collect()
}

/// A publisher that is connected.
pub async fn ready<B: Bus>(bus: &B) -> B::Publisher {
    let mut publisher = bus.publisher();
    publisher.ready().await;
    assert!(publisher.is_connected());
    publisher
}
