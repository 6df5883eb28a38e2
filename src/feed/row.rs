//! What a row looks like: its names and values, whether they come as JSON, CSV or fields of a stream.

use std::borrow::Cow;

use clap::ValueEnum;
use rust_decimal::Decimal;
use serde_json::value::RawValue;

use super::{Config, Input, time};
use crate::aggregate::Trade;
use crate::bar::{Bar, Field, Number, Resolution, Symbol};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line
    Ndjson,
    /// A header row, then a row a line
    Csv,
}

/// One row and where it was.
#[derive(Debug)]
pub(super) struct Row {
    pub at: String,
    pub entry: Result<Entry, String>,
}

/// What a row says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Entry {
    Trade(Symbol, Trade),
    Bar(Symbol, Bar),
}

impl Entry {
    pub fn symbol(&self) -> Symbol {
        match self {
            Self::Trade(symbol, _) | Self::Bar(symbol, _) => *symbol,
        }
    }

    pub fn time(&self) -> i64 {
        match self {
            Self::Trade(_, trade) => trade.time(),
            Self::Bar(_, bar) => bar.time(),
        }
    }
}

/// What a value is called. Feeds name the same things differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Symbol,
    Time,
    Price,
    Size,
    Bar(Field),
    Closed,
    Resolution,
}

/// How many names there are.
const NAMES: usize = 11;

impl Name {
    fn find(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "symbol" | "ticker" | "instrument" => Self::Symbol,
            "time" | "timestamp" | "datetime" | "date" | "ts" => Self::Time,
            "price" => Self::Price,
            "size" | "qty" | "quantity" | "amount" => Self::Size,
            "open" => Self::Bar(Field::Open),
            "high" => Self::Bar(Field::High),
            "low" => Self::Bar(Field::Low),
            "close" => Self::Bar(Field::Close),
            "volume" => Self::Bar(Field::Volume),
            "closed" => Self::Closed,
            "resolution" => Self::Resolution,
            _ => return None,
        })
    }

    fn place(self) -> usize {
        match self {
            Self::Symbol => 0,
            Self::Time => 1,
            Self::Price => 2,
            Self::Size => 3,
            Self::Closed => 4,
            Self::Resolution => 5,
            Self::Bar(field) => 6 + field as usize,
        }
    }
}

/// The values of one row as text.
#[derive(Debug, Default)]
pub(super) struct Values<'a>([Option<Cow<'a, str>>; NAMES]);

impl<'a> Values<'a> {
    /// Of pairs of a name and a value; names that mean nothing here are passed over, and the first of
    /// two that mean the same counts.
    pub fn of<K: AsRef<str>>(pairs: impl IntoIterator<Item = (K, Cow<'a, str>)>) -> Self {
        let mut values = Self::default();
        for (name, value) in pairs {
            if let Some(name) = Name::find(name.as_ref()) {
                values.0[name.place()].get_or_insert(value);
            }
        }
        values
    }

    /// Of a JSON object; a bar may be in an object of its own, as in barcast's own messages.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn json(text: &'a str) -> Result<Self, String> {
        let mut values = Self::default();
        let object: Pairs<'a> = serde_json::from_str(text).map_err(|why| why.to_string())?;
        for (name, raw) in object.0 {
            if name == "bar" {
                let bar: Pairs<'a> =
                    serde_json::from_str(raw.get()).map_err(|why| format!("bar: {why}"))?;
                for (name, raw) in bar.0 {
                    values.set(&name, raw)?;
                }
            } else {
                values.set(&name, raw)?;
            }
        }
        Ok(values)
    }

    fn set(&mut self, name: &str, raw: &'a RawValue) -> Result<(), String> {
        let Some(name) = Name::find(name) else {
            return Ok(());
        };
        let text = raw.get();
        let text = if text.starts_with('"') {
            serde_json::from_str(text).map_err(|why| why.to_string())?
        } else if text == "null" {
            return Ok(());
        } else {
            Cow::Borrowed(text)
        };
        self.0[name.place()].get_or_insert(text);
        Ok(())
    }

