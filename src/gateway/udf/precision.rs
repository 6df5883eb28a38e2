//! How many decimals numbers have, judged by those that were seen.

/// More decimals than any market quotes.
const MOST_DIGITS: u32 = 12;

/// Decimals of a number, if a few are enough for it; a number that needs more was computed and not
/// quoted. What a sum of doubles adds far behind (`150.10000000000002`) does not count.
pub fn digits(value: f64) -> Option<u32> {
    /// Beyond it the noise of a scaled double, a hundredth here, could pass for whole.
    const MOST_SCALED: f64 = 1e13;
    /// Some ulps of a double, relative to it.
    const NOISE: f64 = 1e-15;
    (0..=MOST_DIGITS).find(|digits| {
        let scaled = value.abs() * 10_f64.powi(digits.cast_signed());
        scaled < MOST_SCALED && (scaled - scaled.round()).abs() <= scaled * NOISE
    })
}

/// The decimals that the finest of them needs.
pub fn most_digits(values: impl IntoIterator<Item = f64>) -> u32 {
    values.into_iter().filter_map(digits).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_as_a_person_would_count_them() {
        for (value, expected) in [
            (0.0, Some(0)),
            (150.0, Some(0)),
            (149.5, Some(1)),
            (150.100_000_000_000_02, Some(1)),
            (0.1 + 0.2, Some(1)),
            (1.085_43, Some(5)),
            (99_999.123_456_78, Some(8)),
            (0.000_012_34, Some(8)),
            (1e-9, Some(9)),
            (-2.25, Some(2)),
            (1.0 / 3.0, None),
            (457.0 / 3.0, None),
            (1e6 / 3.0, None),
            (1e300, None),
            (f64::MAX, None),
        ] {
            assert_eq!(digits(value), expected, "{value}");
        }
        assert_eq!(most_digits([1.0, 1.25, 1.0 / 3.0, 1.5]), 2);
        assert_eq!(most_digits([]), 0);
    }
}
