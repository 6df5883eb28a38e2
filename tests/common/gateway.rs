//! A gateway in this process on port 0, and bars for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use barcast::bus::{Bus, Kept, MemoryBus, Outgoing, Publisher, Refused};
use barcast::gateway::node::Node;
use barcast::gateway::{Config, Ended, Gateway};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::eventually_blocking;

/// 2023-10-12T08:00:00Z: on the grid of every resolution up to four hours.
pub const START: i64 = 1_697_097_600_000;
pub const MINUTE: i64 = 60_000;

/// Two workers on a free port.
pub fn config() -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        workers: 2,
        ..Config::default()
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A running gateway; drained and waited for on drop.
pub struct Running {
    pub address: SocketAddr,
    pub node: Arc<Node>,
    stop: CancellationToken,
    thread: Option<JoinHandle<Ended>>,
}

impl Running {
    /// On any bus; does not wait for its connection.
    pub fn begin<B: Bus>(config: Config, bus: B) -> Self {
        let gateway = Gateway::bind(config).unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        Self {
            address: gateway.address(),
            node: gateway.node(),
            stop,
            thread: Some(std::thread::spawn(move || {
                runtime().block_on(gateway.run(bus, stopped)).unwrap()
            })),
        }
    }

    /// On any bus, connected.
    pub fn start<B: Bus>(config: Config, bus: B) -> Self {
        let running = Self::begin(config, bus);
        eventually_blocking("bus connected", || running.node.bus.is_connected());
        running
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Waits until so many bars came in.
    pub fn received(&self, bars: u64) {
        let received = &self.node.metrics.received;
        eventually_blocking("bars received", || received.get() >= bars);
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end after [`stop`](Self::stop).
    pub fn ended(mut self) -> Ended {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Publishes from a thread without a runtime.
pub struct Feed<P> {
    publisher: P,
    runtime: Runtime,
}

impl<P: Publisher> Feed<P> {
    /// Connected when this returns.
    pub fn new<B: Bus<Publisher = P>>(bus: &B) -> Self {
        let runtime = runtime();
        let mut publisher = {
            let _inside = runtime.enter();
            bus.publisher()
        };
        runtime.block_on(publisher.ready());
        Self { publisher, runtime }
    }

    /// Any payload on any channel.
    pub fn raw(&mut self, channel: &str, payload: impl Into<Vec<u8>>) {
        self.all(vec![Outgoing {
            channel: channel.to_owned(),
            payload: payload.into(),
        }]);
    }

    pub fn all(&mut self, messages: Vec<Outgoing>) {
        let published = self.publisher.publish(&messages);
        self.runtime.block_on(published).unwrap();
    }

    /// Bars, with what a store is to keep of them; tells what it refused.
    pub fn keep(&mut self, bars: &[Candle]) -> Option<Refused> {
        let messages: Vec<_> = bars.iter().map(Candle::outgoing).collect();
        let kept: Vec<_> = bars.iter().map(Candle::kept).collect();
        let published = self.publisher.publish_and_keep(&messages, &kept);
        self.runtime.block_on(published).unwrap()
    }

    /// One bar.
    pub fn bar(&mut self, bar: &Candle) {
        self.all(vec![bar.outgoing()]);
    }
}

/// A gateway of two workers on the in-process bus, and its feed.
pub fn in_process(config: Config) -> (Running, Feed<<MemoryBus as Bus>::Publisher>) {
    let bus = MemoryBus::default();
    let running = Running::start(config, bus.clone());
    (running, Feed::new(&bus))
}

/// A bar to publish: flat at one price, so that a test can tell its bars apart.
#[derive(Debug, Clone, Copy)]
pub struct Candle {
    pub symbol: &'static str,
    pub resolution: &'static str,
    pub time: i64,
    pub price: u64,
    pub closed: bool,
    pub seq: Option<u64>,
    pub epoch: Option<u64>,
    pub rev: Option<u64>,
}

/// `bars:{symbol}:1` at `START` plus so many minutes.
pub fn candle(symbol: &'static str, minute: i64, price: u64) -> Candle {
    Candle {
        symbol,
        resolution: "1",
        time: START + minute * MINUTE,
        price,
        closed: false,
        seq: None,
        epoch: None,
        rev: None,
    }
}

impl Candle {
    pub fn closed(self) -> Self {
        Self {
            closed: true,
            ..self
        }
    }

    pub fn resolution(self, resolution: &'static str) -> Self {
        Self { resolution, ..self }
    }

    pub fn seq(self, epoch: u64, seq: u64) -> Self {
        Self {
            epoch: Some(epoch),
            seq: Some(seq),
            ..self
        }
    }

    pub fn topic(&self) -> String {
        format!("bars:{}:{}", self.symbol, self.resolution)
    }

    /// The bar as JSON, in the order in which it is sent to clients.
    pub fn json(&self) -> String {
        let Self { time, price: p, .. } = self;
        let closed = if self.closed { r#","closed":true"# } else { "" };
        format!(
            r#"{{"time":{time},"open":{p},"high":{p},"low":{p},"close":{p},"volume":1{closed}}}"#
        )
    }

    fn extras(&self) -> String {
        let mut extras = String::new();
        if let Some(seq) = self.seq {
            extras += &format!(r#","seq":{seq}"#);
        }
        if let Some(epoch) = self.epoch {
            extras += &format!(r#","epoch":{epoch}"#);
        }
        if let Some(rev) = self.rev {
            extras += &format!(r#","rev":{rev}"#);
        }
        extras
    }

    pub fn message(&self) -> String {
        format!(
            r#"{{"symbol":"{}","resolution":"{}","bar":{}{}}}"#,
            self.symbol,
            self.resolution,
            self.json(),
            self.extras()
        )
    }

    pub fn outgoing(&self) -> Outgoing {
        Outgoing {
            channel: self.topic(),
            payload: self.message().into_bytes(),
        }
    }

    /// As a publisher hands it to the store.
    pub fn kept(&self) -> Kept {
        Kept {
            topic: self.topic().parse().unwrap(),
            time: self.time,
            closed: self.closed,
            payload: self.message().into_bytes(),
        }
    }

    /// The `bars.update` that its subscribers get.
    pub fn update(&self) -> String {
        format!(
            r#"{{"type":"bars.update","topic":"{}"{},"payload":{}}}"#,
            self.topic(),
            self.extras(),
            self.json()
        )
    }
}
