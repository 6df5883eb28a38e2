//! The rules of RFC 6455 for what clients send: on the decoder alone here, over real sockets in
//! `rfc6455_sockets.rs`.
//!
//! | section | rule | test |
//! |---|---|---|
//! | 5.1, 5.3 | a client masks; a server that gets an unmasked frame closes | `section_5_1_…`, `section_5_7_…` |
//! | 5.2 | reserved bits and opcodes, the forms of a length | `section_5_2_…` |
//! | 5.4 | fragments, control frames between them, no interleaving | `section_5_4_…` |
//! | 5.5 | control frames are short and whole | `section_5_5_…` |
//! | 5.5.1, 7.1.4, 7.1.5 | the closing handshake | `section_5_5_1_…`, `a_clients_close_…` |
//! | 5.5.2, 5.5.3 | ping and pong | `fragments_and_control_…`, `silence_is_pinged_…` |
//! | 5.6 | text and binary | `section_5_4_…`, `section_8_1_…` |
//! | 5.7 | the examples | `section_5_7_…` |
//! | 5.8, 9 | extensions: none without negotiation | `section_5_2_reserved_bits_…` |
//! | 7.1.7, 7.4 | which breach is closed with which code; codes that may be sent | `section_5_5_1_…`, `a_breach_…` |
//! | 8.1 | text is UTF-8, told as early as it can be | `section_8_1_…` |
//! | 10.4 | messages are bounded | `section_10_4_…` |
//!
//! Section 4, the handshake, is in `handshake.rs`. Not applicable to a server: 4.1, 5.3's choice of a
//! mask, 7.2.3 (reconnecting).
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::ops::ControlFlow;

use barcast::gateway::ws::{Decoder, Event, Violation};
use common::client::{BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame, frame_with};
use proptest::prelude::*;

const MAX: usize = 4 << 10;
const FIN: u8 = 0x80;

/// What a decoder told of, owned.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

fn decode(pieces: &[&[u8]]) -> (Vec<Told>, Result<(), Violation>) {
    let mut decoder = Decoder::new(MAX);
    let mut told = Vec::new();
    for piece in pieces {
        let fed = decoder.feed(&mut piece.to_vec(), |event| {
            told.push(match event {
                Event::Text(text) => Told::Text(text.to_owned()),
                Event::Binary(bytes) => Told::Binary(bytes.to_vec()),
                Event::Ping(bytes) => Told::Ping(bytes.to_vec()),
                Event::Pong(bytes) => Told::Pong(bytes.to_vec()),
                Event::Close(close) => Told::Close(close.code),
                Event::Fragment => return ControlFlow::Continue(()),
            });
            ControlFlow::Continue(())
        });
        if fed.is_err() {
            return (told, fed);
        }
    }
    (told, Ok(()))
}

/// The violation that these bytes end in.
fn violation(bytes: &[u8]) -> Violation {
    let (_, fed) = decode(&[bytes]);
    fed.expect_err(&format!("{bytes:x?}"))
}

fn text(of: &str) -> Told {
    Told::Text(of.to_owned())
}

#[test]
fn section_5_7_examples() {
    // The RFC's own bytes: a single-frame masked text message, and a masked pong.
    let hello = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(decode(&[&hello]), (vec![text("Hello")], Ok(())));
    let pong = [
        0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(
        decode(&[&pong]),
        (vec![Told::Pong(b"Hello".to_vec())], Ok(()))
    );
}

#[test]
fn section_5_1_a_client_must_mask() {
    assert_eq!(
        violation(&[0x81, 0x05, b'H', b'e', b'l', b'l', b'o']),
        Violation::Unmasked
    );
    assert_eq!(violation(&[0x89, 0x00]), Violation::Unmasked);
    assert_eq!(Violation::Unmasked.code().code(), 1002);
}

#[test]
fn section_5_2_reserved_bits_are_zero() {
    for rsv in [0x40, 0x20, 0x10, 0x70] {
        let found = violation(&frame_with(FIN | TEXT | rsv, b"x"));
        assert_eq!(
            (found, found.code().code()),
            (Violation::ReservedBits, 1002)
        );
    }
}

#[test]
fn section_5_2_reserved_opcodes() {
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        let found = violation(&frame(opcode, b""));
        assert_eq!(found, Violation::ReservedOpcode(opcode));
        assert_eq!(found.code().code(), 1002);
    }
}

