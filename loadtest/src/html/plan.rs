//! A capacity plan: what is needed, what breaks first, and where each number comes from.

use super::chart::Chart;
use super::lines::{Axis, Divided, Level, WIDE};
use super::page::{Part, Section, Table};
use super::rows::{Row, Rows};
use super::scale::{percent, plain};
use super::setting::doubts;
use super::slug;
use super::unit::{Unit, three_digits};
use crate::figures::grouped;
use crate::plan::report::{Answer, Check, Figure, PlanReport, Source};

pub fn section(name: &str, plan: &PlanReport) -> Section {
    let slug = slug(name);
    let mut parts = vec![
        Part::Text(plan.title.clone()),
        answers(plan),
        Part::Charts(limits_chart(plan, &slug).into_iter().collect()),
        limits(plan),
    ];
    if !plan.savings.is_empty() {
        parts.push(savings(plan));
    }
    parts.push(figures("What went in", &plan.inputs));
    parts.push(figures("What was computed from it", &plan.figures));
    if !plan.calibration.is_empty() {
        parts.push(calibration(plan));
    }
    parts.extend(plan.checks().flat_map(check));
    if !plan.unknowns.is_empty() {
        let unknowns = plan.unknowns.iter().map(|unknown| vec![unknown.clone()]);
        parts.push(prose(
            "What the plan does not know",
            &["not in it"],
            unknowns.collect(),
        ));
    }
    let mut warnings = doubts(&plan.machine, None, false);
    if !plan.is_clean() {
        warnings.push("The plan does not agree with the run that it was checked by".to_owned());
    }
    Section {
        id: format!("plan-{slug}"),
        heading: format!("Capacity plan: {name}"),
        finding: finding(plan),
        warnings,
        parts,
    }
}

fn finding(plan: &PlanReport) -> String {
    let a = &plan.answer;
    let mut words = format!(
        "{}: {} gateways ({} of them spare) with {} cores, {} GiB and {} Gbit/s in all, and {} Redis servers.",
        plan.title,
        grouped(a.gateways),
        grouped(a.spare_gateways),
        grouped(a.cores),
        three_digits(a.memory_gib),
        three_digits(a.egress_gbit_s),
        grouped(a.redis_instances)
    );
    if let Some(first) = plan.limits.first() {
        words.push_str(&format!(
            " {} breaks first.",
            super::setting::capital(&first.name)
        ));
    }
    words
}

fn prose(caption: &str, head: &[&str], rows: Vec<Vec<String>>) -> Part {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    let mut table = Table::figures(caption, head, rows);
    table.prose = true;
    Part::Table(table)
}

/// The cells of an answer, in the order of [`ANSWER`].
fn cells(a: &Answer) -> Vec<String> {
    vec![
        grouped(a.gateways),
        grouped(a.spare_gateways),
        plain(a.clients_per_gateway, 0),
        grouped(a.cores),
        three_digits(a.busy_cores),
        three_digits(a.memory_gib),
        three_digits(a.egress_gbit_s),
        grouped(a.redis_instances),
        grouped(a.shards),
    ]
}

const ANSWER: [&str; 9] = [
    "gateways",
    "of them spare",
    "clients each",
    "cores",
    "busy cores",
    "GiB",
    "Gbit/s",
    "Redis servers",
    "shards",
];

fn answer_table(caption: &str, first: &str, rows: Vec<Vec<String>>) -> Part {
    let head = std::iter::once(first)
        .chain(ANSWER)
        .map(str::to_owned)
        .collect();
    Part::Table(Table::figures(caption, head, rows))
}

fn answers(plan: &PlanReport) -> Part {
    let years = plan.years.iter().map(|year| {
        let when = match year.year {
            0 => "now".to_owned(),
            1 => "in 1 year".to_owned(),
            years => format!("in {years} years"),
        };
        let when = format!("{when}, {} users", plain(year.users, 0));
        std::iter::once(when).chain(cells(&year.answer)).collect()
    });
    let mut rows: Vec<Vec<String>> = years.collect();
    if rows.is_empty() {
        rows.push(
            std::iter::once("at the horizon".to_owned())
                .chain(cells(&plan.answer))
                .collect(),
        );
    }
    answer_table("What has to be there at the busiest moment", "when", rows)
}

