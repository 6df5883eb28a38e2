//! Closed bars into PostgreSQL.

mod session;

use std::error::Error as _;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::lane::Output;
use super::schema::REFUSED;
use super::{Closed, Gap};
use crate::limited::Limited;
use session::{Failure, Session, Unopened};

/// Longest wait for TCP, TLS and the login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
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

impl Postgres {
    /// Looks whether bars can be written. A database that is away may come.
    ///
    /// # Errors
    /// When its table cannot take bars, with what its owner can do.
    pub async fn new(address: Address) -> Result<Self, String> {
        let session = match Session::open(&address).await {
            Ok(session) => Some(session),
            Err(Unopened::Table(why)) => return Err(format!("{address}: {why}")),
            // The first write meets it again, and tells.
            Err(Unopened::Other(_)) => None,
        };
        Ok(Self {
            address,
            session,
            warnings: Limited::default(),
        })
    }

    /// Writes bars; how many of them the database refused, which are put aside.
    async fn write_all(&mut self, bars: &[Closed]) -> Result<usize, String> {
        let session = match &mut self.session {
            Some(session) if bars.is_empty() => {
                session.probe().await.map_err(Unopened::why)?;
                session
            }
            Some(session) => session,
            none => none.insert(Session::open(&self.address).await.map_err(Unopened::why)?),
        };
        if bars.is_empty() {
            return Ok(0);
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
        for (Closed { topic, bar, .. }, why) in &refused {
            let time = bar.time();
            self.warnings.say(|left_out| {
                tracing::warn!(%topic, time, why, left_out, table = REFUSED, "the database refuses a bar; it is put aside");
            });
        }
        Ok(refused.len())
    }
}

impl Output for Postgres {
    const NAME: &'static str = "postgres";

    async fn write(&mut self, bars: Vec<Closed>) -> Result<usize, String> {
        let written = self.write_all(&bars).await;
        if written.is_err() {
            // Whatever it was, a new connection is the surest state to go on from.
            self.session = None;
        }
        written
    }

    async fn note(&mut self, _gaps: Vec<Gap>) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
