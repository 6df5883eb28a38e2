//! The words: what is printed reads back, what is malformed is named, and nothing panics.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use barcast::bar::{
    BATCH_CHANNEL, Bar, BatchEncoder, Decoder, Field, Message, Number, Pattern, Resolution, Symbol,
    Topic, write_message, write_update,
};
use common::words::{decode, plan};
use proptest::prelude::*;

fn encode(message: &Message) -> Vec<u8> {
    let mut payload = Vec::new();
    write_message(&mut payload, message);
    payload
}

fn symbol() -> impl Strategy<Value = Symbol> {
    "[A-Za-z0-9._/^=+&-]{1,32}".prop_map(|text| text.parse().unwrap())
}

fn resolution() -> impl Strategy<Value = Resolution> {
    prop::sample::select(&Resolution::ALL[..])
}

fn topic() -> impl Strategy<Value = Topic> {
    (symbol(), resolution()).prop_map(|(symbol, resolution)| Topic { symbol, resolution })
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        any::<u64>().prop_map(Number::from),
        any::<i64>().prop_map(Number::from),
        any::<f64>()
            .prop_filter("JSON has no such number", |n| n.is_finite())
            .prop_map(Number::from),
        (-1_000_000_i32..1_000_000).prop_map(|cents| Number::from(f64::from(cents) / 100.0)),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Forming,
    Closed,
    Empty,
}

fn message() -> impl Strategy<Value = Message> {
    let prices = prop::array::uniform4(number());
    let extra = || prop::option::of(any::<u64>());
    let numbers = (prices, number());
    let extras = (extra(), extra(), extra(), extra());
    // The years 1900 to 2100, and their neighbourhood of the epoch.
    let time = -2_208_988_800_000_i64..4_102_444_800_000;
    let state = prop::sample::select(&[State::Forming, State::Closed, State::Empty][..]);
    (topic(), time, numbers, state, extras).prop_map(
        |(topic, time, (mut prices, volume), state, (seq, epoch, ts, rev))| {
            prices.sort_by(|a, b| a.value().total_cmp(&b.value()));
            let [low, open, close, high] = prices;
            let volume = if volume.value() < 0.0 {
                Number::Unsigned(0)
            } else {
                volume
            };
            let time = topic.resolution.floor(time);
            let numbers = [open, high, low, close, volume];
            let bar = match state {
                State::Empty => Bar::empty(topic.resolution, time).unwrap(),
                _ => {
                    let closed = state == State::Closed;
                    Bar::new(topic.resolution, time, numbers, closed).unwrap()
                }
            };
            Message {
                topic,
                bar,
                seq,
                epoch,
                ts,
                rev,
            }
        },
    )
}

