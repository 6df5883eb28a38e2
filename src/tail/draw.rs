//! The table as lines of text that fit a terminal.

use std::time::Instant;

use super::figures::{age, compact, count, none, price, shorten, sparks};
use super::table::{Link, MAX_SPARK_BARS, Row, State, Table};
use crate::bar::Topic;

/// Longest name of a topic that is shown whole, in characters.
const MAX_TOPIC_CHARS: usize = 40;
/// A spark line shorter than this says nothing.
const MIN_SPARK_BARS: usize = 8;
const BETWEEN: usize = 2;

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Faint,
    Good,
    Bad,
    Warning,
}

impl Tone {
    /// SGR parameters (ECMA-48, section 8.3.117); none for plain text.
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Warning => "33",
        }
    }
}

/// Pieces of one line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Line(Vec<(String, Tone)>);

impl Line {
    fn push(&mut self, text: impl Into<String>, tone: Tone) {
        self.0.push((text.into(), tone));
    }

    /// At most `width` characters of it, with colours or without.
    pub fn render(&self, width: usize, colours: bool) -> String {
        let mut room = width;
        let mut out = String::new();
        for (text, tone) in &self.0 {
            let text: String = text.chars().take(room).collect();
            room -= text.chars().count();
            let code = tone.code();
            if colours && !code.is_empty() && !text.is_empty() {
                out += &format!("\x1b[{code}m{text}\x1b[0m");
            } else {
                out += &text;
            }
        }
        out.trim_end().to_owned()
    }
}

/// What is shown of each topic, the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Topic,
    Last,
    Change,
    Age,
    State,
    Volume,
    Spark,
}

impl Column {
    const BY_IMPORTANCE: [Self; 6] = [
        Self::Topic,
        Self::Last,
        Self::Change,
        Self::Age,
        Self::State,
        Self::Volume,
    ];
    const IN_ORDER: [Self; 7] = [
        Self::Topic,
        Self::Last,
        Self::Change,
        Self::Spark,
        Self::Volume,
        Self::Age,
        Self::State,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Topic => "TOPIC",
            Self::Last => "LAST",
            Self::Change => "CHANGE",
            Self::Age => "AGE",
            Self::State => "STATE",
            Self::Volume => "VOLUME",
            Self::Spark => "CLOSES",
        }
    }

    fn is_left(self) -> bool {
        matches!(self, Self::Topic | Self::State | Self::Spark)
    }

    fn cell(self, topic: Topic, row: &Row, spark: usize, clock: Clock) -> (String, Tone) {
        let plain = |text: String| (text, Tone::Plain);
        match self {
            Self::Topic => plain(shorten(&topic.to_string(), MAX_TOPIC_CHARS)),
            Self::Last => plain(
                row.last()
                    .map_or_else(none, |last| price(last, row.decimals)),
            ),
            Self::Change => match row.change() {
                None => plain(none()),
                Some(change) => {
                    let tone = match change {
                        up if up > 0.0 => Tone::Good,
                        down if down < 0.0 => Tone::Bad,
                        _ => Tone::Plain,
                    };
                    (format!("{:+.2}%", change * 100.0), tone)
                }
            },
            Self::Age => plain(row.heard.map_or_else(none, |heard| age(clock.now - heard))),
            Self::State => match row.state(topic, clock.now, clock.ms) {
                State::Forming => plain("forming".to_owned()),
                State::Closed => plain("closed".to_owned()),
                State::Stale => ("stale".to_owned(), Tone::Warning),
                State::Gap => ("gap".to_owned(), Tone::Warning),
            },
            Self::Volume => plain(row.volume().map_or_else(none, compact)),
            Self::Spark => plain(sparks(row.closes(), spark)),
        }
    }
}

/// What time it is, for ages and for bars.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub now: Instant,
    /// Milliseconds since the epoch.
    pub ms: i64,
}

/// The table as at most `height` lines of at most `width` characters.
pub fn draw(table: &Table, width: usize, height: usize, clock: Clock) -> Vec<Line> {
    let mut lines = vec![status(table, clock.now)];
    if table.rows.is_empty() {
        let mut line = Line::default();
        line.push("waiting for the first bar", Tone::Faint);
        lines.push(line);
    } else {
        lines.extend(rows(table, width, height.saturating_sub(1), clock));
    }
    lines.truncate(height);
    lines
}

fn status(table: &Table, now: Instant) -> Line {
    let mut line = Line::default();
    match &table.link {
        Link::Connecting => line.push("○ connecting", Tone::Warning),
        Link::Up => line.push("● connected", Tone::Good),
        Link::Down { again, .. } => {
            let left = again.saturating_duration_since(now).as_secs_f64();
            let text = format!("○ not connected, again in {left:.1} s");
            line.push(text, Tone::Warning);
        }
    }
    if let Link::Down { why, .. } = &table.link {
        line.push(format!(" ({why})"), Tone::Plain);
    }
    let mut facts = vec![count(table.rows.len() as u64, "topic")];
    if table.link == Link::Up {
        facts.push(format!("{} bars/s", table.rate));
    }
    line.push(format!("  {}  ", facts.join("  ")), Tone::Faint);
    let tone = if table.gaps == 0 {
        Tone::Faint
    } else {
        Tone::Warning
    };
    line.push(count(table.gaps, "gap"), tone);
    if let Some(took) = table.round_trip {
        let text = format!("  round trip {:.1} ms", took.as_secs_f64() * 1e3);
        line.push(text, Tone::Faint);
    }
    // Last: what is known anyway may be cut.
    line.push(format!("  {}", table.address), Tone::Faint);
    line
}

