//! Closed bars into PostgreSQL.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::lane::Output;
use super::schema::{
    ASK, ASK_REFUSED, CREATE_REFUSED, Facts, REFUSED, Step, TABLE, UPSERT, UPSERT_REFUSED, steps,
};
use super::table::stored;
use crate::bar::{Bar, Field, Topic};
use crate::limited::Limited;

/// Longest wait for TCP, TLS and the login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time of one write, as the server counts it: a batch takes some 100 ms.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time of one write, as we count it: a server that is gone does not count.
const WRITE_TIMEOUT: Duration = Duration::from_secs(25);
/// Unanswered data is given up after this long, where the system can: a half-open connection.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle time before TCP asks whether the other side lives.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// What a URL of PostgreSQL looks like, for people.
pub const URL_FORM: &str =
    "postgres://[user[:password]@]host[:port]/database[?sslmode=require], postgresql://…";

/// A PostgreSQL server by its URL.
#[derive(Clone)]
pub struct Address {
    config: Config,
}

/// Never the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Host, port and database: what logs may show.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.config.get_ports();
        for (at, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}")?,
                Host::Unix(path) => write!(f, "{comma}{}", path.display())?,
            }
            let port = ports.get(at).or_else(|| ports.first()).unwrap_or(&5432);
            write!(f, ":{port}")?;
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl Address {
    /// Whether a text is meant as such a URL.
    pub fn is_one(text: &str) -> bool {
        text.starts_with("postgres://") || text.starts_with("postgresql://")
    }

    /// Takes a URL. `sslmode=require` is TLS whose certificate is checked against the system's roots;
    /// anything else is without TLS.
    ///
    /// # Errors
    /// What is allowed. Never holds the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let allowed = || format!("this is no URL of PostgreSQL; allowed: {URL_FORM}");
        if !Self::is_one(url) {
            return Err(allowed());
        }
        let mut config: Config = url.parse().map_err(|_| allowed())?;
        if config.get_hosts().is_empty() {
            return Err(allowed());
        }
        // "prefer" would be TLS with whatever certificate comes, which protects from nobody.
        if config.get_ssl_mode() == SslMode::Prefer {
            config.ssl_mode(SslMode::Disable);
        }
        config
            .application_name("barcast")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .keepalives_idle(KEEPALIVE);
        Ok(Self { config })
    }

    /// Connects; the connection runs in the background and ends with the client.
    ///
    /// # Errors
    /// One line, without a secret.
    pub async fn connect(&self) -> Result<Client, String> {
        let connected = async {
            if self.config.get_ssl_mode() == SslMode::Disable {
                return self.connect_with(NoTls).await;
            }
            let _ = rustls::crypto::ring::default_provider().install_default();
            let (tls, _) = MakeRustlsConnect::with_native_certs()
                .map_err(|why| format!("the system's root certificates: {why:?}"))?;
            self.connect_with(tls).await
        };
        // The config's own time-out is that of TCP alone.
        let connected = timeout(CONNECT_TIMEOUT, connected).await;
        connected.unwrap_or_else(|_| Err(format!("no answer within {CONNECT_TIMEOUT:?}")))
    }

    async fn connect_with<T>(&self, tls: T) -> Result<Client, String>
    where
        T: MakeTlsConnect<Socket> + Send,
        T::Stream: Send + 'static,
    {
        let connected = self.config.connect(tls).await;
        let (client, connection) = connected.map_err(|why| said(&why))?;
        tokio::spawn(async move {
            if let Err(why) = connection.await {
                tracing::debug!(why = said(&why), "connection to PostgreSQL ended");
            }
        });
        Ok(client)
    }
}

/// An error with what is behind it, in one line.
pub fn said(why: &tokio_postgres::Error) -> String {
    if let Some(db) = why.as_db_error() {
        return format!("{} (SQLSTATE {})", db.message(), db.code().code());
    }
    let mut text = why.to_string();
    let mut source = why.source();
    while let Some(why) = source {
        let deeper = why.to_string();
        if !text.contains(&deeper) {
            text = format!("{text}: {deeper}");
        }
        source = why.source();
    }
    text
}

/// Milliseconds since the epoch as PostgreSQL's driver wants them.
pub fn to_time(ms: i64) -> SystemTime {
    let distance = Duration::from_millis(ms.unsigned_abs());
    let time = if ms < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    // Bars are of the years 1 to 9999, which the system's clock holds.
    time.unwrap_or(UNIX_EPOCH)
}

