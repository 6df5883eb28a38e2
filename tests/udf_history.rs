//! `/udf/history` of a real gateway. The rules in quotes are those of TradingView's documentation of the
//! charting library ("UDF adapter") and of its udf-compatible-datafeed.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use barcast::gateway::{Config, udf};
use common::client::get;
use common::gateway::{Candle, Running, START, candle, config, in_process};
use common::udf::{ask, errmsg, having};
use proptest::prelude::*;
use serde_json::{Value, json};

/// `START` in the protocol's unit.
const START_SECONDS: i64 = START / 1_000;

/// The answer that holds these minutes' bars of price 1 and so on.
fn columns(bars: &[Candle]) -> Value {
    let prices: Vec<_> = bars.iter().map(|bar| bar.price).collect();
    json!({
        "s": "ok",
        "t": bars.iter().map(|bar| bar.time / 1_000).collect::<Vec<_>>(),
        "o": prices, "h": prices, "l": prices, "c": prices,
        "v": vec![1; bars.len()],
    })
}

fn history(gateway: &Running, rest: &str) -> Value {
    ask(gateway, &format!("history?symbol=AAPL&resolution=1&{rest}"))
}

fn span(from: i64, to: i64) -> String {
    format!("from={}&to={}", START_SECONDS + from, START_SECONDS + to)
}

#[test]
fn history_is_columns_in_seconds_with_the_forming_bar() {
    let bars: Vec<_> = (0..4)
        .map(|at| candle("AAPL", at, 10 + at.unsigned_abs()))
        .collect();
    let (gateway, mut feed) = having(config(), &bars);
    assert_eq!(history(&gateway, &span(0, 999)), columns(&bars));
    // "from … leftmost required bar (inclusive)", "to … rightmost required bar (not inclusive)"
    assert_eq!(history(&gateway, &span(60, 180)), columns(&bars[1..3]));
    assert_eq!(history(&gateway, &span(60, 181)), columns(&bars[1..4]));
    assert_eq!(history(&gateway, &span(61, 180)), columns(&bars[2..3]));
    // "countback: number of bars (higher priority than from) starting with to. If countback is set,
    // from should be ignored."
    let counted = |from: i64, to: i64, count: u64| {
        history(&gateway, &format!("{}&countback={count}", span(from, to)))
    };
    assert_eq!(counted(170, 180, 2), columns(&bars[1..3]));
    assert_eq!(counted(0, 999, 1), columns(&bars[3..]));
    assert_eq!(counted(500, 240, 3), columns(&bars[1..]));
    assert_eq!(counted(0, 180, u64::MAX), columns(&bars[..3]));
    // The forming bar is there in its newest state, as the adapter's polling of two bars needs it.
    for (at, price) in [(3, 90), (3, 91), (4, 92), (4, 93), (5, 94)] {
        let bar = candle("AAPL", at, price);
        feed.bar(&bar);
        gateway.received(price - 90 + 5);
        let last = counted(0, 999, 2);
        assert_eq!(
            (&last["t"][1], &last["c"][1]),
            (&json!(bar.time / 1_000), &json!(price))
        );
        assert_eq!(last["t"][0], json!(bar.time / 1_000 - 60));
    }
    // A revised bar changes what is past.
    feed.bar(&candle("AAPL", 1, 77));
    gateway.received(10);
    assert_eq!(counted(0, 120, 1)["c"], json!([77]));
}

/// "nextTime … should be set if the requested period represents a gap in the data. Hence there is
/// available data prior to the requested period"; in UDF it counts seconds.
#[test]
fn an_empty_stretch_tells_of_what_is_older() {
    let bars = [
        candle("AAPL", 0, 1),
        candle("AAPL", 1, 1),
        candle("AAPL", 10, 1),
    ];
    let (gateway, _feed) = having(config(), &bars);
    let next = |minute: i64| json!({"s": "no_data", "nextTime": START_SECONDS + minute * 60});
    assert_eq!(history(&gateway, &span(61, 600)), next(1));
    assert_eq!(history(&gateway, &span(601, 9_999)), next(10));
    let older = json!({"s": "no_data"});
    assert_eq!(history(&gateway, &span(-9_999, 0)), older);
    assert_eq!(history(&gateway, "from=-62135596800&to=-1"), older);
    // A countback reaches whatever is older, so nothing is left to go back to.
    assert_eq!(
        history(&gateway, &format!("{}&countback=9", span(-60, 0))),
        older
    );
    assert_eq!(
        history(&gateway, &format!("{}&countback=9", span(61, 600))),
        columns(&bars[..2])
    );
}

