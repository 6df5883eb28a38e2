//! A ramp: what a node carries, and how it behaves beyond that.

use super::chart::Chart;
use super::lines::{Axis, Divided, Drawn, HALF, Level, Lines, Series, WIDE};
use super::page::{Part, Section, Table};
use super::scale::plain;
use super::setting::doubts;
use super::slug;
use super::unit::Unit;
use crate::figures::{grouped, per};
use crate::ramp::report::{Knee, Part as Made, RampReport, RampStep, StepBy};
use crate::ramp::usl::Usl;

/// Points of a fitted curve.
const CURVE: u32 = 80;

pub fn section(name: &str, report: &RampReport) -> Section {
    let slug = slug(name);
    let mut parts = vec![Part::Text(format!(
        "{}. Raised by {} until {} breaks.",
        report.scenario.line(),
        report.step.unit(),
        report.slo
    ))];
    let wide = throughput(report, &slug);
    let half = [
        latency(report, &slug),
        residuals(report, &slug),
        cores(report, &slug),
        memory(report, &slug),
    ];
    parts.push(Part::Charts(
        wide.into_iter().chain(half.into_iter().flatten()).collect(),
    ));
    parts.push(steps(report));
    let knee = report.knee.iter().map(|knee| knee_table(knee, report));
    let law = report.usl.iter().map(|usl| law(usl, report.step));
    parts.push(Part::Tables(knee.chain(law).collect()));
    if report.usl.is_none() {
        parts.push(Part::Text(
            "There are too few different loads to fit the Universal Scalability Law to.".to_owned(),
        ));
    }
    let mut warnings = doubts(&report.machine, None, report.ended_early);
    if let Some(knee) = report.knee.as_ref().filter(|knee| knee.limit.of_swarm()) {
        warnings.push(super::setting::capital(knee.limit.told()));
    }
    Section {
        id: format!("ramp-{slug}"),
        heading: format!("Ramp: {name}"),
        finding: report.carries.clone(),
        warnings,
        parts,
    }
}

/// What loads are counted in.
fn unit(report: &RampReport) -> Unit {
    Unit::Count(report.step.unit())
}

fn load_axis(report: &RampReport) -> Axis {
    Axis {
        name: "Load",
        unit: unit(report),
        divided: Divided::Exact,
    }
}

fn knee_mark(report: &RampReport) -> Vec<Level> {
    let knee = report.knee.iter();
    knee.map(|knee| Level {
        at: knee.load,
        label: format!("knee: {}", unit(report).tell(knee.load)),
    })
    .collect()
}

/// A figure of each step that is chosen, by load.
fn points(
    report: &RampReport,
    chosen: fn(&RampStep) -> bool,
    of: fn(&RampStep) -> Option<f64>,
) -> Vec<(f64, Option<f64>)> {
    let steps = report.by_load().into_iter().filter(|step| chosen(step));
    steps.map(|step| (step.load, of(step))).collect()
}

fn series(label: &str, colour: usize, drawn: Drawn, points: Vec<(f64, Option<f64>)>) -> Series {
    Series {
        label: label.to_owned(),
        colour,
        drawn,
        points,
    }
}

fn lines(report: &RampReport, name: String, title: String, y: Axis, series: Vec<Series>) -> Lines {
    Lines {
        name,
        description: format!(
            "{} over load, in {}. {}",
            y.name,
            report.step.unit(),
            report.carries
        ),
        title,
        width: HALF.0,
        height: HALF.1,
        x: load_axis(report),
        y,
        series,
        levels: Vec::new(),
        marks: knee_mark(report),
        shade: None,
    }
}

fn throughput(report: &RampReport, slug: &str) -> Option<Chart> {
    let delivered = |step: &RampStep| Some(step.delivered_per_second);
    let offered = |step: &RampStep| Some(step.offered_per_second);
    let mut all = vec![series(
        "planned",
        5,
        Drawn::Dashed,
        points(report, |_| true, offered),
    )];
    if let Some(usl) = &report.usl {
        all.push(series("fitted (USL)", 0, Drawn::Line, curve(usl)));
    }
    all.push(series(
        "",
        2,
        Drawn::Points,
        points(report, |step| step.holds, delivered),
    ));
    all.push(series(
        "",
        1,
        Drawn::Hollow,
        points(report, |step| !step.holds, delivered),
    ));
    let title = match &report.knee {
        Some(knee) => format!(
            "Objectives hold up to {}, {} bars/s",
            report.step.told(knee.load),
            plain(knee.bars_per_second, 0)
        ),
        None if report.is_clean() => "No objective broke".to_owned(),
        None => "Already the first load broke an objective".to_owned(),
    };
    let y = Axis {
        name: "Delivered: filled where all objectives held, hollow where one broke",
        unit: Unit::Count("bars/s"),
        divided: Divided::FromZero,
    };
    let mut lines = lines(report, format!("ramp-{slug}-throughput"), title, y, all);
    (lines.width, lines.height) = WIDE;
    lines.draw()
}

