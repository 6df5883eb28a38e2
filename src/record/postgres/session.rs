//! One connection to the database: the table, and writes into it.
//!
//! Only what a pooler in transaction mode (pgbouncer, `pool_mode = transaction`) allows: statements without a
//! name, settings that end with their transaction.

use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::{Address, said, to_time};
use crate::bar::{Bar, Field, Topic};
use crate::record::schema::{
    ASK, ASK_REFUSED, CREATE_KEY, CREATE_REFUSED, Facts, PROBE, Step, TABLE, UPSERT,
    UPSERT_REFUSED, steps,
};
use crate::record::table::stored;

/// Longest time of one write, as the server counts it: a batch takes some 100 ms.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time of one write, as we count it: a server that is gone does not count.
const WRITE_TIMEOUT: Duration = Duration::from_secs(25);

/// A connection whose table is there.
pub(super) struct Session {
    client: Client,
}

/// Why there is no session.
pub(super) enum Unopened {
    /// The table is not one that bars can be written into, until its owner changes it.
    Table(String),
    Other(String),
}

impl Unopened {
    pub fn why(self) -> String {
        match self {
            Self::Table(why) | Self::Other(why) => why,
        }
    }
}

impl Session {
    /// Connects, makes the table where it is absent, and looks whether it can be written.
    pub async fn open(address: &Address) -> Result<Self, Unopened> {
        let opened = timeout(WRITE_TIMEOUT, async {
            let client = address.connect().await.map_err(Unopened::Other)?;
            create(&client).await.map_err(Unopened::Other)?;
            let session = Self { client };
            session.probe().await?;
            Ok(session)
        });
        let silent = || Unopened::Other(format!("no answer within {WRITE_TIMEOUT:?}"));
        let session = opened.await.unwrap_or_else(|_| Err(silent()))?;
        tracing::info!(postgres = %address, table = TABLE, "database connected");
        Ok(session)
    }

    /// Asks whether bars can be written, without writing any: it takes rights, columns and key.
    pub async fn probe(&self) -> Result<(), Unopened> {
        let answer = match timeout(WRITE_TIMEOUT, self.client.batch_execute(PROBE)).await {
            Ok(answer) => answer,
            Err(_) => {
                return Err(Unopened::Other(format!(
                    "no answer within {WRITE_TIMEOUT:?}"
                )));
            }
        };
        answer.map_err(|why| match why.code() {
            // What ON CONFLICT says without such a key.
            Some(&SqlState::INVALID_COLUMN_REFERENCE) => Unopened::Table(format!(
                "{TABLE}: {}; without a unique key of these columns a bar cannot be replaced: {CREATE_KEY}",
                said(&why)
            )),
            _ => Unopened::Other(format!("{TABLE}: {}", said(&why))),
        })
    }

    pub async fn upsert(&mut self, bars: &[(Topic, Bar)]) -> Result<(), Failure> {
        let columns = Columns::new(bars.iter());
        self.execute(UPSERT, &columns.all()).await
    }

    /// Keeps bars, each with why the database refused it, in a table of their own.
    pub async fn put_aside(&mut self, refused: &[((Topic, Bar), String)]) -> Result<(), Failure> {
        // Not "IF NOT EXISTS" alone, which asks for the right to create also where it exists.
        let asked = timed(self.client.query_typed_one(ASK_REFUSED, &[])).await?;
        if !asked.get::<_, bool>(0) {
            timed(self.client.batch_execute(CREATE_REFUSED)).await?;
        }
        let columns = Columns::new(refused.iter().map(|(bar, _)| bar));
        let reasons: Vec<_> = refused.iter().map(|(_, why)| why.as_str()).collect();
        let mut all = columns.all().to_vec();
        all.push((&reasons, Type::TEXT_ARRAY));
        self.execute(UPSERT_REFUSED, &all).await
    }

    /// Runs one statement in a transaction of its own, which holds its time limit.
    async fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(), Failure> {
        let limit = STATEMENT_TIMEOUT.as_millis();
        let limit = format!("SET LOCAL statement_timeout = {limit}");
        timed(async {
            let transaction = self.client.transaction().await?;
            transaction.batch_execute(&limit).await?;
            transaction.execute_typed(sql, values).await?;
            transaction.commit().await
        })
        .await
    }
}

/// What goes into a statement.
type Value<'a> = (&'a (dyn ToSql + Sync), Type);

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

    fn all(&self) -> [Value<'_>; 8] {
        let [open, high, low, close, volume] = &self.numbers;
        [
            (&self.symbols, Type::TEXT_ARRAY),
            (&self.resolutions, Type::TEXT_ARRAY),
            (&self.times, Type::TIMESTAMPTZ_ARRAY),
            (open, Type::FLOAT8_ARRAY),
            (high, Type::FLOAT8_ARRAY),
            (low, Type::FLOAT8_ARRAY),
            (close, Type::FLOAT8_ARRAY),
            (volume, Type::FLOAT8_ARRAY),
        ]
    }
}

/// Why a statement failed.
pub(super) enum Failure {
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
    let row = client.query_typed_one(ASK, &[]).await;
    let row = row.map_err(|why| said(&why))?;
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
}
