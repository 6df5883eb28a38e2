//! The table in PostgreSQL, and how it is made.

/// The table of closed bars.
pub const TABLE: &str = "barcast_bars";

/// A time column with a zone, since charts and SQL compare it with `now()`; doubles, since that is what
/// charts draw. A bar of an interval without trades has no prices. The key is the one by which a bar is
/// replaced. The last four columns are those of [`Extra`].
const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS barcast_bars (
    symbol text NOT NULL,
    resolution text NOT NULL,
    time timestamptz NOT NULL,
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision NOT NULL,
    rev bigint,
    recorded_at timestamptz,
    epoch numeric(20),
    seq bigint,
    PRIMARY KEY (symbol, resolution, time)
)";

/// A replay reads by time. Without the other columns of the key PostgreSQL folds the bars of one time into
/// one entry: a tenth of the size, and bars of one time are sorted as they are read.
const CREATE_INDEX: &str = "CREATE INDEX IF NOT EXISTS barcast_bars_time ON barcast_bars (time)";

/// The function that gives the newest bar of each topic.
pub const NEWEST: &str = "barcast_newest";

/// Makes [`NEWEST`]: the newest bar of each topic, by two look-ups in the key for each: milliseconds, however long the table is.
///
/// Not a view, which would hold the table: its owner could no longer drop it or change a column.
pub const CREATE_NEWEST: &str = "CREATE OR REPLACE FUNCTION barcast_newest()
RETURNS TABLE (symbol text, resolution text, \"time\" timestamptz, open double precision,
    high double precision, low double precision, close double precision, volume double precision)
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE topics AS (
        (SELECT b.symbol, b.resolution FROM barcast_bars AS b
         ORDER BY b.symbol, b.resolution LIMIT 1)
        UNION ALL
        SELECT n.symbol, n.resolution FROM topics AS t CROSS JOIN LATERAL (
            SELECT b.symbol, b.resolution FROM barcast_bars AS b
            WHERE (b.symbol, b.resolution) > (t.symbol, t.resolution)
            ORDER BY b.symbol, b.resolution LIMIT 1) AS n
    )
    SELECT n.* FROM topics AS t CROSS JOIN LATERAL (
        SELECT b.symbol::text, b.resolution::text, b.time, b.open::float8, b.high::float8,
            b.low::float8, b.close::float8, b.volume::float8
        FROM barcast_bars AS b WHERE b.symbol = t.symbol AND b.resolution = t.resolution
        ORDER BY b.time DESC LIMIT 1) AS n
$$";

/// A week a chunk: TimescaleDB's own default, and some millions of minutes of a thousand symbols. An index of
/// the time is there already.
const CREATE_HYPERTABLE: &str = "SELECT create_hypertable('barcast_bars', \
     by_range('time', INTERVAL '7 days'), create_default_indexes => FALSE, if_not_exists => TRUE)";

/// The same before [`BY_RANGE`].
const CREATE_OLD_HYPERTABLE: &str = "SELECT create_hypertable('barcast_bars', 'time', \
     chunk_time_interval => INTERVAL '7 days', create_default_indexes => FALSE, if_not_exists => TRUE)";

/// TimescaleDB's first version that knows `by_range`.
const BY_RANGE: (u32, u32) = (2, 13);

const CREATE_EXTENSION: &str = "CREATE EXTENSION IF NOT EXISTS timescaledb";

/// Whether the table is there, whether TimescaleDB is installed in this database, whether it could be, whether
/// the server has loaded it, as far as this user may know, and its version. Without being loaded, creating the
/// extension ends the connection.
pub(super) const ASK: &str = "SELECT to_regclass('barcast_bars') IS NOT NULL,
    EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb'),
    EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb'),
    EXISTS (SELECT FROM pg_settings WHERE name = 'shared_preload_libraries'
        AND setting LIKE '%timescaledb%'),
    (SELECT COALESCE(installed_version, default_version)
        FROM pg_available_extensions WHERE name = 'timescaledb')";

/// A column that a table may have, which tells more of a bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    Rev,
    /// When this state of the bar was written first, by the clock of the database.
    RecordedAt,
    Epoch,
    Seq,
}

impl Extra {
    pub const ALL: [Self; 4] = [Self::Rev, Self::RecordedAt, Self::Epoch, Self::Seq];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Rev => "rev",
            Self::RecordedAt => "recorded_at",
            Self::Epoch => "epoch",
            Self::Seq => "seq",
        }
    }

    /// The array that holds its values, for `unnest`; none where the database knows the value.
    pub const fn array(self) -> Option<&'static str> {
        match self {
            Self::Rev | Self::Seq => Some("int8[]"),
            // A number of 64 bits without a sign, which no integer of PostgreSQL is.
            Self::Epoch => Some("text[]"),
            Self::RecordedAt => None,
        }
    }

    const fn value(self) -> &'static str {
        match self {
            Self::Rev => "new.rev",
            Self::RecordedAt => "now()",
            Self::Epoch => "new.epoch::numeric",
            Self::Seq => "new.seq",
        }
    }
}

