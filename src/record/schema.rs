//! The table in PostgreSQL, and how it is made.

/// The table of closed bars.
pub const TABLE: &str = "barcast_bars";

/// A time column with a zone, since charts and SQL compare it with `now()`; doubles, since that is what
/// charts draw. A bar of an interval without trades has no prices. The key is the one by which a bar is
/// replaced.
const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS barcast_bars (
    symbol text NOT NULL,
    resolution text NOT NULL,
    time timestamptz NOT NULL,
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision NOT NULL,
    PRIMARY KEY (symbol, resolution, time)
)";

/// A replay reads by time. A hypertable has such an index anyway.
const CREATE_INDEX: &str =
    "CREATE INDEX IF NOT EXISTS barcast_bars_time ON barcast_bars (time, symbol, resolution)";

/// A week a chunk: TimescaleDB's own default, and some millions of minutes of a thousand symbols.
const CREATE_HYPERTABLE: &str = "SELECT create_hypertable('barcast_bars', 'time', \
     chunk_time_interval => INTERVAL '7 days', if_not_exists => TRUE)";

const CREATE_EXTENSION: &str = "CREATE EXTENSION IF NOT EXISTS timescaledb";

/// Whether the table is there, whether TimescaleDB is installed in this database, whether it could be, and
/// whether the server has loaded it, as far as this user may know. Without that last one, creating the
/// extension ends the connection.
pub(super) const ASK: &str = "SELECT to_regclass('barcast_bars') IS NOT NULL,
    EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb'),
    EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb'),
    EXISTS (SELECT FROM pg_settings WHERE name = 'shared_preload_libraries'
        AND setting LIKE '%timescaledb%')";

/// Takes a batch as eight arrays. A bar that is there already and says the same is not written again, so
/// that what is read twice from the store leaves no dead rows behind.
pub(super) const UPSERT: &str = "INSERT INTO barcast_bars AS kept
    (symbol, resolution, time, open, high, low, close, volume)
    SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::float8[], $5::float8[],
        $6::float8[], $7::float8[], $8::float8[])
    ON CONFLICT (symbol, resolution, time) DO UPDATE SET open = EXCLUDED.open,
        high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close, volume = EXCLUDED.volume
    WHERE (kept.open, kept.high, kept.low, kept.close, kept.volume)
        IS DISTINCT FROM (EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume)";

/// Writes nothing, but asks for all that [`UPSERT`] needs: rights, columns and the key.
pub(super) const PROBE: &str = "INSERT INTO barcast_bars
    (symbol, resolution, time, open, high, low, close, volume)
    SELECT symbol, resolution, time, open, high, low, close, volume FROM barcast_bars WHERE false
    ON CONFLICT (symbol, resolution, time) DO UPDATE SET open = EXCLUDED.open,
        high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close, volume = EXCLUDED.volume";

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

/// As [`UPSERT`], with a ninth array for the reasons.
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
    if facts.installed || creates {
        steps.push(may(CREATE_HYPERTABLE));
    }
    steps.push(must(CREATE_INDEX));
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
    };

    fn sql(facts: Facts) -> Vec<&'static str> {
        steps(facts).iter().map(|step| step.sql).collect()
    }

    #[test]
    fn without_timescale_the_table_is_plain() {
        assert_eq!(sql(PLAIN), [CREATE_TABLE, CREATE_INDEX]);
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
        let hypertable = [CREATE_TABLE, CREATE_HYPERTABLE, CREATE_INDEX];
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
        };
        assert_eq!(sql(there), [""; 0]);
    }

    #[test]
    fn every_statement_names_the_table() {
        for sql in [
            ASK,
            UPSERT,
            PROBE,
            CREATE_KEY,
            CREATE_TABLE,
            CREATE_INDEX,
            CREATE_HYPERTABLE,
        ] {
            assert!(sql.contains(TABLE), "{sql}");
        }
        for sql in [ASK_REFUSED, CREATE_REFUSED, UPSERT_REFUSED] {
            assert!(sql.contains(REFUSED), "{sql}");
        }
    }
}
