//! TradingView's UDF over a real gateway: what there is to chart. The rules in quotes are those of
//! TradingView's documentation of the charting library ("UDF adapter", "Symbology").
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use barcast::clock;
use barcast::gateway::{Config, udf};
use common::client::{get, metric};
use common::gateway::{Candle, Running, candle, config, in_process};
use common::udf::{ask, errmsg, having};
use serde_json::json;

/// Every resolution, as UDF writes them.
const RESOLUTIONS: [&str; 16] = [
    "1S", "5S", "15S", "30S", "1", "3", "5", "15", "30", "45", "60", "120", "240", "1D", "1W", "1M",
];

fn listed(file: &str) -> Config {
    let listings: udf::Listings = file.parse().unwrap();
    Config {
        listings: listings.into(),
        ..config()
    }
}

// ---- config and time ---------------------------------------------------------------------------

/// "Either supports_search or supports_group_request should be set to true."
#[test]
fn the_config_tells_what_there_is() {
    let (gateway, _feed) = in_process(listed(
        "[default]\nexchange = 'NASDAQ'\n[symbols.BTCUSD]\ntype = 'crypto'\nexchange = 'Kraken'",
    ));
    let expected = json!({
        "supports_search": true,
        "supports_group_request": false,
        "supports_marks": false,
        "supports_timescale_marks": false,
        "supports_time": true,
        "supported_resolutions": RESOLUTIONS,
        // "Use value = '' if you wish to include all exchanges"; the same goes for types.
        "exchanges": [
            {"value": "", "name": "All exchanges", "desc": ""},
            {"value": "Kraken", "name": "Kraken", "desc": "Kraken"},
            {"value": "NASDAQ", "name": "NASDAQ", "desc": "NASDAQ"},
        ],
        "symbols_types": [
            {"name": "All types", "value": ""},
            {"name": "crypto", "value": "crypto"},
            {"name": "stock", "value": "stock"},
        ],
    });
    assert_eq!(ask(&gateway, "config"), expected);
}

/// "Response: numeric Unix time without milliseconds", and nothing else: the adapter parses it bare.
#[test]
fn the_time_is_a_bare_number_of_seconds() {
    let (gateway, _feed) = in_process(config());
    let before = clock::now_ms() / 1_000;
    let answer = get(gateway.address, "/udf/time");
    let after = clock::now_ms() / 1_000;
    let time: i64 = answer.body.parse().expect(&answer.body);
    assert!((before..=after).contains(&time), "{time}");
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
}

// ---- symbols -----------------------------------------------------------------------------------

#[test]
fn a_symbol_without_a_file_can_be_charted() {
    let (gateway, mut feed) = having(
        config(),
        &[
            candle("AAPL", 0, 1),
            candle("AAPL", 0, 1).resolution("15"),
            candle("MSFT", 0, 1).resolution("60"),
        ],
    );
    feed.raw(
        "bars:AAPL:D",
        r#"{"symbol":"AAPL","resolution":"D","bar":{"time":1697068800000,"open":150.0,"high":151.0,"low":149.5,"close":150.125,"volume":1000000.5}}"#,
    );
    gateway.received(4);
    // Nobody can chart a topic without a bar, although it is known once it is subscribed to.
    let mut client = gateway.client();
    client.subscribe("bars:AAPL:W");
    let expected = json!({
        "name": "AAPL", "ticker": "AAPL", "full_name": "AAPL", "description": "AAPL",
        "type": "stock",
        "session": "24x7", "timezone": "Etc/UTC",
        "exchange": "", "listed_exchange": "",
        "minmov": 1,
        // "pricescale … 10^number-of-decimal-places"
        "pricescale": 1000,
        "has_intraday": true, "intraday_multipliers": ["1", "15"],
        "has_seconds": false, "seconds_multipliers": [],
        "has_daily": true, "has_weekly_and_monthly": false,
        "supported_resolutions": ["1", "15", "1D"],
        "volume_precision": 1,
        "data_status": "streaming", "format": "price",
    });
    assert_eq!(ask(&gateway, "symbols?symbol=AAPL"), expected);
    let other = ask(&gateway, "symbols?symbol=MSFT");
    assert_eq!(other["supported_resolutions"], json!(["60"]));
    assert_eq!(
        (&other["pricescale"], &other["has_daily"]),
        (&json!(100), &json!(false))
    );
}

