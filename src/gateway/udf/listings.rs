//! `symbols.toml`: what charts are told of symbols beside their bars.
//!
//! ```toml
//! [default]
//! exchange = "NASDAQ"
//! session = "0930-1600"
//! timezone = "America/New_York"
//!
//! [symbols.AAPL]
//! description = "Apple Inc."
//! ```

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;

use jiff::tz::TimeZoneDatabase;
use toml::{Table, Value};

use super::hours::is_session;
use super::query::shortened;
use crate::bar::Symbol;

/// Longest description, in characters: a chart shows one line.
const MAX_DESCRIPTION_CHARS: usize = 200;
/// Longest name of a type or an exchange, in characters.
const MAX_NAME_CHARS: usize = 32;
/// Largest `pricescale`: more decimals than a double holds.
const MAX_PRICESCALE: u64 = 10_000_000_000_000_000;
/// Largest `minmov`, in steps of the price scale.
const MAX_MINMOV: u64 = 1_000_000_000;
/// Largest `volume_precision`, in decimals.
const MAX_VOLUME_PRECISION: u64 = 16;

/// What is allowed in a table of a symbol; in `default` all but `description`.
const KEYS: &str =
    "description, type, exchange, session, timezone, pricescale, minmov and volume_precision";

/// What charts are told of one symbol. The names are those of UDF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub description: Option<String>,
    /// `type`
    pub kind: String,
    /// Empty when nobody said.
    pub exchange: String,
    pub session: String,
    pub timezone: String,
    /// Ten to the power of the decimals; derived from the bars without it.
    pub pricescale: Option<u64>,
    pub minmov: u64,
    pub volume_precision: Option<u64>,
}

/// A stock that trades always: what charts can show bars of any market with.
impl Default for Profile {
    fn default() -> Self {
        Self {
            description: None,
            kind: "stock".to_owned(),
            exchange: String::new(),
            session: "24x7".to_owned(),
            timezone: "Etc/UTC".to_owned(),
            pricescale: None,
            minmov: 1,
            volume_precision: None,
        }
    }
}

/// What is wrong with a file of symbols, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    #[error("line {line} is no TOML: {why}")]
    Toml { line: usize, why: String },
    #[error("{key} is unknown; allowed: {allowed}")]
    Key { key: String, allowed: String },
    #[error("{key} = {value}: allowed: {allowed}")]
    Value {
        key: String,
        value: String,
        allowed: String,
    },
}

/// Every symbol's profile.
#[derive(Debug, Default)]
pub struct Listings {
    default: Profile,
    by_symbol: HashMap<Symbol, Profile>,
}

/// A value as the file has it, shortened.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", shortened(text)),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Datetime(_) => "a date".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

fn text(value: &Value, fits: impl Fn(&str) -> bool, allowed: &str) -> Result<String, String> {
    match value {
        Value::String(text) if fits(text) => Ok(text.clone()),
        _ => Err(allowed.to_owned()),
    }
}

fn number(value: &Value, fits: impl Fn(u64) -> bool, allowed: &str) -> Result<u64, String> {
    let number = value.as_integer().and_then(|n| u64::try_from(n).ok());
    number
        .filter(|n| fits(*n))
        .ok_or_else(|| allowed.to_owned())
}

fn is_line(text: &str, most_chars: usize) -> bool {
    text.chars().count() <= most_chars && !text.chars().any(char::is_control)
}

/// An exchange's name stands before a colon in a symbol's full name.
fn is_exchange(text: &str) -> bool {
    is_line(text, MAX_NAME_CHARS) && !text.contains(':') && text.trim() == text
}

fn is_type(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    !text.is_empty() && text.len() <= MAX_NAME_CHARS && text.chars().all(word)
}

/// From the database in the binary, so that a file means the same everywhere; in exactly its spelling,
/// which charts compare.
fn is_timezone(text: &str) -> bool {
    let zones = TimeZoneDatabase::bundled();
    zones.available().any(|zone| zone.as_str() == text)
}

/// A wrong setting: `None` when there is no such key, else what is allowed for it.
type Wrong = Option<String>;

