//! Several servers under the same load.

use super::chart::Chart;
use super::lines::{Axis, Divided, HALF};
use super::page::{Part, Section, Table};
use super::pair::{interval, side_rows, told};
use super::rows::{Row, Rows};
use super::run::{Curve, faults, percentiles};
use super::scale::plain;
use super::setting::doubts;
use super::slug;
use super::unit::Unit;
use crate::compare_report::{CompareReport, Compared};
use crate::figures::{Spread, grouped, per};
use crate::pair_report::Pulse;

pub fn section(name: &str, report: &CompareReport) -> Section {
    let slug = slug(name);
    let mut parts = vec![Part::Text(format!(
        "{}. The servers get pulses in turn; each dot is one pulse, and the line with ends is the 95 % interval of their median.",
        report.scenario.line()
    ))];
    let charts = [
        bars(
            report,
            format!("compare-{slug}-cpu"),
            "CPU per bar",
            Unit::Micros,
            cost,
        ),
        bars(
            report,
            format!("compare-{slug}-p99"),
            "p99 latency of a pulse",
            Unit::Micros,
            p99,
        ),
        memory(report, format!("compare-{slug}-memory")),
    ];
    let curves = report.servers.iter();
    let curves = curves.map(|server| Curve::coarse(&server.side.server, &server.side.latency_us));
    let curves = percentiles(
        &format!("compare-{slug}-latency-percentiles"),
        HALF,
        curves.collect(),
    );
    let charts = charts.into_iter().flatten().chain(curves);
    parts.push(Part::Charts(charts.collect()));
    parts.push(table(report));
    Section {
        id: format!("compare-{slug}"),
        heading: format!("Comparison: {name}"),
        finding: finding(report),
        warnings: warnings(report),
        parts,
    }
}

fn finding(report: &CompareReport) -> String {
    let Some((first, others)) = report.servers.split_first() else {
        return "No server was measured.".to_owned();
    };
    let others: Vec<String> = others
        .iter()
        .filter(|other| other.ratios.cpu.count > 0)
        .map(|other| format!("{} {}", other.side.server, told(&other.ratios.cpu)))
        .collect();
    let cost = Unit::Micros.tell(first.side.ns_per_bar.median / 1_000.0);
    let mut words = format!("A bar costs {} {cost} of CPU", first.side.server);
    if !others.is_empty() {
        words.push_str(&format!("; times that: {}", others.join(", ")));
    }
    words + "."
}

fn warnings(report: &CompareReport) -> Vec<String> {
    let mut warnings = Vec::new();
    for absent in &report.failed {
        warnings.push(format!(
            "{} was not measured: {}",
            absent.server, absent.why
        ));
    }
    for absent in &report.skipped {
        warnings.push(format!("{} was left out: {}", absent.server, absent.why));
    }
    for Compared { side, .. } in &report.servers {
        let faults = faults(&side.counts, &side.lost_topics, side.gone);
        warnings.extend(
            faults
                .into_iter()
                .map(|fault| format!("{}: {fault}", side.server)),
        );
    }
    for (why, n) in &report.around.gone_why {
        warnings.push(format!("Disconnected: {} × {why}", grouped(*n)));
    }
    let around = &report.around;
    warnings.extend(doubts(
        &around.machine,
        Some(&around.occupancy),
        report.ended_early,
    ));
    warnings
}

fn cost(pulse: &Pulse) -> f64 {
    pulse.ns_per_bar / 1_000.0
}

fn p99(pulse: &Pulse) -> f64 {
    per(pulse.latency_us.p99, 1)
}

fn bars(
    report: &CompareReport,
    name: String,
    what: &'static str,
    unit: Unit,
    of: fn(&Pulse) -> f64,
) -> Option<Chart> {
    let measured = report.servers.iter().enumerate().map(|(nth, server)| {
        let pulses: Vec<f64> = server.side.pulses.iter().map(of).collect();
        let spread = Spread::of(pulses.iter().copied());
        (nth, server, pulses, spread)
    });
    let rows = measured.filter(|(.., spread)| spread.count > 0);
    let rows = rows.map(|(nth, server, dots, spread)| Row {
        label: server.side.server.clone(),
        colour: nth,
        figure: spread.median,
        between: interval(&spread),
        dots,
        told: unit.tell(spread.median),
    });
    draw(name, what, unit, rows.collect())
}

fn memory(report: &CompareReport, name: String) -> Option<Chart> {
    let rows = report
        .servers
        .iter()
        .enumerate()
        .filter_map(|(nth, server)| {
            let bytes = server.side.memory.as_ref()?.bytes_per_client;
            Some(Row {
                label: server.side.server.clone(),
                colour: nth,
                figure: bytes,
                between: None,
                dots: Vec::new(),
                told: Unit::Bytes.tell(bytes),
            })
        });
    draw(
        name,
        "Resident memory per client",
        Unit::Bytes,
        rows.collect(),
    )
}

fn draw(name: String, what: &'static str, unit: Unit, rows: Vec<Row>) -> Option<Chart> {
    let told: Vec<String> = rows
        .iter()
        .map(|row| format!("{} {}", row.label, row.told))
        .collect();
    let least = rows.iter().min_by(|a, b| a.figure.total_cmp(&b.figure))?;
    Rows {
        name,
        title: format!("{what}: least with {}, {}", least.label, least.told),
        description: format!("{what}: {}.", told.join(", ")),
        width: HALF.0,
        axis: Axis {
            name: what,
            unit,
            divided: Divided::FromZero,
        },
        rows,
        level: None,
    }
    .draw()
}

fn table(report: &CompareReport) -> Part {
    let sides: Vec<_> = report.servers.iter().map(|server| &server.side).collect();
    let mut rows = side_rows(&sides);
    let mut row = |what: &str, of: &dyn Fn(&Compared) -> String| {
        let cells = report.servers.iter().map(of);
        rows.push(std::iter::once(what.to_owned()).chain(cells).collect());
    };
    row("… of it in user space", &|server| {
        Unit::Micros.tell(server.user_ns_per_bar / 1_000.0)
    });
    row("CPU by the first's (95 %)", &|server| {
        told(&server.ratios.cpu)
    });
    row("p50 by the first's (95 %)", &|server| {
        told(&server.ratios.p50)
    });
    row("p99 by the first's (95 %)", &|server| {
        told(&server.ratios.p99)
    });
    row("cores that this load needs", &|server| {
        plain(server.cores_needed, 2)
    });
    let head = (1..=sides.len()).map(|nth| nth.to_string());
    let head = std::iter::once(String::new()).chain(head).collect();
    Part::Table(Table::figures("All figures", head, rows))
}
