//! What every plot has: a frame with a title, text in it, a file of its own.
//!
//! Plots are drawn here and not by a crate, because they must follow light, dark and paper by CSS alone,
//! carry words for those who cannot see them, and label each line where it ends. What they share with the
//! page is `chart.css`.

use maud::{Markup, PreEscaped, html};

/// Colours and type of plots: part of the page, and of each file.
pub const CSS: &str = include_str!("chart.css");

/// Height of text in a plot, as `chart.css` has it.
pub const TEXT: f64 = 12.5;
/// Height of a plot's title, likewise.
const TITLE: f64 = 15.0;
/// From one line of a title to the next.
const TITLE_LINE: f64 = 20.0;
/// From the edge of a plot to what is in it.
pub const EDGE: f64 = 14.0;
/// Different colours for series; more than these use them again with other dashes.
pub const COLOURS: usize = 6;

/// A plot that is drawn.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Of its file, without `.svg`.
    pub name: String,
    /// What is seen, in words.
    pub title: String,
    /// For those who cannot see it: what is drawn, with the main figures.
    pub description: String,
    pub width: f64,
    pub height: f64,
    /// Everything below the title.
    pub body: Markup,
}

impl Chart {
    /// As a part of a page.
    pub fn svg(&self) -> Markup {
        let title = format!("{}-title", self.name);
        let description = format!("{}-description", self.name);
        html! {
            svg class="chart" id=(self.name) role="img" xmlns="http://www.w3.org/2000/svg"
                viewBox=(format!("0 0 {} {}", px(self.width), px(self.height)))
                width=(px(self.width)) height=(px(self.height))
                aria-labelledby=(format!("{title} {description}")) {
                title id=(title) { (self.title) }
                desc id=(description) { (self.description) }
                rect class="paper" width=(px(self.width)) height=(px(self.height)) rx="6" {}
                @for (nth, line) in wrap(&self.title, self.width).iter().enumerate() {
                    (text("title", "start", EDGE, EDGE + TITLE + offset(nth), line))
                }
                (self.body)
            }
        }
    }

    /// As a file of its own.
    pub fn file(&self) -> String {
        let text = self.svg().into_string();
        let style = html! { style { (PreEscaped(CSS)) } }.into_string();
        // Behind the opening tag: `>` cannot be in one of its attributes, it is escaped there.
        let (tag, rest) = text.split_at(text.find('>').map_or(0, |at| at + 1));
        format!("{tag}{style}{rest}\n")
    }
}

/// Where the drawing under a title begins.
pub fn below_title(title: &str, width: f64) -> f64 {
    EDGE + TITLE + offset(wrap(title, width).len() - 1) + 12.0
}

#[expect(clippy::cast_precision_loss, reason = "a few lines")]
fn offset(line: usize) -> f64 {
    line as f64 * TITLE_LINE
}

/// A place in a plot, to a tenth.
pub fn px(place: f64) -> String {
    let text = format!("{place:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A line of text.
pub fn text(class: &str, anchor: &str, x: f64, y: f64, words: &str) -> Markup {
    html! {
        text class=(class) text-anchor=(anchor) x=(px(x)) y=(px(y)) { (words) }
    }
}

/// The class that gives series number `nth` its colour and dashes.
pub fn colour(nth: usize) -> String {
    let dashes = nth / COLOURS % 3;
    format!("s{} d{dashes}", nth % COLOURS)
}

/// How wide text in a plot is at most, in the common fonts.
pub fn width_of(words: &str, size: f64) -> f64 {
    let em: f64 = words
        .chars()
        .map(|c| match c {
            'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' => 0.34,
            'f' | 't' | 'r' | '(' | ')' | '/' | '-' => 0.42,
            'm' | 'w' | 'M' | 'W' | '%' | '@' | '→' => 0.98,
            c if c.is_ascii_lowercase() || c.is_ascii_digit() => 0.64,
            c if c.is_ascii_uppercase() => 0.75,
            // Other scripts may be as wide as high.
            _ => 1.0,
        })
        .sum();
    em * size
}

/// Shortened until it is no wider than that.
pub fn fitted(words: &str, size: f64, room: f64) -> String {
    if width_of(words, size) <= room {
        return words.to_owned();
    }
    let mut short: String = words.to_owned();
    while !short.is_empty() && width_of(&short, size) + size > room {
        short.pop();
    }
    short.trim_end().to_owned() + "…"
}

/// In lines that fit the width of a plot.
fn wrap(title: &str, width: f64) -> Vec<String> {
    /// Titles are bold.
    const BOLD: f64 = 1.08;
    let room = width - 2.0 * EDGE;
    let mut lines: Vec<String> = Vec::new();
    for word in title.split_whitespace() {
        let word = fitted(word, TITLE * BOLD, room);
        if let Some(line) = lines.last_mut() {
            let longer = format!("{line} {word}");
            if width_of(&longer, TITLE * BOLD) <= room {
                *line = longer;
                continue;
            }
        }
        lines.push(word);
    }
    if lines.is_empty() {
        lines.push(String::new());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_from_a_file_stay_words() {
        let chart = Chart {
            name: "x".into(),
            title: "</title><script>alert(1)</script> & \"".into(),
            description: "a > b".into(),
            width: 900.0,
            height: 100.0,
            body: text("label", "start", 0.0, 0.0, "<b>"),
        };
        let file = chart.file();
        assert!(!file.contains("<script") && !file.contains("<b>"), "{file}");
        assert!(file.contains("&lt;script&gt;"), "{file}");
        assert!(file.contains("<style>"), "{file}");
    }

    #[test]
    fn text_is_fitted_and_wrapped() {
        assert_eq!(fitted("abc", 10.0, 100.0), "abc");
        let short = fitted(&"long ".repeat(20), 10.0, 100.0);
        assert!(
            short.ends_with('…') && width_of(&short, 10.0) <= 105.0,
            "{short}"
        );
        assert!(wrap(&"word ".repeat(40), 400.0).len() > 1);
        assert_eq!(wrap("", 400.0).len(), 1);
    }
}
