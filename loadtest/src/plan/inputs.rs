//! The numbers that the flags state: what a plan starts from.

use anyhow::{Context, Result, ensure};

use super::args::PlanArgs;
use super::costs::defaults;
use super::model::Book;
use super::report::{Figure, Source};
use crate::publisher::Publish;

/// Bytes of a frame's segment on Ethernet that are not payload: preamble 8, gap 12, Ethernet 14 + 4,
/// IP 20, TCP 20 + 12 of time stamps (IEEE 802.3, RFC 791, RFC 9293, RFC 7323).
const PACKET_BYTES: f64 = 90.0;
/// Payload of a segment: 1,500 of Ethernet less IP and TCP.
const SEGMENT_BYTES: f64 = 1_448.0;
/// What Redis writes around a message for a subscriber of `bars:*`: the RESP push with its lengths, the
/// pattern and the channel.
const PUSH_BYTES: f64 = 70.0;

impl PlanArgs {
    /// Everything that is stated, and the costs: the inputs of a plan. `typical` is the length of a bar
    /// of `loadtest run`: to a client, and as it is published.
    pub fn book(&self, typical: (usize, usize)) -> Book {
        let mut book = Book::default();
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let typical = (typical.0 as f64, typical.1 as f64);
        let bursts = if self.spread {
            self.rate * self.topics
        } else {
            self.bursts.unwrap_or(self.rate)
        };
        let batch = match self.publish {
            Publish::Single => 0.0,
            // As in the costs: unpacking is the least of it.
            Publish::Batch | Publish::Zstd => 1.0,
        };
        #[rustfmt::skip]
        let stated = [
            ("users", self.users, "", "users connected at once, today", "--users"),
            ("growth", self.growth, "", "growth of the users in a year", "--growth"),
            ("year", 0.0, "years", "from now", "--years"),
            ("topics", self.topics, "", "topics", "--topics"),
            ("per_client", self.per_client, "", "topics of a user", "--per-client"),
            ("rate", self.rate, "1/s", "updates of a topic, usually", "--rate"),
            ("bursts", bursts, "1/s", "moments at which updates come, usually", "--bursts, --spread, or --rate"),
            ("peak", self.peak, "", "busiest moment by the usual one", "--peak"),
            ("bar_ticks", self.bar_ticks, "", "updates that make a bar, usually", "--bar-ticks"),
            ("max_rate", self.rate * self.peak, "1/s", "updates of a topic that a client takes: all of them", "--rate × --peak"),
            ("batch", batch, "", "1 when bars are published in batches", "--publish"),
            ("bar_bytes", self.bar_bytes.unwrap_or(typical.0), "B", "a bar to a client", "--bar-bytes, or a bar of loadtest run"),
            ("message_bytes", self.message_bytes.unwrap_or(typical.1), "B", "a bar as published", "--message-bytes, or a bar of loadtest run"),
            ("cores", self.cores, "cores", "of a node", "--cores"),
            ("memory_gib", self.memory, "GiB", "of a node", "--memory"),
            ("egress_gbit", self.egress, "Gbit/s", "of a node, gateway or Redis, each way", "--egress"),
            ("max_clients", self.max_clients, "", "clients that a gateway lets in", "--max-clients"),
            ("open_files", self.open_files, "", "files that a gateway may open", "--open-files"),
            ("history_bars", self.history_bars, "", "closed bars kept of each topic", "--history-bars"),
            ("headroom", self.headroom, "", "share of everything that is kept free", "--headroom"),
            ("failures", f64::from(self.failures), "", "gateways of a shard that may fail at once", "--failures"),
            ("ping_seconds", 25.0, "s", "between pings to a client", "default of barcast serve --ping-interval"),
            ("redis_clients", 10_000.0, "", "connections that a Redis lets in", "its default, maxclients"),
            ("packet_bytes", PACKET_BYTES, "B", "around a segment: Ethernet, IP, TCP", "IEEE 802.3, RFC 791, 9293, 7323"),
            ("segment_bytes", SEGMENT_BYTES, "B", "payload of a segment", "1,500 of Ethernet less IP and TCP"),
            ("ack_bytes", PACKET_BYTES, "B", "an acknowledgement on the wire", "a segment without payload"),
            ("push_bytes", PUSH_BYTES, "B", "around a message from Redis", "the Redis protocol: lengths, pattern, channel"),
        ];
        for (name, value, unit, what, by) in stated {
            book.put(Figure {
                name: name.to_owned(),
                value,
                unit: unit.to_owned(),
                what: what.to_owned(),
                source: Source::Stated(by.to_owned()),
            });
        }
        for cost in defaults().figures() {
            book.put(cost.clone());
        }
        book
    }

    /// Puts the stated costs into the book.
    ///
    /// # Errors
    /// When a `--cost` names no cost or has no value.
    pub fn state_costs(&self, book: &Book) -> Result<Book> {
        let names: Vec<String> = defaults()
            .figures()
            .iter()
            .map(|cost| cost.name.clone())
            .collect();
        let mut book = book.clone();
        for stated in &self.cost {
            let (name, value) = stated.split_once('=').unwrap_or((stated, ""));
            let allowed = || {
                format!(
                    "--cost {stated}: allowed: NAME=VALUE with a name out of {}",
                    names.join(", ")
                )
            };
            let value: f64 = value.parse().with_context(allowed)?;
            ensure!(
                names.iter().any(|known| known == name) && value >= 0.0 && value.is_finite(),
                allowed()
            );
            book = book.with(name, value, &format!("--cost {stated}"));
        }
        Ok(book)
    }
}
