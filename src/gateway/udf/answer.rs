//! `/udf/history`: the bars of one topic as columns.

use tokio_util::sync::CancellationToken;

use super::query::{Query, Refused, Span, Start, spelled};
use super::symbols;
use crate::bar::{Bar, Field, Resolution, TIME_RANGE, Topic};
use crate::gateway::node::Node;
use crate::gateway::state::State;
use crate::history::{History, Hole};

/// Bars of one answer: some 300 kB, and about a millisecond in which the worker's clients wait. A
/// longer stretch gets its newest bars, and a chart asks on to the left.
const MAX_ANSWER_BARS: usize = 5_000;

/// An answer's JSON.
#[derive(Debug)]
pub enum Bars {
    Some(Vec<u8>),
    /// `no_data`
    None(Vec<u8>),
}

/// The bars of a span, oldest first, at most the newest `limit`; or the time of the newest bar
/// before it, if there is one. The forming bar is among them, so that live updates go on from it. Bars
/// without prices are not: to these charts a bar is five numbers, and where there is none nothing was traded.
fn read(history: &History, span: Span, limit: usize) -> Result<Vec<Bar>, Option<i64>> {
    let (from, limit) = match span.start {
        Start::From(from) => (from, limit),
        Start::Countback(count) => (i64::MIN, limit.min(count)),
    };
    let traded = |from, to| history.between(from, to).filter(|bar| !bar.is_empty());
    let mut bars: Vec<Bar> = traded(from, span.to).rev().take(limit).copied().collect();
    bars.reverse();
    if bars.is_empty() {
        Err(traded(i64::MIN, from).next_back().map(Bar::time))
    } else {
        Ok(bars)
    }
}

/// What may be missing of the stretch that is answered: from its first bar on if there is one, and before it
/// what the store did not give.
fn gaps(state: &State, resolution: Resolution, span: Span, bars: &[Bar]) -> Vec<Hole> {
    let history = &state.history;
    let first = bars.first().map(Bar::time);
    let unread = unread(state, resolution, span, bars.len());
    let from = match (first, span.start) {
        (Some(first), _) => first,
        (None, Start::From(from)) => from,
        (None, Start::Countback(_)) => return unread.into_iter().collect(),
    };
    let asked = from.clamp(*TIME_RANGE.start(), *TIME_RANGE.end());
    let from = match resolution.is_aligned(asked) {
        true => asked,
        false => resolution.next(asked),
    };
    let holes = history.holes(resolution, from, span.to);
    unread.into_iter().chain(holes).collect()
}

/// What the store did not give of the stretch that is asked for.
fn unread(state: &State, resolution: Resolution, span: Span, bars: usize) -> Option<Hole> {
    let first = state.history.known_from()?;
    let count = match span.start {
        Start::Countback(count) => count.saturating_sub(bars),
        Start::From(_) => usize::MAX,
    };
    let hole = state.unread_before(resolution, first, count)?;
    let from = match span.start {
        Start::From(from) => hole.from.max(resolution.floor(from)),
        Start::Countback(_) => hole.from,
    };
    let to = hole.to.min(span.to);
    (from <= to).then_some(Hole { from, to })
}

/// A field that is not of the protocol and that charts do not look at; only there when there is a gap.
fn write_gaps(out: &mut Vec<u8>, gaps: &[Hole]) {
    for (at, gap) in gaps.iter().enumerate() {
        let start = if at == 0 { ",\"gaps\":[" } else { "," };
        let (from, to) = (seconds(gap.from), seconds(gap.to));
        out.extend_from_slice(format!(r#"{start}{{"from":{from},"to":{to}}}"#).as_bytes());
    }
    if !gaps.is_empty() {
        out.push(b']');
    }
}

fn write_column(out: &mut Vec<u8>, name: &str, bars: &[Bar], write: impl Fn(&Bar, &mut Vec<u8>)) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":[");
    for (at, bar) in bars.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(bar, out);
    }
    out.push(b']');
}

/// Seconds of a bar's time, which is always a whole number of them.
fn seconds(time: i64) -> i64 {
    time.div_euclid(1_000)
}

/// The columns, numbers as the producer sent them. Times of days, weeks and months are 00:00 UTC of
/// their first day, which is what the documentation asks for.
fn write_bars(bars: &[Bar], gaps: &[Hole]) -> Vec<u8> {
    /// Bytes that a bar takes, punctuation included: enough for most, so that the text seldom moves.
    const BAR_BYTES: usize = 64;
    let mut out = Vec::with_capacity(64 + bars.len() * BAR_BYTES);
    out.extend_from_slice(b"{\"s\":\"ok\"");
    write_column(&mut out, "t", bars, |bar, out| {
        out.extend_from_slice(itoa::Buffer::new().format(seconds(bar.time())).as_bytes());
    });
    for (name, field) in [
        ("o", Field::Open),
        ("h", Field::High),
        ("l", Field::Low),
        ("c", Field::Close),
        ("v", Field::Volume),
    ] {
        write_column(&mut out, name, bars, |bar, out| bar.get(field).write(out));
    }
    write_gaps(&mut out, gaps);
    out.push(b'}');
    out
}

