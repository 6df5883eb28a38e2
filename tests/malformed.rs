//! Every rule that a message can break, broken: dropped under its reason, named in its error.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::Read;

use barcast::bar::{
    BATCH_CHANNEL, Bar, Field, MAX_BATCH_BYTES, MAX_PAYLOAD_BYTES, Malformed, Number, Resolution,
};
use common::words::{decode, plan};

/// A part of the plan's message, what stands there instead, the reason and words of the error.
const SPOILED: &[(&str, &str, &str, &str)] = &[
    (
        "1697097600000",
        "1697097600001",
        "bar",
        "time 1697097600001 is not the start of a bar of resolution 1",
    ),
    (
        "1697097600000",
        "253402300800000",
        "bar",
        "outside the years",
    ),
    (
        "1697097600000",
        "-62135596860000",
        "bar",
        "outside the years",
    ),
    ("151.0", "149.9", "bar", "high 149.9 is below open 150.0"),
    ("151.0", "150.2", "bar", "high 150.2 is below close 150.5"),
    ("149.5", "151.5", "bar", "high 151.0 is below low 151.5"),
    ("149.5", "150.2", "bar", "low 150.2 is above open 150.0"),
    ("150.5", "149.0", "bar", "low 149.5 is above close 149.0"),
    ("1000000}", "-1}", "bar", "volume -1 is below zero"),
    ("1000000}", "-0.5}", "bar", "volume -0.5 is below zero"),
    ("\"time\":1697097600000,", "", "field", "time is missing"),
    ("\"open\":150.0,", "", "field", "open is missing"),
    (",\"volume\":1000000", "", "field", "volume is missing"),
    ("150.0", "\"150.0\"", "field", "open is not a number"),
    ("150.0", "null", "field", "open is not a number"),
    (
        "1697097600000",
        "1697097600000.5",
        "field",
        "time is not an integer",
    ),
    ("1697097600000", "\"2023\"", "field", "time is not a number"),
    (
        "1000000}",
        "1000000,\"closed\":1}",
        "field",
        "closed is not true or false",
    ),
    ("\"symbol\":\"AAPL\",", "", "field", "symbol is missing"),
    (
        "\"resolution\":\"1\",",
        "",
        "field",
        "resolution is missing",
    ),
    ("\"AAPL\"", "7", "field", "symbol is not a string"),
    ("\"1\"", "1", "field", "resolution is not a string"),
    (
        "{\"symbol\"",
        "{\"seq\":-1,\"symbol\"",
        "field",
        "seq is not an integer from 0",
    ),
    (
        "{\"symbol\"",
        "{\"ts\":1.5,\"symbol\"",
        "field",
        "ts is not an integer from 0",
    ),
    ("\"bar\"", "\"candle\"", "field", "bar is missing"),
    ("AAPL", "AA PL", "symbol", "' ' is not allowed in a symbol"),
    ("AAPL", "", "symbol", "1 to 32 characters, this one has 0"),
    (
        "AAPL",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ1234567",
        "symbol",
        "this one has 33",
    ),
    ("\"1\"", "\"7\"", "resolution", "\"7\" is not a resolution"),
    (
        "AAPL",
        "MSFT",
        "disagrees",
        "channel is bars:AAPL:1, payload is bars:MSFT:1",
    ),
    ("\"1\"", "\"3\"", "disagrees", "payload is bars:AAPL:3"),
    ("}}", "}", "json", "not JSON"),
    ("150.0", "NaN", "json", "not JSON"),
    ("{\"symbol\"", "[{\"symbol\"", "json", "not JSON"),
];

/// More than a batch may unfold to, in a few kilobytes.
fn bomb() -> Vec<u8> {
    let unfolded = std::io::repeat(b' ').take(MAX_BATCH_BYTES as u64 + 1);
    zstd::stream::encode_all(unfolded, 1).unwrap()
}

#[test]
fn every_rule_of_a_bar_is_named_when_broken() {
    for &(from, to, reason, named) in SPOILED {
        let text = plan(from, to);
        let answers = decode("bars:AAPL:1", text.as_bytes());
        let [Err(why)] = &answers[..] else {
            panic!("{text}: {answers:?}")
        };
        assert_eq!(why.reason(), reason, "{text}: {why}");
        assert!(why.to_string().contains(named), "{text}: {why}");
    }
}

#[test]
fn every_other_reason_is_named() {
    let good = plan("", "");
    let cases = [
        (
            "bars:AAPL:1",
            vec![b' '; MAX_PAYLOAD_BYTES + 1],
            "too_large",
            "larger than",
        ),
        (
            BATCH_CHANNEL,
            b"\x28\xb5\x2f\xfdgarbage".to_vec(),
            "zstd",
            "zstd: ",
        ),
        (BATCH_CHANNEL, bomb(), "zstd", "unpacks to more than"),
        (
            BATCH_CHANNEL,
            good.clone().into_bytes(),
            "shape",
            "an array of messages expected",
        ),
        (
            "bars:AAPL:1",
            format!("[{good}]").into_bytes(),
            "shape",
            "an object expected",
        ),
        (
            "bars:AAPL:1",
            br#"{"symbol":"AAPL","resolution":"1","bar":[]}"#.to_vec(),
            "shape",
            "bar: an object expected",
        ),
        (
            "bars:AAPL",
            good.clone().into_bytes(),
            "channel",
            "is not a topic",
        ),
        (
            "bars:AA PL:1",
            good.clone().into_bytes(),
            "channel",
            "not allowed in a symbol",
        ),
        (
            "bars:AAPL:2",
            good.clone().into_bytes(),
            "channel",
            "is not a resolution",
        ),
        (
            "bars:MSFT:1",
            good.into_bytes(),
            "disagrees",
            "channel is bars:MSFT:1",
        ),
        ("bars:AAPL:1", Vec::new(), "json", "not JSON"),
    ];
    for (channel, payload, reason, named) in cases {
        let answers = decode(channel, &payload);
        let [Err(why)] = &answers[..] else {
            panic!("{named}: {answers:?}")
        };
        assert_eq!(why.reason(), reason, "{why}");
        assert!(why.to_string().contains(named), "{why}");
        assert!(Malformed::REASONS.contains(&why.reason()));
    }
}

#[test]
fn a_bar_is_made_of_finite_numbers_only() {
    for field in Field::ALL {
        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut numbers = [Number::Unsigned(1); 5];
            numbers[field as usize] = Number::Float(wrong);
            let refused = Bar::new(Resolution::M1, 0, numbers, false).unwrap_err();
            assert_eq!(refused.to_string(), format!("{field} is not finite"));
        }
    }
}