fn curve(usl: &Usl) -> Vec<(f64, Option<f64>)> {
    let last = usl.points.last().map_or(usl.unit, |point| point.load);
    let place = |nth| usl.unit + (last - usl.unit) * f64::from(nth) / f64::from(CURVE);
    (0..=CURVE)
        .map(place)
        .map(|load| (load, Some(usl.at(load))))
        .collect()
}

fn residuals(report: &RampReport, slug: &str) -> Option<Chart> {
    let usl = report.usl.as_ref()?;
    let points = usl
        .points
        .iter()
        .map(|point| (point.load, Some(point.residual())));
    let y = Axis {
        name: "Measured less fitted",
        unit: Unit::Count("bars/s"),
        divided: Divided::FromZero,
    };
    let title = format!("What the fit leaves: R² {}", plain(usl.r_squared, 4));
    let all = vec![series("", 0, Drawn::Points, points.collect())];
    let mut lines = lines(report, format!("ramp-{slug}-residuals"), title, y, all);
    lines.levels.push(Level {
        at: 0.0,
        label: String::new(),
    });
    lines.draw()
}

fn latency(report: &RampReport, slug: &str) -> Option<Chart> {
    /// From this ratio on, an even axis would hide what is fast.
    const FAR: f64 = 20.0;
    let p99 = |step: &RampStep| (step.latency_us.count > 0).then(|| per(step.latency_us.p99, 1));
    let p50 = |step: &RampStep| (step.latency_us.count > 0).then(|| per(step.latency_us.p50, 1));
    let path = |step: &RampStep| step.part != Made::Bisection;
    let all = vec![
        series("p99", 0, Drawn::Line, points(report, path, p99)),
        series("p50", 2, Drawn::Dashed, points(report, path, p50)),
        series("", 0, Drawn::Points, points(report, |_| true, p99)),
        series("", 2, Drawn::Points, points(report, |_| true, p50)),
    ];
    let known = report.steps.iter().filter(|step| step.latency_us.count > 0);
    let slowest = known.clone().map(|step| step.latency_us.p99).max()?;
    let fastest = known.map(|step| step.latency_us.p50).min()?;
    let far = per(slowest, fastest.max(1)) > FAR;
    let y = Axis {
        name: "Latency",
        unit: Unit::Micros,
        divided: if far { Divided::Log } else { Divided::FromZero },
    };
    let mut lines = lines(
        report,
        format!("ramp-{slug}-latency"),
        "Latency over load".to_owned(),
        y,
        all,
    );
    lines.levels = objectives(&report.slo);
    lines.draw()
}

/// The latencies that are asked for, from `p99=50ms,lost=0`.
fn objectives(slo: &str) -> Vec<Level> {
    let micros = |text: &str| {
        let (figure, size) = [("ms", 1e3), ("us", 1.0), ("µs", 1.0), ("s", 1e6)]
            .into_iter()
            .find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)))?;
        Some(figure.trim().parse::<f64>().ok()? * size)
    };
    let parts = slo.split(',').filter_map(|part| part.split_once('='));
    parts
        .filter_map(|(name, text)| {
            let at = micros(text.trim())?;
            Some(Level {
                at,
                label: format!("{} ≤ {}", name.trim(), Unit::Micros.tell(at)),
            })
        })
        .collect()
}

fn cores(report: &RampReport, slug: &str) -> Option<Chart> {
    let server = |step: &RampStep| step.occupancy.servers;
    let swarm = |step: &RampStep| Some(step.occupancy.swarm + step.occupancy.redis);
    let climb = |step: &RampStep| step.part != Made::Bisection;
    let all = vec![
        series("server", 0, Drawn::Line, points(report, climb, server)),
        series(
            "swarm, Redis",
            5,
            Drawn::Dashed,
            points(report, climb, swarm),
        ),
    ];
    let y = Axis {
        name: "Busy",
        unit: Unit::Count("cores"),
        divided: Divided::FromZero,
    };
    let title = "Cores that are busy".to_owned();
    lines(report, format!("ramp-{slug}-cpu"), title, y, all).draw()
}

