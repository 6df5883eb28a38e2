//! The WebSocket, and a bar all the way from Redis through the gateway to a client.

use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::time::timeout;

use super::report::{Reporter, Step};
use super::{Config, SYMBOL, measured, timed};
use crate::bar::{
    Bar, CHANNEL_PATTERN, Message as BarMessage, Number, Pattern, Resolution, Topic, write_message,
};
use crate::bus::probe::Probe;
use crate::client::message::{Message, Start, Update, parse, ping, subscribe};
use crate::client::{ClientError, Socket, http};
use crate::clock::{now_ms, now_us};

/// Bars that are published one after the other: the first one finds cold caches.
const BARS: u64 = 5;
/// Topics that are listened to for somebody else's bar: one request of some 2 KB.
const LIVE_TOPICS: usize = 50;
const NAMES: [&str; 3] = ["websocket handshake", "subscribe", "delivery"];

/// One conversation, each wait in it bounded.
struct Talk {
    socket: Socket,
    limit: Duration,
}

impl Talk {
    /// The first message that `wanted` takes; without one the error says `what` was waited for.
    async fn until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(Message) -> Option<T>,
    ) -> Result<T, ClientError> {
        let heard = async {
            loop {
                let message = parse(&self.socket.next().await?)?;
                if let Message::Refused { message, .. } = message {
                    return Err(ClientError::Protocol(message));
                }
                if let Some(found) = wanted(message) {
                    return Ok(found);
                }
            }
        };
        let late = Err(ClientError::Timeout {
            limit: self.limit,
            stage: what.to_owned(),
        });
        timeout(self.limit, heard).await.unwrap_or(late)
    }

    async fn subscribe(&mut self, topics: &[Pattern]) -> Result<(), ClientError> {
        let text = subscribe(1, topics, Start::Current, None);
        self.socket.send(text)?;
        let what = "waiting for the answer to a subscription";
        self.until(what, |message| {
            matches!(message, Message::Done(_)).then_some(())
        })
        .await
    }

    /// Until all that the gateway had to say before is said.
    async fn settle(&mut self) -> Result<(), ClientError> {
        self.socket.send(ping())?;
        let what = "waiting for the answer to a ping";
        self.until(what, |message| {
            matches!(message, Message::Pong).then_some(())
        })
        .await
    }

    async fn bar(&mut self, is_it: impl Fn(&Update) -> bool) -> Result<Update, ClientError> {
        self.until("waiting for a bar", |message| match message {
            Message::Update(update) if is_it(&update) => Some(update),
            _ => None,
        })
        .await
    }
}

pub(super) async fn check<T: FnMut(&Step)>(
    config: &Config,
    probe: Option<&mut Probe>,
    report: &mut Reporter<T>,
) {
    let limit = config.limit;
    let (socket, took) = timed(Socket::connect(&config.address, limit)).await;
    let socket = match socket {
        Ok(socket) => socket,
        Err(why) => {
            let next = "does a proxy pass the upgrade on, and is the path right (/api/v1/ws)?";
            report.add(Step::fail(NAMES[0], why, next));
            for name in &NAMES[1..] {
                report.add(Step::skip(name, "there is no WebSocket"));
            }
            return;
        }
    };
    report.add(Step::ok(NAMES[0], "101").took(took));
    let mut talk = Talk { socket, limit };
    let topics = if config.publish {
        Ok(vec![check_topic().into()])
    } else {
        live_topics(config).await
    };
    let topics = match topics {
        Ok(topics) => topics,
        Err(step) => {
            report.add(step);
            report.add(Step::skip(NAMES[2], "there is no topic to listen to"));
            return;
        }
    };
    let (subscribed, took) = timed(talk.subscribe(&topics)).await;
    if let Err(why) = subscribed {
        let next = "see the gateway's limits and its log";
        report.add(Step::fail(NAMES[1], why, next));
        report.add(Step::skip(NAMES[2], "nothing is subscribed"));
        return;
    }
    let what = match topics.as_slice() {
        [one] => one.to_string(),
        many => format!("{} live topics", many.len()),
    };
    report.add(Step::ok(NAMES[1], what).took(took));
    report.add(match (config.publish, probe) {
        (false, _) => overheard(&mut talk).await,
        (true, None) => Step::skip(NAMES[2], "Redis is not reached"),
        (true, Some(probe)) => delivered(&mut talk, probe).await,
    });
}

fn check_topic() -> Topic {
    Topic {
        // A constant that is a symbol; a test says so.
        symbol: SYMBOL.parse().expect("the check's symbol is one"),
        resolution: Resolution::S1,
    }
}

/// The `number`th bar of this check: all of them are states of one, of which the last is final.
fn bar(topic: Topic, time: i64, epoch: u64, number: u64) -> Option<Vec<u8>> {
    let one = Number::Unsigned(1);
    let bar = Bar::new(topic.resolution, time, [one; 5], number == BARS).ok()?;
    let mut message = BarMessage::new(topic, bar);
    message.seq = Some(number);
    message.epoch = Some(epoch);
    message.ts = Some(now_us());
    let mut out = Vec::new();
    write_message(&mut out, &message);
    Some(out)
}