proptest! {
    #[test]
    fn names_read_back(topic in topic(), wild in any::<(bool, bool)>()) {
        prop_assert_eq!(topic.symbol.to_string().parse(), Ok(topic.symbol));
        prop_assert_eq!(topic.resolution.to_string().parse(), Ok(topic.resolution));
        prop_assert_eq!(topic.to_string().parse(), Ok(topic));
        let pattern = Pattern {
            symbol: Some(topic.symbol).filter(|_| !wild.0),
            resolution: Some(topic.resolution).filter(|_| !wild.1),
        };
        prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
        prop_assert!(pattern.matches(&topic));
        prop_assert_eq!(pattern.topic().is_some(), wild == (false, false));
    }

    #[test]
    fn no_text_panics(text in ".{0,60}", joined in "(bars)?:?[A-Z*@é]{0,3}:?[0-9A-Z*]{0,3}") {
        for text in [text, joined] {
            let _ = text.parse::<Symbol>();
            let _ = text.parse::<Resolution>();
            let _ = text.parse::<Number>();
            // Whatever parses prints as what parses to the same.
            if let Ok(topic) = text.parse::<Topic>() {
                prop_assert_eq!(topic.to_string().parse(), Ok(topic));
            }
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
            }
        }
    }

    #[test]
    fn numbers_read_back_in_their_form(number in number()) {
        let text = number.to_string();
        let back: Number = text.parse().unwrap();
        prop_assert_eq!(back, number);
        prop_assert_eq!(back.to_string(), text);
    }

    #[test]
    fn messages_read_back(message in message()) {
        let payload = encode(&message);
        let back = decode(&message.topic.to_string(), &payload);
        prop_assert_eq!(&back, &[Ok(message)]);
        prop_assert_eq!(encode(back[0].as_ref().unwrap()), payload);
        let mut update = Vec::new();
        write_update(&mut update, &message);
        let update: serde_json::Value = serde_json::from_slice(&update).unwrap();
        prop_assert_eq!(&update["topic"], &message.topic.to_string());
        prop_assert_eq!(update["payload"]["time"].as_i64(), Some(message.bar.time()));
    }

    #[test]
    fn batches_read_back(messages in prop::collection::vec(message(), 0..40), compress in any::<bool>()) {
        let mut encoder = BatchEncoder::default();
        for _ in 0..2 {
            for message in &messages {
                encoder.push(message);
            }
            let payload = encoder.take(compress).unwrap();
            let back: Result<Vec<_>, _> = decode(BATCH_CHANNEL, &payload).into_iter().collect();
            prop_assert_eq!(back.as_ref(), Ok(&messages));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0_usize..400, message in message()) {
        let good = encode(&message);
        let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd];
        zstd.extend_from_slice(&bytes);
        let mut torn = good.clone();
        torn.truncate(cut.min(good.len()));
        let mut spoiled = good.clone();
        for (at, byte) in bytes.iter().enumerate().take(3) {
            let spoil = (at * 97 + cut) % spoiled.len();
            spoiled[spoil] = *byte;
        }
        let mut decoder = Decoder::default();
        for channel in ["bars:A:1", BATCH_CHANNEL, "bars:", ""] {
            for payload in [&bytes, &zstd, &torn, &spoiled] {
                let mut answers = 0;
                decoder.decode(channel, payload, |_| answers += 1);
                prop_assert!(answers > 0 || payload.trim_ascii() == b"[]");
            }
        }
        // A decoder that saw all this still reads.
        let mut back = Vec::new();
        decoder.decode(&message.topic.to_string(), &good, |m| back.push(m));
        prop_assert_eq!(back, [Ok(message)]);
    }

    #[test]
    fn broken_elements_cost_no_good_one(
        messages in prop::collection::vec(message(), 1..10),
        at in any::<prop::sample::Index>(),
        broken in prop::sample::select(vec![
            "", "nul", "{\"a\":}", "{\"symbol\":\"A\",\"bar\":{\"open\":01}}", "\"\\x\"", "[1,]", "{}", "1", "{\"symbol\":\"}]{,\" 1}",
        ]),
    ) {
        let mut elements: Vec<String> = messages
            .iter()
            .map(|m| String::from_utf8(encode(m)).unwrap())
            .collect();
        elements.insert(at.index(elements.len() + 1), broken.to_owned());
        let answers = decode(BATCH_CHANNEL, format!("[{}]", elements.join(",")).as_bytes());
        let good: Vec<Message> = answers.iter().filter_map(|m| m.clone().ok()).collect();
        prop_assert_eq!(good, messages);
        prop_assert_eq!(answers.iter().filter(|m| m.is_err()).count(), 1);
    }

    #[test]
    fn the_grid_is_the_calendars(time in -62_135_596_800_000_i64..253_402_300_799_999, resolution in resolution()) {
        let start = resolution.floor(time);
        prop_assert!(start <= time && time < resolution.next(time));
        prop_assert!(resolution.is_aligned(start));
        prop_assert_eq!(resolution.floor(resolution.next(time) - 1), start);
        prop_assert_eq!(resolution.next(resolution.previous(time)), start);
        let civil = |ms| jiff::tz::TimeZone::UTC.to_datetime(jiff::Timestamp::from_millisecond(ms).unwrap());
        let date = civil(time).date();
        let expected = match resolution {
            Resolution::Day => date,
            Resolution::Week => date.saturating_sub(jiff::Span::new().days(date.weekday().to_monday_zero_offset())),
            Resolution::Month => date.first_of_month(),
            _ => {
                prop_assert_eq!(start.rem_euclid(resolution.nominal_ms()), 0);
                return Ok(());
            }
        };
        prop_assert_eq!(civil(start), expected.to_datetime(jiff::civil::Time::midnight()));
    }
}

#[test]
fn the_plans_message_is_kept_byte_for_byte() {
    let text = plan("", "");
    let back = decode("bars:AAPL:1", text.as_bytes());
    let message = back[0].clone().unwrap();
    assert_eq!(String::from_utf8(encode(&message)).unwrap(), text);
    assert_eq!((message.seq, message.bar.closed), (None, false));
    let spaced = text.replace(':', " : ").replace(',', "\n,\t");
    assert_eq!(decode("bars:AAPL:1", spaced.as_bytes()), [Ok(message)]);
    let further = plan("{\"symbol\"", "{\"x\":[{\"bar\":1}],\"symbol\"");
    let further = further.replace("\"open\"", "\"closed\":true,\"vwap\":{},\"open\"");
    let closed = decode("bars:AAPL:1", further.as_bytes())[0]
        .clone()
        .unwrap();
    assert!(closed.bar.closed && closed.bar.numbers() == message.bar.numbers());
}

