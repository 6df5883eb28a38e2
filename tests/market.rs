//! The market: bars that agree with each other over every resolution, and prices that look like some.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::HashMap;

use barcast::bar::{Field, Message, Number, Resolution, Symbol, Topic};
use barcast::generator::market::Market;
use common::market::{START, by_topic, check_topic, symbols};
use proptest::prelude::*;

/// All messages of ticks at `times`.
fn ticks(market: &mut Market, times: &[i64]) -> Vec<Message> {
    let mut messages = Vec::new();
    for time in times {
        market.tick(*time, &mut messages);
    }
    messages
}

/// Folds bars into one of a coarser resolution: open, high, low, close, volume.
fn fold(bars: &[Message]) -> [f64; 5] {
    let value = |message: &Message, field| message.bar.value(field);
    let all = |field| bars.iter().map(move |bar| value(bar, field));
    [
        value(&bars[0], Field::Open),
        all(Field::High).fold(f64::MIN, f64::max),
        all(Field::Low).fold(f64::MAX, f64::min),
        value(&bars[bars.len() - 1], Field::Close),
        all(Field::Volume).sum(),
    ]
}

fn values(message: &Message) -> [f64; 5] {
    message.bar.numbers().map(Number::value)
}

/// Every closed bar of `coarse` that starts at `from` or later equals the closed bars of `fine` in its
/// interval.
fn agree(
    topics: &HashMap<Topic, Vec<Message>>,
    symbol: Symbol,
    fine: Resolution,
    coarse: Resolution,
    from: i64,
) {
    let closed = |resolution| {
        let messages = topics[&Topic { symbol, resolution }].iter();
        messages
            .copied()
            .filter(|m| m.bar.closed)
            .collect::<Vec<_>>()
    };
    let (fine_bars, coarse_bars) = (closed(fine), closed(coarse));
    for bar in coarse_bars.iter().filter(|bar| bar.bar.time() >= from) {
        let within: Vec<Message> = fine_bars
            .iter()
            .copied()
            .filter(|m| coarse.floor(m.bar.time()) == bar.bar.time())
            .collect();
        assert_eq!(values(bar), fold(&within), "{:?}", bar.bar);
    }
}

fn backfill_goes_on_live(count: usize, now: i64, resolutions: &[Resolution]) {
    let symbol = symbols(&["A"])[0];
    let mut market = Market::new(&[symbol], resolutions, 3, 1);
    let mut messages: Vec<Message> = market.backfill(now, count).flatten().collect();
    assert!(messages.iter().all(|m| m.bar.closed));
    assert_eq!(by_topic(&messages).len(), resolutions.len());
    for (topic, messages) in by_topic(&messages) {
        // All that were asked for, or as many as 400 days hold; none left out.
        let fit = 400 * 86_400_000 / topic.resolution.nominal_ms();
        assert!(
            messages.len() == count || messages.len() as i64 >= fit - 1,
            "{} of {topic}",
            messages.len()
        );
        assert!(messages[0].bar.time() >= now - 400 * 86_400_000);
        for pair in messages.windows(2) {
            assert_eq!(
                topic.resolution.next(pair[0].bar.time()),
                pair[1].bar.time()
            );
        }
        let newest = messages[messages.len() - 1].bar.time();
        assert_eq!(topic.resolution.next(newest), topic.resolution.floor(now));
    }
    for at in 1..100 {
        market.tick(now + at * 20_000, &mut messages);
    }
    let topics = by_topic(&messages);
    for (topic, messages) in &topics {
        check_topic(*topic, messages);
    }
    for (fine, coarse) in [
        (Resolution::S5, Resolution::M1),
        (Resolution::M1, Resolution::M5),
        (Resolution::Day, Resolution::Week),
    ] {
        if !resolutions.contains(&fine) || !resolutions.contains(&coarse) {
            continue;
        }
        let filled = topics[&Topic {
            symbol,
            resolution: fine,
        }][0]
            .bar
            .time();
        agree(&topics, symbol, fine, coarse, filled);
    }
}

/// No step of three minutes' bars falls on the end of five minutes' here.
#[test]
fn a_bar_that_ended_just_before_now_is_filled() {
    backfill_goes_on_live(1, 1_700_438_700_000, &[Resolution::M3, Resolution::M5]);
}

