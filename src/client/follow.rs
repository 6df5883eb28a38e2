//! A subscription that survives its gateway: connects again, asks from where it was, and tells of every
//! hole.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::attempt::ATTEMPT_TIMEOUT;
use super::clock::GatewayTime;
use super::message::{self, Gap, Message, Start, Update};
use super::plan::{Request, halve, requests};
use super::track::{Hole, Track};
use super::{Address, ClientError, Socket};
use crate::bar::{Pattern, Topic};
use crate::bus::backoff::Backoff;

/// How often the gateway is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A gateway that says nothing for so long, pongs included, is gone.
const MAX_SILENCE: Duration = Duration::from_secs(25);
/// Longest wait for the answer to a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that stood so long was a good one: the next break starts with the first wait again.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// A timer that fires so late found this process suspended or starved, and not the gateway silent.
const LATE: Duration = Duration::from_secs(2);
/// Longest wait for the answer to a request while other bytes come before it: the largest, over 8 kB/s,
/// takes 3 minutes.
const MAX_ANSWER_WAIT: Duration = Duration::from_secs(300);

/// What to follow, and how.
#[derive(Debug, Clone)]
pub struct Config {
    pub address: Address,
    pub patterns: Vec<Pattern>,
    /// Newest bars of each topic to begin with.
    pub history: usize,
    /// Whether to go on with the current bars when the gateway refuses so many.
    pub history_is_optional: bool,
    /// Updates of forming bars a second and topic, at most.
    pub max_rate: Option<f64>,
    /// How long the first connection may take, with as many attempts as fit; and each later attempt. No
    /// attempt takes longer than [`ATTEMPT_TIMEOUT`].
    pub connect_timeout: Duration,
}

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// All is subscribed, for the first time or again.
    Connected {
        is_first: bool,
        /// What time it is there.
        time: Option<GatewayTime>,
    },
    /// The next attempt comes after `wait`.
    Lost {
        why: String,
        wait: Duration,
    },
    Bar(Update),
    Gap(Gap),
    /// From a ping to its answer.
    RoundTrip(Duration),
}

/// Why there is nothing to follow.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// No connection within the time for it.
    #[error("{address} cannot be reached: {why}")]
    Unreachable { address: Address, why: ClientError },
    /// The gateway does not give what was asked for.
    #[error("{address} refuses: {message}")]
    Refused { address: Address, message: String },
}

/// How a connection ended.
enum End {
    Lost(ClientError),
    Refused(String),
    /// Nobody takes the events any more.
    Unwanted,
}

impl From<ClientError> for End {
    fn from(why: ClientError) -> Self {
        Self::Lost(why)
    }
}

struct Asked {
    id: u64,
    request: Request,
    until: Instant,
    /// Whatever else comes.
    last: Instant,
}

/// When the gateway last showed that it lives.
struct Pulse {
    at: Instant,
    bytes: u64,
}

impl Pulse {
    /// Bytes are a sign of life, those of half a message too.
    fn look(&mut self, socket: &Socket, now: Instant) {
        let bytes = socket.bytes_heard();
        if std::mem::replace(&mut self.bytes, bytes) != bytes {
            self.at = now;
        }
    }
}

struct Follower {
    config: Config,
    events: mpsc::Sender<Event>,
    tracks: BTreeMap<Topic, Track>,
    waiting: VecDeque<Request>,
    asked: Option<Asked>,
    last_id: u64,
    /// Whether everything was ever subscribed.
    stood: bool,
}

/// Tells `events` what happens, until nobody takes them any more. A queue that is full stops the reading.
///
/// A topic that a pattern means and that opens while there is no connection begins with its current bar.
///
/// # Errors
/// When the gateway cannot be reached at first, or refuses what is asked for.
pub async fn follow(config: Config, events: mpsc::Sender<Event>) -> Result<(), FollowError> {
    let limit = config.connect_timeout;
    let until = Instant::now() + limit;
    let mut follower = Follower {
        config,
        events,
        tracks: BTreeMap::new(),
        waiting: VecDeque::new(),
        asked: None,
        last_id: 0,
        stood: false,
    };
    // Before it ever stood soon again, since whoever started us waits; afterwards as one of many.
    let (mut first, mut later) = (Backoff::default(), Backoff::of_clients());
    loop {
        let limit = match follower.stood {
            true => limit,
            false => until.saturating_duration_since(Instant::now()),
        };
        let address = follower.config.address.clone();
        let mut stood_for = Duration::ZERO;
        let ended = match Socket::connect(&address, limit.min(ATTEMPT_TIMEOUT)).await {
            Ok(socket) => {
                let began = Instant::now();
                let end = follower.session(socket, limit).await;
                stood_for = began.elapsed();
                end
            }
            Err(why) => End::Lost(why),
        };
        let why = match ended {
            End::Unwanted => return Ok(()),
            End::Refused(message) if !follower.stood => {
                return Err(FollowError::Refused { address, message });
            }
            End::Refused(message) => ClientError::Protocol(message),
            End::Lost(why) => why,
        };
        if stood_for >= STABLE_AFTER {
            later.reset();
        }
        let backoff = if follower.stood {
            &mut later
        } else {
            &mut first
        };
        let wait = backoff.wait();
        if !follower.stood && (why.is_final() || Instant::now() + wait >= until) {
            return Err(FollowError::Unreachable { address, why });
        }
        follower.tracks.values_mut().for_each(Track::lost);
        let why = why.to_string();
        if follower.tell(Event::Lost { why, wait }).await.is_err() {
            return Ok(());
        }
        sleep(wait).await;
    }
}