/// "seconds_multipliers … containing seconds resolutions (in seconds without a postfix)"; what has
/// seconds is intraday, or its buttons would be disabled.
#[test]
fn seconds_weeks_and_months_are_told_in_their_own_fields() {
    let month = Candle {
        time: 1_696_118_400_000,
        ..candle("X", 0, 1)
    };
    let week = Candle {
        time: 1_696_809_600_000,
        ..month
    };
    let (gateway, _feed) = having(
        config(),
        &[
            candle("S", 0, 1).resolution("1S"),
            candle("S", 0, 1).resolution("30S"),
            month.resolution("M"),
            week.resolution("W"),
        ],
    );
    let seconds = ask(&gateway, "symbols?symbol=S");
    assert_eq!(seconds["seconds_multipliers"], json!(["1", "30"]));
    assert_eq!(seconds["intraday_multipliers"], json!([]));
    assert_eq!(seconds["supported_resolutions"], json!(["1S", "30S"]));
    assert_eq!(
        (&seconds["has_seconds"], &seconds["has_intraday"]),
        (&json!(true), &json!(true))
    );
    let long = ask(&gateway, "symbols?symbol=X");
    assert_eq!(long["supported_resolutions"], json!(["1W", "1M"]));
    for (field, has) in [
        ("has_weekly_and_monthly", true),
        ("has_daily", false),
        ("has_intraday", false),
    ] {
        assert_eq!(long[field], has, "{field}");
    }
}

#[test]
fn a_file_says_what_symbols_are() {
    let (gateway, _feed) = having(
        listed(
            "[default]\nexchange = 'NASDAQ'\n[symbols.AAPL]\ndescription = 'Äpfel \"Inc.\"'\ntype = 'dr'\n\
             session = '0930-1600'\ntimezone = 'America/New_York'\npricescale = 10\nminmov = 5\nvolume_precision = 2\n\
             [symbols.ABSENT]\ndescription = 'never had a bar'",
        ),
        &[candle("AAPL", 0, 1), candle("MSFT", 0, 1)],
    );
    let apple = ask(&gateway, "symbols?symbol=AAPL");
    for (field, value) in [
        ("name", json!("AAPL")),
        ("ticker", json!("AAPL")),
        ("full_name", json!("NASDAQ:AAPL")),
        ("description", json!("Äpfel \"Inc.\"")),
        ("type", json!("dr")),
        ("session", json!("0930-1600")),
        ("timezone", json!("America/New_York")),
        ("exchange", json!("NASDAQ")),
        ("listed_exchange", json!("NASDAQ")),
        ("pricescale", json!(10)),
        ("minmov", json!(5)),
        ("volume_precision", json!(2)),
    ] {
        assert_eq!(apple[field], value, "{field}");
    }
    assert_eq!(
        ask(&gateway, "symbols?symbol=MSFT")["full_name"],
        "NASDAQ:MSFT"
    );
    // "Symbol name or ticker", as in the documentation's own example /symbols?symbol=NYSE:MSFT.
    assert_eq!(ask(&gateway, "symbols?symbol=NASDAQ%3AAAPL"), apple);
    for unknown in [
        "ABSENT",
        "NYSE:AAPL",
        ":AAPL",
        "NASDAQ:",
        "aapl",
        "A%20B",
        "%00",
        "%ff",
        "bars:AAPL:1",
    ] {
        let told = errmsg(&gateway, &format!("symbols?symbol={unknown}"));
        assert!(told.starts_with("unknown symbol"), "{unknown}: {told}");
    }
    assert_eq!(errmsg(&gateway, "symbols"), "symbol is missing");
}

// ---- search ------------------------------------------------------------------------------------