proptest! {
    #[test]
    fn all_resolutions_agree_over_any_ticks(
        seed in any::<u64>(),
        steps in prop::collection::vec(1_i64..200_000, 1..300),
    ) {
        let symbols = symbols(&["AAPL", "BTC-USD"]);
        let resolutions = [Resolution::S15, Resolution::M1, Resolution::M5, Resolution::M60];
        let times: Vec<i64> = steps.iter().scan(START, |now, step| { *now += step; Some(*now) }).collect();
        let messages = ticks(&mut Market::new(&symbols, &resolutions, seed, 7), &times);
        let topics = by_topic(&messages);
        prop_assert_eq!(topics.len(), symbols.len() * resolutions.len());
        for (topic, messages) in &topics {
            check_topic(*topic, messages);
            prop_assert_eq!(messages.iter().filter(|m| !m.bar.closed).count(), times.len());
            prop_assert!(messages.iter().all(|m| m.epoch == Some(7)));
        }
        for symbol in symbols {
            agree(&topics, symbol, Resolution::M1, Resolution::M5, i64::MIN);
            agree(&topics, symbol, Resolution::S15, Resolution::M60, i64::MIN);
        }
    }

    #[test]
    fn a_clock_that_jumps_back_breaks_nothing(times in prop::collection::vec(0..START, 1..50)) {
        let messages = ticks(&mut Market::new(&symbols(&["A"]), &Resolution::ALL, 1, 1), &times);
        for (topic, messages) in by_topic(&messages) {
            check_topic(topic, &messages);
        }
    }

    #[test]
    fn backfill_goes_on_live_for_every_count(
        count in 1_usize..50,
        now in START..START + 86_400_000 * 40,
        resolutions in prop::sample::subsequence(&Resolution::ALL[..], 1..=16),
    ) {
        backfill_goes_on_live(count, now, &resolutions);
    }
}

#[test]
fn the_seed_and_the_name_alone_make_the_market() {
    let times: Vec<i64> = (0..500).map(|n| START + n * 2_000).collect();
    let resolutions = [Resolution::M1, Resolution::Day];
    let run = |names: &[&str], seed| {
        let mut market = Market::new(&symbols(names), &resolutions, seed, 1);
        let mut all: Vec<Message> = market.backfill(START, 20).flatten().collect();
        all.extend(ticks(&mut market, &times));
        by_topic(&all)
    };
    let (one, two) = (run(&["AAPL", "MSFT"], 5), run(&["MSFT", "X", "AAPL"], 5));
    for (topic, messages) in &one {
        assert_eq!(messages, &two[topic]);
    }
    let closes = |name: &str| {
        let topic = format!("bars:{name}:1").parse::<Topic>().unwrap();
        let messages = one[&topic].iter();
        messages
            .map(|m| m.bar.value(Field::Close))
            .collect::<Vec<_>>()
    };
    assert_ne!(closes("AAPL"), closes("MSFT"));
    let other = run(&["AAPL", "MSFT"], 6);
    assert!(
        one.iter()
            .all(|(topic, messages)| messages != &other[topic])
    );
}

/// A day at one tick a second moves as much as a day in one step, within what chance allows: the
/// volatility goes with the square root of the time.
#[test]
fn prices_move_like_a_market() {
    let days = 200;
    let daily = |step: i64| {
        let times: Vec<i64> = (0..days * 86_400_000 / step).map(|n| n * step).collect();
        let messages = ticks(
            &mut Market::new(&symbols(&["AAPL"]), &[Resolution::Day], 9, 1),
            &times,
        );
        let closes: Vec<f64> = messages
            .iter()
            .filter(|m| m.bar.closed)
            .map(|m| m.bar.value(Field::Close))
            .collect();
        let moves = closes
            .windows(2)
            .map(|pair| (pair[1] / pair[0]).ln().powi(2));
        (moves.sum::<f64>() / closes.len() as f64).sqrt()
    };
    let (fine, coarse) = (daily(600_000), daily(86_400_000));
    for volatility in [fine, coarse] {
        assert!((0.01..0.06).contains(&volatility), "{volatility} a day");
    }
    assert!((0.6..1.6).contains(&(fine / coarse)), "{fine} and {coarse}");
}

#[test]
fn prices_are_whole_cents() {
    let times: Vec<i64> = (0..2_000).map(|n| START + n * 1_000).collect();
    let mut market = Market::new(&symbols(&["AAPL"]), &[Resolution::M1], 1, 1);
    for message in ticks(&mut market, &times) {
        for number in &message.bar.numbers()[..4] {
            let text = number.to_string();
            let decimals = text
                .split_once('.')
                .map_or(0, |(_, decimals)| decimals.len());
            assert!((1..=2).contains(&decimals), "{text}");
        }
    }
}