impl Follower {
    async fn tell(&self, event: Event) -> Result<(), End> {
        self.events.send(event).await.map_err(|_| End::Unwanted)
    }

    /// One connection's life: `limit` is how long all subscriptions may take.
    async fn session(&mut self, mut socket: Socket, limit: Duration) -> End {
        let Err(end) = self.converse(&mut socket, limit).await;
        self.asked = None;
        end
    }

    async fn converse(
        &mut self,
        socket: &mut Socket,
        limit: Duration,
    ) -> Result<std::convert::Infallible, End> {
        let time = socket.time();
        self.waiting = self.plan(time.unwrap_or_else(GatewayTime::here));
        let answer_within = limit.min(ANSWER_TIMEOUT);
        let mut is_up = false;
        let mut ping_due = Instant::now();
        let mut pulse = Pulse {
            at: ping_due,
            bytes: 0,
        };
        let mut pinged = None;
        loop {
            if self.asked.is_none() {
                match self.waiting.pop_front() {
                    Some(request) => self.ask(socket, request, answer_within)?,
                    None if is_up => {}
                    None => {
                        is_up = true;
                        let is_first = !std::mem::replace(&mut self.stood, true);
                        self.tell(Event::Connected { is_first, time }).await?;
                    }
                }
            }
            let answer_due = self.asked.as_ref().map(|asked| asked.until);
            let due = answer_due.map_or(ping_due, |due| due.min(ping_due));
            tokio::select! {
                biased;
                message = socket.next() => {
                    let arrived = Instant::now();
                    self.take(message::parse(&message?)?, &mut pinged).await?;
                    // Who takes the events may be slow: that is not the gateway's silence.
                    pulse.at = Instant::now();
                    if let Some(asked) = &mut self.asked {
                        asked.until += pulse.at - arrived;
                        asked.last += pulse.at - arrived;
                    }
                }
                () = sleep_until(due) => {
                    let now = Instant::now();
                    if now - due >= LATE {
                        // It is asked first and judged later.
                        pulse.at = now;
                        ping_due = now;
                    }
                    pulse.look(socket, now);
                    self.judge(&pulse, answer_within, now)?;
                    if now >= ping_due {
                        ping_due = now + PING_EVERY;
                        pinged.get_or_insert(now);
                        socket.send(message::ping())?;
                    }
                }
            }
        }
    }

