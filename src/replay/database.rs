//! Bars out of PostgreSQL, as `barcast record` writes them.
//!
//! A thread of its own reads by parts, each from where the one before it ended, and hands them over
//! through a short queue: memory does not grow with what is read, and a replay of hours holds no
//! transaction open. Statements have no name, so that a pooler may stand between.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;
use std::{thread, vec};

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::rebase::Extent;
use super::wanted::Wanted;
use crate::bar::Resolution;
use crate::record::postgres::{Address, from_time, said, to_time};
use crate::record::table::{Row, bar};

/// Rows of one part: some milliseconds by the index of times.
const PART_ROWS: usize = 5_000;
/// Parts that wait.
const QUEUED_PARTS: usize = 2;

/// What is wanted: patterns as two arrays, where null stands for `*`, and times.
const WANTED: &str = "FROM barcast_bars AS b
    WHERE (cardinality($1::text[]) = 0 OR EXISTS (
        SELECT FROM unnest($1::text[], $2::text[]) AS w (symbol, resolution)
        WHERE (w.symbol IS NULL OR w.symbol = b.symbol)
            AND (w.resolution IS NULL OR w.resolution = b.resolution)))
        AND time >= COALESCE($3::timestamptz, '-infinity')
        AND time < COALESCE($4::timestamptz, 'infinity')";

/// Whatever numbers the table has, `numeric` among them, are read as doubles, as bars hold them.
const COLUMNS: &str = "symbol::text, resolution::text, time, open::float8, high::float8,
    low::float8, close::float8, volume::float8";

type Part = Vec<Row>;

enum Told {
    /// It begins; with its extent, if it was asked for.
    Begins(Option<Extent>),
    Part(Part),
    Failed(String),
}

/// A table that is being read.
pub(super) struct Database {
    pub address: Address,
    /// From the first bar to the last one, if it was asked for.
    pub extent: Option<Extent>,
    told_coarsest: Option<Resolution>,
    parts: Receiver<Told>,
    part: vec::IntoIter<Row>,
    /// Rows read so far.
    pub rows: u64,
}

impl Database {
    /// Connects and asks for the bars that are wanted.
    ///
    /// # Errors
    /// One line, without a secret.
    pub fn open(address: &Address, wanted: &Wanted, asks_extent: bool) -> Result<Self, String> {
        let (sender, parts) = sync_channel(QUEUED_PARTS);
        let work = {
            let (address, wanted) = (address.clone(), wanted.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let read = match runtime {
                    Ok(runtime) => {
                        let read = read(&address, &wanted, asks_extent, &sender);
                        let ended = runtime.block_on(read);
                        // A name server that is silent may still be waited for: not here.
                        runtime.shutdown_background();
                        ended
                    }
                    Err(why) => Err(why.to_string()),
                };
                if let Err(why) = read {
                    // Nobody waits for it any more, or it is told.
                    let _ = sender.send(Told::Failed(why));
                }
            }
        };
        let named = thread::Builder::new().name("database".to_owned());
        named.spawn(work).map_err(|why| why.to_string())?;
        let extent = match parts.recv() {
            Ok(Told::Begins(extent)) => extent,
            Ok(Told::Failed(why)) => return Err(format!("{address}: {why}")),
            Ok(Told::Part(_)) | Err(_) => return Err(format!("{address}: the reader has ended")),
        };
        Ok(Self {
            address: address.clone(),
            extent,
            told_coarsest: wanted.coarsest(),
            parts,
            part: Vec::new().into_iter(),
            rows: 0,
        })
    }

    /// The coarsest resolution, if it was asked for.
    pub fn coarsest(&self) -> Option<Resolution> {
        let of_extent = self.extent.map(|extent| extent.coarsest);
        self.told_coarsest.or(of_extent)
    }

    /// The next row, or why it gives no bar; `None` at the end. Bars come in rising time.
    ///
    /// # Errors
    /// When the database cannot be read on.
    pub fn next(&mut self) -> Result<Option<Row>, String> {
        loop {
            if let Some(row) = self.part.next() {
                self.rows += 1;
                return Ok(Some(row));
            }
            match self.parts.recv() {
                Ok(Told::Part(part)) => self.part = part.into_iter(),
                Ok(Told::Begins(_)) => {}
                Ok(Told::Failed(why)) => return Err(format!("{}: {why}", self.address)),
                Err(_) => return Ok(None),
            }
        }
    }
}

