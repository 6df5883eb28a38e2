//! A subscription that survives its gateway: connects again, asks from where it was, and tells of every
//! hole.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::message::{self, Gap, Message, Start, Update};
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
/// Longest list of topics in one request, in bytes: a gateway takes 4 KiB by default.
const MAX_TOPICS_BYTES: usize = 3_000;
/// Bars that a gateway gives in answer to one request.
const MAX_ANSWER_BARS: usize = 10_000;

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
    /// How long the first connection may take, with as many attempts as fit; and each later attempt.
    pub connect_timeout: Duration,
}

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// All is subscribed, for the first time or again.
    Connected {
        is_first: bool,
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

/// One `bars.subscribe`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    patterns: Vec<Pattern>,
    start: Start,
}

struct Asked {
    id: u64,
    request: Request,
    until: Instant,
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
    let mut backoff = Backoff::default();
    loop {
        let limit = match follower.stood {
            true => limit,
            false => until.saturating_duration_since(Instant::now()),
        };
        let began = Instant::now();
        let address = follower.config.address.clone();
        let ended = match Socket::connect(&address, limit).await {
            Ok(socket) => follower.session(socket, limit).await,
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
        if began.elapsed() >= STABLE_AFTER {
            backoff.reset();
        }
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
        self.waiting = self.plan();
        let answer_within = limit.min(ANSWER_TIMEOUT);
        let mut is_up = false;
        let mut heard = Instant::now();
        let mut ping_due = heard;
        let mut pinged = None;
        loop {
            if self.asked.is_none() {
                match self.waiting.pop_front() {
                    Some(request) => self.ask(socket, request, answer_within)?,
                    None if is_up => {}
                    None => {
                        is_up = true;
                        let is_first = !std::mem::replace(&mut self.stood, true);
                        self.tell(Event::Connected { is_first }).await?;
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
                    heard = Instant::now();
                    if let Some(asked) = &mut self.asked {
                        asked.until += heard - arrived;
                    }
                }
                () = sleep_until(due) => {
                    let now = Instant::now();
                    if answer_due.is_some_and(|due| due <= now) {
                        return Err(ClientError::Timeout(answer_within).into());
                    }
                    if now >= heard + MAX_SILENCE {
                        return Err(ClientError::Timeout(MAX_SILENCE).into());
                    }
                    ping_due = now + PING_EVERY;
                    pinged.get_or_insert(now);
                    socket.send(message::ping())?;
                }
            }
        }
    }

    fn ask(&mut self, socket: &Socket, request: Request, within: Duration) -> Result<(), End> {
        self.last_id += 1;
        let (id, rate) = (self.last_id, self.config.max_rate);
        let text = message::subscribe(id, &request.patterns, request.start, rate);
        socket.send(text)?;
        let until = Instant::now() + within;
        self.asked = Some(Asked { id, request, until });
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
                let half = request.patterns.len() / 2;
                let patterns = request.patterns.split_off(half);
                let start = request.start;
                self.waiting.push_front(Request { patterns, start });
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
    fn plan(&mut self) -> VecDeque<Request> {
        let mut wanted: BTreeMap<i64, Vec<Pattern>> = BTreeMap::new();
        for (topic, track) in &mut self.tracks {
            if let Some(last) = track.last() {
                track.resumes();
                wanted.entry(last).or_default().push((*topic).into());
            }
        }
        let resumed = wanted.into_iter();
        let mut plan: VecDeque<_> = resumed
            .flat_map(|(since, topics)| requests(&topics, Start::Since(since)))
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
        plan.extend(requests(&topics, first));
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

/// As few requests as a gateway's limits allow.
fn requests(topics: &[Pattern], start: Start) -> Vec<Request> {
    let longest = topics.iter().map(|one| one.to_string().len() + 3).max();
    let by_bytes = MAX_TOPICS_BYTES / longest.unwrap_or(1).max(1);
    let by_bars = match start {
        Start::Newest(bars) => MAX_ANSWER_BARS / bars.max(1),
        _ => usize::MAX,
    };
    topics
        .chunks(by_bytes.min(by_bars).max(1))
        .map(|some| Request {
            patterns: some.to_vec(),
            start,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(count: usize) -> Vec<Pattern> {
        (0..count)
            .map(|n| format!("bars:SYMBOL{n}:1").parse().unwrap())
            .collect()
    }

    #[test]
    fn many_topics_are_several_requests_of_bounded_size() {
        for (start, most) in [
            (Start::Current, usize::MAX),
            (Start::Newest(1_000), 10),
            (Start::Newest(20_000), 1),
        ] {
            let all = requests(&topics(500), start);
            assert!(
                all.iter()
                    .all(|one| (1..=most).contains(&one.patterns.len()))
            );
            let sizes = all
                .iter()
                .map(|r| message::subscribe(1, &r.patterns, start, None).len());
            assert!(sizes.max().unwrap() <= 4_096);
            assert_eq!(all.iter().map(|one| one.patterns.len()).sum::<usize>(), 500);
        }
        assert!(requests(&[], Start::Current).is_empty());
    }
}
