//! A Redis stream as a source.

use super::{Config, Out, Row, Values};
use crate::bus::RedisBus;
use crate::bus::backoff::Backoff;
use crate::bus::redis::reply::told;
use crate::bus::stream::ENTRIES;
use crate::clock::now_ms;
use crate::health::{Concern, Health};
use crate::limited::Limited;

/// Entries of a stream, whose fields are a row; read on from the last one after a break.
pub(super) async fn follow(
    bus: RedisBus,
    key: String,
    from: String,
    config: Config,
    health: Health,
    mut out: Out,
) {
    let mut log = Limited::default();
    let mut backoff = Backoff::default();
    let mut stream = bus.stream(key.clone(), from);
    loop {
        let asked = now_ms();
        match stream.read().await {
            Ok(entries) => {
                backoff.reset();
                health.clear(Concern::Bus);
                let drained = entries.len() < ENTRIES;
                // In a backlog the id says when its entry arrived.
                let arrived = entries.last().and_then(|(id, _)| arrival(id));
                let mark = if drained {
                    Some(asked)
                } else {
                    arrived.map(|at| at.min(asked))
                };
                for (id, fields) in entries {
                    let fields = fields.into_iter();
                    let fields = fields.map(|(name, value)| (name, value.into()));
                    let row = Row {
                        at: format!("{key} {id}"),
                        entry: Values::of(fields).entry(&config),
                    };
                    if out.add(row).is_err() {
                        return;
                    }
                }
                out.mark = mark;
                if out.set_behind(!drained).is_err() || out.flush().is_err() {
                    return;
                }
            }
            Err(why) => {
                // Meanwhile entries gather in the stream.
                if out.set_behind(true).is_err() {
                    return;
                }
                let wait = backoff.wait();
                let from = stream.from();
                let why = told(&why);
                health.set(Concern::Bus, format!("stream {key} is lost: {why}"));
                log.say(|left_out| {
                    tracing::warn!(%why, ?wait, from, left_out, "the stream is lost; it is read on from there");
                });
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// When an entry arrived, by its id: ms since the epoch and a number, as Redis gives them.
fn arrival(id: &str) -> Option<i64> {
    id.split_once('-').and_then(|(ms, _)| ms.parse().ok())
}