async fn read(
    address: &Address,
    wanted: &Wanted,
    asks_extent: bool,
    out: &SyncSender<Told>,
) -> Result<(), String> {
    let client = address.connect().await?;
    let topics = wanted.topics.iter();
    let symbols: Vec<_> = topics.map(|t| t.symbol.map(|s| s.to_string())).collect();
    let resolutions = wanted.topics.iter().map(|t| t.resolution);
    let resolutions: Vec<_> = resolutions.map(|r| r.map(Resolution::as_str)).collect();
    let (from, to) = (wanted.from.map(to_time), wanted.to.map(to_time));
    let chosen: [Value<'_>; 4] = [
        (&symbols, Type::TEXT_ARRAY),
        (&resolutions, Type::TEXT_ARRAY),
        (&from, Type::TIMESTAMPTZ),
        (&to, Type::TIMESTAMPTZ),
    ];
    let extent = match asks_extent {
        true => extent(&client, &chosen).await?,
        false => None,
    };
    let mut told = Told::Begins(extent);
    let mut last: Option<Place> = None;
    loop {
        if out.send(told).is_err() {
            return Ok(());
        }
        let part = part(&client, &chosen, last.as_ref()).await;
        let part = part.map_err(|why| said(&why))?;
        let Some(end) = part.last() else {
            return Ok(());
        };
        last = Some(place(end).map_err(|why| said(&why))?);
        let rows: Result<_, _> = part.iter().map(row).collect();
        told = Told::Part(rows.map_err(|why| said(&why))?);
    }
}

/// What goes into a statement.
type Value<'a> = (&'a (dyn ToSql + Sync), Type);

/// A row's key, in the order of reading.
type Place = (SystemTime, String, String);

fn place(row: &tokio_postgres::Row) -> Result<Place, tokio_postgres::Error> {
    Ok((row.try_get(2)?, row.try_get(0)?, row.try_get(1)?))
}

/// The rows after a place, or the first ones.
async fn part(
    client: &Client,
    chosen: &[Value<'_>],
    last: Option<&Place>,
) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
    let mut values = chosen.to_vec();
    let after = match last {
        Some((time, symbol, resolution)) => {
            values.push((time, Type::TIMESTAMPTZ));
            values.push((symbol, Type::TEXT));
            values.push((resolution, Type::TEXT));
            "AND (b.time, b.symbol, b.resolution) > ($5, $6, $7)"
        }
        None => "",
    };
    let sql = format!(
        "SELECT {COLUMNS} {WANTED} {after}
         ORDER BY b.time, b.symbol, b.resolution LIMIT {PART_ROWS}"
    );
    client.query_typed(&sql, &values).await
}

async fn extent(client: &Client, chosen: &[Value<'_>]) -> Result<Option<Extent>, String> {
    let sql = format!("SELECT resolution::text, min(time), max(time) {WANTED} GROUP BY resolution");
    let rows = client.query_typed(&sql, chosen).await;
    let mut extent = None;
    for row in rows.map_err(|why| said(&why))? {
        // One that is none gives no bars.
        let resolution = row.try_get::<_, &str>(0).ok();
        let Some(resolution) = resolution.and_then(|text| text.parse().ok()) else {
            continue;
        };
        for at in [1, 2] {
            let time = row.try_get(at).map_err(|why| said(&why))?;
            Extent::add(&mut extent, Extent::of_bar(resolution, from_time(time)));
        }
    }
    Ok(extent)
}

/// A row of the table; it fails where a column is of another kind.
fn row(row: &tokio_postgres::Row) -> Result<Row, tokio_postgres::Error> {
    let mut numbers = [None; 5];
    for (at, number) in (3..).zip(&mut numbers) {
        *number = row.try_get::<_, Option<f64>>(at)?;
    }
    let (symbol, resolution) = (row.try_get(0)?, row.try_get(1)?);
    Ok(bar(symbol, resolution, from_time(row.try_get(2)?), numbers))
}
