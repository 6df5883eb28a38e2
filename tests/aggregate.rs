//! Aggregation: whatever trades come in whatever order, what was published equals a naive fold over
//! them.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::{BTreeMap, HashMap};

use barcast::aggregate::{Empty, Forming, Ladder, MAX_FILL, Rules, Session, Taken, Trade};
use barcast::bar::{Bar, Field, Message, Number, Resolution, Symbol, Topic};
use proptest::prelude::*;
use rust_decimal::Decimal;

/// Monday 2024-01-01, 00:00 UTC.
const START: i64 = 1_704_067_200_000;
const MINUTE: i64 = 60_000;
const DAY: i64 = 1_440 * MINUTE;

fn symbol() -> Symbol {
    "T".parse().unwrap()
}

fn trade(time: i64, cents: u64, size: u64) -> Trade {
    Trade::new(
        time,
        price(cents),
        Decimal::new(i64::try_from(size).unwrap(), 1),
    )
    .unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "small")]
fn price(cents: u64) -> Number {
    Number::Float(cents as f64 / 100.0)
}

/// What a client holds: every topic's bars, the newest state of each.
#[derive(Default)]
struct Chart {
    bars: HashMap<Resolution, BTreeMap<i64, Message>>,
}

impl Chart {
    /// Takes in what was published, and checks what must hold of each message.
    fn take(&mut self, messages: &[Message]) {
        for message in messages {
            let bars = self.bars.entry(message.topic.resolution).or_default();
            let time = message.bar.time();
            let newest = bars.last_key_value().map(|(time, _)| *time);
            assert!(
                message.bar.closed || !message.bar.is_empty(),
                "only what is over is empty"
            );
            if let Some(before) = bars.insert(time, *message) {
                if before.bar.closed {
                    let revisions = before.rev.unwrap_or(0) + 1;
                    assert_eq!(
                        message.rev,
                        Some(revisions),
                        "a closed bar again is a revision"
                    );
                    assert!(message.bar.closed, "a closed bar stays closed");
                    assert_ne!(message.bar, before.bar, "a revision changes something");
                }
            } else {
                assert_eq!(message.rev, None, "the first of its time is none");
            }
            if newest.is_some_and(|newest| time < newest) {
                assert!(message.bar.closed, "only closed bars lie in the past");
            }
        }
    }

    fn of(&self, resolution: Resolution) -> Vec<Bar> {
        let bars = self.bars.get(&resolution).into_iter().flatten();
        bars.map(|(_, message)| message.bar).collect()
    }
}

type Values = (i64, [f64; 5], bool);

fn values(bars: &[Bar]) -> Vec<Values> {
    let all = bars.iter();
    all.map(|bar| (bar.time(), bar.numbers().map(Number::value), bar.closed))
        .collect()
}

/// The naive way: sort the trades by time, those of the same time as they came, and group them.
fn naive(
    trades: &[(i64, u64, u64)],
    bar_of: impl Fn(i64) -> Option<i64>,
    now_bar: i64,
) -> Vec<Values> {
    let mut sorted = trades.to_vec();
    sorted.sort_by_key(|(time, ..)| *time);
    let mut groups: BTreeMap<i64, Vec<(u64, u64)>> = BTreeMap::new();
    for (time, cents, size) in sorted {
        if let Some(bar) = bar_of(time) {
            groups.entry(bar).or_default().push((cents, size));
        }
    }
    let bars = groups.into_iter().map(|(time, group)| {
        let cents = |cents: u64| price(cents).value();
        let prices = group.iter().map(|(cents, _)| *cents);
        let tenths: u64 = group.iter().map(|(_, size)| *size).sum();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let numbers = [
            cents(group[0].0),
            cents(prices.clone().max().unwrap()),
            cents(prices.min().unwrap()),
            cents(group[group.len() - 1].0),
            tenths as f64 / 10.0,
        ];
        (time, numbers, time < now_bar)
    });
    bars.collect()
}