/// The other way.
pub fn from_time(time: SystemTime) -> i64 {
    let ms = |distance: Duration| i64::try_from(distance.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => ms(after),
        Err(before) => -ms(before.duration()),
    }
}

/// The table, over a connection that is made again when it is lost.
pub struct Postgres {
    address: Address,
    session: Option<Session>,
    warnings: Limited,
}

struct Session {
    client: Client,
    upsert: Statement,
}

impl Postgres {
    pub fn new(address: Address) -> Self {
        Self {
            address,
            session: None,
            warnings: Limited::default(),
        }
    }

    /// Writes bars; how many of them the database refused, which are put aside.
    async fn write_all(&mut self, bars: &[(Topic, Bar)]) -> Result<usize, String> {
        let session = match &mut self.session {
            Some(session) => session,
            none => none.insert(Session::open_timed(&self.address).await?),
        };
        if bars.is_empty() {
            return Ok(timed(session.client.batch_execute("")).await.map(|()| 0)?);
        }
        // Halved until what is refused stands alone; the oldest are on top.
        let mut parts = vec![bars];
        let mut refused = Vec::new();
        while let Some(part) = parts.pop() {
            match (session.upsert(part).await, part) {
                (Ok(()), _) => {}
                (Err(Failure::Content(why)), [bar]) => refused.push((*bar, why)),
                (Err(Failure::Content(_)), _) => {
                    let (older, newer) = part.split_at(part.len() / 2);
                    parts.extend([newer, older]);
                }
                (Err(Failure::Other(why)), _) => return Err(why),
            }
        }
        if refused.is_empty() {
            return Ok(0);
        }
        let kept = session.put_aside(&refused).await;
        kept.map_err(|why| format!("{REFUSED}: {}", String::from(why)))?;
        for ((topic, bar), why) in &refused {
            let time = bar.time();
            self.warnings.say(|left_out| {
                tracing::warn!(%topic, time, why, left_out, table = REFUSED, "the database refuses a bar; it is put aside");
            });
        }
        Ok(refused.len())
    }
}

impl Session {
    async fn open(address: &Address) -> Result<Self, String> {
        let client = address.connect().await?;
        let limit = format!("SET statement_timeout = {}", STATEMENT_TIMEOUT.as_millis());
        client
            .batch_execute(&limit)
            .await
            .map_err(|why| said(&why))?;
        create(&client).await?;
        let upsert = client.prepare(UPSERT).await.map_err(|why| said(&why))?;
        tracing::info!(postgres = %address, table = TABLE, "database connected");
        Ok(Self { client, upsert })
    }

    async fn open_timed(address: &Address) -> Result<Self, String> {
        let opened = timeout(WRITE_TIMEOUT, Self::open(address)).await;
        opened.unwrap_or_else(|_| Err(format!("no answer within {WRITE_TIMEOUT:?}")))
    }

    async fn upsert(&self, bars: &[(Topic, Bar)]) -> Result<(), Failure> {
        let columns = Columns::new(bars.iter());
        timed(self.client.execute(&self.upsert, &columns.all())).await?;
        Ok(())
    }

    /// Keeps bars, each with why the database refused it, in a table of their own.
    async fn put_aside(&self, refused: &[((Topic, Bar), String)]) -> Result<(), Failure> {
        // Not "IF NOT EXISTS" alone, which asks for the right to create also where it exists.
        let asked = timed(self.client.query_one(ASK_REFUSED, &[])).await?;
        if !asked.get::<_, bool>(0) {
            timed(self.client.batch_execute(CREATE_REFUSED)).await?;
        }
        let columns = Columns::new(refused.iter().map(|(bar, _)| bar));
        let reasons: Vec<_> = refused.iter().map(|(_, why)| why.as_str()).collect();
        let mut all = columns.all().to_vec();
        all.push(&reasons);
        timed(self.client.execute(UPSERT_REFUSED, &all)).await?;
        Ok(())
    }
}

/// Bars as arrays, one a column.
struct Columns<'a> {
    symbols: Vec<&'a str>,
    resolutions: Vec<&'a str>,
    times: Vec<SystemTime>,
    numbers: [Vec<Option<f64>>; 5],
}

