//! What coming and going did to those who stayed.

use super::chart::Chart;
use super::course::{self, Timed, warm};
use super::lines::{Axis, Divided, HALF, Level};
use super::page::{Part, Section, Table};
use super::rows::{Row, Rows};
use super::run::{Curve, delivered, faults, percentiles};
use super::scale::plain;
use super::setting::doubts;
use super::slug;
use super::unit::Unit;
use crate::churn::report::{ChurnReport, Phase};
use crate::figures::{grouped, per};

pub fn section(name: &str, report: &ChurnReport) -> Section {
    let slug = slug(name);
    let asked = &report.asked;
    let mut parts = vec![Part::Text(format!(
        "Established: {}. Beside them {} clients/s leave and are replaced, and {} clients/s change a topic. Storms of {} clients that all leave and come back at once: {}.",
        report.scenario.line(),
        plain(asked.churn_rate, 1),
        plain(asked.resubscribe_rate, 1),
        grouped(asked.storm.into()),
        asked.storm_at.len()
    ))];
    let curves = report.phases.iter().map(|phase| Curve {
        label: &phase.name,
        latency: &phase.latency_us,
        points: phase.latency_curve_us.clone(),
    });
    let charts = [
        phases(report, &slug),
        percentiles(
            &format!("churn-{slug}-latency-percentiles"),
            HALF,
            curves.collect(),
        ),
    ];
    parts.push(Part::Charts(charts.into_iter().flatten().collect()));
    let start = warm(&report.scenario);
    let timed = Timed {
        name,
        series: &report.series,
        scenario: &report.scenario,
        cores: report.machine.pins.server.list().len(),
        marks: report
            .storms
            .iter()
            .enumerate()
            .map(|(nth, storm)| Level {
                at: start + storm.at,
                label: format!("storm {}", nth + 1),
            })
            .collect(),
    };
    parts.extend(course::parts(&format!("churn-{slug}"), &[timed]));
    parts.push(phase_table(report));
    if !report.storms.is_empty() {
        parts.push(storm_table(report));
    }
    parts.push(figures(report));
    Section {
        id: format!("churn-{slug}"),
        heading: format!("Churn: {name}"),
        finding: finding(report),
        warnings: warnings(report),
        parts,
    }
}

fn finding(report: &ChurnReport) -> String {
    let worst = report
        .phases
        .iter()
        .skip(1)
        .max_by(|a, b| a.p99_ratio.total_cmp(&b.p99_ratio));
    let mut words = format!(
        "{} delivered {} to the clients that stayed",
        report.server,
        delivered(&report.counts, report.expected)
    );
    if let Some(worst) = worst.filter(|phase| phase.latency_us.count > 0) {
        words.push_str(&format!(
            "; their p99 rose to {} times what it was before, in {}",
            plain(worst.p99_ratio, 2),
            worst.name
        ));
    }
    let coming = &report.coming;
    words
        + &format!(
            ". {} of {} clients that left came back.",
            grouped(coming.back),
            grouped(coming.left)
        )
}

fn warnings(report: &ChurnReport) -> Vec<String> {
    let mut warnings = faults(&report.counts, &report.lost_topics, report.gone);
    for (why, n) in &report.coming.failures {
        warnings.push(format!("Did not come back: {} × {why}", grouped(*n)));
    }
    warnings.extend(doubts(
        &report.machine,
        Some(&report.occupancy),
        report.ended_early,
    ));
    warnings
}

fn phases(report: &ChurnReport, slug: &str) -> Option<Chart> {
    let known = report
        .phases
        .iter()
        .enumerate()
        .filter(|(_, phase)| phase.latency_us.count > 0);
    let rows: Vec<Row> = known
        .map(|(nth, phase)| Row {
            label: phase.name.clone(),
            colour: nth,
            figure: per(phase.latency_us.p99, 1),
            between: None,
            dots: Vec::new(),
            told: format!(
                "{} (× {})",
                Unit::Micros.tell(per(phase.latency_us.p99, 1)),
                plain(phase.p99_ratio, 2)
            ),
        })
        .collect();
    let told: Vec<String> = rows
        .iter()
        .map(|row| format!("{} {}", row.label, row.told))
        .collect();
    Rows {
        name: format!("churn-{slug}-phases"),
        title: "p99 of those who stayed, by phase".to_owned(),
        description: format!(
            "p99 latency by phase, and how many times that of the first: {}.",
            told.join(", ")
        ),
        width: HALF.0,
        axis: Axis {
            name: "p99 latency",
            unit: Unit::Micros,
            divided: Divided::FromZero,
        },
        rows,
        level: None,
    }
    .draw()
}

