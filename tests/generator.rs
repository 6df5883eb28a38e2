//! The generator's loop: every form of publishing, a bus that is lost, health.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::time::Duration;

use barcast::bar::{BATCH_CHANNEL, Message, Resolution};
use barcast::bus::{Bus, MemoryBus, Publisher};
use barcast::generator::market::Market;
use barcast::generator::pack::{Form, Packer};
use barcast::generator::{Config, Generate, generate, run};
use barcast::metrics::GeneratorMetrics;
use common::market::{START, by_topic, check_topic, symbols};
use common::{RedisServer, Subscription, eventually};
use tokio_util::sync::CancellationToken;

fn config(form: Form) -> Config {
    Config {
        symbols: symbols(&["AAPL", "MSFT"]),
        resolutions: vec![Resolution::S1, Resolution::M1],
        interval: Duration::from_millis(20),
        form,
        seed: 1,
        backfill: 0,
    }
}

/// A generator that runs until it is dropped.
struct Running {
    metrics: GeneratorMetrics,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start<B: Bus>(bus: &B, config: Config) -> Self {
        let (metrics, stop) = (GeneratorMetrics::default(), CancellationToken::new());
        let publisher = bus.publisher();
        let task = tokio::spawn(run(config, publisher, metrics.clone(), stop.clone()));
        Self {
            metrics,
            stop,
            task,
        }
    }

    async fn stop(self) -> GeneratorMetrics {
        self.stop.cancel();
        self.task.await.unwrap();
        self.metrics
    }
}

async fn every_run_keeps_the_rules<B: Bus>(bus: B) {
    const BACKFILL: usize = 30;
    for form in FORMS {
        let subscription = Subscription::start(bus.clone()).await;
        let mut config = config(form);
        config.backfill = BACKFILL;
        let running = Running::start(&bus, config);
        let published = running.metrics.published.clone();
        eventually("ticks", || published.get() > 300).await;
        let metrics = running.stop().await;
        let confirmed = usize::try_from(metrics.published.get()).unwrap();
        // A publish that was cut off by the stop may have arrived all the same.
        eventually("bars", || {
            subscription.collector.decoded().len() >= confirmed
        })
        .await;
        let topics = by_topic(&subscription.collector.decoded());
        assert_eq!(topics.len(), 4);
        for (topic, messages) in &topics {
            check_topic(*topic, messages);
            assert!(messages[..BACKFILL].iter().all(|m| m.bar.closed));
            assert!(
                messages
                    .iter()
                    .all(|m| m.epoch.is_some() && m.ts >= m.epoch)
            );
        }
    }
}

const FORMS: [Form; 3] = [
    Form::Single,
    Form::Batch { compress: false },
    Form::Batch { compress: true },
];

