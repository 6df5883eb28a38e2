//! What to ask a gateway for, in requests that it takes: of bounded length, for a bounded number of bars.

use std::collections::VecDeque;

use super::message::Start;
use crate::bar::Pattern;

/// Longest list of topics in one request, in bytes: a gateway takes 4 KiB by default.
const MAX_TOPICS_BYTES: usize = 3_000;
/// Bars that a gateway gives in answer to one request.
const MAX_ANSWER_BARS: usize = 10_000;

/// One `bars.subscribe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub patterns: Vec<Pattern>,
    pub start: Start,
}

/// As few requests as a gateway's limits allow, if it is `now` there, ms since the epoch.
pub(super) fn requests(topics: &[Pattern], start: Start, now: i64) -> Vec<Request> {
    let mut out: Vec<Request> = Vec::new();
    let (mut bytes, mut bars) = (0, 0);
    for &topic in topics {
        let (more_bytes, more_bars) = (topic.to_string().len() + 3, answer(topic, start, now));
        bytes += more_bytes;
        bars += more_bars;
        match out.last_mut() {
            Some(last) if bytes <= MAX_TOPICS_BYTES && bars <= MAX_ANSWER_BARS => {
                last.patterns.push(topic);
            }
            _ => {
                (bytes, bars) = (more_bytes, more_bars);
                let patterns = vec![topic];
                out.push(Request { patterns, start });
            }
        }
    }
    out
}

/// Bars that the answer has of one topic, at most: an interval may be without any.
fn answer(topic: Pattern, start: Start, now: i64) -> usize {
    match (start, topic.topic()) {
        (Start::Newest(bars), _) => bars,
        (Start::Since(since), Some(topic)) => {
            let interval = topic.resolution.next(0).max(1);
            let passed = now.saturating_sub(since).max(0) / interval;
            // The bar at each end.
            usize::try_from(passed)
                .unwrap_or(usize::MAX)
                .saturating_add(2)
        }
        _ => 0,
    }
    .min(MAX_ANSWER_BARS)
}

/// A request that was refused because its answer would be too long: asked again in halves, and so is what
/// waits and is as long.
pub(super) fn halve(refused: &mut Request, waiting: &mut VecDeque<Request>) {
    let most = (refused.patterns.len() / 2).max(1);
    let start = refused.start;
    let rest = refused.patterns.split_off(most);
    let all = std::mem::take(waiting).into_iter();
    let rest = std::iter::once(Request {
        patterns: rest,
        start,
    });
    for request in rest.chain(all) {
        match request.start {
            Start::Since(_) => waiting.extend(request.patterns.chunks(most).map(|some| Request {
                patterns: some.to_vec(),
                start: request.start,
            })),
            _ => waiting.push_back(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::message;

    fn topics(count: usize) -> Vec<Pattern> {
        (0..count)
            .map(|n| format!("bars:SYMBOL{n}:1").parse().unwrap())
            .collect()
    }

    fn sizes<'a>(all: impl IntoIterator<Item = &'a Request>) -> Vec<usize> {
        all.into_iter().map(|one| one.patterns.len()).collect()
    }

    #[test]
    fn many_topics_are_several_requests_of_bounded_size() {
        const WEEKEND: i64 = 48 * 60 * 60_000;
        for (start, most) in [
            (Start::Current, usize::MAX),
            (Start::Newest(1_000), 10),
            (Start::Newest(20_000), 1),
            (Start::Since(0), 3),
            (Start::Since(WEEKEND - 60_000), usize::MAX),
            (Start::Since(WEEKEND + 60_000), usize::MAX),
            (Start::Since(i64::MIN), 1),
        ] {
            let all = requests(&topics(500), start, WEEKEND);
            let lengths = sizes(&all);
            assert!(lengths.iter().all(|n| (1..=most).contains(n)), "{start:?}");
            let long = all
                .iter()
                .map(|r| message::subscribe(1, &r.patterns, start, None).len());
            assert!(long.max().unwrap() <= 4_096);
            assert_eq!(lengths.iter().sum::<usize>(), 500);
        }
        assert!(requests(&[], Start::Current, 0).is_empty());
    }

    #[test]
    fn a_refusal_halves_what_waits_too() {
        let request = |count, start| Request {
            patterns: topics(count),
            start,
        };
        let mut refused = request(9, Start::Since(1));
        let mut waiting = VecDeque::from([request(9, Start::Since(2)), request(9, Start::Current)]);
        halve(&mut refused, &mut waiting);
        assert_eq!(refused.patterns.len(), 4);
        assert_eq!(sizes(&waiting), [4, 1, 4, 4, 1, 9]);
    }
}
