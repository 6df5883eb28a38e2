//! Objectives: what must hold for a load to count as carried.

use std::fmt;
use std::str::FromStr;

use hdrhistogram::Histogram;

use crate::figures::{ms, per};
use crate::tally::Counts;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Figure {
    /// A quantile of the latency, 0 to 1; 1 is the maximum.
    Latency(f64),
    /// Updates lost without a word.
    Lost,
    /// Closed bars of which a gap told.
    Gapped,
    /// Forming updates replaced by newer ones.
    Conflated,
    /// Clients that were disconnected.
    Gone,
}

/// The figures by name.
const FIGURES: [(&str, Figure); 10] = [
    ("p50", Figure::Latency(0.5)),
    ("p90", Figure::Latency(0.9)),
    ("p99", Figure::Latency(0.99)),
    ("p999", Figure::Latency(0.999)),
    ("p9999", Figure::Latency(0.999_9)),
    ("max", Figure::Latency(1.0)),
    ("lost", Figure::Lost),
    ("gapped", Figure::Gapped),
    ("conflated", Figure::Conflated),
    ("gone", Figure::Gone),
];

/// The most that it may be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Most {
    /// µs.
    Micros(u64),
    Count(u64),
    /// Percent of the updates that were expected, or of the clients.
    Percent(f64),
}

#[derive(Debug, Clone, PartialEq)]
struct Objective {
    /// As it was written.
    text: String,
    name: &'static str,
    figure: Figure,
    most: Most,
}

/// Objectives, all of which must hold, as `p99=50ms,lost=0`.
#[derive(Debug, Clone, PartialEq)]
pub struct Slo(Vec<Objective>);

/// What is judged.
pub struct Judged<'a> {
    pub latency: &'a Histogram<u64>,
    pub counts: &'a Counts,
    pub expected: u64,
    pub gone: u64,
    pub clients: u64,
}

impl Slo {
    /// The objectives that did not hold, in words.
    pub fn broken(&self, judged: &Judged<'_>) -> Vec<String> {
        let broken = |objective: &Objective| objective.broken(judged);
        self.0.iter().filter_map(broken).collect()
    }
}

impl Objective {
    fn broken(&self, judged: &Judged<'_>) -> Option<String> {
        let (value, of) = match self.figure {
            Figure::Latency(quantile) => {
                let us = judged.latency.value_at_quantile(quantile);
                let Most::Micros(most) = self.most else {
                    return None;
                };
                return (us > most).then(|| format!("{} = {} > {}", self.name, ms(us), ms(most)));
            }
            Figure::Lost => (judged.counts.lost, judged.expected),
            Figure::Gapped => (judged.counts.gapped, judged.expected),
            Figure::Conflated => (judged.counts.conflated, judged.expected),
            Figure::Gone => (judged.gone, judged.clients),
        };
        match self.most {
            Most::Percent(most) => {
                let percent = 100.0 * per(value, of);
                (percent > most).then(|| format!("{} = {percent:.2} % > {most} %", self.name))
            }
            Most::Count(most) | Most::Micros(most) => {
                (value > most).then(|| format!("{} = {value} > {most}", self.name))
            }
        }
    }
}

/// A duration as `50ms`, `800us` or `1.5s`, in µs.
fn micros(text: &str) -> Option<u64> {
    let (number, scale) = if let Some(number) = text.strip_suffix("ms") {
        (number, 1e3)
    } else if let Some(number) = text.strip_suffix("us").or(text.strip_suffix("µs")) {
        (number, 1.0)
    } else {
        (text.strip_suffix('s')?, 1e6)
    };
    let us = number.parse::<f64>().ok()? * scale;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be positive and below an hour"
    )]
    (us > 0.0 && us < 3.6e9).then_some(us.round() as u64)
}

