//! The way from a real feed to charts: trades or lower bars, from files, standard input or Redis, folded
//! into bars of every wanted resolution and published.
//!
//! A [`source`] reads on a thread of its own and hands rows over through a bounded queue; what cannot
//! be taken as fast as it comes waits where it comes from. [`row`] knows what a row looks like, [`time`]
//! what a time looks like, and [`aggregate`](crate::aggregate) makes the bars.

mod delay;
mod mark;
mod pump;
mod row;
mod source;
pub mod time;
pub(crate) mod trades;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::aggregate::{Forming, Ladder, Rules, Taken};
use crate::ahead::{Ahead, MaxAhead};
use crate::bar::{Message, Resolution, Symbol};
use crate::bus::{Bus, Publisher, RedisBus};
use crate::clock::{now_ms, now_us};
use crate::generator::health;
use crate::generator::numbering::Numbering;
use crate::generator::outlet::Outlet;
use crate::generator::pack::Form;
use crate::health::Concern;
use crate::limited::{Limited, Refusals};
use crate::metrics::FeedMetrics;
use delay::Delay;
use mark::Mark;
use pump::{late, pump};
pub use row::Format;
use row::{Entry, Row};
pub use source::Source;

/// Most symbols: bounds the memory against a feed gone wrong. A symbol takes some 20 KB.
const MAX_SYMBOLS: usize = 50_000;
/// Rows after which changed bars are published, however little time has passed.
const FLUSH_ROWS: usize = 5_000;
/// Bars of one write: bounds what is published again when the bus is lost in between.
const CHUNK_BARS: usize = 2_000;
/// By the clock a bar closes so long after its end, in ms: its last trades are still on their way.
const CLOSE_DELAY_MS: i64 = 1_000;
/// A live trade may be ahead of the clock by this, in ms, and `--late`: what two clocks that are set well
/// differ by. Further ahead is a time zone forgotten, and would make all good trades of its symbol late for
/// hours.
const MAX_LIVE_AHEAD_MS: i64 = 5_000;
/// So many rows in a row ahead of the clock, and it is the clock that is wrong, or not ours: nothing is ready then.
const AHEAD_ROWS: u32 = 20;

/// What the rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Trades,
    /// Bars of this resolution.
    Bars(Resolution),
}

/// What to read and what to make of it.
#[derive(Debug, Clone)]
pub struct Config {
    pub source: Source,
    /// By the file's name when there is none.
    pub format: Option<Format>,
    pub input: Input,
    /// Of rows that name none.
    pub symbol: Option<Symbol>,
    pub resolutions: Vec<Resolution>,
    pub rules: Rules,
    /// Bars also close by the clock.
    pub live: bool,
    /// Longest delay of a feed that the clock waits for before it closes anything.
    pub max_delay: Duration,
    /// Longest time until changed bars are published.
    pub flush: Duration,
    pub form: Form,
    /// How far a bar may start ahead of the clock.
    pub max_ahead: MaxAhead,
}

/// `barcast ingest`, validated.
#[derive(Debug, Clone)]
pub struct Feed {
    pub config: Config,
    pub bus: RedisBus,
    pub health_listen: Option<SocketAddr>,
}

/// How it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows that count in some bar.
    pub taken: u64,
    /// Rows that came too late.
    pub late: u64,
    /// Rows that are none.
    pub bad: u64,
    /// Rows whose time is ahead of the clock.
    pub future: u64,
    /// Bars that the bus confirmed, every state of each.
    pub published: u64,
    /// Bars that the bus had not confirmed when it was stopped, and that nobody will publish any more.
    pub given_up: u64,
    /// Whether it was stopped before the end.
    pub stopped: bool,
}

impl Totals {
    /// 1 when there were rows and none could be used, or bars of them were given up.
    pub fn exit_code(&self) -> ExitCode {
        let is_useless = self.taken == 0 && self.bad + self.future > 0;
        ExitCode::from(u8::from(is_useless || self.given_up > 0))
    }
}

/// Why nothing could be read. One line.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// A file is missing, its header lacks a column, or what is wanted cannot be made. Exit code 2.
    #[error("{0}")]
    Input(String),
    /// A file could not be read to its end. Exit code 1.
    #[error("{0}")]
    Read(String),
    #[error("--health-listen (BARCAST_INGEST_HEALTH_LISTEN): cannot listen on {address}: {why}")]
    HealthListen {
        address: SocketAddr,
        why: std::io::Error,
    },
}