impl Profile {
    fn set(&mut self, key: &str, value: &Value) -> Result<(), Wrong> {
        match key {
            "description" => {
                let allowed = format!("one line of at most {MAX_DESCRIPTION_CHARS} characters");
                let fits = |text: &str| is_line(text, MAX_DESCRIPTION_CHARS);
                self.description = Some(text(value, fits, &allowed)?);
            }
            "type" => {
                let allowed =
                    "a word in lower case, such as stock, crypto, forex, futures or index";
                self.kind = text(value, is_type, allowed)?;
            }
            "exchange" => {
                let allowed =
                    format!("a name of at most {MAX_NAME_CHARS} characters without a colon");
                self.exchange = text(value, is_exchange, &allowed)?;
            }
            "session" => {
                let allowed =
                    "24x7, or hours as 0930-1600, 0930-1600:23456 or 0900-1630|0900-1400:2";
                self.session = text(value, is_session, allowed)?;
            }
            "timezone" => {
                let allowed = "a name of the IANA time zone database, such as America/New_York";
                self.timezone = text(value, is_timezone, allowed)?;
            }
            "pricescale" => {
                let fits = |n: u64| {
                    n <= MAX_PRICESCALE
                        && n.checked_ilog10()
                            .is_some_and(|digits| n == 10_u64.pow(digits))
                };
                let allowed =
                    format!("a power of ten from 1 to {MAX_PRICESCALE}: 100 for two decimals");
                self.pricescale = Some(number(value, fits, &allowed)?);
            }
            "minmov" => {
                let allowed = format!("a whole number from 1 to {MAX_MINMOV}");
                self.minmov = number(value, |n| (1..=MAX_MINMOV).contains(&n), &allowed)?;
            }
            "volume_precision" => {
                let allowed = format!("a whole number from 0 to {MAX_VOLUME_PRECISION}");
                let digits = number(value, |n| n <= MAX_VOLUME_PRECISION, &allowed)?;
                self.volume_precision = Some(digits);
            }
            _ => return Err(None),
        }
        Ok(())
    }

    /// Takes over a table whose keys begin with `path` in the file.
    fn read(&mut self, path: &str, table: &Table) -> Result<(), ListingError> {
        for (key, value) in table {
            self.set(key, value).map_err(|allowed| {
                let key = format!("{path}.{key}");
                match allowed {
                    Some(allowed) => ListingError::Value {
                        key,
                        value: shown(value),
                        allowed,
                    },
                    None if value.is_table() => ListingError::Key {
                        key,
                        allowed: format!(
                            "{KEYS}; a symbol with a point is written in quotes, as [symbols.\"BRK.B\"]"
                        ),
                    },
                    None => ListingError::Key {
                        key,
                        allowed: KEYS.to_owned(),
                    },
                }
            })?;
        }
        Ok(())
    }
}

fn table<'t>(key: &str, value: &'t Value) -> Result<&'t Table, ListingError> {
    value.as_table().ok_or_else(|| ListingError::Value {
        key: key.to_owned(),
        value: shown(value),
        allowed: "a table".to_owned(),
    })
}

impl FromStr for Listings {
    type Err = ListingError;

    fn from_str(text: &str) -> Result<Self, ListingError> {
        let file: Table = text.parse().map_err(|why: toml::de::Error| {
            let at = why.span().map_or(0, |span| span.start);
            let before = text.as_bytes().get(..at).unwrap_or_default();
            ListingError::Toml {
                line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
                why: why.message().replace('\n', ", "),
            }
        })?;
        let mut default = Profile::default();
        if let Some(value) = file.get("default") {
            let table = table("default", value)?;
            if table.contains_key("description") {
                return Err(ListingError::Key {
                    key: "default.description".to_owned(),
                    allowed: KEYS.replace("description, ", ""),
                });
            }
            default.read("default", table)?;
        }
        if let Some(key) = file
            .keys()
            .find(|key| *key != "default" && *key != "symbols")
        {
            return Err(ListingError::Key {
                key: key.clone(),
                allowed: "default and symbols".to_owned(),
            });
        }
        let mut by_symbol = HashMap::new();
        if let Some(value) = file.get("symbols") {
            for (name, value) in table("symbols", value)? {
                let path = format!("symbols.{name:?}");
                let symbol: Symbol = name.parse().map_err(|why| ListingError::Key {
                    key: path.clone(),
                    allowed: format!("symbols; {why}"),
                })?;
                let mut profile = default.clone();
                profile.read(&path, table(&path, value)?)?;
                by_symbol.insert(symbol, profile);
            }
        }
        Ok(Self { default, by_symbol })
    }
}

impl Listings {
    /// What is known of a symbol, listed or not.
    pub fn of(&self, symbol: &Symbol) -> &Profile {
        self.by_symbol.get(symbol).unwrap_or(&self.default)
    }