fn rows(table: &Table, width: usize, height: usize, clock: Clock) -> Vec<Line> {
    let is_all = table.rows.len() < height;
    // One line for the titles, and one that says how many are not shown.
    let shown = height.saturating_sub(if is_all { 1 } else { 2 });
    let cells = |column: Column, spark| {
        let rows = table.rows.iter().take(shown);
        let cells = rows.map(move |(topic, row)| column.cell(*topic, row, spark, clock));
        cells.collect::<Vec<_>>()
    };
    let mut room = width;
    let mut columns = Vec::new();
    for column in Column::BY_IMPORTANCE {
        let cells = cells(column, 0);
        let widths = cells.iter().map(|(text, _)| text.chars().count());
        let widest = widths.max().unwrap_or(0).max(column.title().len());
        let needed = widest + if columns.is_empty() { 0 } else { BETWEEN };
        // The first two come at any width; lines are cut.
        if needed > room && columns.len() >= 2 {
            break;
        }
        room = room.saturating_sub(needed);
        columns.push((column, widest, cells));
    }
    let spark = room.saturating_sub(BETWEEN).min(MAX_SPARK_BARS);
    if spark >= MIN_SPARK_BARS {
        columns.push((Column::Spark, spark, cells(Column::Spark, spark)));
    }
    columns.sort_by_key(|(column, ..)| Column::IN_ORDER.iter().position(|c| c == column));

    let mut lines = vec![Line::default(); shown.min(table.rows.len()) + 1];
    for (at, (column, width, cells)) in columns.into_iter().enumerate() {
        let title = (column.title().to_owned(), Tone::Faint);
        for (line, (text, tone)) in lines.iter_mut().zip(std::iter::once(title).chain(cells)) {
            let between = if at == 0 { "" } else { "  " };
            let padded = if column.is_left() {
                format!("{between}{text:<width$}")
            } else {
                format!("{between}{text:>width$}")
            };
            line.push(padded, tone);
        }
    }
    if !is_all {
        let mut more = Line::default();
        more.push(
            format!("… and {} more", table.rows.len() - shown),
            Tone::Faint,
        );
        lines.push(more);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::follow::Event;
    use crate::client::message::{Message, parse};

    fn table(topics: usize) -> Table {
        let mut table = Table::new("ws://127.0.0.1:8000/api/v1/ws");
        for n in 0..topics {
            for minute in 0..40 {
                let (time, close) = (minute * 60_000, 1_000 + (minute * 7 + 3) % 11);
                let text = format!(
                    r#"{{"type":"bars.update","topic":"bars:SYMBOL.{n}:1","payload":{{"time":{time},"open":1,"close":{close}.25,"volume":1234567}}}}"#
                );
                let Ok(Message::Update(update)) = parse(&text) else {
                    panic!("{text}")
                };
                table.take(Event::Bar(update), Instant::now());
            }
        }
        table
    }

    fn clock() -> Clock {
        let (now, ms) = (Instant::now(), 40 * 60_000);
        Clock { now, ms }
    }

    #[test]
    fn fits_every_terminal() {
        for topics in [0, 1, 5, 60] {
            let table = table(topics);
            for (width, height) in [
                (200, 50),
                (80, 24),
                (40, 10),
                (20, 5),
                (1, 1),
                (0, 0),
                (80, 2),
            ] {
                let lines = draw(&table, width, height, clock());
                assert!(lines.len() <= height, "{topics} {width}x{height}");
                for line in lines {
                    let text = line.render(width, false);
                    assert!(text.chars().count() <= width, "{width}: {text}");
                }
            }
        }
    }

    #[test]
    fn rows_that_have_no_room_are_counted() {
        let text = |line: &Line| line.render(80, false);
        let lines = draw(&table(60), 80, 10, clock());
        assert_eq!(lines.len(), 10);
        assert_eq!(text(&lines[9]), "… and 53 more");
        let lines = draw(&table(7), 80, 9, clock());
        assert!(text(&lines[8]).starts_with("bars:SYMBOL.6:1"));
    }

    #[test]
    fn a_narrow_terminal_shows_what_matters_most() {
        let table = table(2);
        let titles = |width| draw(&table, width, 10, clock())[1].render(width, false);
        assert_eq!(
            titles(100).split_whitespace().collect::<Vec<_>>(),
            [
                "TOPIC", "LAST", "CHANGE", "CLOSES", "VOLUME", "AGE", "STATE"
            ]
        );
        assert_eq!(
            titles(36).split_whitespace().collect::<Vec<_>>(),
            ["TOPIC", "LAST", "CHANGE"]
        );
        let row = draw(&table, 100, 10, clock())[2].render(100, false);
        for part in [
            "bars:SYMBOL.0:1",
            "1001.25",
            "-0.40%",
            "▁",
            "█",
            "1.23M",
            "0s",
            "forming",
        ] {
            assert!(row.contains(part), "{part}: {row}");
        }
    }

    #[test]
    fn colours_only_when_wanted() {
        let lines = draw(&table(1), 80, 10, clock());
        let all = |colours| {
            lines
                .iter()
                .map(|l| l.render(80, colours))
                .collect::<String>()
        };
        assert!(all(true).contains("\x1b[31m"));
        assert!(!all(false).contains('\x1b'));
    }
}