/// Runs `barcast ingest` until the input ends, or until `stop`.
///
/// # Errors
/// [`FeedError`].
pub async fn ingest(settings: Feed, stop: CancellationToken) -> Result<Totals, FeedError> {
    let metrics = FeedMetrics::default();
    if let Some(address) = settings.health_listen {
        let publishing = metrics.publishing.clone();
        publishing.health.set(Concern::Publisher, "starting");
        let register = |registry: &mut _| metrics.register(registry);
        let listening = health::listen(address, register, publishing, stop.clone()).await;
        listening.map_err(|why| FeedError::HealthListen { address, why })?;
    }
    tracing::info!(redis = settings.bus.address(), "publishing");
    run(settings.config, settings.bus.publisher(), metrics, stop).await
}

/// Reads, aggregates and publishes until the input ends, or until `stop`. What the bus does not
/// confirm is published again, and meanwhile nothing more is read.
///
/// # Errors
/// [`FeedError`].
pub async fn run<P: Publisher>(
    config: Config,
    publisher: P,
    metrics: FeedMetrics,
    stop: CancellationToken,
) -> Result<Totals, FeedError> {
    if let Input::Bars(leaf) = config.input {
        let symbol = "A".parse().unwrap_or_else(|_| unreachable!("a symbol"));
        Ladder::of_bars(symbol, &config.resolutions, leaf, config.rules.clone())
            .map_err(|why| FeedError::Input(format!("--resolutions: {why}")))?;
    }
    tracing::info!(
        source = %config.source,
        input = ?config.input,
        resolutions = ?config.resolutions,
        rules = ?config.rules,
        live = config.live,
        "ingest started"
    );
    let rows = source::open(&config, &metrics, &stop).map_err(FeedError::Input)?;
    let mut outlet = Outlet::new(publisher, config.form, metrics.publishing.clone());
    outlet.ready(&stop).await;
    // Health is told of by rows in a row here, and then nothing is ready.
    let ahead = Ahead::new(max_ahead(&config));
    let mut market = Market {
        instruments: HashMap::new(),
        numbering: Numbering::new(now_us()),
        config,
        metrics,
        warnings: Limited::default(),
        late_log: Limited::default(),
        future_log: Refusals::default(),
        mark: Mark::default(),
        ahead_rows: 0,
        pending: 0,
        ahead,
        given_up: 0,
    };
    // The queue blocks, and so does this thread: publishing is done by the runtime that waits here.
    let handle = Handle::current();
    let last = late(&stop);
    let work = move || {
        let ended = pump(&mut market, &rows, &mut outlet, &handle, [&stop, &last]);
        handle.block_on(outlet.finish(&stop));
        let totals = market.totals(stop.is_cancelled());
        tracing::info!(?totals, "ingest ended");
        ended.map(|()| totals)
    };
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|why| Err(FeedError::Read(format!("the ingest panicked: {why}"))))
}