#[test]
fn section_5_2_lengths_take_the_shortest_form() {
    let mask = [1, 2, 3, 4];
    let long = |second: u8, length: &[u8]| [&[FIN | TEXT, 0x80 | second], length, &mask].concat();
    assert_eq!(violation(&long(126, &[0, 125])), Violation::LengthForm);
    assert_eq!(
        violation(&long(127, &[0, 0, 0, 0, 0, 0, 0xff, 0xff])),
        Violation::LengthForm
    );
    // "The most significant bit MUST be 0."
    assert_eq!(
        violation(&long(127, &[0x80, 0, 0, 0, 0, 0, 0, 0])),
        Violation::LengthRange
    );
    for size in [0, 1, 125, 126, 127, MAX] {
        let payload = "x".repeat(size);
        assert_eq!(
            decode(&[&frame(TEXT, &payload)]),
            (vec![text(&payload)], Ok(()))
        );
    }
}

#[test]
fn section_5_4_fragments_are_one_message_and_control_frames_may_come_between() {
    let bytes = [
        frame_with(TEXT, b"Hel"),
        frame(PING, "1"),
        frame_with(CONTINUATION, b""),
        frame(PONG, "2"),
        frame_with(FIN | CONTINUATION, b"lo"),
        frame_with(BINARY, b"\x00"),
        frame_with(FIN | CONTINUATION, b"\xff"),
    ];
    let told = vec![
        Told::Ping(b"1".to_vec()),
        Told::Pong(b"2".to_vec()),
        text("Hello"),
        Told::Binary(vec![0, 0xff]),
    ];
    assert_eq!(decode(&[&bytes.concat()]), (told, Ok(())));
}

#[test]
fn section_5_4_messages_may_not_interleave() {
    let begun = frame_with(TEXT, b"a");
    for opcode in [TEXT, BINARY] {
        let found = violation(&[begun.clone(), frame(opcode, "b")].concat());
        assert_eq!((found, found.code().code()), (Violation::Unfinished, 1002));
    }
    for first in [CONTINUATION, FIN | CONTINUATION] {
        let found = violation(&frame_with(first, b"b"));
        assert_eq!(found, Violation::NothingToContinue);
    }
    let whole_then_more = [frame(TEXT, "a"), frame(CONTINUATION, "b")].concat();
    assert_eq!(violation(&whole_then_more), Violation::NothingToContinue);
}

#[test]
fn section_5_5_control_frames_are_short_and_whole() {
    for opcode in [CLOSE, PING, PONG] {
        assert_eq!(
            violation(&frame_with(opcode, b"")),
            Violation::FragmentedControl
        );
        let found = violation(&frame(opcode, [b'x'; 126]));
        assert_eq!((found, found.code().code()), (Violation::LongControl, 1002));
    }
    let longest = [b'x'; 125];
    assert_eq!(
        decode(&[&frame(PING, longest)]),
        (vec![Told::Ping(longest.to_vec())], Ok(()))
    );
}

#[test]
fn section_5_5_1_close_frames() {
    assert_eq!(decode(&[&frame(CLOSE, "")]).0, [Told::Close(None)]);
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4000, 4999] {
        assert_eq!(decode(&[&close(code, "bye")]).0, [Told::Close(Some(code))]);
    }
    assert_eq!(violation(&frame(CLOSE, "x")), Violation::ShortClose);
    // Section 7.4: codes that no frame may carry.
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        assert_eq!(violation(&close(code, "")), Violation::BadCloseCode(code));
    }
    let reason = [&1000_u16.to_be_bytes()[..], b"\xff"].concat();
    assert_eq!(violation(&frame(CLOSE, reason)), Violation::NotUtf8);
    // Nothing after it is looked at.
    let after = [close(1000, ""), frame(TEXT, "late"), vec![0xff; 20]].concat();
    assert_eq!(decode(&[&after]), (vec![Told::Close(Some(1000))], Ok(())));
}

