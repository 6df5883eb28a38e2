//! A plan as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::report::{Answer, Check, Figure, PlanReport, Source};
use crate::figures::grouped;

/// Significant digits of a figure.
const DIGITS: i32 = 4;

/// A number for people: whole ones in groups of three, others with four digits that say something.
pub fn number(value: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "just checked"
    )]
    if (value.fract() == 0.0 || value >= 999.5) && (0.0..1e18).contains(&value) {
        return grouped(value.round() as u64);
    }
    #[expect(clippy::cast_possible_truncation, reason = "a few hundred at most")]
    let before = value.abs().log10().floor() as i32;
    let digits = usize::try_from(DIGITS - 1 - before).unwrap_or(0).min(9);
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn with_unit(value: f64, unit: &str) -> String {
    format!("{} {unit}", number(value)).trim_end().to_owned()
}

/// Columns of the table of answers.
const COLUMNS: [&str; 8] = [
    "gateways",
    "cores",
    "busy",
    "GiB",
    "Gbit/s",
    "Redis",
    "shards",
    "clients each",
];

fn cells(answer: &Answer) -> [String; 8] {
    [
        grouped(answer.gateways),
        grouped(answer.cores),
        number(answer.busy_cores),
        number(answer.memory_gib),
        number(answer.egress_gbit_s),
        grouped(answer.redis_instances),
        grouped(answer.shards),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clients"
        )]
        grouped(answer.clients_per_gateway.round() as u64),
    ]
}

