//! A Redis stream as a source.

use prometheus_client::metrics::counter::Counter;

use super::standing::Standing;
use super::{Config, Out, Row, Values};
use crate::bus::backoff::Backoff;
use crate::bus::stream::{ENTRIES, News, Stream};
use crate::clock::now_ms;

/// Entries of a stream, whose fields are a row; read on from the last one after a break.
pub(super) async fn follow(
    mut stream: Stream,
    config: Config,
    mut standing: Standing,
    missed: Counter,
    mut out: Out,
) {
    let key = stream.key().to_owned();
    let mut backoff = Backoff::default();
    loop {
        let asked = now_ms();
        match stream.read().await {
            Ok(read) => {
                backoff.reset();
                standing.well();
                standing.served(read.doubt);
                for news in read.news {
                    tell(news, &key, &mut standing, &missed);
                }
                let entries = read.entries;
                let drained = entries.len() < ENTRIES;
                // In a backlog the id says when its entry arrived.
                let arrived = entries.last().map(|(id, _)| id.arrival());
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
                standing.lost(&why, |left_out| {
                    tracing::warn!(%why, ?wait, from, left_out, "the stream is lost; it is read on from there");
                });
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Says what became of the stream.
fn tell(news: News, key: &str, standing: &mut Standing, missed: &Counter) {
    match news {
        News::Anew => tracing::warn!(
            stream = key,
            "the stream was deleted and begun anew: it is read from its beginning"
        ),
        News::Shortened => tracing::warn!(
            stream = key,
            "the stream has lost its newest entries, as a failover may do: it is read on from its end"
        ),
        News::Missed {
            after,
            before,
            entries,
        } => {
            missed.inc_by(entries.unwrap_or(1));
            let number = entries.map_or_else(|| "perhaps some".to_owned(), |n| n.to_string());
            let (after, before) = (after.to_string(), before.to_string());
            tracing::warn!(
                stream = key,
                entries = number,
                after,
                before,
                "entries were trimmed or deleted before they were read: their rows are lost"
            );
            standing.missed(&format!(
                "{number} entries between {after} and {before} were trimmed or deleted unread"
            ));
        }
    }
}