/// Publishes bars one after the other, and waits for each.
async fn delivered(talk: &mut Talk, probe: &mut Probe) -> Step {
    let name = NAMES[2];
    let topic = check_topic();
    let topic_name = topic.to_string();
    let channel = probe.name(&topic_name);
    let (time, epoch) = (topic.resolution.floor(now_ms()), now_us());
    let mut took = Vec::new();
    let mut heard = 0;
    for number in 1..=BARS {
        let Some(payload) = bar(topic, time, epoch, number) else {
            return Step::fail(name, "the clock is wrong", "set this machine's clock");
        };
        let began = Instant::now();
        let (published, _) = measured(talk.limit, probe.publish(&topic_name, &payload)).await;
        heard = match published {
            Ok(0) => {
                let detail = format!("published on {channel}, heard by nobody");
                let next = "the gateway listens to another Redis, or with another prefix: compare --redis-url and --redis-prefix with its log";
                return Step::fail(name, detail, next);
            }
            Ok(clients) => clients,
            Err(why) => {
                let pattern = probe.name(CHANNEL_PATTERN);
                let next = format!("may this user PUBLISH on {pattern}? Without: --no-publish");
                return Step::fail(name, why, next);
            }
        };
        let is_it = |update: &Update| {
            update.extras.epoch == Some(epoch) && update.extras.seq == Some(number)
        };
        if let Err(why) = talk.bar(is_it).await {
            let detail = format!("published on {channel}, heard by {heard}, not delivered: {why}");
            let next = "does this gateway listen to this Redis? See barcast_dropped_messages_total and its log";
            return Step::fail(name, detail, next);
        }
        took.push(began.elapsed());
    }
    took.sort_unstable();
    let slowest = took.last().map_or(0.0, Duration::as_secs_f64) * 1e3;
    let detail = format!(
        "{BARS} bars on {channel}, median; the slowest {slowest:.1} ms; {heard} heard them"
    );
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    Step::ok(name, detail).took(median)
}

/// Waits for the next bar of somebody else.
async fn overheard(talk: &mut Talk) -> Step {
    let name = NAMES[2];
    let began = Instant::now();
    let heard = match talk.settle().await {
        Ok(()) => talk.bar(|_| true).await,
        Err(why) => Err(why),
    };
    match heard {
        Ok(update) => {
            let age = update.extras.ts.and_then(|ts| now_us().checked_sub(ts));
            let age = age.map_or_else(
                || "its producer tells no ts".to_owned(),
                |us| format!("{:.1} ms after its ts, if clocks agree", us as f64 / 1e3),
            );
            let detail = format!("waited for the next bar: {}, {age}", update.topic);
            Step::ok(name, detail).took(began.elapsed())
        }
        Err(why) => Step::fail(
            name,
            format!("no live bar: {why}"),
            "do producers run? Without --no-publish the way itself is tried",
        ),
    }
}

#[derive(Deserialize)]
struct Listed {
    topics: Vec<ListedTopic>,
}

#[derive(Deserialize)]
struct ListedTopic {
    topic: String,
    last: Option<ListedBar>,
}

#[derive(Deserialize)]
struct ListedBar {
    time: i64,
}

/// The topics whose bars are over last, of which some producer is likely to send the next one.
async fn live_topics(config: &Config) -> Result<Vec<Pattern>, Step> {
    let fail = |why: String, next: &str| Step::fail(NAMES[1], why, next);
    let answer = http::get(&config.address, "/api/v1/topics", config.limit).await;
    let answer = answer.map_err(|why| fail(why.to_string(), "see the gateway's log"))?;
    // What failed is not what is empty, whatever its body looks like.
    let listed = match answer.status {
        200 => serde_json::from_str::<Listed>(&answer.body).map_err(|why| why.to_string()),
        status => Err(format!("it answers {status}")),
    };
    let listed = listed.map_err(|why| {
        let why = format!("/api/v1/topics: no list of topics: {why}");
        fail(why, "does a proxy hide /api/v1/topics?")
    })?;
    let mut topics: Vec<(i64, Topic)> = listed
        .topics
        .iter()
        .filter_map(|listed| {
            let topic: Topic = listed.topic.parse().ok()?;
            let end = topic.resolution.next(listed.last.as_ref()?.time);
            (topic != check_topic()).then_some((end, topic))
        })
        .collect();
    if topics.is_empty() {
        let why = "the gateway knows no topic".to_owned();
        return Err(fail(why, "do producers run, with the gateway's Redis?"));
    }
    topics.sort_unstable_by_key(|(end, _)| std::cmp::Reverse(*end));
    let newest = topics.into_iter().take(LIVE_TOPICS);
    Ok(newest.map(|(_, topic)| topic.into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::Decoder;

    #[test]
    fn every_bar_of_a_check_is_valid_and_the_last_is_final() {
        let topic = check_topic();
        for number in 1..=BARS {
            let payload = bar(topic, topic.resolution.floor(now_ms()), 7, number).unwrap();
            let mut closed = None;
            Decoder::default().decode(&topic.to_string(), &payload, |message| {
                closed = Some(message.unwrap().bar.closed);
            });
            assert_eq!(closed, Some(number == BARS));
        }
    }
}