/// Which columns of [`Extra`] the table has, of a type that takes them: one that its owner made, or that is
/// older than them, may lack some.
pub(super) const ASK_EXTRAS: &str = "SELECT attname::text FROM pg_attribute
    WHERE attrelid = to_regclass('barcast_bars') AND attnum > 0 AND NOT attisdropped
        AND ((attname IN ('rev', 'seq') AND atttypid IN ('int8'::regtype, 'numeric'::regtype))
            OR (attname = 'epoch' AND atttypid = 'numeric'::regtype)
            OR (attname = 'recorded_at' AND atttypid = 'timestamptz'::regtype))";

const COLUMNS: &str = "symbol, resolution, time, open, high, low, close, volume";

const REPLACE: &str = "ON CONFLICT (symbol, resolution, time) DO UPDATE SET open = EXCLUDED.open,
        high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close, volume = EXCLUDED.volume";

/// The statements of a table with some of the further columns.
#[derive(Debug)]
pub(super) struct Statements {
    pub extras: Vec<Extra>,
    /// Takes a batch as eight arrays and one for each further column that has such. A bar that is there
    /// already and says the same is not written again, so that what is read twice from the store leaves no
    /// dead rows behind, and is recorded when it was first.
    pub upsert: String,
    /// Writes nothing, but asks for all that [`upsert`](Self::upsert) needs: rights, columns and the key.
    pub probe: String,
}

impl Statements {
    pub fn of(extras: Vec<Extra>) -> Self {
        let each = |text: &dyn Fn(&Extra) -> String| extras.iter().map(text).collect::<String>();
        let names = each(&|extra| format!(", {}", extra.name()));
        let set = each(&|extra| format!(", {0} = EXCLUDED.{0}", extra.name()));
        let values = each(&|extra| format!(", {}", extra.value()));
        let (mut arrays, mut arguments) = (String::new(), String::new());
        let sent = extras
            .iter()
            .filter_map(|extra| Some((extra.name(), extra.array()?)));
        for (at, (name, array)) in (9..).zip(sent) {
            arrays = format!("{arrays}, ${at}::{array}");
            arguments = format!("{arguments}, {name}");
        }
        let is_revised = match extras.contains(&Extra::Rev) {
            true => "OR (EXCLUDED.rev IS NOT NULL AND kept.rev IS DISTINCT FROM EXCLUDED.rev)",
            false => "",
        };
        Self {
            upsert: format!(
                "INSERT INTO barcast_bars AS kept ({COLUMNS}{names})
    SELECT {COLUMNS}{values} FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::float8[],
        $5::float8[], $6::float8[], $7::float8[], $8::float8[]{arrays}) AS new ({COLUMNS}{arguments})
    {REPLACE}{set}
    WHERE (kept.open, kept.high, kept.low, kept.close, kept.volume)
        IS DISTINCT FROM (EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume)
        {is_revised}"
            ),
            probe: format!(
                "INSERT INTO barcast_bars ({COLUMNS}{names})
    SELECT {COLUMNS}{names} FROM barcast_bars WHERE false
    {REPLACE}{set}"
            ),
            extras,
        }
    }
}

/// What gives a table that somebody else made the key that it lacks.
pub(super) const CREATE_KEY: &str =
    "ALTER TABLE barcast_bars ADD PRIMARY KEY (symbol, resolution, time)";

/// The table of bars that the database refused to have in [`TABLE`].
pub const REFUSED: &str = "barcast_refused_bars";

pub(super) const ASK_REFUSED: &str = "SELECT to_regclass('barcast_refused_bars') IS NOT NULL";

/// The columns of the bars, why, and when.
pub(super) const CREATE_REFUSED: &str = "CREATE TABLE IF NOT EXISTS barcast_refused_bars (
    symbol text NOT NULL,
    resolution text NOT NULL,
    time timestamptz NOT NULL,
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision NOT NULL,
    reason text NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, resolution, time)
)";

