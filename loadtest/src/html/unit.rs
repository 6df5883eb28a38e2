//! What figures are counted in, and how they are told to people.

use super::scale::plain;

/// What a figure is counted in; figures are always held in the base unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Time in µs.
    Micros,
    /// Time in seconds.
    Seconds,
    /// Memory or traffic in bytes.
    Bytes,
    /// A plain number, of these.
    Count(&'static str),
    /// A share or a ratio, without a unit.
    Ratio,
}

impl Unit {
    /// What figures up to `largest` are best divided by, and what is left then.
    pub fn fit(self, largest: f64) -> (f64, &'static str) {
        let steps: &[(f64, &'static str)] = match self {
            Self::Micros => &[(1e6, "s"), (1e3, "ms"), (1.0, "µs"), (1e-3, "ns")],
            Self::Bytes => &[
                (1_099_511_627_776.0, "TiB"),
                (1_073_741_824.0, "GiB"),
                (1_048_576.0, "MiB"),
                (1_024.0, "KiB"),
                (1.0, "bytes"),
            ],
            Self::Seconds => return (1.0, "s"),
            Self::Count(of) => return (1.0, of),
            Self::Ratio => return (1.0, ""),
        };
        let fit = steps.iter().find(|(size, _)| largest.abs() >= *size);
        let base = match self {
            Self::Micros if largest != 0.0 => steps[steps.len() - 1],
            _ => *steps
                .iter()
                .find(|(size, _)| *size == 1.0)
                .unwrap_or(&(1.0, "")),
        };
        *fit.unwrap_or(&base)
    }

    /// With its unit, in three digits or more.
    pub fn tell(self, figure: f64) -> String {
        if !figure.is_finite() {
            return "unknown".to_owned();
        }
        let (size, name) = self.fit(figure);
        let text = match self {
            Self::Ratio => plain(figure, 3),
            _ => three_digits(figure / size),
        };
        if name.is_empty() {
            text
        } else {
            format!("{text} {name}")
        }
    }
}

/// At least three digits: 0.0213, 2.13, 21.3, 213, 2,130; whole numbers as they are.
pub fn three_digits(figure: f64) -> String {
    let size = figure.abs();
    if size == size.trunc() {
        return plain(figure, 0);
    }
    // Just below a power of ten it would be rounded up to one digit more.
    let decimals = match size {
        99.95.. => 0,
        9.995.. => 1,
        0.9995.. => 2,
        0.09995.. => 3,
        0.009_995.. => 4,
        _ => 5,
    };
    plain(figure, decimals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_in_the_unit_that_fits() {
        for (unit, figure, told) in [
            (Unit::Micros, 13_303.0, "13.3 ms"),
            (Unit::Micros, 756.0, "756 µs"),
            (Unit::Micros, 9_999.0, "10.0 ms"),
            (Unit::Micros, 1.2827, "1.28 µs"),
            (Unit::Micros, 0.52, "520 ns"),
            (Unit::Micros, 2_000_000.0, "2 s"),
            (Unit::Micros, 0.0, "0 µs"),
            (Unit::Bytes, 18_997_248.0, "18.1 MiB"),
            (Unit::Bytes, 212.1375, "212 bytes"),
            (Unit::Count("cores"), 0.0213, "0.0213 cores"),
            (Unit::Count("bars/s"), 16_000.0, "16,000 bars/s"),
            (Unit::Ratio, 1.0, "1.000"),
            (Unit::Ratio, f64::NAN, "unknown"),
        ] {
            assert_eq!(unit.tell(figure), told);
        }
    }
}
