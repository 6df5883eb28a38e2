//! Lines and points over two axes.

use maud::{Markup, html};

use super::chart::{Chart, EDGE, TEXT, below_title, colour, fitted, px, text, width_of};
use super::scale::Scale;
use super::unit::Unit;

/// How an axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Divided {
    /// Evenly, from 0 on.
    FromZero,
    /// Evenly, from 0 to the last figure.
    Exact,
    /// Evenly, around the figures.
    Around,
    Log,
    /// Percentiles, by 1/(1 − share).
    Nines,
}

#[derive(Debug, Clone)]
pub struct Axis {
    pub name: &'static str,
    pub unit: Unit,
    pub divided: Divided,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    Line,
    Dashed,
    Points,
    /// Points that are not filled.
    Hollow,
}

#[derive(Debug, Clone)]
pub struct Series {
    /// Written where it ends.
    pub label: String,
    /// Which colour: series that belong together share one.
    pub colour: usize,
    pub drawn: Drawn,
    /// `None` where nothing is known: the line is broken there.
    pub points: Vec<(f64, Option<f64>)>,
}

/// A height that figures are to be seen against.
#[derive(Debug, Clone)]
pub struct Level {
    pub at: f64,
    pub label: String,
}

#[derive(Debug, Clone)]
pub struct Lines {
    pub name: String,
    pub title: String,
    pub description: String,
    pub width: f64,
    pub height: f64,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    pub levels: Vec<Level>,
    /// Upright lines.
    pub marks: Vec<Level>,
    /// From one place to another, and why it is shaded.
    pub shade: Option<(f64, f64, &'static str)>,
}

/// A full-width plot.
pub const WIDE: (f64, f64) = (1040.0, 380.0);
/// Two of them fit beside each other.
pub const HALF: (f64, f64) = (512.0, 270.0);

/// An axis with its scale, in the unit that fits.
struct Ruler<'a> {
    axis: &'a Axis,
    scale: Scale,
    /// The base unit by that of the axis.
    divisor: f64,
    unit: &'static str,
}

impl<'a> Ruler<'a> {
    fn of(axis: &'a Axis, figures: &[f64]) -> Self {
        // Along a log axis the small figures need to be told apart, too.
        let typical = if axis.divided == Divided::Log {
            let positive = figures.iter().copied().filter(|figure| *figure > 0.0);
            positive.fold(f64::MAX, f64::min)
        } else {
            figures
                .iter()
                .copied()
                .fold(0.0, |a: f64, b| a.max(b.abs()))
        };
        let (divisor, unit) = axis.unit.fit(typical);
        let figures = figures.iter().map(|figure| figure / divisor);
        let scale = match axis.divided {
            Divided::FromZero => Scale::linear(figures, true),
            Divided::Exact => Scale::until(figures),
            Divided::Around => Scale::linear(figures, false),
            Divided::Log => Scale::log(figures),
            Divided::Nines => Scale::Nines,
        };
        Self {
            axis,
            scale,
            divisor,
            unit,
        }
    }

    fn place(&self, figure: f64) -> f64 {
        self.scale.place(figure / self.divisor)
    }

    fn has_place(&self, figure: f64) -> bool {
        figure.is_finite() && (figure > 0.0 || self.axis.divided != Divided::Log)
    }

    fn name(&self) -> String {
        let mut name = self.axis.name.to_owned();
        if !self.unit.is_empty() {
            name.push_str(&format!(", {}", self.unit));
        }
        if self.axis.divided == Divided::Log {
            name.push_str(" (log scale)");
        }
        name
    }
}

/// Where things are drawn.
struct Plot<'a> {
    x: Ruler<'a>,
    y: Ruler<'a>,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Plot<'_> {
    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.across(x), self.up(y))
    }

    fn across(&self, x: f64) -> f64 {
        self.left + (self.right - self.left) * self.x.place(x)
    }

    fn up(&self, y: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * self.y.place(y)
    }
}

