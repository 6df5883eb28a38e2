//! `/api/v1/topics`: all topics by name, a page at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::answers::SHARED_FOR;
use crate::bar::{Topic, write_bar};
use crate::gateway::node::Node;
use crate::gateway::registry::Entry;

/// Topics of one page at most, and without a `limit`: some 200 bytes each.
pub const MAX_LISTED_TOPICS: usize = 5_000;

/// Fewer topics than this are sorted for each request.
const SORTED_ANEW_BELOW: usize = 1_000;

/// The topics in the order of their names, as they were a moment ago.
pub struct Listing {
    built: Instant,
    entries: Vec<Arc<Entry>>,
}

/// Which part of the list.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    after: Option<Topic>,
    limit: usize,
}

impl Page {
    /// Reads `after` and `limit` of a query string.
    ///
    /// # Errors
    /// One line with the value and what is allowed.
    pub fn of(query: &str) -> Result<Self, String> {
        let mut page = Self {
            after: None,
            limit: MAX_LISTED_TOPICS,
        };
        // A plus is a character of symbols here, and not the blank that it is in forms.
        let query = query.replace('+', "%2B");
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "after" => {
                    let topic = value.parse();
                    page.after = Some(topic.map_err(|why| format!("after = {value:?}: {why}"))?);
                }
                "limit" => {
                    let limit = value.parse().ok();
                    let limit = limit.filter(|n| (1..=MAX_LISTED_TOPICS).contains(n));
                    page.limit = limit.ok_or_else(|| {
                        format!("limit = {value:?}: allowed: 1 to {MAX_LISTED_TOPICS}")
                    })?;
                }
                _ => {}
            }
        }
        Ok(page)
    }
}

impl Listing {
    /// What is kept if it is young enough, otherwise sorted anew.
    pub fn fresh<'a>(kept: &'a mut Option<Self>, node: &Node) -> &'a Self {
        let is_young =
            |old: &Self| old.entries.len() >= SORTED_ANEW_BELOW && old.built.elapsed() < SHARED_FOR;
        let old = kept.take().filter(is_young);
        kept.insert(old.unwrap_or_else(|| {
            let mut entries = node.registry.all();
            entries.sort_unstable_by_key(|entry| entry.topic);
            Self {
                built: Instant::now(),
                entries,
            }
        }))
    }

    /// One page as JSON. `next` is the `after` of the following one.
    pub fn write(&self, page: &Page) -> Vec<u8> {
        let entries = &self.entries;
        let first = page.after.map_or(0, |after| {
            entries.partition_point(|entry| entry.topic <= after)
        });
        let end = entries.len().min(first + page.limit);
        let mut out = format!(r#"{{"total":{},"topics":["#, entries.len()).into_bytes();
        for (at, entry) in entries[first..end].iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_topic(&mut out, entry);
        }
        out.extend_from_slice(b"],\"next\":");
        match entries[first..end].last().filter(|_| end < entries.len()) {
            Some(last) => out.extend_from_slice(format!("\"{}\"", last.topic).as_bytes()),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
        out
    }
}

fn write_topic(out: &mut Vec<u8>, entry: &Entry) {
    let topic = entry.topic;
    let subscribers = entry.subscribers.load(Ordering::Relaxed);
    let (symbol, resolution) = (topic.symbol, topic.resolution);
    let head = format!(
        r#"{{"topic":"{topic}","symbol":"{symbol}","resolution":"{resolution}","subscribers":{subscribers},"last":"#
    );
    out.extend_from_slice(head.as_bytes());
    let messages = {
        let state = entry.lock();
        match state.history.last() {
            Some(bar) => write_bar(out, bar),
            None => out.extend_from_slice(b"null"),
        }
        state.version
    };
    out.extend_from_slice(format!(r#","messages":{messages}}}"#).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_it_allows() {
        let page = Page::of("limit=2&after=bars%3AA%3A1").unwrap();
        assert_eq!((page.limit, page.after), (2, "bars:A:1".parse().ok()));
        assert_eq!(Page::of("").unwrap().limit, MAX_LISTED_TOPICS);
        let plus = Page::of("after=bars:A+B:1").unwrap();
        assert_eq!(plus.after, "bars:A+B:1".parse().ok());
        for (query, part) in [
            ("limit=0", "\"0\""),
            ("limit=x", "5000"),
            ("after=A", "\"A\""),
        ] {
            assert!(Page::of(query).unwrap_err().contains(part), "{query}");
        }
    }
}