    fn get(&self, name: Name) -> Option<&str> {
        let text = self.0[name.place()].as_deref().map(str::trim);
        text.filter(|text| !text.is_empty())
    }

    fn need(&self, name: Name, said: &str) -> Result<&str, String> {
        self.get(name).ok_or_else(|| format!("{said} is missing"))
    }

    /// What the row says, by what is read.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn entry(&self, config: &Config) -> Result<Entry, String> {
        let symbol = match (self.get(Name::Symbol), config.symbol) {
            (Some(text), _) => text.parse().map_err(|why| format!("symbol: {why}"))?,
            (None, Some(symbol)) => symbol,
            (None, None) => {
                return Err("it names no symbol, and there is no --symbol".to_owned());
            }
        };
        let time = time::parse(self.need(Name::Time, "time")?)?;
        match config.input {
            Input::Trades => Ok(Entry::Trade(symbol, self.trade(time)?)),
            Input::Bars(resolution) => Ok(Entry::Bar(symbol, self.bar(time, resolution)?)),
        }
    }

    fn trade(&self, time: i64) -> Result<Trade, String> {
        let price = self.need(Name::Price, "price")?;
        let price = price.parse().map_err(|why| format!("price: {why}"))?;
        // A trade's size is called volume by some.
        let size = self.get(Name::Size).or(self.get(Name::Bar(Field::Volume)));
        let size = size.ok_or("size is missing")?;
        let size = size
            .parse()
            .or_else(|_| Decimal::from_scientific(size))
            .map_err(|why| format!("size {size:?}: {why}"))?;
        Trade::new(time, price, size).map_err(|why| why.to_string())
    }

    /// Whether it is a closed bar without prices, as `--empty null` makes them.
    fn is_empty(&self) -> bool {
        let prices = [Field::Open, Field::High, Field::Low, Field::Close];
        let volume = self.get(Name::Bar(Field::Volume));
        prices
            .iter()
            .all(|field| self.get(Name::Bar(*field)).is_none())
            && volume.is_some_and(|volume| volume.parse() == Ok(0.0))
            && matches!(self.get(Name::Closed), Some("true" | "1"))
    }

    fn bar(&self, time: i64, resolution: Resolution) -> Result<Bar, String> {
        if let Some(text) = self.get(Name::Resolution) {
            let other: Resolution = text.parse().map_err(|why| format!("{why}"))?;
            if other != resolution {
                return Err(format!("it is of resolution {other}, not {resolution}"));
            }
        }
        if self.is_empty() {
            return Bar::empty(resolution, time).map_err(|why| why.to_string());
        }
        let mut numbers = [Number::Unsigned(0); 5];
        for field in Field::ALL {
            let text = self.need(Name::Bar(field), field.name())?;
            numbers[field as usize] = text.parse().map_err(|why| format!("{field}: {why}"))?;
        }
        let closed = match self.get(Name::Closed) {
            // It may still change: it closes when a later one comes.
            None => false,
            Some("true" | "1") => true,
            Some("false" | "0") => false,
            Some(other) => return Err(format!("closed is {other:?}: allowed: true or false")),
        };
        Bar::new(resolution, time, numbers, closed).map_err(|why| why.to_string())
    }
}

/// The pairs of a JSON object, in order, without a map of them.
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> serde::de::Visitor<'de> for Visitor<'a> {
            type Value = Pairs<'a>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(
                self,
                mut map: M,
            ) -> Result<Pairs<'a>, M::Error> {
                let mut pairs = Vec::new();
                while let Some((Key(name), raw)) = map.next_entry()? {
                    pairs.push((name, raw));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Visitor(std::marker::PhantomData))
    }
}

/// A name, borrowed unless it has escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
