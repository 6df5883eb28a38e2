//! Runs, laid over each other.

mod table;

use super::chart::Chart;
use super::course::{self, Timed, planned};
use super::lines::{Axis, Divided, Drawn, Lines, Series, WIDE};
use super::page::{Part, Section};
use super::scale::plain;
use super::setting::doubts;
use super::unit::Unit;
use crate::figures::{Latency, grouped, per};
use crate::report::RunReport;
use crate::tally::Counts;

/// A report and the name it goes by in plots and tables.
pub type Run<'a> = (&'a str, &'a RunReport);

/// All runs; nothing when there are none.
pub fn section(runs: &[Run<'_>]) -> Option<Section> {
    if runs.is_empty() {
        return None;
    }
    let mut parts = vec![Part::Charts(latencies(runs).into_iter().collect())];
    if runs.iter().all(|(_, run)| run.latency_us.count == 0) {
        parts.push(Part::Text(
            "No update came, so there is no latency to show.".to_owned(),
        ));
    }
    let timed = runs.iter().map(|(name, run)| Timed {
        name,
        series: &run.series,
        scenario: &run.scenario,
        cores: run.machine.pins.server.list().len(),
        marks: Vec::new(),
    });
    parts.extend(course::parts("runs", &timed.collect::<Vec<_>>()));
    parts.push(Part::Tables(table::tables(runs)));
    let many = runs.len() > 1;
    let warnings = runs.iter().flat_map(|(name, run)| {
        let doubts = warnings(run).into_iter();
        doubts.map(move |doubt| {
            if many {
                format!("{name}: {doubt}")
            } else {
                doubt
            }
        })
    });
    Some(Section {
        id: "runs".to_owned(),
        heading: if many { "Runs" } else { "Run" }.to_owned(),
        finding: match runs {
            [(_, run)] => finding(run),
            runs => finding_of_many(runs),
        },
        warnings: warnings.collect(),
        parts,
    })
}

fn finding(run: &RunReport) -> String {
    let scenario = &run.scenario;
    let clients = grouped(scenario.clients.into());
    let what = delivered(&run.counts, run.expected);
    let mut words = format!("{} delivered {what} to {clients} clients", run.server);
    let planned = planned(scenario);
    if run.counts.delivered == 0 {
        return words + ".";
    }
    words.push_str(&format!(
        ", {} bars/s: {}.",
        plain(planned, 0),
        within(&run.latency_us)
    ));
    if let Some(cpu) = &run.cpu {
        words.push_str(&format!(
            " A bar took {} of CPU",
            Unit::Micros.tell(cpu.us_per_bar)
        ));
        if let Some(cores) = run.occupancy.servers {
            words.push_str(&format!(", all of them {} cores", plain(cores, 2)));
        }
        words.push('.');
    }
    words
}

fn finding_of_many(runs: &[Run<'_>]) -> String {
    let mut words = format!("{} runs.", runs.len());
    let by = |run: &&Run<'_>| run.1.latency_us.p99;
    let came = runs.iter().filter(|(_, run)| run.latency_us.count > 0);
    if let (Some((best, low)), Some((worst, high))) =
        (came.clone().min_by_key(by), came.max_by_key(by))
    {
        let (low, high) = (micros(low.latency_us.p99), micros(high.latency_us.p99));
        words.push_str(&format!(
            " 99 % of updates came within {low} ({best}) to {high} ({worst})."
        ));
    }
    let lossy = runs.iter().filter(|(_, run)| !run.is_clean());
    let lossy: Vec<&str> = lossy.map(|(name, _)| *name).collect();
    words
        + &if lossy.is_empty() {
            " None lost an update.".to_owned()
        } else {
            format!(
                " Updates were lost or came wrongly in {}.",
                lossy.join(", ")
            )
        }
}

/// How many of what was expected came, and what became of the rest.
pub fn delivered(counts: &Counts, expected: u64) -> String {
    if counts.delivered == expected {
        return format!("all of {} updates", grouped(expected));
    }
    let mut words = format!(
        "{} of {} updates",
        grouped(counts.delivered),
        grouped(expected)
    );
    let rest = [
        (counts.lost, "LOST"),
        (counts.conflated, "conflated"),
        (counts.gapped, "gapped"),
    ];
    let rest: Vec<String> = rest
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{} {what}", grouped(n)))
        .collect();
    if !rest.is_empty() {
        words.push_str(&format!(" ({})", rest.join(", ")));
    }
    words
}

/// What of the counts must not be.
pub fn faults(counts: &Counts, lost_topics: &[(String, u64)], gone: u64) -> Vec<String> {
    let mut faults = Vec::new();
    for (n, what) in [
        (counts.lost, "updates were lost without a word"),
        (counts.out_of_order, "updates came out of order"),
        (counts.altered, "closed bars are not what was published"),
        (gone, "clients were disconnected"),
    ] {
        if n > 0 {
            faults.push(format!("{} {what}", grouped(n)));
        }
    }
    for (topic, lost) in lost_topics {
        faults.push(format!("Lost on {topic}: {}", grouped(*lost)));
    }
    faults
}

fn warnings(run: &RunReport) -> Vec<String> {
    let mut warnings = faults(&run.counts, &run.lost_topics, run.gone);
    for (why, n) in &run.gone_why {
        warnings.push(format!("Disconnected: {} × {why}", grouped(*n)));
    }
    warnings.extend(doubts(&run.machine, Some(&run.occupancy), run.ended_early));
    warnings
}

fn micros(us: u64) -> String {
    Unit::Micros.tell(per(us, 1))
}

/// The main percentiles in words.
fn within(latency: &Latency) -> String {
    let mut words = format!(
        "half within {}, 99 % within {}",
        micros(latency.p50),
        micros(latency.p99)
    );
    if latency.count >= ENOUGH {
        words.push_str(&format!(", 99.99 % within {}", micros(latency.p9999)));
    } else {
        words.push_str(&format!(", all within {}", micros(latency.max)));
    }
    words
}

/// So many updates have a 99.99th percentile that is not just the largest.
const ENOUGH: u64 = 10_000;

/// A percentile curve and what it is of.
pub struct Curve<'a> {
    pub label: &'a str,
    pub latency: &'a Latency,
    /// Share and µs; of fewer points when there is no finer one.
    pub points: Vec<(f64, u64)>,
}

impl<'a> Curve<'a> {
    /// From the percentiles alone.
    pub fn coarse(label: &'a str, latency: &'a Latency) -> Self {
        let l = latency;
        let points = vec![(0.5, l.p50), (0.9, l.p90), (0.99, l.p99), (0.999, l.p999)];
        Self {
            label,
            latency,
            points,
        }
    }

    /// Up to the last percentile that there are enough updates for.
    fn drawn(&self) -> Vec<(f64, Option<f64>)> {
        let count = self.latency.count;
        let last = if count >= ENOUGH {
            (0.999_9, self.latency.p9999)
        } else {
            (1.0 - 1.0 / per(count.max(1), 1), self.latency.max)
        };
        let before = self.points.iter().filter(|(share, _)| *share < last.0);
        let points = before.chain(std::iter::once(&last));
        points
            .map(|(share, us)| (*share, Some(per(*us, 1))))
            .collect()
    }
}

fn latencies(runs: &[Run<'_>]) -> Option<Chart> {
    let curves = runs.iter().map(|(name, run)| Curve {
        label: name,
        latency: &run.latency_us,
        points: run.latency_curve_us.clone(),
    });
    percentiles("runs-latency-percentiles", WIDE, curves.collect())
}

/// The percentile curves of several things in one plot.
pub fn percentiles(
    name: &str,
    (width, height): (f64, f64),
    curves: Vec<Curve<'_>>,
) -> Option<Chart> {
    /// From this ratio of the slowest to the median on, an even axis would hide what is fast.
    const FAR: f64 = 40.0;
    let curves: Vec<_> = curves
        .into_iter()
        .filter(|curve| curve.latency.count > 0)
        .collect();
    let slowest = curves.iter().map(|curve| curve.latency.max).max()?;
    let fastest = curves.iter().map(|curve| curve.latency.p50).min()?;
    let far = per(slowest, fastest.max(1)) > FAR;
    let title = match curves.as_slice() {
        [one] => capital_within(one.latency),
        _ => "Latency by percentile: the lower, the sooner updates came".to_owned(),
    };
    let words = curves
        .iter()
        .map(|curve| format!("{}: {}", curve.label, within(curve.latency)));
    let description = format!(
        "Latency from the planned publish time by percentile, up to 99.99 %. {}.",
        words.collect::<Vec<_>>().join("; ")
    );
    let alone = curves.len() == 1;
    let series = curves.iter().enumerate().map(|(nth, curve)| Series {
        label: if alone {
            String::new()
        } else {
            curve.label.to_owned()
        },
        colour: nth,
        drawn: Drawn::Line,
        points: curve.drawn(),
    });
    Lines {
        name: name.to_owned(),
        title,
        description,
        width,
        height,
        x: Axis {
            name: "share of updates that came within it",
            unit: Unit::Ratio,
            divided: Divided::Nines,
        },
        y: Axis {
            name: "Latency",
            unit: Unit::Micros,
            divided: if far { Divided::Log } else { Divided::FromZero },
        },
        series: series.collect(),
        levels: Vec::new(),
        marks: Vec::new(),
        shade: None,
    }
    .draw()
}

/// The same as a title.
fn capital_within(latency: &Latency) -> String {
    within(latency).replacen("half", "Half of the updates came", 1)
}