#[test]
fn section_8_1_text_is_utf8_also_across_fragments() {
    let found = violation(&frame(TEXT, b"\xc3\x28"));
    assert_eq!((found, found.code().code()), (Violation::NotUtf8, 1007));
    // Surrogates, overlong forms and a character that never ends.
    for bad in [
        &b"\xed\xa0\x80"[..],
        b"\xc0\xaf",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ] {
        assert_eq!(violation(&frame(TEXT, bad)), Violation::NotUtf8);
    }
    // A character may be cut by a fragment's end ...
    let euro = "€".as_bytes();
    let cut = [frame_with(TEXT, &euro[..1]), frame_with(FIN, &euro[1..])].concat();
    assert_eq!(decode(&[&cut]), (vec![text("€")], Ok(())));
    // ... and what cannot become UTF-8 any more is told at once, before the message ends.
    assert_eq!(violation(&frame_with(TEXT, b"ok \xff")), Violation::NotUtf8);
    // Binary may be anything.
    assert!(decode(&[&frame(BINARY, b"\xff")]).1.is_ok());
}

#[test]
fn section_8_1_bad_text_is_told_inside_an_unfinished_frame() {
    let start = "κόσμε".as_bytes();
    // Each can no longer become UTF-8 from its last byte on.
    for bad in [
        &b"\xff"[..],
        b"\xc3\x28",
        b"\xe2\x82\x28",
        b"\xed\xa0",
        b"\xf4\x90",
        b"\xc0",
    ] {
        let payload = [start, bad, b"and more"].concat();
        let header = 6;
        let end = header + start.len() + bad.len();
        for first in [FIN | TEXT, TEXT] {
            let bytes = frame_with(first, &payload);
            assert_eq!(violation(&bytes[..end]), Violation::NotUtf8, "{bad:x?}");
            let single: Vec<_> = bytes[..end].chunks(1).collect();
            assert_eq!(decode(&single), (vec![], Err(Violation::NotUtf8)));
            assert!(decode(&[&bytes[..end - 1]]).1.is_ok(), "{bad:x?}");
        }
        // Likewise in a continuation, whose first bytes finish a character.
        let bytes = [
            frame_with(TEXT, &start[..1]),
            frame_with(CONTINUATION, &[&start[1..], bad, b"more"].concat()),
        ]
        .concat();
        assert_eq!(violation(&bytes[..bytes.len() - 4]), Violation::NotUtf8);
        // Binary is not looked at.
        assert!(decode(&[&frame(BINARY, &payload)[..end]]).1.is_ok());
    }
}

#[test]
fn nothing_is_held_between_messages_and_little_for_a_beginning() {
    let mut decoder = Decoder::new(MAX);
    let mut feed = |mut bytes: Vec<u8>| {
        let each = |_: Event<'_>| ControlFlow::Continue(());
        decoder.feed(&mut bytes, each).unwrap();
        decoder.held_bytes()
    };
    let message = frame(TEXT, "x".repeat(1_000));
    // A read's worth, and a header's first byte.
    let mut many = message.repeat(3);
    many.push(message[0]);
    assert!(feed(many.clone()) < 32);
    many.remove(0);
    assert!(feed(many) < 32);
    assert_eq!(feed(message[1..].to_vec()), 0);
    for byte in [&message[..], &frame(PING, [0; 125])].concat() {
        assert!(feed(vec![byte]) < 4 << 10);
    }
    assert_eq!(feed(Vec::new()), 0);
}

