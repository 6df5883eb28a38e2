//! `/udf/config`, `/udf/symbols` and `/udf/search`: which symbols there are, and what they are like.
//!
//! A symbol is known once a bar of it has come: what is subscribed to or listed in a file alone has
//! nothing that a chart could show.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::listings::Profile;
use super::precision::most_digits;
use super::query::{Query, Refused, shortened, spelled};
use crate::bar::{Bar, Field, Resolution, Symbol, Topic};
use crate::gateway::node::Node;
use crate::gateway::registry::Entry;

/// Symbols that a search answers with when it names no limit: what TradingView's adapter asks for.
const DEFAULT_FOUND: usize = 30;
/// Symbols that a search can ask for: a dialog's list, some 20 kB.
const MAX_FOUND: usize = 200;
/// Newest bars of each resolution whose numbers tell the decimals.
const MAX_JUDGED_BARS: usize = 32;
/// The fewest decimals that prices are shown with, where no file says otherwise.
const FEWEST_DIGITS: u32 = 2;

/// What charts know a symbol by ("SymbolInfo" in the documentation).
#[derive(Serialize)]
struct SymbolInfo<'a> {
    name: &'a str,
    ticker: &'a str,
    full_name: String,
    description: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    session: &'a str,
    timezone: &'a str,
    exchange: &'a str,
    listed_exchange: &'a str,
    minmov: u64,
    pricescale: u64,
    has_intraday: bool,
    intraday_multipliers: Vec<&'static str>,
    has_seconds: bool,
    seconds_multipliers: Vec<&'static str>,
    has_daily: bool,
    has_weekly_and_monthly: bool,
    supported_resolutions: Vec<&'static str>,
    volume_precision: u64,
    data_status: &'static str,
    format: &'static str,
}

/// One symbol that was found.
#[derive(Serialize)]
struct Found<'a> {
    symbol: &'a str,
    full_name: String,
    description: &'a str,
    exchange: &'a str,
    ticker: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
}

/// `EXCHANGE:SYMBOL` where there is an exchange; no symbol has a colon.
fn full_name(symbol: &str, profile: &Profile) -> String {
    match profile.exchange.as_str() {
        "" => symbol.to_owned(),
        exchange => format!("{exchange}:{symbol}"),
    }
}

fn json_of(value: &impl Serialize) -> Vec<u8> {
    // Structures of texts and numbers always have a JSON form.
    serde_json::to_vec(value).unwrap_or_default()
}

/// `/udf/config`: what the datafeed can do, and what its symbols can be filtered by. All resolutions
/// are listed: each symbol says which of them it has.
pub fn config(node: &Node) -> Vec<u8> {
    let listings = &node.config.listings;
    let (exchanges, types) = (listings.exchanges(), listings.types());
    let mut exchanges: Vec<_> = exchanges
        .into_iter()
        .map(|name| json!({ "value": name, "name": name, "desc": name }))
        .collect();
    let mut types: Vec<_> = types
        .into_iter()
        .map(|name| json!({ "name": name, "value": name }))
        .collect();
    // "Use value = '' if you wish to include all".
    exchanges.insert(
        0,
        json!({ "value": "", "name": "All exchanges", "desc": "" }),
    );
    types.insert(0, json!({ "name": "All types", "value": "" }));
    json_of(&json!({
        "supports_search": true,
        "supports_group_request": false,
        "supports_marks": false,
        "supports_timescale_marks": false,
        "supports_time": true,
        "supported_resolutions": Resolution::ALL.map(spelled),
        "exchanges": exchanges,
        "symbols_types": types,
    }))
}

/// The symbol of a name, a ticker or a full name, and its topics that have bars, finest first.
///
/// # Errors
/// [`Refused::Symbol`]
pub fn known(node: &Node, text: &str) -> Result<(Symbol, Vec<Arc<Entry>>), Refused> {
    let unknown = || Refused::Symbol(shortened(text));
    let (exchange, name) = match text.split_once(':') {
        Some((exchange, name)) => (Some(exchange), name),
        None => (None, text),
    };
    let symbol: Symbol = name.parse().map_err(|_| unknown())?;
    let profile = node.config.listings.of(&symbol);
    if exchange.is_some_and(|exchange| exchange != profile.exchange) {
        return Err(unknown());
    }
    let topics: Vec<_> = Resolution::ALL
        .into_iter()
        .filter_map(|resolution| node.registry.get(&Topic { symbol, resolution }))
        .filter(|entry| entry.lock().history.last().is_some())
        .collect();
    if topics.is_empty() {
        return Err(unknown());
    }
    Ok((symbol, topics))
}

/// The decimals of prices and of volumes in the newest bars.
fn decimals(topics: &[Arc<Entry>]) -> (u32, u32) {
    let mut bars: Vec<Bar> = Vec::with_capacity(topics.len() * MAX_JUDGED_BARS);
    for entry in topics {
        bars.extend(entry.lock().history.newest(MAX_JUDGED_BARS));
    }
    bars.retain(|bar| !bar.is_empty());
    let prices = [Field::Open, Field::High, Field::Low, Field::Close];
    let prices = bars
        .iter()
        .flat_map(|bar| prices.map(|field| bar.value(field)));
    let volumes = bars.iter().map(|bar| bar.value(Field::Volume));
    (most_digits(prices), most_digits(volumes))
}

