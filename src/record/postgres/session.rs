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
use crate::bar::Field;
use crate::record::Closed;
use crate::record::schema::{
    ASK, ASK_EXTRAS, ASK_REFUSED, CREATE_KEY, CREATE_REFUSED, Extra, Facts, Statements, Step,
    TABLE, UPSERT_REFUSED, steps, version,
};
use crate::record::table::stored;

/// Longest time of one write, as the server counts it: a batch takes some 100 ms.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time of one write, as we count it: a server that is gone does not count.
const WRITE_TIMEOUT: Duration = Duration::from_secs(25);

/// A connection whose table is there.
pub(super) struct Session {
    client: Client,
    statements: Statements,
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
            let extras = extras(&client).await.map_err(Unopened::Other)?;
            let statements = Statements::of(extras);
            let session = Self { client, statements };
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
        let answer = match timeout(
            WRITE_TIMEOUT,
            self.client.batch_execute(&self.statements.probe),
        )
        .await
        {
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

    pub async fn upsert(&mut self, bars: &[Closed]) -> Result<(), Failure> {
        let columns = Columns::new(bars.iter());
        let extras = &self.statements.extras;
        let all = columns.all().into_iter();
        let further = extras.iter().filter_map(|extra| columns.further(*extra));
        let all: Vec<_> = all.chain(further).collect();
        execute(&mut self.client, &self.statements.upsert, &all).await
    }

    /// Keeps bars, each with why the database refused it, in a table of their own.
    pub async fn put_aside(&mut self, refused: &[(Closed, String)]) -> Result<(), Failure> {
        // Not "IF NOT EXISTS" alone, which asks for the right to create also where it exists.
        let asked = timed(self.client.query_typed_one(ASK_REFUSED, &[])).await?;
        if !asked.get::<_, bool>(0) {
            timed(self.client.batch_execute(CREATE_REFUSED)).await?;
        }
        let columns = Columns::new(refused.iter().map(|(bar, _)| bar));
        let reasons: Vec<_> = refused.iter().map(|(_, why)| why.as_str()).collect();
        let mut all = columns.all().to_vec();
        all.push((&reasons, Type::TEXT_ARRAY));
        execute(&mut self.client, UPSERT_REFUSED, &all).await
    }
}

/// Runs one statement in a transaction of its own, which holds its time limit.
async fn execute(client: &mut Client, sql: &str, values: &[Value<'_>]) -> Result<(), Failure> {
    let limit = STATEMENT_TIMEOUT.as_millis();
    let limit = format!("SET LOCAL statement_timeout = {limit}");
    timed(async {
        let transaction = client.transaction().await?;
        transaction.batch_execute(&limit).await?;
        transaction.execute_typed(sql, values).await?;
        transaction.commit().await
    })
    .await
}

/// What goes into a statement.
type Value<'a> = (&'a (dyn ToSql + Sync), Type);

/// Bars as arrays, one a column.
struct Columns<'a> {
    symbols: Vec<&'a str>,
    resolutions: Vec<&'a str>,
    times: Vec<SystemTime>,
    numbers: [Vec<Option<f64>>; 5],
    /// Beyond what the table's numbers hold nothing is known of a counter.
    revs: Vec<Option<i64>>,
    seqs: Vec<Option<i64>>,
    epochs: Vec<Option<String>>,
}

impl<'a> Columns<'a> {
    fn new(bars: impl Iterator<Item = &'a Closed> + Clone) -> Self {
        let number = |field| bars.clone().map(|c| stored(&c.bar, field)).collect();
        let topics = bars.clone().map(|closed| &closed.topic);
        let count = |count: Option<u64>| count.and_then(|count| i64::try_from(count).ok());
        let epochs = bars.clone().map(|closed| closed.epoch);
        Self {
            symbols: topics.clone().map(|t| t.symbol.as_str()).collect(),
            resolutions: topics.map(|t| t.resolution.as_str()).collect(),
            times: bars.clone().map(|c| to_time(c.bar.time())).collect(),
            numbers: Field::ALL.map(number),
            revs: bars.clone().map(|closed| count(closed.rev)).collect(),
            seqs: bars.map(|closed| count(closed.seq)).collect(),
            epochs: epochs.map(|epoch| epoch.map(|e| e.to_string())).collect(),
        }
    }

    /// The array of a further column, if it has one.
    fn further(&self, extra: Extra) -> Option<Value<'_>> {
        match extra {
            Extra::Rev => Some((&self.revs, Type::INT8_ARRAY)),
            Extra::RecordedAt => None,
            Extra::Epoch => Some((&self.epochs, Type::TEXT_ARRAY)),
            Extra::Seq => Some((&self.seqs, Type::INT8_ARRAY)),
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

/// The further columns that the table has.
async fn extras(client: &Client) -> Result<Vec<Extra>, String> {
    let rows = client.query_typed(ASK_EXTRAS, &[]).await;
    let rows = rows.map_err(|why| said(&why))?;
    let names: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let mut extras = Extra::ALL.to_vec();
    extras.retain(|extra| names.contains(&extra.name()));
    Ok(extras)
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
        version: row.get::<_, Option<&str>>(4).and_then(version),
    };
    for Step { sql, may_fail } in steps(facts) {
        match client.batch_execute(sql).await {
            Ok(()) => tracing::info!(sql, "done in the database"),
            Err(why) if may_fail && !client.is_closed() => {
                let why = said(&why);
                tracing::warn!(why, sql, "not done in the database; going on without it");
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
