//! Experiments second by second.

use super::lines::{Axis, Divided, Drawn, HALF, Level, Lines, Series};
use super::page::{Part, Table};
use super::scale::plain;
use super::unit::Unit;
use crate::figures::{grouped, per};
use crate::report::{Scenario, Second};

/// From this share of a level on, figures are shown against it; below it they would all lie at the bottom.
const NEAR: f64 = 0.25;

/// An experiment as it went.
pub struct Timed<'a> {
    pub name: &'a str,
    pub series: &'a [Second],
    pub scenario: &'a Scenario,
    /// Cores that the server had.
    pub cores: usize,
    /// What happened, by seconds since the first tick.
    pub marks: Vec<Level>,
}

impl Timed<'_> {
    /// When the warm-up ended, in seconds since the first tick.
    fn warm(&self) -> f64 {
        warm(self.scenario)
    }

    /// When this second began.
    fn began(&self, nth: usize) -> f64 {
        nth.checked_sub(1)
            .map_or(0.0, |before| self.series[before].at)
    }
}

/// Bars a second that the schedule asks for, for all clients together.
pub fn planned(scenario: &Scenario) -> f64 {
    f64::from(scenario.clients) * f64::from(scenario.per_client) * scenario.rate
}

/// How long a warm-up took by its plan, in seconds.
pub fn warm(scenario: &Scenario) -> f64 {
    let ticks = per(scenario.warmup_ticks, 1);
    if scenario.rate > 0.0 {
        ticks / scenario.rate
    } else {
        0.0
    }
}

