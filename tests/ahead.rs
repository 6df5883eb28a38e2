//! Bars that start ahead of the clock are refused at every door, and good ones go on.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::time::Duration;

use barcast::ahead::{Ahead, MaxAhead, is_ahead};
use barcast::bar::Resolution;
use barcast::bus::Bus;
use barcast::clock::now_ms;
use barcast::gateway::Config;
use barcast::limited::Refusals;
use common::client::get;
use common::gateway::{Candle, Feed, MINUTE, Running, candle, config, in_process};
use common::recorder::Recorder;
use common::{RedisServer, eventually_blocking};

const DAY: i64 = 86_400_000;
const YEAR: i64 = 365 * DAY;

/// A bar that starts at the last time of its resolution up to `time`.
fn at(resolution: Resolution, time: i64) -> Candle {
    Candle {
        time: resolution.floor(time),
        ..candle("A", 0, 1).resolution(resolution.as_str())
    }
}

/// The bar of a minute so many before now.
fn minutes_ago(minutes: i64, price: u64) -> Candle {
    Candle {
        price,
        ..at(Resolution::M1, now_ms() - minutes * MINUTE)
    }
}

/// The furthest bar that a door takes, and the nearest that it does not, each some seconds off the boundary.
fn boundary(resolution: Resolution) -> (Candle, Candle) {
    let more = if resolution < Resolution::Day { 0 } else { DAY };
    let most = now_ms() + MINUTE + more;
    let taken = at(resolution, most - 5_000);
    let refused = at(resolution, resolution.next(most + 10_000));
    (taken, refused)
}

#[test]
fn the_rule_is_one_comparison() {
    let now = 1_700_000_000_000;
    for resolution in Resolution::ALL {
        let more = if resolution < Resolution::Day { 0 } else { DAY };
        let rows = [
            (MaxAhead::default(), MINUTE),
            (MaxAhead::within(Duration::ZERO), 0),
            (MaxAhead::within(Duration::from_secs(3_600)), 60 * MINUTE),
        ];
        for (max, most) in rows {
            assert!(!is_ahead(resolution, now + most + more, now, max));
            assert!(is_ahead(resolution, now + most + more + 1, now, max));
            assert!(!is_ahead(resolution, i64::MIN, now, max));
            assert!(is_ahead(resolution, i64::MAX, now, max));
        }
        assert!(!is_ahead(resolution, i64::MAX, now, MaxAhead::OFF));
    }
}

/// What a gateway knows of a topic: the time of its newest bar.
fn newest(gateway: &Running, topic: &str) -> Option<i64> {
    let entry = gateway.node.registry.get(&topic.parse().unwrap())?;
    let state = entry.lock();
    state.history.last().map(barcast::bar::Bar::time)
}

#[test]
fn every_resolution_has_its_bound_at_the_gateway() {
    let (gateway, mut feed) = in_process(config());
    let dropped = gateway.node.metrics.dropped("future");
    for (n, resolution) in (1..).zip(Resolution::ALL) {
        let (taken, refused) = boundary(resolution);
        feed.bar(&refused);
        feed.bar(&taken);
        let topic = taken.topic();
        eventually_blocking(&topic, || newest(&gateway, &topic).is_some());
        assert_eq!(newest(&gateway, &topic), Some(taken.time), "{topic}");
        assert_eq!(dropped.get(), n, "{topic}");
    }
    // In a batch it costs nobody else.
    let (taken, refused) = boundary(Resolution::M1);
    let good = Candle {
        symbol: "B",
        ..taken
    };
    let batch = format!("[{},{}]", refused.message(), good.message());
    feed.raw("bars:@batch", batch);
    eventually_blocking("the good one", || newest(&gateway, "bars:B:1").is_some());
    assert_eq!(newest(&gateway, "bars:A:1"), Some(taken.time));
}

#[test]
fn a_simulation_may_be_in_the_future() {
    let (gateway, mut feed) = in_process(Config {
        max_ahead: MaxAhead::OFF,
        ..config()
    });
    let future = at(Resolution::M1, now_ms() + 10 * YEAR);
    feed.bar(&future);
    eventually_blocking("it", || newest(&gateway, "bars:A:1") == Some(future.time));
}

/// A bar of the future that others stored, and one that comes live.
fn plant(redis: &RedisServer, feed: &mut Feed<<barcast::bus::RedisBus as Bus>::Publisher>) {
    let future = at(Resolution::M1, now_ms() + 10 * YEAR).closed();
    feed.keep(&[future]);
    assert!(
        redis
            .command("HGET barcast:last bars:A:1")
            .contains(&future.message())
    );
    feed.bar(&future);
}