/// The same messages, packed in every form, are the same to who decodes them.
async fn every_form_carries_the_same<B: Bus>(bus: B) {
    let mut market = Market::new(&symbols(&["AAPL", "MSFT"]), &Resolution::ALL, 1, 1);
    // More than one batch holds.
    let mut messages: Vec<Message> = market.backfill(START, 300).flatten().collect();
    market.tick(START + 1_000, &mut messages);
    for form in FORMS {
        let subscription = Subscription::start(bus.clone()).await;
        let mut publisher = bus.publisher();
        publisher.ready().await;
        let packed = Packer::new(form).pack(&mut messages).unwrap();
        match form {
            Form::Single => assert_eq!(packed.len(), messages.len()),
            Form::Batch { .. } => {
                assert!(packed.len() > 1 && packed.iter().all(|m| m.channel == BATCH_CHANNEL));
                assert!(packed.iter().all(|m| m.payload.len() < 2 << 20));
            }
        }
        publisher.publish(&packed).await.unwrap();
        subscription.received(packed.len()).await;
        assert_eq!(subscription.collector.decoded(), messages);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_and_run_in_process() {
    every_form_carries_the_same(MemoryBus::default()).await;
    every_run_keeps_the_rules(MemoryBus::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_and_run_over_redis() {
    let server = RedisServer::start();
    every_form_carries_the_same(server.bus()).await;
    every_run_keeps_the_rules(server.bus()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_redis_stops_nothing_and_the_hole_shows() {
    let mut server = RedisServer::start();
    let subscription = Subscription::start(server.bus()).await;
    let running = Running::start(&server.bus(), config(Form::Single));
    subscription.received(40).await;
    assert_eq!(running.metrics.unpublished.get(), 0);

    server.kill();
    let metrics = running.metrics.clone();
    eventually("bars unpublished", || metrics.unpublished.get() > 40).await;
    assert_eq!(metrics.bus_connected.get(), 0);
    let during = metrics.ticks.get();
    eventually("ticks go on", || metrics.ticks.get() > during + 5).await;

    server.restart();
    subscription.connected(2).await;
    let before = subscription.collector.len();
    subscription.received(before + 40).await;
    assert_eq!(metrics.bus_connected.get(), 1);
    let metrics = running.stop().await;
    let mut missing = 0;
    for messages in by_topic(&subscription.collector.decoded()).values() {
        let seqs: Vec<u64> = messages.iter().filter_map(|m| m.seq).collect();
        assert!(seqs.is_sorted(), "{seqs:?}");
        missing += seqs[seqs.len() - 1] - u64::try_from(seqs.len()).unwrap();
    }
    assert!(missing > 0 && metrics.unpublished.get() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_absent_at_start_gets_the_backfill_when_it_comes() {
    let mut server = RedisServer::absent();
    let mut config = config(Form::Batch { compress: true });
    config.backfill = 10;
    let running = Running::start(&server.bus(), config);
    let subscription = Subscription::begin(server.bus());
    eventually("absence told", || {
        subscription.collector.seen(|seen| !seen.lost.is_empty())
    })
    .await;
    server.restart();
    let published = running.metrics.published.clone();
    eventually("bars", || published.get() >= 40).await;
    running.stop().await;
}

/// Waits until ticks come no more: a tick of this interval does not take a hundredth of that.
async fn hangs(metrics: &GeneratorMetrics) {
    let (mut ticks, mut since) = (0, std::time::Instant::now());
    eventually("a publish that hangs", || {
        if metrics.ticks.get() != ticks {
            (ticks, since) = (metrics.ticks.get(), std::time::Instant::now());
        }
        ticks > 0 && since.elapsed() > Duration::from_millis(200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_that_come_late_are_counted_and_a_hanging_publish_ends_with_stop() {
    let bus = MemoryBus::default();
    let subscription = Subscription::start(bus.clone()).await;
    subscription.collector.shut();
    let mut config = config(Form::Single);
    config.interval = Duration::from_millis(1);
    let running = Running::start(&bus, config);
    // The bus takes no more; that tick lasts until the sink goes on.
    let metrics = running.metrics.clone();
    hangs(&metrics).await;
    subscription.collector.open();
    eventually("late ticks", || metrics.ticks_late.get() >= 50).await;

    subscription.collector.shut();
    hangs(&metrics).await;
    let metrics = running.stop().await;
    assert!(metrics.unpublished.get() > 0, "the one that hung");
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_of_the_bus_and_is_alive_either_way() {
    let mut server = RedisServer::start();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], common::free_port()));
    let stop = CancellationToken::new();
    let settings = || Generate {
        config: config(Form::Single),
        bus: server.bus(),
        health_listen: Some(address),
    };
    let running = tokio::spawn(generate(settings(), stop.clone()));
    wait_for(address, "\"bus\":\"connected\"").await;
    let taken = generate(settings(), stop.clone()).await.unwrap_err();
    let said = format!("{taken}");
    assert!(
        said.contains("--health-listen") && said.contains(&address.to_string()),
        "{said}"
    );

    let metrics = get(address, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(
        metrics.contains("barcast_published_bars_total "),
        "{metrics}"
    );
    assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404"));
    server.kill();
    wait_for(address, "\"bus\":\"disconnected\"").await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Polls `/healthz`, which must be 200 whenever it answers.
async fn wait_for(address: std::net::SocketAddr, text: &str) {
    let end = std::time::Instant::now() + common::DEADLINE;
    loop {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            let answer = get(address, "/healthz").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            if answer.contains(text) {
                return;
            }
        }
        assert!(std::time::Instant::now() < end, "{text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
