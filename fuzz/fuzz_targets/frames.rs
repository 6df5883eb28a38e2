//! However a client's bytes are cut, the decoder tells the same.
#![no_main]

use std::ops::ControlFlow;

use barcast::gateway::ws::{Decoder, Violation};
use libfuzzer_sys::fuzz_target;

/// Small, so that inputs reach it.
const MAX_MESSAGE_BYTES: usize = 512;
/// Held beyond a message: a vector grows to twice its size, and a header or control frame may wait.
const MAX_HELD_BYTES: usize = 4 * MAX_MESSAGE_BYTES;

fn told<'a>(
    inflating: bool,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<String>, Result<(), Violation>) {
    let mut decoder = Decoder::new(MAX_MESSAGE_BYTES);
    if inflating {
        decoder = decoder.inflating();
    }
    let mut told = Vec::new();
    let mut ended = false;
    for piece in pieces {
        let fed = decoder.feed(&mut piece.to_vec(), |event| {
            told.push(format!("{event:?}"));
            ended = matches!(event, barcast::gateway::ws::Event::Close(_));
            ControlFlow::Continue(())
        });
        if fed.is_err() || ended {
            return (told, fed);
        }
        assert!(decoder.held_bytes() <= MAX_HELD_BYTES);
    }
    (told, Ok(()))
}

fuzz_target!(|input: (bool, Vec<u8>, Vec<u8>)| {
    let (inflating, cuts, bytes) = input;
    let whole = told(inflating, std::iter::once(&bytes[..]));
    assert_eq!(told(inflating, bytes.chunks(1)), whole);
    let mut rest = &bytes[..];
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, after) = rest.split_at(usize::from(cut).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    assert_eq!(told(inflating, pieces.into_iter()), whole);
});
