//! A publisher: publishes over a [`Link`], and remembers what the store has not taken.

use std::time::{Duration, Instant};

use redis::Value;
use tokio::time::timeout;

use super::link::{Link, Open};
use super::reply::{Meaning, Purpose, meaning, told};
use super::{RESPONSE_TIMEOUT, RedisBus};
use crate::bus::store::keep::{Keeper, Wanted};
use crate::bus::store::{Kept, Outcome, Owed, Refused, Write, Writes};
use crate::bus::{BusError, Outgoing, Publisher};
use crate::health::{Concern, Health};

/// Pause before the store is offered again what it refused.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Publishes over a connection of its own, which is made again in the background when it is lost.
pub struct RedisPublisher {
    bus: RedisBus,
    link: Option<Link>,
    keeper: Option<Keeper>,
    health: Health,
    /// Until when a store that has refused something is left alone.
    refused_until: Option<Instant>,
    round: Round,
    /// Rounds in which the store took nothing, and will not until an operator does something.
    rounds_refused: u64,
}

/// What became of all that waits, offered once.
#[derive(Default)]
struct Round {
    /// Something was taken, or may be by itself.
    has_hope: bool,
}

impl RedisPublisher {
    pub(super) fn new(bus: RedisBus) -> Self {
        Self {
            keeper: bus
                .keep
                .map(|bars| Keeper::new(bars, bus.prefix, bus.max_ahead)),
            bus,
            link: None,
            health: Health::default(),
            refused_until: None,
            round: Round::default(),
            rounds_refused: 0,
        }
    }

    /// The connection, if there is one now; with `wait`, once there is one.
    async fn open(&mut self, wait: bool) -> Result<Open, BusError> {
        let (bus, health) = (&self.bus, &self.health);
        let start = || Link::start(bus.clone(), health.clone());
        let link = self.link.get_or_insert_with(start);
        let open = link.get(wait).await;
        if link.is_new()
            && let Some(keeper) = &mut self.keeper
        {
            keeper.forget();
        }
        open.map_err(|why| BusError::NotConnected(why.to_string()))
    }

    fn give_up(&mut self, why: &str) {
        if let Some(link) = &mut self.link {
            link.give_up(why);
        }
    }

    /// Sends one write and waits for its replies; gives the connection up when there are none.
    async fn send(&mut self, open: &mut Open, write: &Write) -> Result<Vec<Value>, BusError> {
        let why = match timeout(RESPONSE_TIMEOUT, write.send(&mut open.connection)).await {
            Ok(Ok(replies)) => return Ok(replies),
            Ok(Err(why)) => {
                let words = told(&why);
                // A reply is no reason to end a connection, unless it says so.
                if matches!(
                    meaning(&why, Purpose::Publish),
                    None | Some(Meaning::GoElsewhere)
                ) {
                    self.give_up(&words);
                }
                words
            }
            Err(_) => {
                let why = format!("no reply within {RESPONSE_TIMEOUT:?}");
                self.give_up(&why);
                why
            }
        };
        Err(BusError::Publish(why))
    }

    /// What is to be stored, as commands.
    async fn writes(
        &mut self,
        open: &mut Open,
        wanted: &Wanted,
        anew: bool,
        outcome: &mut Outcome,
    ) -> Result<Writes, BusError> {
        let keeper = self.keeper.as_ref();
        let question = keeper.and_then(|keeper| keeper.question(wanted, anew));
        let learned = match question {
            Some((topics, question)) => Some((topics, self.send(open, &question).await?)),
            None => None,
        };
        let mut writes = Writes::default();
        if let Some(keeper) = &mut self.keeper {
            if let Some((topics, replies)) = learned
                && let Err(why) = keeper.learn(&topics, &replies)
            {
                outcome.refuse(topics.len(), &why, meaning(&why, Purpose::Read));
            }
            keeper.write(wanted, &mut writes);
        }
        Ok(writes)
    }

