//! What a file's name says about the bars inside.

use std::path::Path;

use crate::bar::{Resolution, Symbol, Topic};

/// What may stand between symbol and resolution: `GOOG_D.csv`, `GOOG-D.csv`, `GOOG.D.csv`, `GOOG, D.csv`.
const SEPARATORS: [char; 5] = ['_', '-', '.', ',', ' '];

/// The topic of a file's bars: as told, or else from its name, whose last separated part is the
/// resolution if it is one, and whose rest is the symbol.
///
/// # Errors
/// One line that says what is missing or wrong.
pub(super) fn topic(
    file: &Path,
    symbol: Option<Symbol>,
    resolution: Option<Resolution>,
) -> Result<Topic, String> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let (name, named) = split(&stem);
    let resolution = resolution.or(named).ok_or_else(|| {
        format!(
            "{}: the resolution is not in the file's name (as in GOOG_D.csv); say it with --resolution",
            file.display()
        )
    })?;
    let symbol = match symbol {
        Some(symbol) => symbol,
        None => name.parse().map_err(|why| {
            format!(
                "{}: the file's name gives no symbol ({why}); say it with --symbol",
                file.display()
            )
        })?,
    };
    Ok(Topic { symbol, resolution })
}

fn split(stem: &str) -> (&str, Option<Resolution>) {
    stem.rsplit_once(SEPARATORS)
        .and_then(|(name, last)| Some((name.trim_end_matches(SEPARATORS), last.parse().ok()?)))
        .map_or((stem, None), |(name, resolution)| (name, Some(resolution)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(file: &str) -> Result<String, String> {
        topic(Path::new(file), None, None).map(|topic| topic.to_string())
    }

    #[test]
    fn symbol_and_resolution_come_from_the_name() {
        for (file, expected) in [
            ("GOOG_D.csv", "bars:GOOG:D"),
            ("a/b_c/GOOG-1D.csv", "bars:GOOG:D"),
            ("GOOG.D.csv", "bars:GOOG:D"),
            ("GOOG, D.csv", "bars:GOOG:D"),
            ("NASDAQ_GOOG, 60.csv", "bars:NASDAQ_GOOG:60"),
            ("BRK.B_5.CSV", "bars:BRK.B:5"),
        ] {
            assert_eq!(named(file).as_deref(), Ok(expected), "{file}");
        }
    }

    #[test]
    fn flags_win_and_what_is_missing_is_said() {
        assert!(named("GOOG.csv").unwrap_err().contains("--resolution"));
        assert!(named("_D.csv").unwrap_err().contains("--symbol"));
        let file = Path::new("GOOG_D.csv");
        let told = topic(file, "X".parse().ok(), Some(Resolution::M5));
        assert_eq!(told.map(|t| t.to_string()).as_deref(), Ok("bars:X:5"));
        let plain = topic(Path::new("GOOG.csv"), None, Some(Resolution::Day));
        assert_eq!(plain.map(|t| t.to_string()).as_deref(), Ok("bars:GOOG:D"));
    }
}