/// Rows with their columns aligned, the first to the left.
fn aligned(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        rows.iter()
            .filter_map(|row| row.get(at))
            .map(|c| c.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let _ = if at == 0 {
                write!(line, "  {cell:<width$}")
            } else {
                write!(line, "  {cell:>width$}")
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

impl PlanReport {
    /// The plan for people.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.title);
        self.answers(&mut text);
        self.scarce(&mut text);
        self.compared(&mut text);
        text.push_str("\nWhat this plan does not know\n");
        for unknown in &self.unknowns {
            let _ = writeln!(text, "  - {unknown}");
        }
        text.push_str("\nWhere every number comes from: --explain, or --json\n");
        for line in self.machine.lines() {
            let _ = writeln!(text, "  {line}");
        }
        text
    }

    fn answers(&self, text: &mut String) {
        let head = || COLUMNS.map(str::to_owned).to_vec();
        let row = |name: String, answer: &Answer| [vec![name], cells(answer).to_vec()].concat();
        let mut rows = vec![[vec!["needed".to_owned()], head()].concat()];
        for year in &self.years {
            let name = if self.years.len() == 1 {
                format!("{} users", number(year.users.round()))
            } else {
                format!("year {}: {} users", year.year, number(year.users.round()))
            };
            rows.push(row(name, &year.answer));
        }
        for saving in &self.savings {
            rows.push(row(format!("  with {}", saving.name), &saving.answer));
        }
        aligned(text, &rows);
        let spare = self.answer.spare_gateways;
        let _ = writeln!(
            text,
            "  {} of the gateways may fail; busy, GiB and Gbit/s are in use at the busiest moment, all gateways together.",
            grouped(spare)
        );
        if let Some(burst) = self.figures.iter().find(|figure| figure.name == "burst_ms") {
            let _ = writeln!(
                text,
                "  A burst of updates takes {} ms until the last client is written.",
                number(burst.value)
            );
        }
        for saving in &self.savings {
            let _ = writeln!(text, "  {}: {}.", saving.name, saving.what);
        }
    }

    fn scarce(&self, text: &mut String) {
        if let Some(first) = self.limits.first() {
            let _ = writeln!(
                text,
                "\nWhat breaks first: {} ({})",
                first.name, first.remedy
            );
        }
        let mut rows = vec![
            ["", "used", "of", "share", "gateways"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for limit in &self.limits {
            rows.push(vec![
                limit.name.clone(),
                number(limit.used),
                with_unit(limit.there, &limit.unit),
                format!("{:.1} %", limit.share * 100.0),
                limit.gateways.map_or("-".to_owned(), grouped),
            ]);
        }
        aligned(text, &rows);
        text.push_str("  of one node at the busiest moment, after the failures; gateways: asked for by this limit alone\n");
    }

    /// Every number with its formula or source. Sources of measurements are long and shared, so they
    /// stand below by number.
    pub fn explanation(&self) -> String {
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut notes = Vec::new();
        let mut rows = Vec::new();
        let mut row = |figure: &'_ Figure, from: String| {
            rows.push((
                figure.name.clone(),
                with_unit(figure.value, &figure.unit),
                figure.what.clone(),
                from,
            ));
        };
        for figure in &self.inputs {
            let from = match &figure.source {
                Source::Measured(from) => {
                    let next = numbers.len() + 1;
                    let number = *numbers.entry(from.as_str()).or_insert_with(|| {
                        notes.push(format!("[{next}] {from}"));
                        next
                    });
                    format!("measured [{number}]")
                }
                other => other.line(),
            };
            row(figure, from);
        }
        for figure in &self.figures {
            row(figure, figure.source.line());
        }
        let mut text = String::from("\nEvery number, and where it comes from\n");
        let width = |of: fn(&(String, String, String, String)) -> &String| {
            rows.iter()
                .map(|row| of(row).chars().count())
                .max()
                .unwrap_or(0)
        };
        let (names, values) = (width(|row| &row.0), width(|row| &row.1));
        for (name, value, what, from) in &rows {
            let _ = writeln!(text, "  {name:<names$}  {value:>values$}  {what}; {from}");
        }
        for note in notes {
            let _ = writeln!(text, "  {note}");
        }
        text
    }

    fn compared(&self, text: &mut String) {
        if !self.calibration.is_empty() {
            text.push_str("\nThe runs that the costs were learned from, in busy cores\n");
            let mut rows = vec![
                ["", "measured", "by the costs", ""]
                    .map(str::to_owned)
                    .to_vec(),
            ];
            for run in &self.calibration {
                rows.push(vec![
                    run.load.clone(),
                    number(run.measured_cores),
                    number(run.fitted_cores),
                    percent(run.fitted_cores / run.measured_cores - 1.0),
                ]);
            }
            aligned(text, &rows);
        }
        for check in self.checks() {
            compared_with_a_run(text, check);
        }
    }

    /// The comparisons with runs that were made.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        [&self.check, &self.check_with_max_rate]
            .into_iter()
            .flatten()
    }

    /// Whether the plan agrees with the runs that checked it, if any did.
    pub fn is_clean(&self) -> bool {
        self.checks().all(|check| check.agrees)
    }
}

fn compared_with_a_run(text: &mut String, check: &Check) {
    let _ = writeln!(
        text,
        "\nPlanned and run: {}\n  {}",
        check.load, check.command
    );
    let mut rows = vec![
        ["", "planned", "measured", "difference"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in &check.compared {
        rows.push(vec![
            row.name.clone(),
            with_unit(row.planned, &row.unit),
            with_unit(row.measured, &row.unit),
            percent(row.difference),
        ]);
    }
    aligned(text, &rows);
    let verdict = if check.agrees {
        "agrees"
    } else {
        "DOES NOT AGREE"
    };
    let _ = writeln!(
        text,
        "  the plan {verdict} within {:.0} %",
        check.tolerance * 100.0
    );
}

fn percent(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        for (value, text) in [
            (0.0, "0"),
            (12.0, "12"),
            (1_234_567.0, "1,234,567"),
            (12_345.6, "12,346"),
            (1_234.56, "1,235"),
            (1.5, "1.5"),
            (0.012_345, "0.01235"),
            (999.4, "999.4"),
            (999.96, "1,000"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
