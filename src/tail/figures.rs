//! Figures in few characters.

use std::time::Duration;

const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) fn none() -> String {
    "-".to_owned()
}

pub(super) fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

pub(super) fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let start: String = text.chars().take(most - 1).collect();
    start + "…"
}

/// Beyond this, and below its inverse, digits tell less than the magnitude.
const MAX_PLAIN: f64 = 1e12;

pub(super) fn price(value: f64, decimals: usize) -> String {
    if value.abs() < MAX_PLAIN {
        format!("{value:.decimals$}")
    } else {
        format!("{value:.3e}")
    }
}

/// `1234567` as `1.23M`.
pub(super) fn compact(value: f64) -> String {
    for (unit, name) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= unit * 1e3 {
            return format!("{value:.1e}");
        }
        if value >= unit {
            return format!("{:.2}{name}", value / unit);
        }
    }
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

pub(super) fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// The newest closes between their lowest and highest.
pub(super) fn sparks(closes: impl ExactSizeIterator<Item = f64>, most: usize) -> String {
    let skipped = closes.len().saturating_sub(most);
    let closes: Vec<_> = closes.skip(skipped).collect();
    let low = closes.iter().copied().fold(f64::INFINITY, f64::min);
    let high = closes.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let top = SPARKS.len() - 1;
    let level = |close: f64| {
        if high <= low {
            return top / 2;
        }
        let part = (close - low) / (high - low) * top as f64;
        // Rounded, and never beyond the last: also what is not finite lands inside.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 7"
        )]
        let level = part.round().clamp(0.0, top as f64) as usize;
        level
    };
    closes
        .iter()
        .map(|close| SPARKS[level(*close).min(top)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(compact(999.0), "999");
        assert_eq!(compact(0.5), "0.50");
        assert_eq!(compact(1_234.0), "1.23k");
        assert_eq!(compact(5e13), "50.00T");
        assert_eq!(compact(5e20), "5.0e20");
        assert_eq!(age(Duration::from_secs(3_599)), "59m");
        assert_eq!(price(1.5, 2), "1.50");
        assert_eq!(sparks([1.0, 2.0, 3.0].into_iter(), 2), "▁█");
        assert_eq!(sparks([1.0, 1.0].into_iter(), 5), "▄▄");
        assert_eq!(
            sparks([f64::NAN, f64::MAX, f64::MIN].into_iter(), 5)
                .chars()
                .count(),
            3
        );
    }
}