/// What is drawn over time.
struct Course {
    name: String,
    axis: &'static str,
    unit: Unit,
    of: fn(&Timed<'_>, usize) -> Option<f64>,
}

/// Plots over time and every second as a table; the names of the plots' files begin with `prefix`.
pub fn parts(prefix: &str, runs: &[Timed<'_>]) -> Vec<Part> {
    if runs.iter().all(|run| run.series.is_empty()) {
        return vec![Part::Text(
            "It was over before the first second: nothing to show over time.".to_owned(),
        )];
    }
    let charts = [
        latency(prefix, runs),
        throughput(prefix, runs),
        cores(prefix, runs),
        resident(prefix, runs),
    ];
    let charts: Vec<_> = charts
        .into_iter()
        .flatten()
        .filter_map(Lines::draw)
        .collect();
    let mut parts = vec![Part::Charts(charts)];
    if runs.iter().all(|run| {
        run.series
            .iter()
            .all(|second| second.server_cores.is_none())
    }) {
        parts.push(Part::Text(
            "CPU and memory of the server are not known: its process is not (--spawn or --server-pid).".to_owned(),
        ));
    }
    for run in runs {
        parts.push(seconds(run, runs.len() > 1));
    }
    parts
}

/// Bars a second, where the whole of that second counted.
fn rate(run: &Timed<'_>, nth: usize) -> Option<f64> {
    let second = &run.series[nth];
    let took = second.at - run.began(nth);
    let counted = run.began(nth) >= run.warm() - 0.01 && took > 0.0;
    counted.then(|| per(second.delivered, 1) / took)
}

fn p99(run: &Timed<'_>, nth: usize) -> Option<f64> {
    percentile(run, nth, |second| second.latency_us.p99)
}

fn p50(run: &Timed<'_>, nth: usize) -> Option<f64> {
    percentile(run, nth, |second| second.latency_us.p50)
}

fn percentile(run: &Timed<'_>, nth: usize, of: fn(&Second) -> u64) -> Option<f64> {
    let second = &run.series[nth];
    (second.latency_us.count > 0).then(|| per(of(second), 1))
}

fn bytes(run: &Timed<'_>, nth: usize) -> Option<f64> {
    run.series[nth].server_resident.map(|bytes| per(bytes, 1))
}

fn points(run: &Timed<'_>, of: fn(&Timed<'_>, usize) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
    (0..run.series.len())
        .map(|nth| (run.series[nth].at, of(run, nth)))
        .collect()
}

impl Course {
    /// Of all runs; nothing where nothing is known.
    fn lines(&self, runs: &[Timed<'_>], title: impl FnOnce(f64, f64) -> String) -> Option<Lines> {
        let series = runs.iter().enumerate().map(|(nth, run)| Series {
            label: if runs.len() > 1 {
                run.name.to_owned()
            } else {
                String::new()
            },
            colour: nth,
            drawn: Drawn::Line,
            points: points(run, self.of),
        });
        let series: Vec<Series> = series.collect();
        let figures = series
            .iter()
            .flat_map(|series| &series.points)
            .filter_map(|(_, y)| *y);
        let figures: Vec<f64> = figures.collect();
        if figures.is_empty() {
            return None;
        }
        let highest = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lowest = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let title = title(lowest, highest);
        Some(Lines {
            name: self.name.clone(),
            description: format!(
                "{} over time, from {} to {}.",
                self.axis,
                self.unit.tell(lowest),
                self.unit.tell(highest)
            ),
            title,
            width: HALF.0,
            height: HALF.1,
            x: Axis {
                name: "since the first tick",
                unit: Unit::Seconds,
                divided: Divided::Exact,
            },
            y: Axis {
                name: self.axis,
                unit: self.unit,
                divided: Divided::FromZero,
            },
            series,
            levels: Vec::new(),
            marks: match runs {
                [run] => run.marks.clone(),
                _ => Vec::new(),
            },
            shade: shade(runs),
        })
    }
}

/// The warm-up, when it was the same for all.
fn shade(runs: &[Timed<'_>]) -> Option<(f64, f64, &'static str)> {
    let ends: Vec<f64> = runs.iter().map(|run| run.warm()).collect();
    let first = *ends.first()?;
    let last = runs
        .iter()
        .filter_map(|run| run.series.last())
        .map(|second| second.at);
    let last = last.fold(0.0, f64::max);
    let same = ends.iter().all(|end| (end - first).abs() < 0.01);
    same.then_some((0.0, first.min(last), "warm-up"))
}

fn latency(prefix: &str, runs: &[Timed<'_>]) -> Option<Lines> {
    let course = Course {
        name: format!("{prefix}-latency-over-time"),
        axis: "Latency",
        unit: Unit::Micros,
        of: p99,
    };
    let mut lines = course.lines(runs, |low, high| {
        let (low, high) = (Unit::Micros.tell(low), Unit::Micros.tell(high));
        format!("p99 of each second: {low} to {high}")
    })?;
    if let [run] = runs {
        lines.series[0].label = "p99".to_owned();
        lines.series.push(Series {
            label: "p50".to_owned(),
            colour: 0,
            drawn: Drawn::Dashed,
            points: points(run, p50),
        });
    }
    Some(lines)
}

fn throughput(prefix: &str, runs: &[Timed<'_>]) -> Option<Lines> {
    let course = Course {
        name: format!("{prefix}-throughput"),
        axis: "Delivered",
        unit: Unit::Count("bars/s"),
        of: rate,
    };
    let mut lines = course.lines(runs, |low, high| {
        let (low, high) = (plain(low, 0), plain(high, 0));
        if low == high {
            format!("Delivered {high} bars/s")
        } else {
            format!("Delivered {low} to {high} bars/s")
        }
    })?;
    let plans: Vec<f64> = runs.iter().map(|run| planned(run.scenario)).collect();
    if plans.iter().all(|plan| (plan - plans[0]).abs() < 0.5) {
        lines.levels.push(Level {
            at: plans[0],
            label: "planned".to_owned(),
        });
    }
    Some(lines)
}

fn cores(prefix: &str, runs: &[Timed<'_>]) -> Option<Lines> {
    let course = Course {
        name: format!("{prefix}-cpu"),
        axis: "CPU of the server",
        unit: Unit::Count("cores"),
        of: |run, nth| run.series[nth].server_cores,
    };
    let there = runs.iter().map(|run| run.cores).max()?;
    #[expect(clippy::cast_precision_loss, reason = "a few cores")]
    let there = there as f64;
    let mut near = false;
    let mut lines = course.lines(runs, |_, high| {
        near = high >= NEAR * there;
        format!(
            "The server used at most {} of {} cores",
            plain(high, if near { 2 } else { 3 }),
            plain(there, 0)
        )
    })?;
    if near {
        lines.levels.push(Level {
            at: there,
            label: "all it has".to_owned(),
        });
    }
    Some(lines)
}

fn resident(prefix: &str, runs: &[Timed<'_>]) -> Option<Lines> {
    let course = Course {
        name: format!("{prefix}-memory"),
        axis: "Resident memory of the server",
        unit: Unit::Bytes,
        of: bytes,
    };
    course.lines(runs, |_, high| {
        format!("Resident memory: {} at most", Unit::Bytes.tell(high))
    })
}

/// Every second of a run as a table.
fn seconds(run: &Timed<'_>, many: bool) -> Part {
    let head = [
        "second", "updates", "p50", "p90", "p99", "p99.9", "max", "cores", "resident",
    ];
    let rows = run.series.iter().map(|second| {
        let l = &second.latency_us;
        let mut row = vec![format!("{:.1}", second.at), grouped(second.delivered)];
        let percentiles = [l.p50, l.p90, l.p99, l.p999, l.max];
        row.extend(percentiles.map(|us| {
            if l.count == 0 {
                "–".to_owned()
            } else {
                Unit::Micros.tell(per(us, 1))
            }
        }));
        row.push(
            second
                .server_cores
                .map_or("–".to_owned(), |cores| plain(cores, 3)),
        );
        let resident = second.server_resident;
        row.push(resident.map_or("–".to_owned(), |bytes| Unit::Bytes.tell(per(bytes, 1))));
        row
    });
    let whose = if many {
        format!(" of {}", run.name)
    } else {
        String::new()
    };
    let mut table = Table::figures(
        &format!("Every second{whose}"),
        head.map(str::to_owned).into(),
        rows.collect(),
    );
    table.folded = true;
    Part::Table(table)
}