fn phase_table(report: &ChurnReport) -> Part {
    let head = [
        "phase",
        "seconds",
        "updates",
        "p50",
        "p99",
        "p99.9",
        "p99 by before's",
        "server cores",
        "swarm cores",
    ];
    let row = |phase: &Phase| {
        let l = &phase.latency_us;
        let mut row = vec![
            phase.name.clone(),
            format!("{:.1} to {:.1}", phase.from, phase.to),
            grouped(phase.delivered),
        ];
        row.extend([l.p50, l.p99, l.p999].map(|us| {
            if l.count == 0 {
                "–".to_owned()
            } else {
                Unit::Micros.tell(per(us, 1))
            }
        }));
        row.push(plain(phase.p99_ratio, 2));
        row.push(
            phase
                .server_cores
                .map_or("–".to_owned(), |cores| plain(cores, 2)),
        );
        row.push(plain(phase.swarm_cores, 2));
        row
    };
    let rows = report.phases.iter().map(row).collect();
    Part::Table(Table::figures(
        "Phases, seen by those who stayed",
        head.map(str::to_owned).into(),
        rows,
    ))
}

fn storm_table(report: &ChurnReport) -> Part {
    let head = [
        "storm at",
        "clients",
        "back",
        "after",
        "clients/s",
        "p99 by before's",
        "server CPU per client",
    ];
    let rows = report.storms.iter().map(|storm| {
        vec![
            format!("{:.1} s", storm.at),
            grouped(storm.clients),
            grouped(storm.back),
            storm
                .seconds
                .map_or("never all".to_owned(), |seconds| format!("{seconds:.2} s")),
            plain(storm.clients_per_second, 0),
            plain(storm.p99_ratio, 2),
            storm
                .server_us_per_client
                .map_or("–".to_owned(), |us| Unit::Micros.tell(us)),
        ]
    });
    Part::Table(Table::figures(
        "Storms",
        head.map(str::to_owned).into(),
        rows.collect(),
    ))
}

fn figures(report: &ChurnReport) -> Part {
    let row = |what: &str, told: String| vec![what.to_owned(), told];
    let unknown = || "–".to_owned();
    let coming = &report.coming;
    let tell = |count: u64, us: u64| {
        if count == 0 {
            unknown()
        } else {
            Unit::Micros.tell(per(us, 1))
        }
    };
    let (took, answered) = (&coming.took_us, &coming.resubscribe_us);
    let rows = vec![
        row(
            "delivered to those who stayed",
            delivered(&report.counts, report.expected),
        ),
        row("of them disconnected", grouped(report.gone)),
        row("left", grouped(coming.left)),
        row("came back", grouped(coming.back)),
        row("did not", grouped(coming.failed)),
        row(
            "from connecting to subscribed, p50",
            tell(took.count, took.p50),
        ),
        row(
            "from connecting to subscribed, p99",
            tell(took.count, took.p99),
        ),
        row(
            "changes of a topic, answered of asked",
            format!(
                "{} of {}",
                grouped(coming.answered),
                grouped(coming.resubscribed)
            ),
        ),
        row("until the answer, p99", tell(answered.count, answered.p99)),
        row(
            "server CPU per coming and going",
            report
                .server_us_per_change
                .map_or_else(unknown, |us| Unit::Micros.tell(us)),
        ),
        row(
            "server CPU per bar",
            report
                .cpu
                .as_ref()
                .map_or_else(unknown, |cpu| Unit::Micros.tell(cpu.us_per_bar)),
        ),
        row(
            "resident memory per client",
            report
                .memory
                .as_ref()
                .map_or_else(unknown, |memory| Unit::Bytes.tell(memory.bytes_per_client)),
        ),
    ];
    Part::Table(Table::figures(
        "Coming and going",
        vec![String::new(), report.server.clone()],
        rows,
    ))
}