#[test]
fn numbers_print_as_the_producer_sent_them() {
    let (gateway, mut feed) = in_process(config());
    feed.raw(
        "bars:A+B&C=D/E^F:D",
        r#"{"symbol":"A+B&C=D/E^F","resolution":"D","bar":{"time":1697068800000,"open":150.0,"high":18446744073709551615,"low":-0.25,"close":0.1,"volume":1000000}}"#,
    );
    gateway.received(1);
    let body = |resolution: &str| {
        let path = format!(
            "/udf/history?symbol=A%2BB%26C%3DD%2FE%5EF&resolution={resolution}&from=0&to=9999999999"
        );
        get(gateway.address, &path).body
    };
    let expected = r#"{"s":"ok","t":[1697068800],"o":[150.0],"h":[18446744073709551615],"l":[-0.25],"c":[0.1],"v":[1000000]}"#;
    assert_eq!(body("1D"), expected);
    assert_eq!(body("D"), expected, "both spellings");
}

#[test]
fn what_is_wrong_is_told_as_the_protocol_wants() {
    let (gateway, _feed) = having(config(), &[candle("AAPL", 0, 1)]);
    for (query, told) in [
        ("", "symbol is missing"),
        ("symbol=AAPL", "resolution is missing"),
        ("symbol=AAPL&resolution=1", "to is missing"),
        ("symbol=AAPL&resolution=1&to=9", "from is missing"),
        (
            "symbol=NONE&resolution=1&from=1&to=9",
            "unknown symbol \"NONE\"",
        ),
        (
            "symbol=AAPL&resolution=7&from=1&to=9",
            "\"7\" is not a resolution",
        ),
        (
            "symbol=AAPL&resolution=5&from=1&to=9",
            "AAPL has no bars of resolution 5",
        ),
        (
            "symbol=AAPL&resolution=M&from=1&to=9",
            "AAPL has no bars of resolution 1M",
        ),
        ("symbol=AAPL&resolution=1&from=x&to=9", "from = \"x\""),
        ("symbol=AAPL&resolution=1&from=1&to=1e3", "to = \"1e3\""),
        (
            "symbol=AAPL&resolution=1&from=9&to=9",
            "from 9 is not before to 9",
        ),
        (
            "symbol=AAPL&resolution=1&to=9&countback=-1",
            "countback = \"-1\"",
        ),
        (
            "symbol=AAPL&resolution=1&to=9&countback=99999999999999999999",
            "countback = \"9999",
        ),
    ] {
        let message = errmsg(&gateway, &format!("history?{query}"));
        assert!(message.contains(told), "{query}: {message}");
    }
    for path in [
        "/udf/",
        "/udf/marks",
        "/udf/history/",
        "/udf/symbol_info?group=x",
        "/udf//config",
    ] {
        let answer = get(gateway.address, path);
        assert_eq!(answer.status, 404, "{path}");
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["s"], "error", "{path}");
    }
    assert_eq!(get(gateway.address, "/udf").status, 404);
    let long = "%41".repeat(3_000);
    let message = errmsg(&gateway, &format!("symbols?symbol={long}"));
    assert!(message.len() < 100, "{message}");
}

/// However much is kept and asked for: the newest of it ("expectedOrder: latestFirst").
#[test]
fn an_answer_has_a_bound() {
    let bars: Vec<_> = (0..6_000).map(|at| candle("AAPL", at, 1)).collect();
    let (gateway, _feed) = having(
        Config {
            history_bars: 10_000,
            ..config()
        },
        &bars,
    );
    for query in ["from=0&to=9999999999", "to=9999999999&countback=4000000000"] {
        assert_eq!(history(&gateway, query), columns(&bars[1_000..]), "{query}");
    }
    // A chart asks on from the oldest it got.
    let oldest = bars[1_000].time / 1_000;
    let rest = history(&gateway, &format!("from=0&to={oldest}"));
    assert_eq!(rest, columns(&bars[..1_000]));
}