/// Takes eight arrays and a ninth for the reasons.
pub(super) const UPSERT_REFUSED: &str = "INSERT INTO barcast_refused_bars
    (symbol, resolution, time, open, high, low, close, volume, reason)
    SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::float8[], $5::float8[],
        $6::float8[], $7::float8[], $8::float8[], $9::text[])
    ON CONFLICT (symbol, resolution, time) DO UPDATE SET open = EXCLUDED.open,
        high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close,
        volume = EXCLUDED.volume, reason = EXCLUDED.reason, refused_at = now()";

/// What [`ASK`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub table: bool,
    pub installed: bool,
    pub available: bool,
    pub preloaded: bool,
    /// Of TimescaleDB: the installed one, else the one that could be.
    pub version: Option<(u32, u32)>,
}

/// The first two numbers of a version.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// One step towards the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub sql: &'static str,
    /// Whether it goes on without it: bars in a plain table are better than none.
    pub may_fail: bool,
}

/// What is to be done. A table that is there is left as it is: to make a hypertable of a full one would
/// lock it for long, which its owner should decide.
pub(super) fn steps(facts: Facts) -> Vec<Step> {
    let must = |sql| Step {
        sql,
        may_fail: false,
    };
    let may = |sql| Step {
        sql,
        may_fail: true,
    };
    if facts.table {
        return Vec::new();
    }
    let creates = !facts.installed && facts.available && facts.preloaded;
    let mut steps = Vec::new();
    if creates {
        steps.push(may(CREATE_EXTENSION));
    }
    steps.push(must(CREATE_TABLE));
    steps.push(must(CREATE_INDEX));
    if facts.installed || creates {
        steps.push(may(match facts.version {
            Some(version) if version < BY_RANGE => CREATE_OLD_HYPERTABLE,
            _ => CREATE_HYPERTABLE,
        }));
    }
    steps.push(may(CREATE_NEWEST));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Facts = Facts {
        table: false,
        installed: false,
        available: false,
        preloaded: false,
        version: None,
    };

    fn sql(facts: Facts) -> Vec<&'static str> {
        steps(facts).iter().map(|step| step.sql).collect()
    }

    #[test]
    fn without_timescale_the_table_is_plain() {
        assert_eq!(sql(PLAIN), [CREATE_TABLE, CREATE_INDEX, CREATE_NEWEST]);
        // To create it where the server has not loaded it would end the connection.
        let available = Facts {
            available: true,
            ..PLAIN
        };
        assert_eq!(sql(available), sql(PLAIN));
    }

    #[test]
    fn timescale_makes_a_hypertable_and_is_created_when_it_can_be() {
        let installed = Facts {
            installed: true,
            available: true,
            ..PLAIN
        };
        let hypertable = [CREATE_TABLE, CREATE_INDEX, CREATE_HYPERTABLE, CREATE_NEWEST];
        for (told, expected) in [
            ("2.13.0", CREATE_HYPERTABLE),
            ("2.12.2", CREATE_OLD_HYPERTABLE),
            ("2.9.3-dev", CREATE_OLD_HYPERTABLE),
            ("3.0", CREATE_HYPERTABLE),
            ("unheard of", CREATE_HYPERTABLE),
        ] {
            let version = version(told);
            let facts = Facts {
                version,
                ..installed
            };
            assert_eq!(sql(facts)[2], expected, "{told}");
        }
        assert_eq!(sql(installed), hypertable);
        let loaded = Facts {
            available: true,
            preloaded: true,
            ..PLAIN
        };
        assert_eq!(sql(loaded)[0], CREATE_EXTENSION);
        assert_eq!(sql(loaded)[1..], hypertable);
        // Bars matter more than chunks.
        for step in steps(loaded) {
            let is_needed = [CREATE_TABLE, CREATE_INDEX].contains(&step.sql);
            assert_eq!(step.may_fail, !is_needed, "{}", step.sql);
        }
    }

    #[test]
    fn a_table_that_is_there_is_left_alone() {
        let there = Facts {
            table: true,
            installed: true,
            available: true,
            preloaded: true,
            version: Some((2, 17)),
        };
        assert_eq!(sql(there), [""; 0]);
    }

    #[test]
    fn every_statement_names_the_table() {
        let Statements { upsert, probe, .. } = Statements::of(Extra::ALL.to_vec());
        for sql in [
            ASK,
            ASK_EXTRAS,
            &upsert,
            &probe,
            CREATE_KEY,
            CREATE_TABLE,
            CREATE_INDEX,
            CREATE_HYPERTABLE,
            CREATE_OLD_HYPERTABLE,
            CREATE_NEWEST,
        ] {
            assert!(sql.contains(TABLE), "{sql}");
        }
        for sql in [ASK_REFUSED, CREATE_REFUSED, UPSERT_REFUSED] {
            assert!(sql.contains(REFUSED), "{sql}");
        }
    }
}
