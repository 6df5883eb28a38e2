//! Pairs of servers, one row each.

use super::chart::Chart;
use super::lines::{Axis, Divided, Drawn, HALF, Level, Lines, Series};
use super::page::{Part, Section, Table};
use super::rows::{Row, Rows};
use super::run::{Curve, delivered, faults, percentiles};
use super::scale::plain;
use super::setting::doubts;
use super::slug;
use super::unit::{Unit, three_digits};
use crate::figures::{Spread, grouped, per};
use crate::pair_report::{PairReport, Pulse, Side};

/// A report and what it is called.
type Pair<'a> = (&'a str, &'a PairReport);

/// Fewer pulses cannot bound a median with this confidence.
const FEWEST: usize = 6;

/// All pairs; nothing when there are none.
pub fn section(pairs: &[Pair<'_>]) -> Option<Section> {
    if pairs.is_empty() {
        return None;
    }
    let mut parts = vec![Part::Text(
        "Both servers are alive at once with the same clients and get pulses in turn, A B A B …; each dot is the ratio of one pulse, the diamond their median, and the line across it the 95 % interval of that median.".to_owned(),
    )];
    let ratios = [
        ratios(
            pairs,
            "pairs-cpu-ratio",
            "CPU per bar",
            |pair| &pair.cpu_ratio,
            cost,
        ),
        ratios(
            pairs,
            "pairs-p99-ratio",
            "p99 latency",
            |pair| &pair.p99_ratio,
            p99,
        ),
    ];
    parts.push(Part::Charts(ratios.into_iter().flatten().collect()));
    for (name, pair) in pairs {
        parts.push(Part::Charts(details(name, pair)));
        parts.push(table(name, pair));
    }
    let warnings = pairs.iter().flat_map(|(name, pair)| {
        let doubts = warnings(pair).into_iter();
        doubts.map(move |doubt| format!("{name}: {doubt}"))
    });
    Some(Section {
        id: "pairs".to_owned(),
        heading: if pairs.len() > 1 { "Pairs" } else { "Pair" }.to_owned(),
        finding: finding(pairs),
        warnings: warnings.collect(),
        parts,
    })
}

fn finding(pairs: &[Pair<'_>]) -> String {
    let one = |(name, pair): &Pair<'_>| {
        if pair.cpu_ratio.count == 0 {
            return format!("{name}: no pulse was whole, so there is no ratio.");
        }
        let (a, b) = (&pair.a.server, &pair.b.server);
        let who = if pairs.len() > 1 {
            format!("{name}: a")
        } else {
            "A".to_owned()
        };
        format!(
            "{who} bar costs {a} {} of the CPU that it costs {b}; p99 latency {}.",
            told(&pair.cpu_ratio),
            told(&pair.p99_ratio)
        )
    };
    let words: Vec<String> = pairs.iter().map(one).collect();
    words.join(" ")
}

/// A ratio with its interval, when there are figures enough for one.
pub fn told(ratio: &Spread) -> String {
    match interval(ratio) {
        Some((from, to)) => format!("{} ({}–{})", short(ratio.median), short(from), short(to)),
        None => short(ratio.median),
    }
}

/// A ratio with three digits behind the point, fewer when it is large.
fn short(ratio: f64) -> String {
    if ratio < 10.0 {
        plain(ratio, 3)
    } else {
        three_digits(ratio)
    }
}

/// Where the median lies with a confidence of 95 %, when there are figures enough to say.
pub fn interval(spread: &Spread) -> Option<(f64, f64)> {
    (spread.count >= FEWEST).then_some((spread.median_from, spread.median_to))
}

fn cost(pulse: &Pulse) -> f64 {
    pulse.ns_per_bar
}

fn p99(pulse: &Pulse) -> f64 {
    per(pulse.latency_us.p99, 1)
}

fn ratios(
    pairs: &[Pair<'_>],
    name: &str,
    what: &'static str,
    of: fn(&PairReport) -> &Spread,
    figure: fn(&Pulse) -> f64,
) -> Option<Chart> {
    let measured = pairs.iter().filter(|(_, pair)| of(pair).count > 0);
    let rows = measured.enumerate().map(|(nth, (file, pair))| {
        let pulses = pair.a.pulses.iter().zip(&pair.b.pulses);
        Row {
            label: if pairs.len() > 1 {
                (*file).to_owned()
            } else {
                format!("{} by {}", pair.a.server, pair.b.server)
            },
            colour: nth,
            figure: of(pair).median,
            between: interval(of(pair)),
            dots: pulses
                .map(|(a, b)| figure(a) / figure(b))
                .filter(|ratio| ratio.is_finite())
                .collect(),
            told: told(of(pair)),
        }
    });
    let rows: Vec<Row> = rows.collect();
    let told: Vec<String> = rows
        .iter()
        .map(|row| format!("{}: {}", row.label, row.told))
        .collect();
    let title = match rows.as_slice() {
        [row] => format!("{what}: {} of the other's", plain(row.figure, 3)),
        _ => format!("{what}, A by B"),
    };
    Rows {
        name: name.to_owned(),
        title,
        description: format!(
            "Ratio of {what}, with the 95 % interval of its median. {}.",
            told.join("; ")
        ),
        width: HALF.0,
        axis: Axis {
            name: "ratio, A by B",
            unit: Unit::Ratio,
            divided: Divided::Around,
        },
        rows,
        level: Some(Level {
            at: 1.0,
            label: "← A less · A more →".to_owned(),
        }),
    }
    .draw()
}

fn details(name: &str, pair: &PairReport) -> Vec<Chart> {
    let slug = slug(name);
    let side = |label: &str, side: &Side, colour: usize| Series {
        label: label.to_owned(),
        colour,
        drawn: Drawn::Line,
        points: side
            .pulses
            .iter()
            .enumerate()
            // Pulses are counted from 1.
            .map(|(nth, pulse)| (per(nth as u64 + 1, 1), Some(pulse.ns_per_bar / 1_000.0)))
            .collect(),
    };
    let (a, b) = labels(pair);
    let median = |side: &Side| Unit::Micros.tell(side.ns_per_bar.median / 1_000.0);
    let costs = Lines {
        name: format!("pair-{slug}-pulses"),
        title: format!("{name}: CPU per bar, pulse by pulse"),
        description: format!(
            "CPU per delivered bar of each pulse. Medians: {a} {}, {b} {}.",
            median(&pair.a),
            median(&pair.b)
        ),
        width: HALF.0,
        height: HALF.1,
        x: Axis {
            name: "pulse",
            unit: Unit::Count(""),
            divided: Divided::Exact,
        },
        y: Axis {
            name: "CPU per bar",
            unit: Unit::Micros,
            divided: Divided::FromZero,
        },
        series: vec![side(&a, &pair.a, 0), side(&b, &pair.b, 1)],
        levels: Vec::new(),
        marks: Vec::new(),
        shade: None,
    };
    let curves = vec![
        Curve::coarse(&a, &pair.a.latency_us),
        Curve::coarse(&b, &pair.b.latency_us),
    ];
    let latencies = percentiles(&format!("pair-{slug}-latency-percentiles"), HALF, curves);
    costs.draw().into_iter().chain(latencies).collect()
}

/// What the two are called in plots.
fn labels(pair: &PairReport) -> (String, String) {
    (
        format!("A {}", pair.a.server),
        format!("B {}", pair.b.server),
    )
}

fn warnings(pair: &PairReport) -> Vec<String> {
    let mut warnings = Vec::new();
    for side in [&pair.a, &pair.b] {
        let faults = faults(&side.counts, &side.lost_topics, side.gone);
        warnings.extend(
            faults
                .into_iter()
                .map(|fault| format!("{}: {fault}", side.server)),
        );
    }
    for (why, n) in &pair.around.gone_why {
        warnings.push(format!("Disconnected: {} × {why}", grouped(*n)));
    }
    let around = &pair.around;
    warnings.extend(doubts(
        &around.machine,
        Some(&around.occupancy),
        pair.ended_early,
    ));
    warnings
}

fn table(name: &str, pair: &PairReport) -> Part {
    let ratio = |ratio: &Spread| {
        if ratio.count == 0 {
            "–".to_owned()
        } else {
            told(ratio)
        }
    };
    let mut rows = side_rows(&[&pair.a, &pair.b]);
    for row in &mut rows {
        let ratio = match row[0].as_str() {
            CPU => ratio(&pair.cpu_ratio),
            P99 => ratio(&pair.p99_ratio),
            _ => String::new(),
        };
        row.push(ratio);
    }
    let head = ["", "A", "B", "A by B (95 %)"].map(str::to_owned).into();
    Part::Table(Table::figures(
        &format!("{name}: {}", pair.scenario.line()),
        head,
        rows,
    ))
}

const CPU: &str = "CPU per bar, median";
const P99: &str = "latency p99";

/// Every figure of several servers, a column each.
pub fn side_rows(sides: &[&Side]) -> Vec<Vec<String>> {
    let unknown = || "–".to_owned();
    let latency = |side: &Side, us: u64| {
        if side.latency_us.count == 0 {
            unknown()
        } else {
            Unit::Micros.tell(per(us, 1))
        }
    };
    let row = |what: &str, of: &dyn Fn(&Side) -> String| {
        let cells = sides.iter().map(|side| of(side));
        std::iter::once(what.to_owned())
            .chain(cells)
            .collect::<Vec<String>>()
    };
    vec![
        row("server", &|side| side.server.clone()),
        row("delivered", &|side| delivered(&side.counts, side.expected)),
        row("out of order, duplicates, altered", &|side| {
            let counts = &side.counts;
            format!(
                "{}, {}, {}",
                grouped(counts.out_of_order),
                grouped(counts.duplicates),
                grouped(counts.altered)
            )
        }),
        row(CPU, &|side| {
            if side.ns_per_bar.count == 0 {
                unknown()
            } else {
                Unit::Micros.tell(side.ns_per_bar.median / 1_000.0)
            }
        }),
        row("latency p50", &|side| latency(side, side.latency_us.p50)),
        row("latency p90", &|side| latency(side, side.latency_us.p90)),
        row(P99, &|side| latency(side, side.latency_us.p99)),
        row("latency p99.9", &|side| latency(side, side.latency_us.p999)),
        row("latency p99.99", &|side| {
            latency(side, side.latency_us.p9999)
        }),
        row("latency, maximum", &|side| {
            latency(side, side.latency_us.max)
        }),
        row("on the wire, per bar", &|side| {
            Unit::Bytes.tell(side.bytes_per_bar)
        }),
        row("resident memory, per client", &|side| {
            side.memory
                .as_ref()
                .map_or_else(unknown, |memory| Unit::Bytes.tell(memory.bytes_per_client))
        }),
        row("system calls, per bar", &|side| {
            side.system_calls
                .as_ref()
                .map_or_else(unknown, |calls| plain(calls.per_bar, 4))
        }),
    ]
}