#[test]
fn a_stored_bar_of_the_future_holds_nothing_up() {
    let redis = RedisServer::start();
    let past = [3, 2].map(|minutes| minutes_ago(minutes, 10).closed());
    // A producer without the rule, as those of others are.
    let mut careless = Feed::new(&redis.bus().keeping(100).refusing(MaxAhead::OFF));
    careless.keep(&past);
    plant(&redis, &mut careless);
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(&redis, &["--parquet", folder.path().to_str().unwrap()]);
    let limits = config().limits;
    let gateway = Running::start(config(), redis.bus().loading(limits.max_topics, 100));
    let mut client = gateway.client();
    client.ask(r#"{"type":"bars.subscribe","payload":{"topics":["bars:A:1"],"since":0}}"#);
    let dropped = gateway.node.metrics.dropped("future");
    eventually_blocking("the stored one is counted", || dropped.get() >= 1);
    // The past that the store has beside it is shown, as long as nothing better came.
    let snapshot = r#"{"type":"bars.subscribe","payload":{"topics":["bars:A:1"],"snapshot":9}}"#;
    let mut early = gateway.client();
    early.ask(snapshot);
    let shown = early.text();
    let both = past.map(|bar| bar.json()).join(",");
    assert!(shown.contains(&format!("[{both}]")), "{both}: {shown}");
    plant(&redis, &mut careless);
    // A careful producer goes on, and its next bar is the newest, also in the store.
    let mut careful = Feed::new(&redis.bus().keeping(100));
    let good = [minutes_ago(1, 20).closed(), minutes_ago(0, 30)];
    careful.keep(&good);
    assert!(
        redis
            .command("HGET barcast:last bars:A:1")
            .contains(&good[1].message())
    );
    eventually_blocking("the good one", || {
        newest(&gateway, "bars:A:1") == Some(good[1].time)
    });
    let mut later = gateway.client();
    later.ask(snapshot);
    let shown = later.text();
    let all = past.iter().chain(&good).map(Candle::json);
    let all = all.collect::<Vec<_>>().join(",");
    assert!(shown.contains(&format!("[{all}]")), "{all}: {shown}");
    recorder.until("barcast_dropped_messages_total{reason=\"future\"}", 2);
    // Three closed by their words: the future ones are none of them.
    let closed = recorder.metric("barcast_record_closed_bars_total");
    let stored = recorder.metric("barcast_record_stored_bars_total");
    assert_eq!((closed, stored), (1, 2));
    assert_eq!(recorder.end(), Some(0));
}

#[test]
fn every_resolution_has_its_bound_at_the_recorder() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(&redis, &["--parquet", folder.path().to_str().unwrap()]);
    let mut feed = Feed::new(&redis.bus());
    for resolution in Resolution::ALL {
        let (taken, refused) = boundary(resolution);
        feed.all(vec![refused.closed().outgoing(), taken.closed().outgoing()]);
    }
    let all = Resolution::ALL.len() as u64;
    let dropped = "barcast_dropped_messages_total{reason=\"future\"}";
    recorder.until(dropped, all);
    recorder.until("barcast_record_closed_bars_total", all);
    assert_eq!(recorder.metric(dropped), all);
    assert_eq!(recorder.metric("barcast_record_closed_bars_total"), all);
}

/// When nearly all that comes is ahead, it is this machine's clock that is to be looked at.
#[test]
fn a_clock_that_is_behind_all_bars_is_told_by_health() {
    let (gateway, mut feed) = in_process(config());
    assert_eq!(gateway.node.health.status(), "ok");
    let future = at(Resolution::S1, now_ms() + 10 * MINUTE);
    for _ in 0..19 {
        feed.bar(&future);
    }
    let dropped = gateway.node.metrics.dropped("future");
    eventually_blocking("refusals", || dropped.get() == 19);
    assert_eq!(gateway.node.health.status(), "ok", "a few are a producer's");
    feed.bar(&future);
    let told = "all bars are ahead of this machine's clock, by 5";
    eventually_blocking("health tells", || {
        gateway.node.health.status().contains(told)
    });
    // Bars that are good flow all the same.
    assert!(gateway.node.health.is_ready());
    let health = get(gateway.address, "/healthz").body;
    assert!(health.contains("NTP"), "{health}");
}

#[test]
fn one_wrong_producer_of_many_is_no_matter_of_health() {
    let health = barcast::health::Health::default();
    let mut ahead = Ahead::default().telling(health.clone());
    let mut log = Refusals::default();
    let future = now_ms() + 10 * MINUTE;
    for n in 0..1_000 {
        assert!(!ahead.refuses(Resolution::M1, now_ms() - MINUTE));
        if n % 2 == 0 {
            assert!(ahead.refuses(Resolution::M1, future));
            ahead.refused("bars:A:1", None, future, &mut log);
        }
    }
    assert_eq!(health.status(), "ok");
}
