//! Where figures were taken and how to take them again.

use jiff::Timestamp;

use super::Named;
use super::page::{Part, Section, Table};
use crate::machine::Machine;
use crate::occupancy::Occupancy;
use crate::outcome::Outcome;

/// How lines begin that cast doubt on figures.
const WARNING: &str = "WARNING: ";

impl Named {
    fn machine(&self) -> &Machine {
        match &self.outcome {
            Outcome::Run(report) => &report.machine,
            Outcome::Pair(report) => &report.around.machine,
            Outcome::Compare(report) => &report.around.machine,
            Outcome::Ramp(report) => &report.machine,
            Outcome::Churn(report) => &report.machine,
            Outcome::Plan(report) => &report.machine,
        }
    }
}

/// When and where, in a line.
pub fn about(all: &[Named]) -> String {
    let days = all.iter().map(|named| named.machine().at);
    let (first, last) = (days.clone().min(), days.max());
    let mut words = match (first.and_then(day), last.and_then(day)) {
        (Some(first), Some(last)) if first != last => format!("{first} to {last}"),
        (Some(first), _) => first,
        _ => "at an unknown time".to_owned(),
    };
    let mut machines: Vec<String> = all.iter().map(|named| place(named.machine())).collect();
    machines.dedup();
    match machines.as_slice() {
        [one] => words.push_str(&format!(" · {one}")),
        many => words.push_str(&format!(" · {} machines", many.len())),
    }
    words
}

fn place(machine: &Machine) -> String {
    let processor = machine.processor.as_deref().unwrap_or("processor unknown");
    let kernel = machine.kernel.as_deref().unwrap_or("unknown");
    format!("{} cores ({processor}), Linux {kernel}", machine.cores)
}

fn day(at: u64) -> Option<String> {
    let at = Timestamp::from_second(i64::try_from(at).ok()?).ok()?;
    Some(at.strftime("%-d %B %Y").to_string())
}

fn minute(at: u64) -> Option<String> {
    let at = Timestamp::from_second(i64::try_from(at).ok()?).ok()?;
    Some(at.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

/// What casts doubt on figures that were taken there.
pub fn doubts(machine: &Machine, around: Option<&Occupancy>, ended_early: bool) -> Vec<String> {
    let lines = around.map(Occupancy::lines).unwrap_or_default();
    let lines = lines.into_iter().chain(machine.lines());
    let mut doubts: Vec<String> = lines
        .filter_map(|line| line.strip_prefix(WARNING).map(capital))
        .collect();
    if ended_early {
        doubts.insert(0, "It was ended early".to_owned());
    }
    doubts
}

/// With a capital letter.
pub fn capital(words: &str) -> String {
    let mut chars = words.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

/// Machine, versions and commands of all.
pub fn section(all: &[Named]) -> Section {
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    let head = |first: &str| {
        let names = all.iter().map(|named| named.name.clone());
        std::iter::once(first.to_owned()).chain(names).collect()
    };
    let row = |what: &str, of: &dyn Fn(&Machine) -> String| {
        let cells = all.iter().map(|named| of(named.machine()));
        std::iter::once(what.to_owned()).chain(cells).collect()
    };
    let rows: Vec<Vec<String>> = vec![
        row("when", &|m| {
            minute(m.at).unwrap_or_else(|| "unknown".to_owned())
        }),
        row("cores", &|m| m.cores.to_string()),
        row("processor", &|m| known(&m.processor)),
        row("kernel", &|m| format!("Linux {}", known(&m.kernel))),
        row("cores of the server", &|m| m.pins.server.to_string()),
        row("cores of clients, publisher and Redis", &|m| {
            m.pins.swarm.to_string()
        }),
        row("Redis", &|m| redis_version(&known(&m.redis))),
        row("compiler", &|m| known(&m.rustc)),
        row("commit", &|m| known(&m.commit)),
    ];
    let mut table = Table::figures("Machine and versions", head(""), rows);
    table.prose = true;
    let mut parts = vec![
        Part::Text(
            "Open loop: bars are published when they are planned, whatever the server does, and latency counts from the planned time. The warm-up is in no figure.".to_owned(),
        ),
        Part::Table(table),
        Part::Text("The same again:".to_owned()),
    ];
    for named in all {
        parts.push(Part::Command(named.machine().command.clone()));
    }
    Section {
        id: "setting".to_owned(),
        heading: "How it was measured".to_owned(),
        finding: String::new(),
        warnings: Vec::new(),
        parts,
    }
}

/// `7.0.15` from what `redis-server --version` says.
fn redis_version(says: &str) -> String {
    let version = says
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="));
    version.unwrap_or(says).to_owned()
}
