//! The whole path: recorded bytes of Redis are poured into the real subscriber, and a real gateway with
//! one worker takes the bars to real WebSocket clients. One round is a tick of the market, and the next
//! is poured when every client has read all of this one. The latency is that of each client's last byte,
//! from the moment before the tick was poured; its distribution is printed after the bench.
//!
//! This is what a tick costs on an idle gateway. What a gateway carries at a steady rate, with latency
//! counted from the planned time, is `loadtest run`'s to tell.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use barcast::gateway::Config;
use criterion::{Criterion, Throughput};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use crate::common::redis::{Form, greet, listen};
use crate::common::{self, SYMBOLS, Shape, Watchlists};
use crate::support::gateway::{Running, config};

/// After this a bar that was poured does not come any more.
const DEADLINE: Duration = Duration::from_secs(10);
/// Clients when the bench is only tried.
const FEW_CLIENTS: usize = 10;
const SCENARIOS: [(Watchlists, Form); 3] = [
    (HOT, Form::Single),
    (LISTS, Form::Single),
    (LISTS, Form::Batch),
];
const HOT: Watchlists = Watchlists {
    name: "hot topic",
    clients: 500,
    topics: 1,
    per_client: 1,
    shape: Shape::Neighbours,
};
const LISTS: Watchlists = Watchlists {
    name: "watchlists",
    clients: 200,
    topics: SYMBOLS,
    per_client: 20,
    shape: Shape::Neighbours,
};

/// A gateway with its clients, and the Redis in front of it.
struct Rig {
    redis: TcpStream,
    tick: Vec<u8>,
    begun: Arc<Mutex<Instant>>,
    /// The latency of each client, tick by tick.
    arrived: Receiver<Duration>,
    clients: usize,
    readers: Option<JoinHandle<()>>,
    running: Option<Running>,
}

impl Rig {
    fn new(lists: Watchlists, form: Form) -> Self {
        let (listener, bus) = listen();
        let greeting = thread::spawn(move || greet(&listener));
        let config = Config {
            workers: 1,
            ..config()
        };
        let running = Running::start(config, bus);
        let redis = greeting.join().expect("the subscriber connects");
        let messages = common::messages(lists.topics, lists.topics);
        let (batch, _) = lists.round();
        let clients = (0..lists.clients)
            .map(|n| (subscribed(&running, lists.of(n)), lists.bytes_of(n, &batch)))
            .collect();
        let begun = Arc::new(Mutex::new(Instant::now()));
        let (sender, arrived) = channel();
        let since = Arc::clone(&begun);
        Self {
            redis,
            tick: form.record(&messages),
            begun,
            arrived,
            clients: lists.clients,
            readers: Some(thread::spawn(move || read(clients, &since, &sender))),
            running: Some(running),
        }
    }

    /// Pours one tick and waits until every client has all of it; adds each one's latency.
    fn tick(&mut self, latencies: &mut Vec<Duration>) -> Duration {
        let begun = Instant::now();
        *self.begun.lock().expect("no client panicked") = begun;
        self.redis.write_all(&self.tick).expect("it reads");
        for _ in 0..self.clients {
            let latency = self.arrived.recv_timeout(DEADLINE);
            latencies.push(latency.expect("every bar reaches every client"));
        }
        begun.elapsed()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The clients end with their gateway.
        self.running.take();
        if let Some(readers) = self.readers.take() {
            let _ = readers.join();
        }
    }
}

/// A client that watches these topics.
fn subscribed(running: &Running, topics: impl Iterator<Item = usize>) -> TcpStream {
    let names: Vec<_> = topics.map(|n| common::topic(n).to_string()).collect();
    let mut client = running.client();
    let answer = client.ask(&format!(
        r#"{{"type":"bars.subscribe","payload":{{"topics":{names:?}}}}}"#
    ));
    assert!(answer.contains(r#""status":"ok""#), "{answer}");
    client.wire.stream
}

/// Reads each client, which gets so many bytes a tick, on this thread until their gateway ends.
fn read(clients: Vec<(TcpStream, usize)>, begun: &Arc<Mutex<Instant>>, arrived: &Sender<Duration>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut readers = JoinSet::new();
        for (stream, bytes) in clients {
            stream.set_nonblocking(true).expect("a socket option");
            let mut stream = tokio::net::TcpStream::from_std(stream).expect("a runtime");
            let (begun, arrived) = (Arc::clone(begun), arrived.clone());
            readers.spawn(async move {
                let mut tick = vec![0; bytes];
                while stream.read_exact(&mut tick).await.is_ok() {
                    let now = Instant::now();
                    let begun = *begun.lock().expect("no client panicked");
                    if arrived.send(now - begun).is_err() {
                        break;
                    }
                }
            });
        }
        readers.join_all().await;
    });
}

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("Redis to sockets");
    for (lists, form) in SCENARIOS {
        let clients = crate::measured(lists.clients, FEW_CLIENTS);
        let lists = Watchlists { clients, ..lists };
        let name = format!("{}, {form:?} messages", lists.name);
        let mut latencies = Vec::new();
        group.throughput(Throughput::Elements(lists.deliveries() as u64));
        let mut rig = None;
        group.bench_function(&name, |bencher| {
            let rig = rig.get_or_insert_with(|| Rig::new(lists, form));
            bencher.iter_custom(|times| (0..times).map(|_| rig.tick(&mut latencies)).sum());
        });
        tell(&name, latencies);
    }
    group.finish();
}

/// Prints the distribution, if that bench was run.
fn tell(name: &str, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let Some(worst) = latencies.last() else {
        return;
    };
    let at = |percent| latencies[(latencies.len() - 1) * percent / 100];
    println!(
        "Redis to sockets/{name}: latency of {} ticks of a client: p50 {:.2?}, p99 {:.2?}, worst {worst:.2?}\n",
        latencies.len(),
        at(50),
        at(99),
    );
}