fn savings(plan: &PlanReport) -> Part {
    let mut rows = vec![
        std::iter::once("as planned".to_owned())
            .chain(cells(&plan.answer))
            .collect(),
    ];
    for saving in &plan.savings {
        let name = format!("{}: {}", saving.name, saving.what);
        rows.push(std::iter::once(name).chain(cells(&saving.answer)).collect());
    }
    answer_table("What could be changed", "with", rows)
}

fn limits_chart(plan: &PlanReport, slug: &str) -> Option<Chart> {
    let rows: Vec<Row> = plan
        .limits
        .iter()
        .map(|limit| Row {
            label: limit.name.clone(),
            colour: 0,
            figure: limit.share * 100.0,
            between: None,
            dots: Vec::new(),
            told: format!(
                "{} of {} {} ({})",
                three_digits(limit.used),
                three_digits(limit.there),
                limit.unit,
                percent(limit.share)
            ),
        })
        .collect();
    let first = plan.limits.first()?;
    let told: Vec<String> = rows
        .iter()
        .map(|row| format!("{} {}", row.label, row.told))
        .collect();
    Rows {
        name: format!("plan-{slug}-limits"),
        title: format!(
            "What breaks first: {}, at {} of what is there",
            first.name,
            percent(first.share)
        ),
        description: format!(
            "Share of what one node has that is used at the busiest moment: {}.",
            told.join(", ")
        ),
        width: WIDE.0,
        axis: Axis {
            name: "used of what one node has, at the busiest moment",
            unit: Unit::Count("%"),
            divided: Divided::FromZero,
        },
        rows,
        level: Some(Level {
            at: 100.0,
            label: "all".to_owned(),
        }),
    }
    .draw()
}

fn limits(plan: &PlanReport) -> Part {
    let rows = plan.limits.iter().map(|limit| {
        vec![
            limit.name.clone(),
            format!(
                "{} of {} {}",
                three_digits(limit.used),
                three_digits(limit.there),
                limit.unit
            ),
            limit
                .gateways
                .map_or("more do not help".to_owned(), grouped),
            limit.remedy.clone(),
        ]
    });
    prose(
        "Limits, the scarcest first",
        &["limit", "used of there", "gateways for it", "what to do"],
        rows.collect(),
    )
}

fn figures(caption: &str, figures: &[Figure]) -> Part {
    let rows = figures.iter().map(|figure| {
        let (how, from) = match &figure.source {
            Source::Measured(from) => ("measured", from),
            Source::Stated(from) => ("stated", from),
            Source::Computed(from) => ("computed", from),
        };
        let value = format!("{} {}", three_digits(figure.value), figure.unit);
        vec![
            figure.name.clone(),
            value.trim().to_owned(),
            figure.what.clone(),
            format!("{how}: {from}"),
        ]
    });
    prose(
        caption,
        &["name", "value", "what", "where from"],
        rows.collect(),
    )
}

fn calibration(plan: &PlanReport) -> Part {
    let rows = plan.calibration.iter().map(|run| {
        vec![
            run.from.clone(),
            run.load.clone(),
            three_digits(run.measured_cores),
            three_digits(run.fitted_cores),
        ]
    });
    prose(
        "How well the costs explain what was measured",
        &["from", "load", "cores, measured", "cores, by the costs"],
        rows.collect(),
    )
}

fn check(check: &Check) -> Vec<Part> {
    let rows = check.compared.iter().map(|figure| {
        vec![
            figure.name.clone(),
            format!("{} {}", three_digits(figure.planned), figure.unit),
            format!("{} {}", three_digits(figure.measured), figure.unit),
            format!("{:+.1} %", figure.difference * 100.0),
        ]
    });
    let verdict = if check.agrees {
        "agrees"
    } else {
        "does NOT agree"
    };
    let caption = format!(
        "The plan {verdict} with a run within {}: {}",
        percent(check.tolerance),
        check.load
    );
    let head = ["", "planned", "measured", "difference"]
        .map(str::to_owned)
        .into();
    vec![
        Part::Table(Table::figures(&caption, head, rows.collect())),
        Part::Command(check.command.clone()),
    ]
}