impl Lines {
    /// Draws it; nothing when there is not one point.
    pub fn draw(self) -> Option<Chart> {
        let xs: Vec<f64> = self.places().map(|(x, _)| x).collect();
        let mut ys: Vec<f64> = self.places().map(|(_, y)| y).collect();
        if ys.is_empty() {
            return None;
        }
        ys.extend(self.levels.iter().map(|level| level.at));
        let mut wide = xs;
        wide.extend(self.marks.iter().map(|mark| mark.at));
        let (x, y) = (Ruler::of(&self.x, &wide), Ruler::of(&self.y, &ys));
        let head = below_title(&self.title, self.width) + 26.0;
        let top = head
            + if self.marks.is_empty() {
                0.0
            } else {
                TEXT + 4.0
            };
        let bottom = self.height - 46.0;
        let ticks = y.scale.ticks();
        let widest = ticks
            .iter()
            .map(|tick| width_of(&y.scale.label(*tick), TEXT));
        let left = EDGE + widest.fold(0.0, f64::max) + 8.0;
        let room = self.room_for_labels();
        let plot = Plot {
            x,
            y,
            left,
            right: self.width - EDGE - room.max(12.0),
            top,
            bottom,
        };
        let body = html! {
            (self.shaded(&plot))
            (axes(&plot, head, self.height))
            (self.references(&plot))
            @for series in &self.series { (line(series, &plot)) }
            (self.labels(&plot))
        };
        Some(Chart {
            name: self.name,
            title: self.title,
            description: self.description,
            width: self.width,
            height: self.height,
            body,
        })
    }

    fn places(&self) -> impl Iterator<Item = (f64, f64)> {
        let points = self.series.iter().flat_map(|series| &series.points);
        points.filter_map(|(x, y)| Some((*x, y.filter(|y| y.is_finite() && x.is_finite())?)))
    }

    /// The widest label at the right, in px.
    fn room_for_labels(&self) -> f64 {
        let labels = self.series.iter().map(|series| &series.label);
        let labels = labels.chain(self.levels.iter().map(|level| &level.label));
        let widest = labels
            .map(|label| width_of(label, TEXT))
            .fold(0.0, f64::max);
        if widest == 0.0 {
            0.0
        } else {
            widest.min(self.most_room()) + 10.0
        }
    }

    fn most_room(&self) -> f64 {
        self.width * 0.3
    }

    fn shaded(&self, plot: &Plot<'_>) -> Markup {
        let Some((from, to, why)) = self.shade.filter(|(from, to, _)| to > from) else {
            return html! {};
        };
        let (from, to) = (plot.across(from), plot.across(to));
        html! {
            rect class="shade" x=(px(from)) y=(px(plot.top)) width=(px(to - from)) height=(px(plot.bottom - plot.top)) {}
            @if to - from > width_of(why, TEXT) + 8.0 {
                (text("tick", "start", from + 5.0, plot.top + TEXT + 2.0, why))
            }
        }
    }

    /// Upright and level lines; the labels of the level ones are with those of the series.
    fn references(&self, plot: &Plot<'_>) -> Markup {
        html! {
            @for level in &self.levels {
                path class="reference" d=(format!("M{} {}H{}", px(plot.left), px(plot.up(level.at)), px(plot.right))) {}
            }
            @for (x, label) in self.labelled_marks(plot) {
                path class="reference" d=(format!("M{} {}V{}", px(x), px(plot.top - 4.0), px(plot.bottom))) {}
                @if let Some((middle, label)) = label {
                    (text("mark", "middle", middle, plot.top - 7.0, label))
                }
            }
        }
    }

    /// Where the upright lines are, and their labels; one that would touch its neighbour is left out.
    fn labelled_marks(&self, plot: &Plot<'_>) -> Vec<(f64, Option<(f64, &str)>)> {
        let mut last = f64::NEG_INFINITY;
        let marks = self.marks.iter().map(|mark| {
            let (x, half) = (plot.across(mark.at), width_of(&mark.label, TEXT) / 2.0);
            let middle = x.min(plot.right - half).max(plot.left + half);
            let fits = middle - half > last + 6.0;
            if fits {
                last = middle + half;
            }
            (x, fits.then_some((middle, mark.label.as_str())))
        });
        marks.collect()
    }