    /// Gives a gateway up that is silent, or does not answer although nothing else comes.
    fn judge(&mut self, pulse: &Pulse, answer_within: Duration, now: Instant) -> Result<(), End> {
        let late = |limit, stage: &str| {
            let stage = stage.to_owned();
            Err(ClientError::Timeout { limit, stage }.into())
        };
        if now >= pulse.at + MAX_SILENCE {
            return late(MAX_SILENCE, "nothing came, and pings were not answered");
        }
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.until <= now) else {
            return Ok(());
        };
        // What comes may stand before the answer.
        asked.until = asked.last.min(pulse.at + answer_within);
        if asked.until <= now {
            return late(answer_within, "waiting for the answer to a subscription");
        }
        Ok(())
    }

    fn ask(&mut self, socket: &Socket, request: Request, within: Duration) -> Result<(), End> {
        self.last_id += 1;
        let (id, rate) = (self.last_id, self.config.max_rate);
        let text = message::subscribe(id, &request.patterns, request.start, rate);
        socket.send(text)?;
        let now = Instant::now();
        self.asked = Some(Asked {
            id,
            request,
            until: now + within,
            last: now + MAX_ANSWER_WAIT.max(within),
        });
        Ok(())
    }

    async fn take(&mut self, message: Message, pinged: &mut Option<Instant>) -> Result<(), End> {
        match message {
            Message::Update(update) => {
                let topic = update.topic;
                let hole = self.tracks.entry(topic).or_default().live(&update);
                self.tell_hole(topic, hole).await?;
                self.tell(Event::Bar(update)).await?;
            }
            Message::Snapshot(topic, bars) => {
                let (hole, news) = self.tracks.entry(topic).or_default().snapshot(bars);
                self.tell_hole(topic, hole).await?;
                for bar in news {
                    self.tell(Event::Bar(bar)).await?;
                }
            }
            Message::Gap(gap) => {
                let track = self.tracks.entry(gap.topic).or_default();
                let hole = (gap.from, gap.to);
                let told = track.gap(hole);
                if told.repair {
                    track.repairs(hole);
                    self.waiting.push_back(Request {
                        patterns: vec![gap.topic.into()],
                        start: Start::Since(gap.from),
                    });
                }
                if told.is_news {
                    self.tell(Event::Gap(gap)).await?;
                }
            }
            Message::Done(id) => {
                if let Some(done) = self.asked.take_if(|asked| Some(asked.id) == id) {
                    self.done(&done.request);
                }
            }
            Message::Refused { id, code, message } => {
                let refused = self.asked.take_if(|asked| Some(asked.id) == id);
                if let Some(refused) = refused {
                    self.refused(refused.request, &code, message)?;
                }
            }
            Message::Pong => {
                if let Some(pinged) = pinged.take() {
                    self.tell(Event::RoundTrip(pinged.elapsed())).await?;
                }
            }
            Message::Other => {}
        }
        Ok(())
    }

    /// What comes next of its topics are their snapshots, if it asked for any.
    fn done(&mut self, request: &Request) {
        if request.start != Start::Current {
            for topic in request.patterns.iter().filter_map(Pattern::topic) {
                self.tracks.entry(topic).or_default().answered();
            }
        }
    }

    async fn tell_hole(&self, topic: Topic, hole: Option<Hole>) -> Result<(), End> {
        let Some((from, to)) = hole else {
            return Ok(());
        };
        let reason = "reconnect".to_owned();
        self.tell(Event::Gap(Gap {
            topic,
            from,
            to,
            reason,
        }))
        .await
    }

    /// Asks for less where that helps.
    fn refused(&mut self, mut request: Request, code: &str, message: String) -> Result<(), End> {
        let is_limit = code == "limit";
        match request.start {
            Start::Newest(_) if is_limit && self.config.history_is_optional => {
                request.start = Start::Current;
            }
            Start::Since(_) if is_limit && request.patterns.len() > 1 => {
                halve(&mut request, &mut self.waiting);
            }
            Start::Since(_) if is_limit => {
                for topic in request.patterns.iter().filter_map(Pattern::topic) {
                    self.tracks.entry(topic).or_default().gives_up();
                }
                request.start = Start::Current;
            }
            _ => return Err(End::Refused(message)),
        }
        self.waiting.push_front(request);
        Ok(())
    }

    /// What to ask a new connection for: topics that were seen from their newest bars on, the others as at
    /// first.
    fn plan(&mut self, time: GatewayTime) -> VecDeque<Request> {
        let now = time.ms_at(Instant::now().into_std());
        let mut wanted: BTreeMap<i64, Vec<Pattern>> = BTreeMap::new();
        for (topic, track) in &mut self.tracks {
            if let Some(last) = track.last() {
                track.resumes();
                wanted.entry(last).or_default().push((*topic).into());
            }
        }
        let resumed = wanted.into_iter();
        let mut plan: VecDeque<_> = resumed
            .flat_map(|(since, topics)| requests(&topics, Start::Since(since), now))
            .collect();
        let first = match self.config.history {
            0 => Start::Current,
            bars => Start::Newest(bars),
        };
        let seen = |topic| self.tracks.get(&topic).and_then(Track::last).is_some();
        let patterns = self.config.patterns.iter().copied();
        let (topics, open): (Vec<_>, Vec<_>) = patterns.partition(|one| one.topic().is_some());
        let unseen = |one: &Pattern| !one.topic().is_some_and(seen);
        let topics: Vec<_> = topics.into_iter().filter(unseen).collect();
        plan.extend(requests(&topics, first, now));
        // Last: what was seen is subscribed by then, and so not shown again.
        let start = if self.tracks.is_empty() {
            first
        } else {
            Start::Current
        };
        plan.extend(open.into_iter().map(|one| Request {
            patterns: vec![one],
            start,
        }));
        plan
    }
}