/// How far a row may be ahead of the clock.
fn max_ahead(config: &Config) -> MaxAhead {
    let live = config.rules.late_ms.saturating_add(MAX_LIVE_AHEAD_MS);
    match config.input {
        Input::Trades if config.live && !config.max_ahead.is_off() => {
            let live = Duration::from_millis(u64::try_from(live).unwrap_or_default());
            config.max_ahead.min(MaxAhead::within(live))
        }
        _ => config.max_ahead,
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

/// One symbol's bars, and how far its rows are behind the clock.
struct Instrument {
    ladder: Ladder,
    delay: Delay,
}

/// All symbols' bars.
struct Market {
    instruments: HashMap<Symbol, Instrument>,
    numbering: Numbering,
    config: Config,
    metrics: FeedMetrics,
    warnings: Limited,
    late_log: Limited,
    future_log: Refusals,
    mark: Mark,
    /// Rows in a row that were ahead of the clock.
    ahead_rows: u32,
    /// Rows since the last drain.
    pending: usize,
    /// What keeps rows of the future out.
    ahead: Ahead,
    /// Bars of rows that were taken which the bus did not take before the end.
    given_up: usize,
}

impl Market {
    fn take(&mut self, row: Row) {
        self.pending += 1;
        if let Ok(entry) = &row.entry
            && self.is_future(entry)
        {
            self.metrics.future.inc();
            let (symbol, time) = (entry.symbol(), entry.time());
            let at = Some(row.at.as_str());
            let ahead = time.saturating_sub(self.ahead.now());
            self.tell_ahead(ahead);
            return self.ahead.refused(symbol, at, time, &mut self.future_log);
        }
        let taken = row.entry.and_then(|entry| {
            let taken = self.enter(&entry)?;
            Ok((taken, entry.symbol(), entry.time()))
        });
        match taken {
            Ok((Taken::In, ..)) => {
                self.metrics.taken.inc();
            }
            Ok((Taken::Late, symbol, time)) => {
                self.metrics.late.inc();
                self.tell_late(&row.at, symbol, time);
            }
            Err(reason) => {
                self.metrics.bad.inc();
                self.warnings.say(
                    |left_out| tracing::warn!(at = %row.at, %reason, left_out, "row left out"),
                );
            }
        }
    }

    /// Whether a row is ahead of the clock, and so would make all of its symbol late that come after it.
    fn is_future(&mut self, entry: &Entry) -> bool {
        let resolution = match self.config.input {
            Input::Bars(leaf) => leaf,
            // Of a trade's bars, the finest bounds how far it may be ahead.
            Input::Trades => Resolution::S1,
        };
        self.ahead.refuses(resolution, entry.time())
    }

    /// A single row may be wrong; when all are, it is rather the clock.
    fn tell_ahead(&mut self, ahead: i64) {
        self.ahead_rows = self.ahead_rows.saturating_add(1);
        if self.ahead_rows == AHEAD_ROWS && self.config.live {
            let why = format!(
                "the last {AHEAD_ROWS} rows were left out, being {:.0} s ahead of this machine's clock: set it (NTP)",
                seconds(ahead)
            );
            tracing::warn!(why, "no row is taken");
            self.metrics.publishing.health.set(Concern::Clock, why);
        }
    }

    /// Says which row was late, and by how much: a counter alone is not looked at.
    fn tell_late(&mut self, at: &str, symbol: Symbol, time: i64) {
        let newest = self.instruments.get(&symbol);
        let newest = newest.and_then(|instrument| instrument.ladder.newest());
        let behind = newest.map_or(0, |newest| newest.saturating_sub(time));
        let allowed = seconds(self.config.rules.late_ms);
        self.late_log.say(|left_out| {
            tracing::warn!(
                at,
                %symbol,
                behind_s = seconds(behind),
                allowed_s = allowed,
                left_out,
                "row left out: it came later behind its symbol's newest row than --late allows"
            );
        });
    }

    fn enter(&mut self, entry: &Entry) -> Result<Taken, String> {
        let symbol = entry.symbol();
        let now = now_ms();
        if std::mem::take(&mut self.ahead_rows) >= AHEAD_ROWS {
            self.metrics.publishing.health.clear(Concern::Clock);
        }
        if self.instruments.len() >= MAX_SYMBOLS && !self.instruments.contains_key(&symbol) {
            return Err(format!(
                "{symbol} would be one symbol more than {MAX_SYMBOLS}"
            ));
        }
        let config = &self.config;
        let instrument = self.instruments.entry(symbol).or_insert_with(|| {
            let rules = config.rules.clone();
            let of_bars = |leaf| {
                let rules = rules.clone();
                Ladder::of_bars(symbol, &config.resolutions, leaf, rules).ok()
            };
            let by_bars = match config.input {
                Input::Bars(leaf) => of_bars(leaf),
                Input::Trades => None,
            };
            let of_trades = || Ladder::of_trades(symbol, &config.resolutions, rules);
            Instrument {
                ladder: by_bars.unwrap_or_else(of_trades),
                delay: Delay::default(),
            }
        });
        if let Entry::Trade(..) = entry {
            instrument.delay.arrived(now, entry.time());
        }
        let ladder = &mut instrument.ladder;
        Ok(match entry {
            Entry::Trade(_, trade) => ladder.trade(*trade),
            Entry::Bar(_, bar) => ladder.bar(bar),
        })
    }

    fn drain(&mut self, out: &mut Vec<Message>) {
        self.pending = 0;
        self.ahead.rest();
        let mark = self.mark.up_to.filter(|_| self.config.live);
        let live = mark.map(|up_to| up_to - CLOSE_DELAY_MS);
        let most = i64::try_from(self.config.max_delay.as_millis()).unwrap_or(i64::MAX);
        let mut longest = 0;
        for Instrument { ladder, delay } in self.instruments.values_mut() {
            let delay = delay.ms(most);
            longest = longest.max(delay);
            if let Some(now) = live {
                ladder.advance(now - delay);
            }
            ladder.drain(Forming::Changed, out);
        }
        self.metrics.delay.set(seconds(longest));
        self.numbering.number(out);
    }

    fn totals(&self, stopped: bool) -> Totals {
        Totals {
            taken: self.metrics.taken.get(),
            late: self.metrics.late.get(),
            bad: self.metrics.bad.get(),
            future: self.metrics.future.get(),
            published: self.metrics.publishing.published.get(),
            given_up: u64::try_from(self.given_up).unwrap_or(u64::MAX),
            stopped,
        }
    }
}