    /// Each series' name where it ends, moved apart where they would lie on each other.
    fn labels(&self, plot: &Plot<'_>) -> Markup {
        /// From one label to the next.
        const APART: f64 = TEXT + 3.5;
        let ends = self.series.iter().filter_map(|series| {
            let last = series.points.iter().rev().find_map(|(_, y)| *y)?;
            let class = format!("label {}", colour(series.colour));
            (!series.label.is_empty()).then_some((plot.up(last), class, &series.label))
        });
        let levels = self.levels.iter();
        let levels = levels.map(|level| (plot.up(level.at), "mark".to_owned(), &level.label));
        let mut labels: Vec<_> = ends.chain(levels).collect();
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut last = plot.top - APART;
        for label in &mut labels {
            label.0 = label.0.max(last + APART);
            last = label.0;
        }
        let mut next = plot.bottom + APART;
        for label in labels.iter_mut().rev() {
            label.0 = label.0.min(next - APART);
            next = label.0;
        }
        html! {
            @for (y, class, words) in &labels {
                @let words = fitted(words, TEXT, self.most_room());
                (text(class, "start", plot.right + 8.0, y + TEXT * 0.35, &words))
            }
        }
    }
}

fn axes(plot: &Plot<'_>, head: f64, height: f64) -> Markup {
    let mut last = f64::NEG_INFINITY;
    let mut shown = Vec::new();
    for tick in plot.x.scale.ticks() {
        let label = plot.x.scale.label(tick);
        let (x, half) = (
            plot.across(tick * plot.x.divisor),
            width_of(&label, TEXT) / 2.0,
        );
        // A label that would touch its neighbour is left out; its line stays.
        let fits = x - half > last + 6.0;
        if fits {
            last = x + half;
        }
        shown.push((x, fits.then_some(label)));
    }
    html! {
        @for tick in plot.y.scale.ticks() {
            @let y = plot.up(tick * plot.y.divisor);
            path class="grid" d=(format!("M{} {}H{}", px(plot.left), px(y), px(plot.right))) {}
            (text("tick", "end", plot.left - 7.0, y + TEXT * 0.35, &plot.y.scale.label(tick)))
        }
        @for (x, label) in &shown {
            path class="grid" d=(format!("M{} {}V{}", px(*x), px(plot.top), px(plot.bottom + 5.0))) {}
            @if let Some(label) = label {
                (text("tick", "middle", *x, plot.bottom + 5.0 + TEXT, label))
            }
        }
        path class="axis" d=(format!("M{} {}H{}", px(plot.left), px(plot.bottom), px(plot.right))) {}
        (text("axis-name", "start", EDGE, head - 13.0, &plot.y.name()))
        (text("axis-name", "end", plot.right, height - 9.0, &plot.x.name()))
    }
}

fn line(series: &Series, plot: &Plot<'_>) -> Markup {
    let colour = colour(series.colour);
    let stretches = stretches(series, plot);
    html! {
        @if matches!(series.drawn, Drawn::Points | Drawn::Hollow) {
            @let hollow = if series.drawn == Drawn::Hollow { " hollow" } else { "" };
            @for point in stretches.iter().flatten() {
                (dot(&format!("point {colour}{hollow}"), plot.at(*point)))
            }
        } @else {
            @for stretch in &stretches {
                @if let [point] = stretch.as_slice() {
                    (dot(&format!("point {colour}"), plot.at(*point)))
                } @else {
                    path class=(format!("line {colour}{}", if series.drawn == Drawn::Dashed { " dashed" } else { "" }))
                        d=(path(stretch, plot)) {}
                }
            }
        }
    }
}

/// The points between two that are not known.
fn stretches(series: &Series, plot: &Plot<'_>) -> Vec<Vec<(f64, f64)>> {
    let mut stretches = vec![Vec::new()];
    for (x, y) in &series.points {
        match y.filter(|y| plot.y.has_place(*y) && plot.x.has_place(*x)) {
            Some(y) => {
                if let Some(stretch) = stretches.last_mut() {
                    stretch.push((*x, y));
                }
            }
            None => stretches.push(Vec::new()),
        }
    }
    stretches.retain(|stretch| !stretch.is_empty());
    stretches
}

fn path(points: &[(f64, f64)], plot: &Plot<'_>) -> String {
    let places = points.iter().map(|point| plot.at(*point));
    let words: Vec<String> = places
        .map(|(x, y)| format!("{} {}", px(x), px(y)))
        .collect();
    format!("M{}", words.join("L"))
}

/// One point.
pub fn dot(class: &str, (x, y): (f64, f64)) -> Markup {
    html! { circle class=(class) cx=(px(x)) cy=(px(y)) r="3.5" {} }
}