fn memory(report: &RampReport, slug: &str) -> Option<Chart> {
    let resident = |step: &RampStep| step.server_resident.map(|bytes| per(bytes, 1));
    let all = vec![series(
        "",
        0,
        Drawn::Points,
        points(report, |_| true, resident),
    )];
    let y = Axis {
        name: "Resident memory of the server",
        unit: Unit::Bytes,
        divided: Divided::FromZero,
    };
    let title = "Memory at the end of each step".to_owned();
    lines(report, format!("ramp-{slug}-memory"), title, y, all).draw()
}

fn steps(report: &RampReport) -> Part {
    let head = [
        report.step.unit(),
        "offered/s",
        "delivered/s",
        "p50",
        "p99",
        "CPU per bar",
        "server cores",
        "swarm cores",
        "lost",
        "verdict",
    ];
    let rows = report.steps.iter().map(|step| {
        let unknown = || "–".to_owned();
        let latency = |us| {
            if step.latency_us.count == 0 {
                unknown()
            } else {
                Unit::Micros.tell(per(us, 1))
            }
        };
        vec![
            match report.step {
                StepBy::Clients => grouped(step.clients.into()),
                StepBy::Rate => plain(step.rate, 2),
            },
            plain(step.offered_per_second, 0),
            plain(step.delivered_per_second, 0),
            latency(step.latency_us.p50),
            latency(step.latency_us.p99),
            step.cpu
                .as_ref()
                .map_or_else(unknown, |cpu| Unit::Micros.tell(cpu.us_per_bar)),
            step.occupancy
                .servers
                .map_or_else(unknown, |cores| plain(cores, 2)),
            plain(step.occupancy.swarm + step.occupancy.redis, 2),
            grouped(step.counts.lost),
            if step.holds {
                "holds".to_owned()
            } else {
                step.broken.join(", ")
            },
        ]
    });
    Part::Table(Table::figures(
        "Every step, in its order",
        head.map(str::to_owned).into(),
        rows.collect(),
    ))
}

fn knee_table(knee: &Knee, report: &RampReport) -> Table {
    let tell = |load: f64| unit(report).tell(load);
    let repeats: Vec<String> = knee.repeats.iter().map(|load| tell(*load)).collect();
    let row = |what: &str, told: String| vec![what.to_owned(), told];
    let rows = vec![
        row("highest load that held", tell(knee.load)),
        row("found by each bisection", repeats.join(", ")),
        row(
            "lowest load of the climb that did not",
            tell(knee.first_broken),
        ),
        row(
            "planned there",
            format!("{} bars/s", plain(knee.bars_per_second, 0)),
        ),
        row("what broke", knee.broken.join(", ")),
        row("what ran out", knee.limit.told().to_owned()),
    ];
    let mut table = Table::figures("The knee", vec![String::new(), "found".to_owned()], rows);
    table.prose = true;
    table
}

fn law(usl: &Usl, step: StepBy) -> Table {
    let row = |what: &str, told: String| vec![what.to_owned(), told];
    let none = || "none: it does not fall within reach".to_owned();
    let rate = |figure: f64| format!("{} bars/s", plain(figure, 0));
    let rows = vec![
        row("N = 1", step.told(usl.unit)),
        row("λ, throughput at N = 1", rate(usl.lambda)),
        row("σ, contention", format!("{:.6}", usl.sigma)),
        row("κ, coherency", format!("{:.8}", usl.kappa)),
        row(
            "load with the highest throughput",
            usl.peak_load.map_or_else(none, |load| step.told(load)),
        ),
        row("highest throughput", usl.peak.map_or_else(none, rate)),
        row("R²", format!("{:.5}", usl.r_squared)),
        row("residuals, root mean square", rate(usl.rms_residual)),
    ];
    let caption = "Universal Scalability Law, λN / (1 + σ(N−1) + κN(N−1))";
    Table::figures(caption, vec![String::new(), "fitted".to_owned()], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_that_are_asked_for_are_drawn() {
        let levels = objectives("p99=50ms, lost=0,p50=800us,max=2s");
        let levels: Vec<_> = levels
            .iter()
            .map(|level| (level.at, level.label.as_str()))
            .collect();
        assert_eq!(
            levels,
            [
                (50_000.0, "p99 ≤ 50 ms"),
                (800.0, "p50 ≤ 800 µs"),
                (2_000_000.0, "max ≤ 2 s")
            ]
        );
    }
}