/// Minutes that have a bar in the properties below.
const MINUTES: [i64; 6] = [0, 1, 2, 5, 9, 10];

fn in_words(time: i64) -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (-700..1_400_i64).prop_map(move |off| (time + off).to_string()),
        1 => any::<i64>().prop_map(|time| time.to_string()),
        1 => "[-+0-9a-z.%]{0,24}",
    ]
}

/// A naive reading of the rules.
fn expected(from: i64, to: i64, countback: Option<usize>) -> Value {
    let times: Vec<i64> = MINUTES
        .iter()
        .map(|minute| START_SECONDS + minute * 60)
        .collect();
    let before = |end: i64| times.iter().copied().filter(move |time| *time < end);
    let times: Vec<i64> = match countback {
        Some(count) => {
            let all: Vec<i64> = before(to).collect();
            all[all.len().saturating_sub(count)..].to_vec()
        }
        None => before(to).filter(|time| *time >= from).collect(),
    };
    match (times.is_empty(), before(from).next_back()) {
        (false, _) => json!(times),
        (true, Some(next)) if countback.is_none() => json!({"s": "no_data", "nextTime": next}),
        (true, _) => json!({"s": "no_data"}),
    }
}

/// One gateway for all cases of a property.
fn with_minutes() -> Running {
    let bars = MINUTES.map(|minute| candle("AAPL", minute, 1));
    having(config(), &bars).0
}

fn reply(gateway: &Running, name: &str, query: &str) -> Value {
    let reply = udf::reply(&gateway.node, name, query);
    serde_json::from_slice(&reply.body).unwrap()
}

#[test]
fn history_is_what_the_rules_say_for_any_numbers() {
    let gateway = with_minutes();
    let ranges = (
        -700..1_400_i64,
        -700..1_400_i64,
        prop::option::of(1..9_usize),
    );
    proptest!(ProptestConfig::with_cases(2_000), |((from, to, countback) in ranges)| {
        let (from, to) = (START_SECONDS + from, START_SECONDS + to);
        let counted = countback.map_or_else(String::new, |count| format!("&countback={count}"));
        let query = format!("symbol=AAPL&resolution=1&from={from}&to={to}{counted}");
        let answer = reply(&gateway, "history", &query);
        if countback.is_none() && from >= to {
            prop_assert_eq!(&answer["s"], "error");
        } else if answer["s"] == "ok" {
            prop_assert_eq!(&answer["t"], &expected(from, to, countback));
        } else {
            prop_assert_eq!(answer, expected(from, to, countback));
        }
    });
}

#[test]
fn any_query_is_answered_in_json() {
    let gateway = with_minutes();
    let parameter = prop_oneof![
        Just("symbol=AAPL".to_owned()),
        Just("resolution=1".to_owned()),
        "(symbol|resolution|from|to|countback|query|type|exchange|limit)=\\PC{0,12}",
        "(symbol|query|limit)=(%[0-9a-fA-F]{0,2}|[+:&=]|\\PC){0,40}",
        in_words(START_SECONDS).prop_map(|time| format!("from={time}")),
        in_words(START_SECONDS).prop_map(|time| format!("to={time}")),
        in_words(0).prop_map(|count| format!("countback={count}")),
        "[&=%+;]{0,9}",
    ];
    let queries = prop::collection::vec(parameter, 0..7).prop_map(|parts| parts.join("&"));
    proptest!(ProptestConfig::with_cases(2_000), |(query in queries)| {
        for name in ["config", "symbols", "search", "history"] {
            let answer = reply(&gateway, name, &query);
            let fits = match name {
                "history" => ["ok", "no_data", "error"].iter().any(|s| answer["s"] == *s),
                "search" => answer.is_array() || answer["s"] == "error",
                "symbols" => answer["ticker"] == "AAPL" || answer["s"] == "error",
                _ => answer["supports_time"] == true,
            };
            prop_assert!(fits, "{name}: {answer}");
        }
    });
}
