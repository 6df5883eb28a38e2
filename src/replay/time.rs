//! What a file's time column means.

use jiff::{Timestamp, civil, tz::TimeZone};

/// Epoch numbers below this are seconds (up to the year 5138), others milliseconds (from 1973).
const FIRST_MS: u64 = 100_000_000_000;
/// Epoch numbers from here would be milliseconds beyond the year 5138: they are µs or ns, which no
/// bar needs.
const FIRST_US: u64 = 100_000_000_000_000;

/// Milliseconds since the epoch, from
/// - a date of eight digits (`20040819`, ISO 8601's basic form; as seconds it would lie in 1970),
/// - seconds or milliseconds since the epoch, told apart by magnitude: below 100,000,000,000 it is
///   seconds; a fraction of zero (`1092873600.0`) is understood,
/// - an ISO 8601 date or date-time, with `T` or a space, with or without a zone (then UTC).
///
/// # Errors
/// Why it is none of these.
pub(super) fn parse(text: &str) -> Result<i64, String> {
    let whole = text
        .trim_end_matches('0')
        .strip_suffix('.')
        .map_or(text, |_| {
            text.split_once('.').map_or(text, |(integer, _)| integer)
        });
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && whole.len() != 8 {
        return epoch(whole);
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

fn epoch(text: &str) -> Result<i64, String> {
    let n: i64 = text
        .parse()
        .map_err(|_| format!("time {text} has too many digits"))?;
    match n.unsigned_abs() {
        ..FIRST_MS => Ok(n * 1_000),
        FIRST_MS..FIRST_US => Ok(n),
        FIRST_US.. => Err(format!(
            "time {text} is neither s nor ms since the epoch: too many digits"
        )),
    }
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
            "1092873600000000",
            "99999999999999999999",
            "1.5",
            ".",
            "-",
        ] {
            assert!(parse(text).unwrap_err().contains(text), "{text}");
        }
    }
}