    /// Sends what is to be stored and published.
    async fn run(
        &mut self,
        messages: &[Outgoing],
        wanted: &Wanted,
        anew: bool,
        outcome: &mut Outcome,
    ) -> Result<(), BusError> {
        let mut open = self.open(false).await?;
        // Stored before it is published: see [`store`](super::store).
        let mut writes = self.writes(&mut open, wanted, anew, outcome).await?;
        if !messages.is_empty() {
            writes.publish(self.bus.prefix, messages);
            writes.ask_server();
        }
        for (nth, write) in writes.0.into_iter().enumerate() {
            let replies = self.send(&mut open, &write).await?;
            let checked = write.check(&replies, self.keeper.as_mut(), outcome);
            if let Err(unpublished) = checked {
                if unpublished.is_elsewhere {
                    self.give_up(&unpublished.why);
                }
                return Err(if unpublished.is_all && nth == 0 {
                    BusError::Refused(unpublished.why)
                } else {
                    BusError::Publish(unpublished.why)
                });
            }
        }
        Ok(())
    }

    /// Says how the store is, after it was asked to take something. Only what is refused of that which
    /// waited moves the pause: bars that are refused with every message hold up nothing else.
    fn settle(&mut self, outcome: &Outcome, is_over: bool, is_late: bool) {
        if let Some(refused) = &outcome.refused {
            let why = format!("the store does not take bars: {}", refused.why);
            self.health.set(Concern::Kept, why);
            let now = Instant::now();
            let until = self.refused_until.get_or_insert(now);
            if is_late {
                *until = now + STORE_PAUSE;
            }
        } else if is_over && let Some(until) = &mut self.refused_until {
            if outcome.has_taken {
                *until = Instant::now();
            }
            if self.keeper.as_ref().is_none_or(|keeper| !keeper.owes()) {
                self.refused_until = None;
                self.health.clear(Concern::Kept);
            }
        }
    }
}

impl Publisher for RedisPublisher {
    async fn publish_and_keep(
        &mut self,
        messages: &[Outgoing],
        kept: &[Kept],
    ) -> Result<Option<Refused>, BusError> {
        let wanted = self.keeper.as_mut().map(|keeper| keeper.note(kept));
        let wanted = wanted.unwrap_or_default();
        let mut outcome = Outcome::default();
        let ended = self.run(messages, &wanted, false, &mut outcome).await;
        self.settle(&outcome, ended.is_ok(), false);
        match &ended {
            // The connection says so itself.
            Err(BusError::NotConnected(_)) => {}
            // A server may answer questions and take nothing.
            Err(why) => self.health.set(Concern::Published, why.to_string()),
            Ok(()) if !messages.is_empty() => self.health.clear(Concern::Published),
            Ok(()) => {}
        }
        ended?;
        Ok(outcome.refused)
    }

    async fn tend(&mut self) -> bool {
        if self
            .refused_until
            .is_some_and(|until| Instant::now() < until)
        {
            return false;
        }
        let Some(keeper) = self.keeper.as_mut().filter(|keeper| keeper.owes()) else {
            return false;
        };
        let wanted = keeper.late();
        let is_round_over = keeper.is_round_over();
        let mut outcome = Outcome::default();
        let ended = self.run(&[], &wanted, true, &mut outcome).await;
        self.settle(&outcome, ended.is_ok(), true);
        let may_pass = outcome.refused.is_some() && !outcome.is_mistake;
        self.round.has_hope |= ended.is_err() || outcome.has_taken || may_pass;
        if is_round_over && !std::mem::take(&mut self.round).has_hope {
            self.rounds_refused += 1;
        }
        let goes_on = ended.is_ok() && outcome.refused.is_none();
        goes_on && self.keeper.as_ref().is_some_and(Keeper::owes)
    }

    fn owed(&self) -> Owed {
        let owed = self.keeper.as_ref().map(Keeper::owed);
        Owed {
            rounds_refused: self.rounds_refused,
            ..owed.unwrap_or_default()
        }
    }

    fn keeps(&self) -> bool {
        self.keeper.is_some()
    }

    fn report_to(&mut self, health: &Health) {
        health.set(Concern::Publisher, "no connection yet");
        self.health = health.clone();
    }

    async fn ready(&mut self) {
        let _ = self.open(true).await;
    }

    fn is_connected(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_up)
    }
}
