//! TradingView's UDF: charts ask over HTTP for what this node's history has.
//!
//! The rules are those of TradingView's charting-library documentation, "UDF adapter". An error is a
//! part of the protocol, `{"s":"error","errmsg":…}` with status 200: TradingView's adapters look at
//! the body only, and older ones take another status for a lost network.

mod answer;
mod hours;
mod listings;
mod precision;
mod query;
mod symbols;

use hyper::StatusCode;

pub use listings::{ListingError, Listings};

use super::node::Node;
use super::past;
use crate::clock;
use query::Query;

/// The requests of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Config,
    Symbols,
    Search,
    History,
    Time,
    /// None of them.
    Other,
}

/// How a request ended, in the protocol's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    NoData,
    Error,
}

impl Route {
    const ALL: [Self; 6] = [
        Self::Config,
        Self::Symbols,
        Self::Search,
        Self::History,
        Self::Time,
        Self::Other,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Symbols => "symbols",
            Self::Search => "search",
            Self::History => "history",
            Self::Time => "time",
            Self::Other => "other",
        }
    }

    /// How requests of this route can end.
    const fn statuses(self) -> &'static [Status] {
        match self {
            Self::Config | Self::Time => &[Status::Ok],
            Self::Symbols | Self::Search => &[Status::Ok, Status::Error],
            Self::History => &[Status::Ok, Status::NoData, Status::Error],
            Self::Other => &[Status::Error],
        }
    }

    /// `name` is what follows `/udf/`.
    fn of(name: &str) -> Self {
        let known = Self::ALL.into_iter().find(|route| route.label() == name);
        known.unwrap_or(Self::Other)
    }
}

impl Status {
    const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoData => "no_data",
            Self::Error => "error",
        }
    }
}

/// The labels of every request that can be counted.
pub fn labels() -> impl Iterator<Item = (&'static str, &'static str)> {
    Route::ALL.into_iter().flat_map(|route| {
        let statuses = route.statuses().iter();
        statuses.map(move |status| (route.label(), status.label()))
    })
}

/// What a request gets.
#[derive(Debug)]
pub struct Reply {
    /// 404 for a route that is not of the protocol, else 200.
    pub code: StatusCode,
    /// JSON, apart from the time, which is a bare number.
    pub body: Vec<u8>,
    pub is_json: bool,
}

fn error(message: &str) -> Vec<u8> {
    let body = serde_json::json!({ "s": "error", "errmsg": message });
    body.to_string().into_bytes()
}

/// Waits until the past is there that a request asks for, or too long. Not for the thread that answers: it
/// would keep all others waiting.
pub async fn read_past(node: &Node, name: &str, query: &str) {
    if Route::of(name) == Route::History {
        let asked = answer::ask_past(node, Query::new(query));
        past::read(asked.into_iter().collect()).await;
    }
}

/// Answers `/udf/{name}?{query}`, and counts it.
pub fn reply(node: &Node, name: &str, query: &str) -> Reply {
    let route = Route::of(name);
    let query = Query::new(query);
    let answered = match route {
        Route::Config => Ok((Status::Ok, symbols::config(node))),
        Route::Symbols => symbols::info(node, query).map(|body| (Status::Ok, body)),
        Route::Search => symbols::search(node, query).map(|body| (Status::Ok, body)),
        Route::History => answer::history(node, query).map(|body| match body {
            answer::Bars::Some(body) => (Status::Ok, body),
            answer::Bars::None(body) => (Status::NoData, body),
        }),
        Route::Time => {
            let seconds = clock::now_ms().div_euclid(1_000);
            Ok((Status::Ok, seconds.to_string().into_bytes()))
        }
        Route::Other => Err(query::Refused::Route),
    };
    let (status, body) = answered.unwrap_or_else(|why| (Status::Error, error(&why.to_string())));
    node.metrics
        .udf_request(route.label(), status.label())
        .inc();
    Reply {
        code: match route {
            Route::Other => StatusCode::NOT_FOUND,
            _ => StatusCode::OK,
        },
        body,
        is_json: route != Route::Time,
    }
}
