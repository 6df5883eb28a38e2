//! One figure of several things below each other, each with its interval.

use maud::{Markup, html};

use super::chart::{Chart, EDGE, TEXT, below_title, colour, fitted, px, text, width_of};
use super::lines::{Axis, Divided, Level};
use super::scale::Scale;

/// From one row to the next.
const ROW: f64 = 50.0;

/// What is known of one thing.
#[derive(Debug, Clone)]
pub struct Row {
    pub label: String,
    pub colour: usize,
    pub figure: f64,
    /// Between these it lies, with a confidence of 95 %.
    pub between: Option<(f64, f64)>,
    /// What it was made from, each a dot.
    pub dots: Vec<f64>,
    /// At the end of the row.
    pub told: String,
}

/// Rows over one axis: bars when it begins at 0, otherwise dots.
#[derive(Debug, Clone)]
pub struct Rows {
    pub name: String,
    pub title: String,
    pub description: String,
    pub width: f64,
    pub axis: Axis,
    pub rows: Vec<Row>,
    /// What the figures are to be seen against.
    pub level: Option<Level>,
}

impl Rows {
    /// Draws it; nothing when there is no row.
    pub fn draw(mut self) -> Option<Chart> {
        self.rows.retain(|row| row.figure.is_finite());
        let figures: Vec<f64> = self.rows.iter().flat_map(figures).collect();
        let largest = figures.iter().copied().fold(0.0, f64::max);
        if self.rows.is_empty() {
            return None;
        }
        let (divisor, unit) = self.axis.unit.fit(largest);
        let level = self.level.iter().map(|level| level.at);
        let all = figures.into_iter().chain(level);
        let zero = self.axis.divided == Divided::FromZero;
        let scale = Scale::linear(all.map(|figure| figure / divisor), zero);
        let top =
            below_title(&self.title, self.width) + if self.level.is_some() { 22.0 } else { 4.0 };
        #[expect(clippy::cast_precision_loss, reason = "a handful of rows")]
        let bottom = top + ROW * self.rows.len() as f64;
        let place = Place {
            left: EDGE + 8.0,
            right: self.width - EDGE - 22.0,
            scale,
            divisor,
        };
        let height = bottom + 46.0;
        let mut name = self.axis.name.to_owned();
        if !unit.is_empty() {
            name.push_str(&format!(", {unit}"));
        }
        let body = html! {
            @for (x, label) in place.ticks() {
                path class="grid" d=(format!("M{} {}V{}", px(x), px(top), px(bottom + 5.0))) {}
                @if let Some(label) = label { (text("tick", "middle", x, bottom + 5.0 + TEXT, &label)) }
            }
            path class="axis" d=(format!("M{} {}H{}", px(place.left), px(bottom), px(place.right))) {}
            @if let Some(level) = &self.level {
                (mark(level, &place, (top, bottom)))
            }
            @for (nth, row) in self.rows.iter().enumerate() {
                @let y = top + ROW * f64::from(u32::try_from(nth).unwrap_or(u32::MAX));
                (draw_row(row, y, &place, zero))
            }
            (text("axis-name", "end", place.right, height - 9.0, &name))
        };
        Some(Chart {
            name: self.name,
            title: self.title,
            description: self.description,
            width: self.width,
            height,
            body,
        })
    }
}

fn figures(row: &Row) -> Vec<f64> {
    let mut figures = row.dots.clone();
    figures.push(row.figure);
    figures.extend(row.between.iter().flat_map(|(from, to)| [*from, *to]));
    figures
}

struct Place {
    left: f64,
    right: f64,
    scale: Scale,
    divisor: f64,
}

impl Place {
    fn across(&self, figure: f64) -> f64 {
        self.left + (self.right - self.left) * self.scale.place(figure / self.divisor)
    }

    fn ticks(&self) -> Vec<(f64, Option<String>)> {
        let ticks = self.scale.ticks();
        let labels = ticks.iter().map(|tick| self.scale.label(*tick));
        let widest = labels
            .map(|label| width_of(&label, TEXT))
            .fold(0.0, f64::max);
        let mut last = f64::NEG_INFINITY;
        let mut shown = Vec::new();
        for tick in ticks {
            let x = self.across(tick * self.divisor);
            let fits = x - last > widest + 6.0;
            if fits {
                last = x;
            }
            shown.push((x, fits.then(|| self.scale.label(tick))));
        }
        shown
    }
}

fn mark(level: &Level, place: &Place, (top, bottom): (f64, f64)) -> Markup {
    let x = place.across(level.at);
    let half = width_of(&level.label, TEXT) / 2.0;
    let middle = x.clamp(
        place.left + half,
        (place.right - half).max(place.left + half),
    );
    html! {
        path class="reference" d=(format!("M{} {}V{}", px(x), px(top - 4.0), px(bottom))) {}
        (text("mark", "middle", middle, top - 9.0, &level.label))
    }
}

fn draw_row(row: &Row, top: f64, place: &Place, bar: bool) -> Markup {
    let told = width_of(&row.told, TEXT) * 1.08;
    let label = fitted(&row.label, TEXT, place.right - place.left - told - 16.0);
    let (words, y) = (top + TEXT + 6.0, top + 33.0);
    let x = place.across(row.figure);
    let colour = colour(row.colour);
    html! {
        (text(&format!("label {colour}"), "start", place.left, words, &label))
        (text("value", "end", place.right, words, &row.told))
        @if bar {
            rect class=(format!("bar {colour}")) x=(px(place.left)) y=(px(y - 7.0)) width=(px(x - place.left)) height="14" {}
        }
        @for dot in row.dots.iter().filter(|dot| dot.is_finite()) {
            circle class=(format!("pulse {colour}")) cx=(px(place.across(*dot))) cy=(px(y)) r="3.5" {}
        }
        @if let Some((from, to)) = row.between {
            @let (from, to) = (px(place.across(from)), px(place.across(to)));
            path class="interval" d=(format!("M{from} {y}H{to}M{from} {}V{}M{to} {}V{}", y - 6.0, y + 6.0, y - 6.0, y + 6.0)) {}
        }
        @if !bar {
            (median((x, y)))
        }
    }
}

/// A diamond.
fn median((x, y): (f64, f64)) -> Markup {
    html! {
        path class="median" d=(format!("M{} {}l6 6l-6 6l-6 -6Z", px(x), px(y - 6.0))) {}
    }
}
