//! The bus: the same behaviour from both twins.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use barcast::bar::BATCH_CHANNEL;
use barcast::bus::{Bus, MemoryBus, Outgoing, Publisher};
use common::{RedisServer, Subscription, eventually, numbered, ready};

macro_rules! twins {
    ($($behaviour:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $behaviour() {
                super::$behaviour(super::MemoryBus::default()).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $behaviour() {
                let server = super::RedisServer::start();
                super::$behaviour(server.bus()).await;
            })*
        }
    };
}

twins!(
    messages_arrive_in_order,
    every_subscriber_gets_everything,
    publishers_keep_their_own_order,
    batches_and_strange_bytes_arrive_whole,
    a_sink_that_blocks_loses_nothing,
    a_subscriber_that_left_holds_nobody_up,
);

fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| n.to_string()).collect()
}

async fn messages_arrive_in_order<B: Bus>(bus: B) {
    let subscription = Subscription::start(bus.clone()).await;
    let mut publisher = ready(&bus).await;
    // More than one pipeline of the Redis twin.
    publisher
        .publish(&numbered("bars:AAPL:1", 0..5_000))
        .await
        .unwrap();
    publisher
        .publish(&numbered("bars:AAPL:1", 5_000..5_001))
        .await
        .unwrap();
    publisher.publish(&[]).await.unwrap();
    subscription.received(5_001).await;
    assert_eq!(subscription.collector.payloads(), texts(0..5_001));
    eventually("flush", || subscription.collector.seen(|s| s.flushed > 0)).await;
}

async fn every_subscriber_gets_everything<B: Bus>(bus: B) {
    let mut subscriptions = Vec::new();
    for _ in 0..3 {
        subscriptions.push(Subscription::start(bus.clone()).await);
    }
    let mut publisher = ready(&bus).await;
    publisher
        .publish(&numbered("bars:AAPL:1", 0..100))
        .await
        .unwrap();
    for subscription in &subscriptions {
        subscription.received(100).await;
        assert_eq!(subscription.collector.payloads(), texts(0..100));
    }
}

async fn publishers_keep_their_own_order<B: Bus>(bus: B) {
    const EACH: usize = 500;
    let subscription = Subscription::start(bus.clone()).await;
    let channels = ["bars:A:1", "bars:B:1", "bars:C:1"];
    let publishing = channels.map(|channel| {
        let bus = bus.clone();
        tokio::spawn(async move {
            let mut publisher = ready(&bus).await;
            for n in 0..EACH {
                let one = numbered(channel, n..n + 1);
                publisher.publish(&one).await.unwrap();
            }
        })
    });
    for publisher in publishing {
        publisher.await.unwrap();
    }
    subscription.received(3 * EACH).await;
    for channel in channels {
        let of_channel: Vec<String> = subscription.collector.seen(|seen| {
            let all = seen.messages.iter();
            all.filter(|(name, _)| name == channel)
                .map(|(_, payload)| String::from_utf8(payload.clone()).unwrap())
                .collect()
        });
        assert_eq!(of_channel, texts(0..EACH), "{channel}");
    }
}

async fn batches_and_strange_bytes_arrive_whole<B: Bus>(bus: B) {
    let subscription = Subscription::start(bus.clone()).await;
    let payloads = [
        Vec::new(),
        (0..=255).collect(),
        b"\r\n$3\r\n".to_vec(),
        vec![7; 1 << 20],
    ];
    let messages = payloads.map(|payload| Outgoing {
        channel: BATCH_CHANNEL.to_owned(),
        payload,
    });
    ready(&bus).await.publish(&messages).await.unwrap();
    subscription.received(messages.len()).await;
    let expected: Vec<_> = messages
        .map(|message| (message.channel, message.payload))
        .into();
    subscription
        .collector
        .seen(|seen| assert_eq!(seen.messages, expected));
}

async fn a_sink_that_blocks_loses_nothing<B: Bus>(bus: B) {
    const MESSAGES: usize = 400;
    let subscription = Subscription::start(bus.clone()).await;
    subscription.collector.shut();
    let mut publisher = ready(&bus).await;
    let publishing = tokio::spawn(async move {
        for n in 0..MESSAGES {
            let one = numbered("bars:AAPL:1", n..n + 1);
            publisher.publish(&one).await.unwrap();
        }
    });
    subscription.received(1).await;
    assert_eq!(subscription.collector.len(), 1, "the first one blocks");
    subscription.collector.open();
    publishing.await.unwrap();
    subscription.received(MESSAGES).await;
    assert_eq!(subscription.collector.payloads(), texts(0..MESSAGES));
    subscription.collector.seen(|seen| {
        assert_eq!((seen.connected, seen.lost.len()), (1, 0));
    });
}

async fn a_subscriber_that_left_holds_nobody_up<B: Bus>(bus: B) {
    let left = Subscription::start(bus.clone()).await;
    let stays = Subscription::start(bus.clone()).await;
    let mut publisher = ready(&bus).await;
    drop(left);
    for n in 0..200 {
        let one = numbered("bars:AAPL:1", n..n + 1);
        publisher.publish(&one).await.unwrap();
    }
    stays.received(200).await;
    assert_eq!(stays.collector.payloads(), texts(0..200));
}

/// The memory twin's backpressure: publishers wait.
#[tokio::test(flavor = "multi_thread")]
async fn in_process_a_publisher_waits_for_a_sink_that_blocks() {
    let bus = MemoryBus::default();
    let subscription = Subscription::start(bus.clone()).await;
    subscription.collector.shut();
    let mut publisher = bus.publisher();
    let mut confirmed = 0_usize;
    // A publish that is pending although it was polled is waiting for room.
    let endless = async {
        loop {
            publisher
                .publish(&numbered("bars:AAPL:1", 0..1))
                .await
                .unwrap();
            confirmed += 1;
            assert!(confirmed < 1_000, "a queue that grows");
        }
    };
    let () = tokio::select! {
        () = endless => {}
        () = async {
            subscription.received(1).await;
            // Gives `endless` its turns until it does not move any more.
            for _ in 0..1_000 { tokio::task::yield_now().await; }
        } => {}
    };
    assert!(confirmed > 0);
}
