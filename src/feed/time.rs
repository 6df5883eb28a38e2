//! What a time in a row means.

use jiff::{Timestamp, civil, tz::TimeZone};

/// Epoch numbers below this are seconds (up to the year 5138), others milliseconds (from 1973).
const FIRST_MS: u64 = 100_000_000_000;
/// Epoch numbers from here are microseconds (from 1973), and from there nanoseconds.
const FIRST_US: u64 = 100_000_000_000_000;
const FIRST_NS: u64 = 100_000_000_000_000_000;

/// Milliseconds since the epoch, from
/// - a date of eight digits (`20040819`, ISO 8601's basic form; as seconds it would lie in 1970),
/// - seconds, milliseconds, microseconds or nanoseconds since the epoch, told apart by magnitude: below
///   100,000,000,000 it is seconds, and each of the others begins at a thousand times the one before;
///   a fraction (`1092873600.25`) is understood, and what is finer than a millisecond is cut,
/// - an ISO 8601 date or date-time, with `T` or a space, with or without a zone (then UTC).
///
/// # Errors
/// Why it is none of these.
pub fn parse(text: &str) -> Result<i64, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_date = whole.len() == 8 && fraction.is_empty();
    if !digits.is_empty() && are_digits(digits) && are_digits(fraction) && !is_date {
        return epoch(whole, fraction);
    }
    let timestamp = text
        .parse::<Timestamp>()
        .or_else(|_| utc(text))
        .map_err(|_| {
            format!("time {text:?} is none of ms or s since the epoch, ISO 8601 date or date-time")
        })?;
    Ok(timestamp.as_millisecond())
}

fn utc(text: &str) -> Result<Timestamp, jiff::Error> {
    let local: civil::DateTime = text.parse()?;
    TimeZone::UTC.to_timestamp(local)
}

fn epoch(whole: &str, fraction: &str) -> Result<i64, String> {
    let n: i64 = whole
        .parse()
        .map_err(|_| format!("time {whole} has too many digits"))?;
    Ok(match n.unsigned_abs() {
        ..FIRST_MS => {
            let thousandths = fraction.bytes().chain(*b"000").take(3);
            let ms = thousandths.fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0'));
            n * 1_000 + if whole.starts_with('-') { -ms } else { ms }
        }
        FIRST_MS..FIRST_US => n,
        FIRST_US..FIRST_NS => n.div_euclid(1_000),
        FIRST_NS.. => n.div_euclid(1_000_000),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_one_time_is_understood() {
        for text in [
            "1092873600",
            "1092873600.0",
            "1092873600000",
            "1092873600000000",
            "1092873600000000000",
            "1092873600.0004",
            "2004-08-19",
            "20040819",
            "2004-08-19 00:00:00",
            "2004-08-19T00:00",
            "2004-08-19T00:00:00Z",
            "2004-08-19 00:00:00+00:00",
            "2004-08-19T02:00:00+02:00",
            "2004-08-18T19:00:00.000-0500",
        ] {
            assert_eq!(parse(text), Ok(1_092_873_600_000), "{text}");
        }
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("-86400"), Ok(-86_400_000));
        assert_eq!(parse("-1.5"), Ok(-1_500));
        assert_eq!(parse("1697097600.25"), Ok(1_697_097_600_250));
        assert_eq!(parse("99999999999"), Ok(99_999_999_999_000));
        assert_eq!(parse("100000000000"), Ok(100_000_000_000));
    }

    #[test]
    fn what_is_no_time_is_said() {
        for text in [
            "",
            "yesterday",
            "2004-13-01",
            "20041301",
            "99999999999999999999",
            "1.5.5",
            "1.5e3",
            ".",
            "-",
        ] {
            assert!(parse(text).unwrap_err().contains(text), "{text}");
        }
    }
}