/// Would not end if every byte that comes cost a look at those before it.
#[test]
fn a_large_message_may_come_byte_by_byte() {
    let size = 4 << 20;
    let mut decoder = Decoder::new(size);
    let mut lengths = Vec::new();
    for mut byte in frame(TEXT, "é".repeat(size / 2)) {
        decoder
            .feed(std::slice::from_mut(&mut byte), |event| {
                if let Event::Text(text) = event {
                    lengths.push(text.len());
                }
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    assert_eq!(lengths, [size]);
}

#[test]
fn section_10_4_the_size_of_a_message_is_bounded_fragments_added_up() {
    let found = violation(&frame(TEXT, vec![b'x'; MAX + 1]));
    assert_eq!((found, found.code().code()), (Violation::TooBig(MAX), 1009));
    let half = vec![b'x'; MAX / 2 + 1];
    let halves = [frame_with(TEXT, &half), frame_with(FIN, &half)].concat();
    assert_eq!(violation(&halves), Violation::TooBig(MAX));
    // Told from the header alone, without waiting for the payload.
    assert_eq!(
        violation(&frame(TEXT, vec![b'x'; MAX + 1])[..4]),
        Violation::TooBig(MAX)
    );
    // A control frame between fragments counts nothing.
    let most = vec![b'x'; MAX];
    let full = [
        frame_with(TEXT, &most),
        frame(PING, [0; 125]),
        frame_with(FIN, b""),
    ]
    .concat();
    assert_eq!(decode(&[&full]).0.last(), Some(&text(&"x".repeat(MAX))));
}

#[derive(Debug, Clone)]
enum Sent {
    Text(Vec<String>),
    Binary(Vec<Vec<u8>>),
    Control(u8, Vec<u8>),
}

fn message() -> impl Strategy<Value = Sent> {
    prop_oneof![
        prop::collection::vec(".{0,60}", 1..4).prop_map(Sent::Text),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..4)
            .prop_map(Sent::Binary),
        (PING..=PONG, prop::collection::vec(any::<u8>(), 0..=125))
            .prop_map(|(opcode, payload)| Sent::Control(opcode, payload)),
    ]
}

/// A message as frames, one a fragment, with a ping between any two.
fn fragments(opcode: u8, parts: &[Vec<u8>], told: &mut Vec<Told>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            bytes.extend(frame(PING, "between"));
            told.push(Told::Ping(b"between".to_vec()));
        }
        let fin = if at + 1 == parts.len() { FIN } else { 0 };
        let opcode = if at == 0 { opcode } else { CONTINUATION };
        bytes.extend(frame_with(fin | opcode, part));
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However TCP cuts a stream, its messages are the same.
    #[test]
    fn a_stream_may_be_cut_anywhere(
        messages in prop::collection::vec(message(), 1..8),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ends in any::<bool>(),
    ) {
        let (mut bytes, mut told) = (Vec::new(), Vec::new());
        for message in messages {
            match message {
                Sent::Text(parts) => {
                    let whole = parts.concat();
                    let parts: Vec<_> = parts.into_iter().map(String::into_bytes).collect();
                    bytes.extend(fragments(TEXT, &parts, &mut told));
                    told.push(Told::Text(whole));
                }
                Sent::Binary(parts) => {
                    bytes.extend(fragments(BINARY, &parts, &mut told));
                    told.push(Told::Binary(parts.concat()));
                }
                Sent::Control(opcode, payload) => {
                    bytes.extend(frame(opcode, &payload));
                    told.push(if opcode == PING { Told::Ping(payload) } else { Told::Pong(payload) });
                }
            }
        }
        if ends {
            bytes.extend(close(1000, "bye"));
            told.push(Told::Close(Some(1000)));
        }
        cuts.sort_by_key(|cut| cut.index(bytes.len()));
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.iter().map(|cut| cut.index(bytes.len())) {
            pieces.push(&bytes[from..cut]);
            from = cut;
        }
        pieces.push(&bytes[from..]);
        prop_assert_eq!(decode(&pieces), (told.clone(), Ok(())));
        let single: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(decode(&single), (told, Ok(())));
    }

    /// Whatever comes, the decoder tells the same however it was cut, and never panics.
    #[test]
    fn garbage_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in any::<prop::sample::Index>(),
    ) {
        let (whole, fed) = decode(&[&bytes]);
        let at = cut.index(bytes.len() + 1);
        let (cut, fed_cut) = decode(&[&bytes[..at], &bytes[at..]]);
        prop_assert_eq!(whole, cut);
        prop_assert_eq!(fed, fed_cut);
    }

    /// The same for bytes that begin as real frames do, which random ones rarely reach.
    #[test]
    fn spoiled_frames_never_panic(
        first in any::<u8>(),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        spoiled in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        let mut bytes = frame_with(first, &payload);
        bytes.extend(frame(TEXT, "after"));
        let at = spoiled.index(bytes.len());
        bytes[at] = with;
        let single: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(decode(&[&bytes]), decode(&single));
    }
}