    fn distinct<'p>(&'p self, of: impl Fn(&'p Profile) -> &'p str) -> BTreeSet<&'p str> {
        let profiles = self.by_symbol.values().chain([&self.default]);
        profiles.map(of).filter(|name| !name.is_empty()).collect()
    }

    /// All exchanges, in the order of their names.
    pub fn exchanges(&self) -> BTreeSet<&str> {
        self.distinct(|profile| &profile.exchange)
    }

    /// All types, in the order of their names.
    pub fn types(&self) -> BTreeSet<&str> {
        self.distinct(|profile| &profile.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[default]
exchange = "NASDAQ"
session = "0930-1600"
timezone = "America/New_York"

[symbols.AAPL]
description = "Apple Inc. \"Äpfel\""

[symbols."BRK.B"]
exchange = "NYSE"
pricescale = 1000

[symbols.BTCUSD]
type = "crypto"
exchange = ""
session = "24x7"
timezone = "Etc/UTC"
minmov = 5
volume_precision = 8
"#;

    fn profile(listings: &Listings, symbol: &str) -> Profile {
        listings.of(&symbol.parse().unwrap()).clone()
    }

    #[test]
    fn a_file_says_what_differs() {
        let listings: Listings = FILE.parse().unwrap();
        let default = Profile {
            exchange: "NASDAQ".to_owned(),
            session: "0930-1600".to_owned(),
            timezone: "America/New_York".to_owned(),
            ..Profile::default()
        };
        assert_eq!(profile(&listings, "MSFT"), default);
        let apple = profile(&listings, "AAPL");
        assert_eq!(apple.description.as_deref(), Some("Apple Inc. \"Äpfel\""));
        let berkshire = Profile {
            exchange: "NYSE".to_owned(),
            pricescale: Some(1_000),
            ..default
        };
        assert_eq!(profile(&listings, "BRK.B"), berkshire);
        let bitcoin = profile(&listings, "BTCUSD");
        assert_eq!((bitcoin.minmov, bitcoin.volume_precision), (5, Some(8)));
        assert!(listings.exchanges().iter().eq(&["NASDAQ", "NYSE"]));
        assert!(listings.types().iter().eq(&["crypto", "stock"]));
        assert_eq!(profile(&"".parse().unwrap(), "X"), Profile::default());
    }

    #[test]
    fn what_is_wrong_is_one_line_with_key_value_and_what_is_allowed() {
        for (file, told) in [
            ("x", "line 1 is no TOML: "),
            ("[default]\n\n[default]\n", "line 3 is no TOML: "),
            (
                "[symbol.A]",
                "symbol is unknown; allowed: default and symbols",
            ),
            ("default = 1", "default = 1: allowed: a table"),
            (
                "[symbols]\nA = true",
                "symbols.\"A\" = true: allowed: a table",
            ),
            (
                "[default]\ndescription = 'x'",
                "default.description is unknown; allowed: type",
            ),
            (
                "[default]\nname = 'x'",
                "default.name is unknown; allowed: description, type",
            ),
            (
                "[symbols.'a b']",
                "symbols.\"a b\" is unknown; allowed: symbols; ' ' is not",
            ),
            ("[symbols.BRK.B]\n", "symbols.\"BRK\".B is unknown"),
            ("[symbols.BRK.B]\n", "[symbols.\"BRK.B\"]"),
            (
                "[symbols.A]\nsession = '9-17'",
                "symbols.\"A\".session = \"9-17\": allowed: 24x7, or hours",
            ),
            ("[symbols.A]\ntimezone = 'America/New_Yrok'", "IANA"),
            ("[symbols.A]\ntimezone = 'etc/utc'", "IANA"),
            ("[symbols.A]\ntype = 'Stock'", "lower case"),
            ("[symbols.A]\ntype = ['stock']", "type = a list: "),
            ("[symbols.A]\nexchange = 'A:B'", "without a colon"),
            ("[symbols.A]\ndescription = \"a\\nb\"", "one line"),
            (
                "[symbols.A]\npricescale = 50",
                "pricescale = 50: allowed: a power of ten",
            ),
            ("[symbols.A]\npricescale = 0", "power of ten"),
            ("[symbols.A]\npricescale = '100'", "pricescale = \"100\": "),
            ("[symbols.A]\nminmov = 0", "from 1"),
            ("[symbols.A]\nminmov = 2.5", "minmov = 2.5: "),
            ("[symbols.A]\nvolume_precision = -1", "from 0 to 16"),
            ("[symbols.A]\nvolume_precision = 1979-05-27", "a date"),
        ] {
            let why = file.parse::<Listings>().unwrap_err().to_string();
            assert!(why.contains(told), "{file}: {why}");
            assert!(!why.contains('\n'), "{why}");
        }
    }
}