impl<'a> Columns<'a> {
    fn new(bars: impl Iterator<Item = &'a (Topic, Bar)> + Clone) -> Self {
        let number = |field| bars.clone().map(|(_, bar)| stored(bar, field)).collect();
        Self {
            symbols: bars.clone().map(|(t, _)| t.symbol.as_str()).collect(),
            resolutions: bars.clone().map(|(t, _)| t.resolution.as_str()).collect(),
            times: bars.clone().map(|(_, bar)| to_time(bar.time())).collect(),
            numbers: Field::ALL.map(number),
        }
    }

    fn all(&self) -> [&(dyn ToSql + Sync); 8] {
        let [open, high, low, close, volume] = &self.numbers;
        [
            &self.symbols,
            &self.resolutions,
            &self.times,
            open,
            high,
            low,
            close,
            volume,
        ]
    }
}

/// Why a statement failed.
enum Failure {
    /// By what it holds: again and again, wherever and whenever it is tried.
    Content(String),
    Other(String),
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Content(why) | Failure::Other(why) => why,
        }
    }
}

/// Whether an error is of the bars and not of the database's state: bad values (class 22), constraints and
/// partitions that are not there (23), what a trigger raises, and TimescaleDB's limit on compressed chunks.
fn is_of_content(state: &SqlState) -> bool {
    let code = state.code();
    code.starts_with("22")
        || code.starts_with("23")
        || [
            &SqlState::RAISE_EXCEPTION,
            &SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        ]
        .contains(&state)
}

/// What the database answers, if it does.
async fn timed<T>(
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Failure> {
    match timeout(WRITE_TIMEOUT, asked).await {
        Ok(answer) => answer.map_err(|why| match why.code() {
            Some(state) if is_of_content(state) => Failure::Content(said(&why)),
            _ => Failure::Other(said(&why)),
        }),
        Err(_) => Err(Failure::Other(format!(
            "no answer within {WRITE_TIMEOUT:?}"
        ))),
    }
}

/// Makes the table where it is absent.
async fn create(client: &Client) -> Result<(), String> {
    let row = client.query_one(ASK, &[]).await.map_err(|why| said(&why))?;
    let facts = Facts {
        table: row.get(0),
        installed: row.get(1),
        available: row.get(2),
        preloaded: row.get(3),
    };
    for Step { sql, may_fail } in steps(facts) {
        match client.batch_execute(sql).await {
            Ok(()) => tracing::info!(sql, "done in the database"),
            Err(why) if may_fail && !client.is_closed() => {
                tracing::warn!(
                    why = said(&why),
                    sql,
                    "TimescaleDB is not used; the table is plain"
                );
            }
            Err(why) => return Err(said(&why)),
        }
    }
    Ok(())
}

impl Output for Postgres {
    const NAME: &'static str = "postgres";

    async fn write(&mut self, bars: Vec<(Topic, Bar)>) -> Result<usize, String> {
        let written = self.write_all(&bars).await;
        if written.is_err() {
            // Whatever it was, a new connection is the surest state to go on from.
            self.session = None;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_try_may_heal_is_not_of_content() {
        for (code, expected) in [
            ("22003", true),
            ("23514", true),
            ("53400", true),
            ("P0001", true),
            ("53100", false),
            ("40001", false),
            ("42501", false),
            ("57014", false),
        ] {
            assert_eq!(
                is_of_content(&SqlState::from_code(code)),
                expected,
                "{code}"
            );
        }
    }

    #[test]
    fn times_come_back() {
        for ms in [0, 1, -1, 1_697_097_600_123, -62_135_596_800_000] {
            assert_eq!(from_time(to_time(ms)), ms);
        }
    }

    #[test]
    fn an_address_shows_no_password() {
        let url = "postgres://me:s3cr3t@db.example:5433/bars?sslmode=require";
        let address = Address::parse(url).unwrap();
        assert_eq!(format!("{address} {address:?}"), {
            let told = "db.example:5433/bars";
            format!("{told} {told}")
        });
        assert_eq!(address.config.get_ssl_mode(), SslMode::Require);
        for bad in [
            "s3cr3t",
            "http://me:s3cr3t@db/bars",
            "postgres://me:s3cr3t@db:port/bars",
            "postgres://me:s3cr3t@db/bars?s3cr3t=1",
            "postgres://",
        ] {
            let why = Address::parse(bad).unwrap_err();
            assert!(!why.contains("s3cr3t") && why.contains(URL_FORM), "{why}");
        }
    }
}
