//! Any channel and payload: nothing panics, and what is let in is read the same after it was written.
#![no_main]

use barcast::bar::{BATCH_CHANNEL, Decoder, write_message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Option<&str>, &[u8])| {
    let (channel, payload) = input;
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    decoder.decode(channel.unwrap_or(BATCH_CHANNEL), payload, |message| {
        messages.extend(message);
    });
    for message in messages {
        let mut written = Vec::new();
        write_message(&mut written, &message);
        let mut again = None;
        decoder.decode(&message.topic.to_string(), &written, |m| again = m.ok());
        assert_eq!(again, Some(message));
    }
});