fn found(gateway: &Running, query: &str) -> Vec<String> {
    let answer = ask(gateway, &format!("search?{query}"));
    let names = answer
        .as_array()
        .unwrap_or_else(|| panic!("{answer}"))
        .iter();
    names
        .map(|hit| hit["symbol"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_search_finds_the_best_first() {
    let (gateway, _feed) = having(
        listed(
            "[symbols.TSLA]\ndescription = 'Tesla, Inc. (Elektrofahrzeuge Österreich)'\nexchange = 'NASDAQ'\n\
             [symbols.ASML]\nexchange = 'NASDAQ'\n[symbols.SLB]\nexchange = 'NYSE'\n\
             [symbols.SL]\ntype = 'crypto'",
        ),
        &[
            candle("TSLA", 0, 1),
            candle("TSLA", 0, 1).resolution("5"),
            candle("ASML", 0, 1),
            candle("SLB", 0, 1),
            candle("SL", 0, 1),
            candle("ASLA", 0, 1),
        ],
    );
    let mut client = gateway.client();
    client.subscribe("bars:SLNOBARS:1");
    // The symbol itself, then what begins with it, then what has it anywhere; each symbol once.
    assert_eq!(found(&gateway, "query=SL"), ["SL", "SLB", "ASLA", "TSLA"]);
    assert_eq!(found(&gateway, "query=sl&limit=2"), ["SL", "SLB"]);
    assert_eq!(found(&gateway, "query=SL&limit=0"), [""; 0]);
    // The adapter sends what was typed in upper case, and every parameter, empty ones as well.
    assert_eq!(
        found(&gateway, "limit=30&query=%C3%96STER&type=&exchange="),
        ["TSLA"]
    );
    assert_eq!(found(&gateway, "query=nasdaq:a"), ["ASML"]);
    assert_eq!(found(&gateway, "query=&exchange=NASDAQ"), ["ASML", "TSLA"]);
    assert_eq!(found(&gateway, "query=&type=crypto"), ["SL"]);
    assert_eq!(
        found(&gateway, "query=SL&type=crypto&exchange=NYSE"),
        [""; 0]
    );
    assert_eq!(found(&gateway, ""), ["ASLA", "ASML", "SL", "SLB", "TSLA"]);
    // "If no symbols are found, then … an empty array"
    assert_eq!(ask(&gateway, "search?query=nothing"), json!([]));
    assert!(errmsg(&gateway, "search?query=SL&limit=x").contains("limit"));
    let hit = &ask(&gateway, "search?query=TSLA")[0];
    let expected = json!({
        "symbol": "TSLA", "full_name": "NASDAQ:TSLA", "ticker": "TSLA", "exchange": "NASDAQ",
        "description": "Tesla, Inc. (Elektrofahrzeuge Österreich)", "type": "stock",
    });
    assert_eq!(hit, &expected);
}

#[test]
fn a_search_gives_no_more_than_a_dialog_can_show() {
    let (gateway, mut feed) = in_process(config());
    for at in 0..250 {
        let name = format!("S{at:03}");
        let message = candle("NAME", 0, 1).message().replace("NAME", &name);
        feed.raw(&format!("bars:{name}:1"), message);
    }
    gateway.received(250);
    let first: Vec<_> = (0..250).map(|at| format!("S{at:03}")).collect();
    assert_eq!(found(&gateway, "query=s"), first[..30]);
    assert_eq!(
        found(&gateway, "query=s&limit=18446744073709551615"),
        first[..200]
    );
}

// ---- metrics -----------------------------------------------------------------------------------

#[test]
fn requests_are_counted_by_route_and_status_and_labels_stay_few() {
    let (gateway, _feed) = having(config(), &[candle("AAPL", 0, 1)]);
    let count = |route: &str, status: &str| {
        let name = format!(r#"barcast_udf_requests_total{{route="{route}",status="{status}"}}"#);
        metric(gateway.address, &name)
    };
    let labels = || {
        let text = get(gateway.address, "/metrics").body;
        text.lines()
            .filter(|line| line.starts_with("barcast_udf_requests_total{"))
            .count()
    };
    let before = labels();
    assert_eq!(before, 10, "all are there from the beginning");
    for (route, status, path) in [
        ("config", "ok", "config"),
        ("time", "ok", "time"),
        ("symbols", "ok", "symbols?symbol=AAPL"),
        ("symbols", "error", "symbols?symbol=NONE"),
        ("search", "ok", "search?query=none"),
        ("search", "error", "search?limit=x"),
        (
            "history",
            "ok",
            "history?symbol=AAPL&resolution=1&from=0&to=9999999999",
        ),
        (
            "history",
            "no_data",
            "history?symbol=AAPL&resolution=1&from=0&to=1",
        ),
        ("history", "error", "history"),
        ("other", "error", "made-up"),
    ] {
        assert_eq!(count(route, status), 0, "{path}");
        get(gateway.address, &format!("/udf/{path}"));
        assert_eq!(count(route, status), 1, "{path}");
    }
    for at in 0..50 {
        get(gateway.address, &format!("/udf/route-{at}"));
    }
    assert_eq!((count("other", "error"), labels()), (51, before));
}