#[test]
fn an_interval_without_trades_is_closed_has_no_volume_and_only_nulls() {
    let empty = r#"{"symbol":"A","resolution":"1","bar":{"time":1697097600000,"open":null,"high":null,"low":null,"close":null,"volume":0,"closed":true},"seq":3}"#;
    let message = decode("bars:A:1", empty.as_bytes())[0].clone().unwrap();
    assert!(message.bar.is_empty() && message.bar.closed);
    assert_eq!((message.seq, message.bar.time()), (Some(3), 1697097600000));
    assert_eq!(String::from_utf8(encode(&message)).unwrap(), empty);
    let moved = message.bar.at(Resolution::M1, 1697097660000).unwrap();
    assert!(moved.is_empty() && moved != message.bar);
    let float = empty.replace("\"volume\":0", "\"volume\":0.0");
    assert_eq!(decode("bars:A:1", float.as_bytes()), [Ok(message)]);
    for (good, bad, reason) in [
        ("\"open\":null", "\"open\":1", "field"),
        ("\"high\":null", "\"high\":1", "field"),
        ("\"low\":null", "\"low\":1", "field"),
        ("\"close\":null", "\"close\":1", "field"),
        ("\"close\":null,", "", "field"),
        ("\"close\":null", "\"close\":\"null\"", "field"),
        ("\"volume\":0", "\"volume\":1", "field"),
        ("\"volume\":0", "\"volume\":null", "field"),
        ("\"volume\":0,", "", "field"),
        (",\"closed\":true", "", "field"),
        ("\"closed\":true", "\"closed\":false", "field"),
        ("\"closed\":true", "\"closed\":null", "field"),
        ("1697097600000", "null", "field"),
        ("1697097600000", "1697097600001", "bar"),
    ] {
        let spoiled = empty.replace(good, bad);
        assert_ne!(spoiled, empty, "{good}");
        let answers = decode("bars:A:1", spoiled.as_bytes());
        let reasons: Vec<_> = answers
            .iter()
            .map(|a| a.as_ref().map_err(|why| why.reason()))
            .collect();
        assert_eq!(reasons, [Err(reason)], "{spoiled}");
    }
}

#[test]
fn numbers_keep_the_form_they_came_in() {
    for (sent, printed) in [
        ("150.0", "150.0"),
        ("150", "150"),
        ("0", "0"),
        ("0.0", "0.0"),
        ("150.50", "150.5"),
        ("1e-7", "1e-7"),
        ("151e-2", "1.51"),
        ("0.1", "0.1"),
        ("-1", "-1"),
        ("-37.63", "-37.63"),
        ("-9223372036854775808", "-9223372036854775808"),
    ] {
        // Every one of these is at most the other prices.
        let text = plan("150.0", "150.5").replace("149.5", sent);
        let message = decode("bars:AAPL:1", text.as_bytes())[0].clone().unwrap();
        assert_eq!(message.bar.get(Field::Low).to_string(), printed, "{sent}");
        assert_eq!(sent.parse::<Number>().unwrap().to_string(), printed);
    }
    for (sent, printed) in [
        ("1000000", "1000000"),
        ("1000000.0", "1000000.0"),
        ("18446744073709551615", "18446744073709551615"),
        ("9007199254740993", "9007199254740993"),
    ] {
        let text = plan("1000000}", &format!("{sent}}}"));
        let message = decode("bars:AAPL:1", text.as_bytes())[0].clone().unwrap();
        assert_eq!(message.bar.get(Field::Volume).to_string(), printed);
    }
    for (sent, value) in [
        ("1e20", 1e20),
        ("1e3", 1e3),
        ("18446744073709551616", 18_446_744_073_709_551_616.0),
    ] {
        let text = plan("1000000}", &format!("{sent}}}"));
        let message = decode("bars:AAPL:1", text.as_bytes())[0].clone().unwrap();
        let printed = message.bar.get(Field::Volume).to_string();
        assert_eq!(
            serde_json::from_str::<f64>(&printed).unwrap(),
            value,
            "{sent}"
        );
    }
}

#[test]
fn long_names_of_resolutions_print_short() {
    for (long, short) in [("1D", "D"), ("1W", "W"), ("1M", "M")] {
        assert_eq!(long.parse::<Resolution>().unwrap().to_string(), short);
        let message = plan("\"1\"", &format!("\"{long}\""));
        let message = message.replace("1697097600000", "1696118400000");
        let answers = decode(&format!("bars:AAPL:{short}"), message.as_bytes());
        // 2023-10-01 begins a day and a month, and is a Sunday.
        assert_eq!(answers[0].is_ok(), short != "W", "{answers:?}");
    }
    let many = Resolution::ALL.map(Resolution::as_str);
    assert!(many.iter().all(|text| text.parse::<Resolution>().is_ok()));
}
