//! The page around plots and tables.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{CSS, Chart};

const STYLE: &str = include_str!("style.css");

/// Rows of words below a head.
#[derive(Debug, Clone)]
pub struct Table {
    pub caption: String,
    pub head: Vec<String>,
    /// The first cell of each says what the others are.
    pub rows: Vec<Vec<String>>,
    /// To be opened by hand: long, and rarely looked at.
    pub folded: bool,
    /// Cells are prose, not figures.
    pub prose: bool,
}

impl Table {
    /// Of figures.
    pub fn figures(caption: &str, head: Vec<String>, rows: Vec<Vec<String>>) -> Self {
        Self {
            caption: caption.to_owned(),
            head,
            rows,
            folded: false,
            prose: false,
        }
    }
}

/// Tables of so many columns fit beside each other.
const NARROW: usize = 3;

/// Cells of so many characters are not broken into lines.
const WHOLE: usize = 24;

/// What a section is made of.
#[derive(Debug, Clone)]
pub enum Part {
    Text(String),
    /// Beside each other where there is room.
    Charts(Vec<Chart>),
    Table(Table),
    /// Beside each other where there is room and they are narrow.
    Tables(Vec<Table>),
    /// To be typed as it stands.
    Command(String),
}

#[derive(Debug, Clone)]
pub struct Section {
    pub id: String,
    pub heading: String,
    /// What was found, in a sentence or two: they make the head of the page.
    pub finding: String,
    /// What casts doubt on it.
    pub warnings: Vec<String>,
    pub parts: Vec<Part>,
}

/// Everything that is shown.
#[derive(Debug, Clone)]
pub struct Page {
    pub title: String,
    /// When and where, in a line.
    pub about: String,
    pub sections: Vec<Section>,
}

impl Page {
    /// Its plots, in their order.
    pub fn charts(&self) -> impl Iterator<Item = &Chart> {
        let parts = self.sections.iter().flat_map(|section| &section.parts);
        parts.flat_map(|part| match part {
            Part::Charts(charts) => charts.as_slice(),
            _ => &[],
        })
    }

    /// As one file that needs nothing else.
    pub fn html(&self) -> String {
        let findings = self
            .sections
            .iter()
            .filter(|section| !section.finding.is_empty());
        let findings: Vec<_> = findings.collect();
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    // Without it, browsers ask the server for one.
                    link rel="icon" href="data:,";
                    style { (PreEscaped(STYLE)) (PreEscaped(CSS)) }
                }
                body {
                    header {
                        h1 { (self.title) }
                        p.about { (self.about) }
                        @for section in &findings {
                            p.finding {
                                @if findings.len() > 1 { a href=(format!("#{}", section.id)) { (section.heading) } ": " }
                                (section.finding)
                            }
                        }
                    }
                    main { @for section in &self.sections { (draw(section)) } }
                }
            }
        };
        page.into_string()
    }
}

fn draw(section: &Section) -> Markup {
    html! {
        section id=(section.id) {
            h2 { (section.heading) }
            @if !section.warnings.is_empty() {
                ul.warnings { @for warning in &section.warnings { li { (warning) } } }
            }
            @for part in &section.parts { (part_of(part)) }
        }
    }
}

fn part_of(part: &Part) -> Markup {
    html! {
        @match part {
            Part::Text(words) => p { (words) },
            Part::Charts(charts) => div.charts {
                @for chart in charts { figure { (chart.svg()) } }
            },
            Part::Table(table) => (table_of(table)),
            Part::Tables(tables) => {
                @let narrow = tables.iter().all(|table| table.head.len() <= NARROW);
                div.tables[narrow] { @for table in tables { div { (table_of(table)) } } }
            }
            Part::Command(words) => pre { code { (words) } },
        }
    }
}

fn table_of(table: &Table) -> Markup {
    html! {
        @if table.folded {
            details { summary { (table.caption) } (rows(table)) }
        } @else {
            h3 { (table.caption) }
            (rows(table))
        }
    }
}

fn rows(table: &Table) -> Markup {
    html! {
        // What does not fit is scrolled to, by keyboard, too.
        div.wide tabindex="0" role="region" aria-label=(table.caption) {
            table.prose[table.prose] {
                thead { tr { @for cell in &table.head { th scope="col" { (cell) } } } }
                tbody {
                    @for row in &table.rows {
                        tr {
                            @for (nth, cell) in row.iter().enumerate() {
                                @if nth == 0 { th scope="row" { (cell) } } @else { td.whole[cell.chars().count() <= WHOLE] { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