/// `/udf/symbols?symbol=`
///
/// # Errors
/// What is missing or unknown.
pub fn info(node: &Node, query: Query<'_>) -> Result<Vec<u8>, Refused> {
    let (symbol, topics) = known(node, &query.need("symbol")?)?;
    let profile = node.config.listings.of(&symbol);
    let name = symbol.as_str();
    let (price_digits, volume_digits) = decimals(&topics);
    let resolutions: Vec<&str> = topics.iter().map(|e| spelled(e.topic.resolution)).collect();
    let has = |ends: &[char]| resolutions.iter().any(|r| r.ends_with(ends));
    // "It is an array containing seconds resolutions (in seconds without a postfix)".
    let seconds: Vec<_> = resolutions
        .iter()
        .filter_map(|r| r.strip_suffix('S'))
        .collect();
    let is_minutes = |r: &&&str| r.bytes().all(|byte| byte.is_ascii_digit());
    let minutes: Vec<_> = resolutions.iter().filter(is_minutes).copied().collect();
    Ok(json_of(&SymbolInfo {
        name,
        ticker: name,
        full_name: full_name(name, profile),
        description: profile.description.as_deref().unwrap_or(name),
        kind: &profile.kind,
        session: &profile.session,
        timezone: &profile.timezone,
        exchange: &profile.exchange,
        listed_exchange: &profile.exchange,
        minmov: profile.minmov,
        pricescale: profile
            .pricescale
            .unwrap_or_else(|| 10_u64.pow(price_digits.max(FEWEST_DIGITS))),
        has_intraday: !minutes.is_empty() || !seconds.is_empty(),
        has_seconds: !seconds.is_empty(),
        has_daily: has(&['D']),
        has_weekly_and_monthly: has(&['W', 'M']),
        intraday_multipliers: minutes,
        seconds_multipliers: seconds,
        supported_resolutions: resolutions,
        volume_precision: profile.volume_precision.unwrap_or(volume_digits.into()),
        data_status: "streaming",
        format: "price",
    }))
}

/// What was typed into a search.
struct Wanted {
    text: String,
    /// The same in lower case.
    lower: String,
    exchange: Option<String>,
    kind: Option<String>,
}

fn starts(text: &str, with: &str) -> bool {
    let start = text.as_bytes().get(..with.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
}

fn contains(text: &str, part: &str) -> bool {
    (0..=text.len()).any(|at| text.get(at..).is_some_and(|rest| starts(rest, part)))
}

impl Wanted {
    /// How well a symbol fits, 0 best; upper and lower case are the same, since TradingView's adapter
    /// sends what was typed in upper case.
    fn rank(&self, symbol: &str, profile: &Profile) -> Option<u8> {
        let is = |wish: &Option<String>, have: &str| wish.as_ref().is_none_or(|w| w == have);
        if !is(&self.exchange, &profile.exchange) || !is(&self.kind, &profile.kind) {
            return None;
        }
        let text = &self.text;
        let described = || {
            let description = profile.description.as_ref();
            description.is_some_and(|d| d.to_lowercase().contains(&self.lower))
        };
        let in_full = || {
            // Without an exchange it is the symbol itself.
            !profile.exchange.is_empty() && contains(&full_name(symbol, profile), text)
        };
        match () {
            () if symbol.eq_ignore_ascii_case(text) => Some(0),
            () if starts(symbol, text) => Some(1),
            () if contains(symbol, text) => Some(2),
            () if described() || in_full() => Some(3),
            () => None,
        }
    }
}

/// Longest text that is looked for, in bytes: every symbol is looked through for it.
const MAX_SEARCHED_BYTES: usize = 64;

/// `/udf/search?query=&type=&exchange=&limit=`
///
/// # Errors
/// When the limit is no number.
pub fn search(node: &Node, query: Query<'_>) -> Result<Vec<u8>, Refused> {
    let limit = query
        .count("limit")?
        .unwrap_or(DEFAULT_FOUND)
        .min(MAX_FOUND);
    let owned = |name| query.get(name).map(std::borrow::Cow::into_owned);
    let text = owned("query").unwrap_or_default();
    if text.len() > MAX_SEARCHED_BYTES {
        return Err(Refused::Value {
            name: "query",
            value: shortened(&text),
            allowed: "up to 64 bytes of UTF-8 are looked for",
        });
    }
    let wanted = Wanted {
        lower: text.to_lowercase(),
        text,
        exchange: owned("exchange"),
        kind: owned("type"),
    };
    let listings = &node.config.listings;
    let mut best: BTreeSet<(u8, Symbol)> = BTreeSet::new();
    node.registry.each(|entry| {
        let symbol = entry.topic.symbol;
        let Some(rank) = wanted.rank(symbol.as_str(), listings.of(&symbol)) else {
            return;
        };
        let found = (rank, symbol);
        if best.contains(&found) || entry.lock().history.last().is_none() {
            return;
        }
        best.insert(found);
        if best.len() > limit {
            best.pop_last();
        }
    });
    let found: Vec<_> = best
        .iter()
        .map(|(_, symbol)| {
            let (name, profile) = (symbol.as_str(), listings.of(symbol));
            Found {
                symbol: name,
                full_name: full_name(name, profile),
                description: profile.description.as_deref().unwrap_or(name),
                exchange: &profile.exchange,
                ticker: name,
                kind: &profile.kind,
            }
        })
        .collect();
    Ok(json_of(&found))
}