/// `nextTime` is the time of the closest bar in the past, in seconds, and only there when there is one:
/// a chart then asks for what lies around it instead of searching to the left.
fn write_no_data(next_time: Option<i64>, gaps: &[Hole]) -> Vec<u8> {
    let mut out = match next_time {
        Some(time) => format!(r#"{{"s":"no_data","nextTime":{}"#, seconds(time)),
        None => r#"{"s":"no_data""#.to_owned(),
    }
    .into_bytes();
    write_gaps(&mut out, gaps);
    out.push(b'}');
    out
}

/// Has the past read that a request asks for, if it is left in the store; what to wait for.
pub fn ask_past(node: &Node, query: Query<'_>) -> Option<CancellationToken> {
    if !node.pasts.is_open() {
        return None;
    }
    let resolution: Resolution = query.get("resolution")?.parse().ok()?;
    Span::read(query).ok()?;
    let (symbol, _) = symbols::known(node, &query.get("symbol")?).ok()?;
    let entry = node.registry.get(&Topic { symbol, resolution })?;
    node.pasts.ask(&entry)
}

/// `/udf/history?symbol=&resolution=&from=&to=&countback=`
///
/// # Errors
/// What is wrong with the request.
pub fn history(node: &Node, query: Query<'_>) -> Result<Bars, Refused> {
    let symbol = query.need("symbol")?;
    let resolution: Resolution = query.need("resolution")?.parse()?;
    let span = Span::read(query)?;
    let (symbol, topics) = symbols::known(node, &symbol)?;
    let entry = topics
        .iter()
        .find(|entry| entry.topic.resolution == resolution)
        .ok_or_else(|| Refused::Absent {
            symbol: symbol.to_string(),
            resolution: spelled(resolution),
        })?;
    // Copied under the lock, which ingest waits for, and written outside of it.
    let (bars, gaps) = {
        let state = entry.lock();
        let bars = read(&state.history, span, MAX_ANSWER_BARS);
        let some = bars.as_ref().map_or(&[][..], Vec::as_slice);
        let gaps = gaps(&state, resolution, span, some);
        (bars, gaps)
    };
    Ok(match bars {
        Ok(bars) => Bars::Some(write_bars(&bars, &gaps)),
        Err(next_time) => Bars::None(write_no_data(next_time, &gaps)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::Number;

    fn history_of(seconds: impl IntoIterator<Item = i64>) -> History {
        let mut history = History::new(1_000);
        for second in seconds {
            let numbers = [Number::Unsigned(1); 5];
            history.apply(Bar::new(Resolution::S1, second * 1_000, numbers, false).unwrap());
        }
        history
    }

    fn times(history: &History, start: Start, to: i64, limit: usize) -> Result<Vec<i64>, i64> {
        let bars = read(history, Span { start, to }, limit);
        let times = |bars: Vec<Bar>| bars.iter().map(Bar::time).collect();
        bars.map(times).map_err(|next| next.unwrap_or(-1))
    }

    #[test]
    fn the_newest_of_a_stretch_and_never_more_than_the_limit() {
        let history = history_of([1, 2, 3, 5, 8]);
        let read = |start, to, limit| times(&history, start, to, limit);
        assert_eq!(read(Start::From(2_000), 5_000, 9), Ok(vec![2_000, 3_000]));
        assert_eq!(read(Start::From(0), 99_000, 2), Ok(vec![5_000, 8_000]));
        assert_eq!(read(Start::Countback(2), 8_000, 9), Ok(vec![3_000, 5_000]));
        let all = read(Start::Countback(usize::MAX), i64::MAX, 3);
        assert_eq!(all, Ok(vec![3_000, 5_000, 8_000]));
    }

    #[test]
    fn a_bar_without_prices_is_none() {
        let mut history = history_of([1, 2, 5]);
        for second in [3, 4, 6] {
            history.apply(Bar::empty(Resolution::S1, second * 1_000).unwrap());
        }
        let read = |start, to, limit| times(&history, start, to, limit);
        assert_eq!(
            read(Start::From(0), 9_000, 9),
            Ok(vec![1_000, 2_000, 5_000])
        );
        assert_eq!(read(Start::Countback(2), 9_000, 9), Ok(vec![2_000, 5_000]));
        assert_eq!(read(Start::From(3_000), 5_000, 9), Err(2_000));
        assert_eq!(read(Start::From(4_000), 5_000, 9), Err(2_000));
    }

    #[test]
    fn nothing_there_tells_of_what_is_older() {
        let history = history_of([1, 2, 8]);
        let read = |start, to| times(&history, start, to, 9);
        assert_eq!(read(Start::From(3_000), 8_000), Err(2_000));
        assert_eq!(read(Start::From(9_000), 10_000), Err(8_000));
        assert_eq!(read(Start::From(0), 1_000), Err(-1));
        assert_eq!(read(Start::Countback(5), 1_000), Err(-1));
        assert_eq!(read(Start::From(i64::MAX), i64::MIN), Err(8_000));
    }
}
