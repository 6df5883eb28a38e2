//! Runs second by second.

use super::super::lines::{Axis, Divided, Drawn, HALF, Level, Lines, Series};
use super::super::page::{Part, Table};
use super::super::scale::plain;
use super::super::unit::Unit;
use super::{Run, planned};
use crate::figures::{grouped, per};
use crate::report::{RunReport, Second};

/// From this share of a level on, figures are shown against it; below it they would all lie at the bottom.
const NEAR: f64 = 0.25;

/// What is drawn over time.
struct Course {
    name: &'static str,
    axis: &'static str,
    unit: Unit,
    of: fn(&RunReport, usize) -> Option<f64>,
}

pub fn parts(runs: &[Run<'_>]) -> Vec<Part> {
    if runs.iter().all(|(_, run)| run.series.is_empty()) {
        return vec![Part::Text("It was over before the first second: nothing to show over time.".to_owned())];
    }
    let charts = [latency(runs), throughput(runs), cores(runs), resident(runs)];
    let charts: Vec<_> = charts.into_iter().flatten().filter_map(Lines::draw).collect();
    let mut parts = vec![Part::Charts(charts)];
    let unknown = |of: fn(&Second) -> bool| runs.iter().all(|(_, run)| run.series.iter().all(of));
    if unknown(|second| second.server_cores.is_none()) {
        parts.push(Part::Text(
            "CPU and memory of the server are not known: its process is not (--spawn or --server-pid).".to_owned(),
        ));
    }
    for (name, run) in runs {
        parts.push(seconds(name, run, runs.len() > 1));
    }
    parts
}

/// When the warm-up ended, in seconds since the first tick.
fn warm(run: &RunReport) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "seconds need no more")]
    let ticks = run.scenario.warmup_ticks as f64;
    if run.scenario.rate > 0.0 { ticks / run.scenario.rate } else { 0.0 }
}

/// When this second began.
fn began(run: &RunReport, nth: usize) -> f64 {
    nth.checked_sub(1).map_or(0.0, |before| run.series[before].at)
}

/// Bars a second, where the whole of that second counted.
fn rate(run: &RunReport, nth: usize) -> Option<f64> {
    let second = &run.series[nth];
    let took = second.at - began(run, nth);
    let counted = began(run, nth) >= warm(run) - 0.01 && took > 0.0;
    counted.then(|| per(second.delivered, 1) / took)
}

fn p99(run: &RunReport, nth: usize) -> Option<f64> {
    percentile(run, nth, |second| second.latency_us.p99)
}

fn p50(run: &RunReport, nth: usize) -> Option<f64> {
    percentile(run, nth, |second| second.latency_us.p50)
}