/// Bars folded into bars of a coarser resolution.
fn fold(bars: &[Bar], coarse: Resolution) -> Vec<(i64, [f64; 4])> {
    let mut folded: BTreeMap<i64, [f64; 4]> = BTreeMap::new();
    for bar in bars.iter().filter(|bar| !bar.is_empty()) {
        let [open, high, low, close, _] = bar.numbers().map(Number::value);
        let entry = folded.entry(coarse.floor(bar.time()));
        let all = entry.or_insert([open, high, low, close]);
        *all = [all[0], all[1].max(high), all[2].min(low), close];
    }
    folded.into_iter().collect()
}

fn empty() -> impl Strategy<Value = Empty> {
    prop::sample::select(&[Empty::Skip, Empty::Flat, Empty::Null][..])
}

/// Trades in steps: ahead by up to `pause` ms, each up to `late` ms late.
fn trades(pause: i64, late: i64) -> impl Strategy<Value = Vec<(i64, u64, u64)>> {
    let one = (0..=pause, 0..=late, 10_000_u64..10_100, 1_u64..50);
    prop::collection::vec(one, 1..200).prop_map(|steps| {
        let mut now = START;
        let trades = steps.into_iter().map(|(step, late, cents, size)| {
            now += step;
            ((now - late).max(START), cents, size)
        });
        trades.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trades_in_any_order_make_the_bars_of_a_naive_fold(
        trades in trades(400_000, 200_000),
        late_ms in 0_i64..200_000,
        wanted in prop::sample::subsequence(&Resolution::ALL[..], 1..=16),
        every in 1_usize..5,
    ) {
        let rules = Rules { late_ms, ..Rules::default() };
        let mut ladder = Ladder::of_trades(symbol(), &wanted, rules);
        let (mut chart, mut out) = (Chart::default(), Vec::new());
        let mut accepted = Vec::new();
        let mut now = i64::MIN;
        for (at, &(time, cents, size)) in trades.iter().enumerate() {
            now = now.max(time);
            let taken = ladder.trade(trade(time, cents, size));
            prop_assert_eq!(taken == Taken::Late, now - time > late_ms);
            if taken == Taken::In {
                accepted.push((time, cents, size));
            }
            if at % every == 0 || at + 1 == trades.len() {
                out.clear();
                ladder.drain(Forming::Changed, &mut out);
                prop_assert!(out.iter().all(|message| wanted.contains(&message.topic.resolution)));
                chart.take(&out);
                for resolution in &wanted {
                    let naive = naive(&accepted, |time| Some(resolution.floor(time)), resolution.floor(now));
                    prop_assert_eq!(values(&chart.of(*resolution)), naive, "{}", resolution);
                }
            }
        }
    }

    #[test]
    fn every_resolution_is_the_fold_of_the_finer_ones_also_when_filled(
        trades in trades(600_000, 90_000),
        empty in empty(),
    ) {
        let wanted = [Resolution::M1, Resolution::M3, Resolution::M5, Resolution::M15, Resolution::M60, Resolution::M240, Resolution::Day];
        let rules = Rules { late_ms: 90_000, empty, ..Rules::default() };
        let mut ladder = Ladder::of_trades(symbol(), &wanted, rules);
        let (mut chart, mut out) = (Chart::default(), Vec::new());
        for (at, &(time, cents, size)) in trades.iter().enumerate() {
            prop_assert_eq!(ladder.trade(trade(time, cents, size)), Taken::In);
            out.clear();
            ladder.drain(Forming::Changed, &mut out);
            chart.take(&out);
            if at % 16 != 0 && at + 1 != trades.len() {
                continue;
            }
            for coarse in &wanted[1..] {
                let bars = chart.of(*coarse);
                let traded = bars.iter().filter(|bar| !bar.is_empty());
                let prices: Vec<_> = traded.map(|bar| {
                    let [open, high, low, close, _] = bar.numbers().map(Number::value);
                    (bar.time(), [open, high, low, close])
                }).collect();
                prop_assert_eq!(prices, fold(&chart.of(Resolution::M1), *coarse), "{}", coarse);
                if empty == Empty::Null {
                    // Each is there once it is over, and is empty if all below are.
                    let length = coarse.nominal_ms();
                    prop_assert!(bars.windows(2).all(|pair| pair[0].time() + length == pair[1].time()), "{}", coarse);
                }
            }
        }
        let minutes = chart.of(Resolution::M1);
        if empty != Empty::Skip {
            prop_assert!(minutes.windows(2).all(|pair| pair[0].time() + MINUTE == pair[1].time()), "no minute is missing");
        }
        if empty != Empty::Null {
            prop_assert!(minutes.iter().all(|bar| !bar.is_empty()));
        }
        if empty == Empty::Null {
            let traded: Vec<_> = minutes.into_iter().filter(|bar| !bar.is_empty()).collect();
            let naive = naive(&trades, |time| Some(Resolution::M1.floor(time)), Resolution::M1.floor(START.max(trades.iter().map(|t| t.0).max().unwrap())));
            prop_assert_eq!(values(&traded), naive, "bars with prices are those of their trades");
        } else if empty == Empty::Flat {
            for pair in minutes.windows(2) {
                if pair[1].value(Field::Volume) == 0.0 {
                    prop_assert_eq!(pair[1].value(Field::Open), pair[0].value(Field::Close));
                    prop_assert_eq!(pair[1].value(Field::High), pair[0].value(Field::Close));
                }
            }
        }
    }

    #[test]
    fn days_of_a_session_hold_the_trades_of_that_session(
        trades in trades(40_000_000, 3_000_000),
        text in prop::sample::select(&[
            "America/New_York 09:30-16:00 Mon-Fri",
            "America/New_York 17:00-17:00 Mon-Fri",
            "Europe/London 00:00-24:00",
            "Asia/Tokyo 09:00-15:25 Mon-Fri",
        ][..]),
    ) {
        // A year and a half of trades, over changes of the clocks.
        let session: Session = text.parse().unwrap();
        let wanted = [Resolution::Day, Resolution::Week, Resolution::Month];
        let rules = Rules { late_ms: 3_000_000, session: Some(session.clone()), ..Rules::default() };
        let mut ladder = Ladder::of_trades(symbol(), &wanted, rules);
        let (mut chart, mut out) = (Chart::default(), Vec::new());
        let mut now = i64::MIN;
        for &(time, cents, size) in &trades {
            now = now.max(time);
            prop_assert_eq!(ladder.trade(trade(time, cents, size)), Taken::In);
            ladder.drain(Forming::Changed, &mut out);
        }
        chart.take(&out);
        let day = session.clone().day_from(now);
        for resolution in wanted {
            let bar_of = |time| session.clone().day_of(time).map(|day| resolution.floor(day));
            let naive = naive(&trades, bar_of, resolution.floor(day));
            prop_assert_eq!(values(&chart.of(resolution)), naive, "{}", resolution);
        }
    }

    #[test]
    fn lower_bars_make_the_same_higher_bars_as_their_trades(trades in trades(100_000, 0)) {
        let wanted = [Resolution::M1, Resolution::M5, Resolution::M60, Resolution::Day];
        let mut of_trades = Ladder::of_trades(symbol(), &wanted, Rules::default());
        let mut of_bars = Ladder::of_bars(symbol(), &wanted[1..], Resolution::M1, Rules::default()).unwrap();
        let (mut direct, mut by_bars) = (Chart::default(), Chart::default());
        let (mut out, mut higher) = (Vec::new(), Vec::new());
        for &(time, cents, size) in &trades {
            of_trades.trade(trade(time, cents, size));
            out.clear();
            of_trades.drain(Forming::Changed, &mut out);
            direct.take(&out);
            for message in out.iter().filter(|message| message.topic.resolution == Resolution::M1) {
                prop_assert_eq!(of_bars.bar(&message.bar), Taken::In);
                higher.clear();
                of_bars.drain(Forming::Changed, &mut higher);
                by_bars.take(&higher);
            }
            for resolution in &wanted[1..] {
                prop_assert_eq!(values(&direct.of(*resolution)), values(&by_bars.of(*resolution)));
            }
        }
    }

    #[test]
    fn no_times_break_anything(
        times in prop::collection::vec(-62_135_596_800_000_i64..253_370_764_800_000, 1..40),
        late_ms in any::<i64>().prop_map(|late| late.saturating_abs()),
        empty in empty(),
        session in any::<bool>(),
    ) {
        let rules = Rules {
            late_ms,
            empty,
            session: session.then(|| "America/New_York 09:30-16:00 Mon-Fri".parse().unwrap()),
        };
        let mut ladder = Ladder::of_trades(symbol(), &Resolution::ALL, rules);
        let (mut chart, mut out) = (Chart::default(), Vec::new());
        for time in times {
            ladder.trade(trade(time, 100, 1));
            ladder.drain(Forming::All, &mut out);
        }
        out.retain(|message| message.bar.closed);
        chart.take(&out);
    }
}

#[test]
fn a_long_pause_is_a_closed_market_and_is_not_filled() {
    let rules = Rules {
        empty: Empty::Flat,
        ..Rules::default()
    };
    let mut ladder = Ladder::of_trades(symbol(), &[Resolution::M1], rules);
    let limit = i64::try_from(MAX_FILL).unwrap();
    let mut published = |time: i64| {
        ladder.trade(trade(time, 100, 1));
        let mut out = Vec::new();
        ladder.drain(Forming::Changed, &mut out);
        out.len()
    };
    assert_eq!(published(START), 1);
    // The old one closes, as many are filled as may be, and the new one forms.
    let filled = START + (limit + 1) * MINUTE;
    assert_eq!(published(filled), MAX_FILL + 2);
    assert_eq!(published(filled + (limit + 2) * MINUTE), 2, "one too many");
}

#[test]
fn what_is_over_without_a_trade_is_an_empty_bar_until_one_comes_late() {
    let rules = Rules {
        late_ms: 10 * MINUTE,
        empty: Empty::Null,
        ..Rules::default()
    };
    let mut ladder = Ladder::of_trades(symbol(), &[Resolution::M1, Resolution::M5], rules);
    let mut told = |time: i64| {
        ladder.trade(trade(START + time, 100, 1));
        let mut out = Vec::new();
        ladder.drain(Forming::All, &mut out);
        let told = out.iter().map(|m| {
            let at = (m.bar.time() - START) / MINUTE;
            let resolution = m.topic.resolution.as_str();
            (resolution, at, m.bar.is_empty(), m.bar.closed, m.rev)
        });
        told.collect::<Vec<_>>()
    };
    told(4 * MINUTE);
    // Nothing in 5 and 6; the five minutes from 5 on are not over.
    let expected = [
        ("1", 4, false, true, None),
        ("1", 5, true, true, None),
        ("1", 6, true, true, None),
        ("1", 7, false, false, None),
        ("5", 0, false, true, None),
        ("5", 5, false, false, None),
    ];
    assert_eq!(told(7 * MINUTE), expected);
    let empty: Vec<_> = told(15 * MINUTE).into_iter().filter(|bar| bar.2).collect();
    let minutes = (8..15).map(|at| ("1", at, true, true, None));
    let expected: Vec<_> = minutes.chain([("5", 10, true, true, None)]).collect();
    assert_eq!(empty, expected);
    // A late trade fills one of each.
    let expected = [
        ("1", 12, false, true, Some(1)),
        ("1", 15, false, false, None),
        ("5", 10, false, true, Some(1)),
        ("5", 15, false, false, None),
    ];
    assert_eq!(told(12 * MINUTE), expected);
}

#[test]
fn an_empty_bar_of_the_leaf_says_that_time_went_on() {
    for (empty, bars) in [(Empty::Skip, 1), (Empty::Null, 5)] {
        let rules = Rules {
            empty,
            ..Rules::default()
        };
        let wanted = [Resolution::M1, Resolution::M5];
        let mut ladder = Ladder::of_bars(symbol(), &wanted, Resolution::M1, rules).unwrap();
        let one = Number::Unsigned(1);
        let bar = Bar::new(Resolution::M1, START, [one; 5], true).unwrap();
        assert_eq!(ladder.bar(&bar), Taken::In);
        for minute in 1..5 {
            let empty = Bar::empty(Resolution::M1, START + minute * MINUTE).unwrap();
            assert_eq!(ladder.bar(&empty), Taken::In);
        }
        let (mut chart, mut out) = (Chart::default(), Vec::new());
        ladder.drain(Forming::Changed, &mut out);
        chart.take(&out);
        let five = chart.of(Resolution::M5);
        assert!(five.len() == 1 && five[0].closed && !five[0].is_empty());
        assert_eq!(chart.of(Resolution::M1).len(), bars, "{empty:?}");
    }
}

#[test]
fn a_late_trade_revises_every_bar_it_belongs_to() {
    let wanted = [Resolution::M1, Resolution::M5];
    let rules = Rules {
        late_ms: 10 * MINUTE,
        ..Rules::default()
    };
    let mut ladder = Ladder::of_trades(symbol(), &wanted, rules);
    let mut out = Vec::new();
    for (time, cents) in [(START, 100), (START + 6 * MINUTE, 110)] {
        ladder.trade(trade(time, cents, 1));
    }
    ladder.drain(Forming::Changed, &mut out);
    out.clear();
    assert_eq!(ladder.trade(trade(START + 1, 200, 1)), Taken::In);
    ladder.drain(Forming::Changed, &mut out);
    let told: Vec<_> = out
        .iter()
        .map(|m| (m.topic.resolution, m.bar.time(), m.rev, m.bar.closed))
        .collect();
    assert_eq!(
        told,
        [
            (Resolution::M1, START, Some(1), true),
            (Resolution::M5, START, Some(1), true)
        ]
    );
    assert!(out.iter().all(|m| m.bar.value(Field::High) == 2.0));
    assert_eq!(
        ladder.trade(trade(START - 4 * MINUTE - 1, 1, 1)),
        Taken::Late
    );
    out.clear();
    ladder.drain(Forming::Changed, &mut out);
    assert_eq!(out, [], "a trade that is too late changes nothing");
}

#[test]
fn time_alone_closes_bars() {
    let mut ladder = Ladder::of_trades(symbol(), &[Resolution::M1], Rules::default());
    let mut out = Vec::new();
    ladder.trade(trade(START + 1, 100, 1));
    ladder.advance(START + MINUTE - 1);
    ladder.drain(Forming::Changed, &mut out);
    assert!(!out[0].bar.closed);
    ladder.advance(START + MINUTE);
    ladder.drain(Forming::Changed, &mut out);
    assert_eq!(out.len(), 2);
    assert!(out[1].bar.closed);
}

#[test]
fn a_trade_is_late_by_its_own_symbol_and_never_by_the_clock() {
    let mut ladder = Ladder::of_trades(symbol(), &[Resolution::M1], Rules::default());
    let mut out = Vec::new();
    ladder.trade(trade(START + 1, 100, 1));
    ladder.advance(START + DAY);
    ladder.drain(Forming::Changed, &mut out);
    assert!(out[0].bar.closed);
    out.clear();
    assert_eq!(ladder.trade(trade(START + 2, 101, 1)), Taken::In);
    assert_eq!(ladder.trade(trade(START + MINUTE, 102, 1)), Taken::In);
    ladder.drain(Forming::Changed, &mut out);
    let bars: Vec<_> = out
        .iter()
        .map(|m| (m.bar.time(), m.rev, m.bar.closed, m.bar.value(Field::Close)))
        .collect();
    assert_eq!(
        bars,
        [
            (START, Some(1), true, 1.01),
            (START + MINUTE, None, true, 1.02)
        ]
    );
    assert_eq!(ladder.trade(trade(START + 3, 1, 1)), Taken::Late);
}

#[test]
fn a_clock_ahead_of_the_rows_takes_no_memory() {
    for empty in [Empty::Skip, Empty::Flat, Empty::Null] {
        let rules = Rules {
            late_ms: 10_000,
            empty,
            ..Rules::default()
        };
        let mut ladder = Ladder::of_trades(symbol(), &[Resolution::S1], rules);
        let mut out = Vec::new();
        ladder.trade(trade(START, 100, 1));
        // A backlog under a clock that is a day further, and then a day of silence.
        for second in 0..6_000_i64 {
            if second < 3_000 {
                ladder.trade(trade(START + second * 1_000, 100, 1));
            }
            ladder.advance(START + DAY + second * 1_000);
            out.clear();
            ladder.drain(Forming::Changed, &mut out);
        }
        assert!(ladder.kept() < 1_500, "{empty:?}: {}", ladder.kept());
    }
}

#[test]
fn memory_stays_bounded_over_months() {
    let rules = Rules {
        late_ms: DAY,
        ..Rules::default()
    };
    let mut ladder = Ladder::of_trades(symbol(), &Resolution::ALL, rules);
    let mut out = Vec::new();
    for minute in 0..60 * 1_440_i64 {
        ladder.trade(trade(START + minute * MINUTE, 100, 1));
        if minute % 1_440 == 0 {
            out.clear();
            ladder.drain(Forming::Changed, &mut out);
        }
    }
    // Two days of minutes, a month of days, and the levels between.
    assert!(ladder.kept() < 12_000, "{}", ladder.kept());
}

#[test]
fn bars_that_do_not_fit_are_refused() {
    let session = || Rules {
        session: Some("America/New_York 09:30-16:00".parse().unwrap()),
        ..Rules::default()
    };
    let of_bars = |wanted, leaf, rules| Ladder::of_bars(symbol(), &[wanted], leaf, rules);
    assert!(of_bars(Resolution::M5, Resolution::M3, Rules::default()).is_err());
    assert!(of_bars(Resolution::M1, Resolution::M5, Rules::default()).is_err());
    assert!(of_bars(Resolution::Month, Resolution::Week, Rules::default()).is_err());
    assert!(of_bars(Resolution::Month, Resolution::Day, Rules::default()).is_ok());
    assert!(of_bars(Resolution::Day, Resolution::M45, Rules::default()).is_ok());
    assert!(of_bars(Resolution::Day, Resolution::M60, session()).is_err());
    assert!(of_bars(Resolution::Week, Resolution::M60, session()).is_err());
    assert!(of_bars(Resolution::Week, Resolution::M15, session()).is_ok());
}

#[test]
fn messages_are_of_the_ladders_symbol() {
    let mut ladder = Ladder::of_trades(symbol(), &[Resolution::Day], Rules::default());
    ladder.trade(trade(START, 100, 15));
    let mut out = Vec::new();
    ladder.drain(Forming::Changed, &mut out);
    let topic = Topic {
        symbol: symbol(),
        resolution: Resolution::Day,
    };
    assert_eq!(out[0].topic, topic);
    assert_eq!(out[0].bar.get(Field::Volume).to_string(), "1.5");
}

#[test]
fn a_late_trade_before_the_first_is_followed_by_filled_intervals() {
    for (empty, expected) in [(Empty::Skip, 2), (Empty::Flat, 3), (Empty::Null, 3)] {
        let rules = Rules {
            late_ms: 90_000,
            empty,
            ..Rules::default()
        };
        let mut ladder = Ladder::of_trades(symbol(), &[Resolution::M1, Resolution::M5], rules);
        let mut out = Vec::new();
        for time in [189_333, 119_999] {
            assert_eq!(ladder.trade(trade(START + time, 10_000, 1)), Taken::In);
            ladder.drain(Forming::Changed, &mut out);
        }
        let mut chart = Chart::default();
        chart.take(&out);
        assert_eq!(chart.of(Resolution::M1).len(), expected, "{empty:?}");
    }
}