/// A count, or a share of all with `%`.
fn count(text: &str) -> Option<Most> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse::<f64>().ok()?;
        return (0.0..=100.0)
            .contains(&percent)
            .then_some(Most::Percent(percent));
    }
    Some(Most::Count(text.parse().ok()?))
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()))
            .ok_or(format!("{text:?} is no objective; {ALLOWED}"))?;
        let (name, figure) = FIGURES
            .into_iter()
            .find(|(known, _)| *known == name)
            .ok_or(format!("{name:?} is no figure; {ALLOWED}"))?;
        let most = match figure {
            Figure::Latency(_) => micros(value).map(Most::Micros),
            _ => count(value),
        };
        Ok(Self {
            text: format!("{name}={value}"),
            name,
            figure,
            most: most.ok_or(format!("{name}={value}; {ALLOWED}"))?,
        })
    }
}

const ALLOWED: &str = "allowed: p50, p90, p99, p999, p9999, max with a time (800us, 50ms, 1.5s), and lost, gapped, conflated, gone with a number or a share (0, 1%), with commas between";

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let objectives: Vec<Objective> = text
            .split(',')
            .map(|part| part.trim().parse())
            .collect::<Result<_, _>>()?;
        for (nth, objective) in objectives.iter().enumerate() {
            if objectives[..nth].iter().any(|o| o.name == objective.name) {
                return Err(format!("{} twice", objective.name));
            }
        }
        Ok(Self(objectives))
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.0.iter().map(|o| o.text.as_str()).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(slo: &str, us: &[u64], counts: &Counts, gone: u64) -> Vec<String> {
        let mut latency = crate::swarm::latencies();
        for us in us {
            latency.record(*us).unwrap();
        }
        slo.parse::<Slo>().unwrap().broken(&Judged {
            latency: &latency,
            counts,
            expected: 1_000,
            gone,
            clients: 50,
        })
    }

    #[test]
    fn objectives_are_read_and_written() {
        for text in [
            "p99=50ms,lost=0",
            "p50=800us,p999=1.5s,max=2s",
            "conflated=1%,gapped=0,gone=3",
        ] {
            assert_eq!(text.parse::<Slo>().unwrap().to_string(), text);
        }
        assert_eq!(
            " p99 = 5ms , lost=0 ".parse::<Slo>().unwrap().to_string(),
            "p99=5ms,lost=0"
        );
    }

    #[test]
    fn what_is_no_objective_is_told_in_one_line() {
        for (text, named) in [
            ("", "\"\""),
            ("p99", "\"p99\""),
            ("p98=5ms", "\"p98\""),
            ("p99=5", "p99=5"),
            ("p99=-5ms", "p99=-5ms"),
            ("p99=NaNms", "p99=NaNms"),
            ("lost=5ms", "lost=5ms"),
            ("lost=101%", "lost=101%"),
            ("lost=0,", "\"\""),
            ("lost=0,lost=1", "lost twice"),
        ] {
            let why = text.parse::<Slo>().unwrap_err();
            assert!(why.contains(named), "{text}: {why}");
            assert_eq!(why.lines().count(), 1, "{why}");
        }
    }

    #[test]
    fn each_figure_is_judged_against_its_limit() {
        let none = Counts::default();
        let us = [1_000, 2_000, 3_000, 60_000];
        assert_eq!(broken("p50=2ms,lost=0,gone=0", &us, &none, 0), [""; 0]);
        assert_eq!(
            broken("p50=1999us", &us, &none, 0),
            ["p50 = 2.000 ms > 1.999 ms"]
        );
        assert_eq!(broken("max=50ms,p99=50ms", &us, &none, 0).len(), 2);
        let some = Counts {
            lost: 1,
            gapped: 20,
            conflated: 11,
            ..Counts::default()
        };
        assert_eq!(broken("lost=0", &us, &some, 0), ["lost = 1 > 0"]);
        assert_eq!(broken("lost=1,gapped=2%", &us, &some, 0), [""; 0]);
        assert_eq!(
            broken("conflated=1%", &us, &some, 0),
            ["conflated = 1.10 % > 1 %"]
        );
        assert_eq!(broken("gone=0", &us, &none, 2), ["gone = 2 > 0"]);
        assert_eq!(broken("gone=4%", &us, &none, 2), [""; 0]);
    }
}