fn percentile(run: &RunReport, nth: usize, of: fn(&Second) -> u64) -> Option<f64> {
    let second = &run.series[nth];
    (second.latency_us.count > 0).then(|| per(of(second), 1))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn bytes(run: &RunReport, nth: usize) -> Option<f64> {
    run.series[nth].server_resident.map(|bytes| bytes as f64)
}

fn points(run: &RunReport, of: fn(&RunReport, usize) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
    (0..run.series.len()).map(|nth| (run.series[nth].at, of(run, nth))).collect()
}

impl Course {
    /// Of all runs; nothing where nothing is known.
    fn lines(&self, runs: &[Run<'_>], title: impl FnOnce(f64, f64) -> String) -> Option<Lines> {
        let series = runs.iter().enumerate().map(|(nth, (name, run))| Series {
            label: if runs.len() > 1 { (*name).to_owned() } else { String::new() },
            colour: nth,
            drawn: Drawn::Line,
            points: points(run, self.of),
        });
        let series: Vec<Series> = series.collect();
        let figures = series.iter().flat_map(|series| &series.points).filter_map(|(_, y)| *y);
        let figures: Vec<f64> = figures.collect();
        if figures.is_empty() {
            return None;
        }
        let highest = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lowest = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let title = title(lowest, highest);
        Some(Lines {
            name: self.name.to_owned(),
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
                divided: Divided::FromZero,
            },
            y: Axis {
                name: self.axis,
                unit: self.unit,
                divided: Divided::FromZero,
            },
            series,
            levels: Vec::new(),
            marks: Vec::new(),
            shade: shade(runs),
        })
    }
}

/// The warm-up, when it was the same for all.
fn shade(runs: &[Run<'_>]) -> Option<(f64, f64, &'static str)> {
    let ends: Vec<f64> = runs.iter().map(|(_, run)| warm(run)).collect();
    let first = *ends.first()?;
    let last = runs.iter().filter_map(|(_, run)| run.series.last()).map(|second| second.at);
    let last = last.fold(0.0, f64::max);
    let same = ends.iter().all(|end| (end - first).abs() < 0.01);
    same.then_some((0.0, first.min(last), "warm-up"))
}

fn latency(runs: &[Run<'_>]) -> Option<Lines> {
    let course = Course {
        name: "runs-latency-over-time",
        axis: "Latency",
        unit: Unit::Micros,
        of: p99,
    };
    let mut lines = course.lines(runs, |low, high| {
        let (low, high) = (Unit::Micros.tell(low), Unit::Micros.tell(high));
        format!("p99 of each second: {low} to {high}")
    })?;
    if let [(_, run)] = runs {
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

fn throughput(runs: &[Run<'_>]) -> Option<Lines> {
    let course = Course {
        name: "runs-throughput",
        axis: "Delivered",
        unit: Unit::Count("bars/s"),
        of: rate,
    };
    let mut lines = course.lines(runs, |low, high| {
        format!("Delivered {} to {} bars/s", plain(low, 0), plain(high, 0))
    })?;
    let plans: Vec<f64> = runs.iter().map(|(_, run)| planned(run)).collect();
    if plans.iter().all(|plan| (plan - plans[0]).abs() < 0.5) {
        lines.levels.push(Level {
            at: plans[0],
            label: "planned".to_owned(),
        });
    }
    Some(lines)
}

fn cores(runs: &[Run<'_>]) -> Option<Lines> {
    let course = Course {
        name: "runs-cpu",
        axis: "CPU of the server",
        unit: Unit::Count("cores"),
        of: |run, nth| run.series[nth].server_cores,
    };
    let there = runs.iter().map(|(_, run)| run.machine.pins.server.list().len()).max()?;
    #[expect(clippy::cast_precision_loss, reason = "a few cores")]
    let there = there as f64;
    let mut near = false;
    let mut lines = course.lines(runs, |_, high| {
        near = high >= NEAR * there;
        format!("The server used at most {} of {} cores", plain(high, if near { 2 } else { 3 }), plain(there, 0))
    })?;
    if near {
        lines.levels.push(Level {
            at: there,
            label: "all it has".to_owned(),
        });
    }
    Some(lines)
}

fn resident(runs: &[Run<'_>]) -> Option<Lines> {
    let course = Course {
        name: "runs-memory",
        axis: "Resident memory of the server",
        unit: Unit::Bytes,
        of: bytes,
    };
    course.lines(runs, |_, high| format!("Resident memory: {} at most", Unit::Bytes.tell(high)))
}

/// Every second of a run as a table.
fn seconds(name: &str, run: &RunReport, many: bool) -> Part {
    let head = ["second", "updates", "p50", "p90", "p99", "p99.9", "max", "cores", "resident"];
    let rows = run.series.iter().map(|second| {
        let l = &second.latency_us;
        let mut row = vec![format!("{:.1}", second.at), grouped(second.delivered)];
        let percentiles = [l.p50, l.p90, l.p99, l.p999, l.max];
        row.extend(percentiles.map(|us| if l.count == 0 { "–".to_owned() } else { super::micros(us) }));
        row.push(second.server_cores.map_or("–".to_owned(), |cores| plain(cores, 3)));
        let resident = second.server_resident;
        row.push(resident.map_or("–".to_owned(), |bytes| Unit::Bytes.tell(per(bytes, 1))));
        row
    });
    let whose = if many { format!(" of {name}") } else { String::new() };
    let mut table = Table::figures(&format!("Every second{whose}"), head.map(str::to_owned).into(), rows.collect());
    table.folded = true;
    Part::Table(table)
}
