//! The two texts in which `/metrics` answers, and which of them a request prefers.

use std::fmt::Write;

use hyper::HeaderMap;
use hyper::header::ACCEPT;

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4: what every scraper reads.
    Prometheus,
    /// OpenMetrics 1.0.0, for those that ask for it.
    OpenMetrics,
}

impl Format {
    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prometheus => "prometheus",
            Self::OpenMetrics => "openmetrics",
        }
    }

    /// The format with that [`name`](Self::name); Prometheus text without one.
    pub fn named(name: &str) -> Self {
        if name == Self::OpenMetrics.name() {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// What a request's `Accept` prefers (RFC 9110, section 12.5.1): OpenMetrics only where it is named, and
    /// liked better than plain text, or as much and named first. Who accepts neither gets plain text all the same.
    pub fn wanted(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).iter();
        let values = values.filter_map(|value| value.to_str().ok());
        let ranges: Vec<_> = values
            .flat_map(|value| value.split(','))
            .filter_map(Range::of)
            .collect();
        let open = best(&ranges, "application/openmetrics-text", &["1.0.0", "0.0.1"]);
        let plain = best(&ranges, "text/plain", &["0.0.4"]);
        let prefers = match (open, plain) {
            (Some(open), Some(plain)) if open.quality == plain.quality => {
                // A wildcard names neither.
                (plain.specificity, open.place) < (open.specificity, plain.place)
            }
            (Some(open), Some(plain)) => open.quality > plain.quality,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let is_named = open.is_some_and(|open| open.specificity == NAMED && open.quality > 0);
        if prefers && is_named {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// OpenMetrics text in this format.
    pub fn of_openmetrics(self, text: String) -> String {
        match self {
            Self::OpenMetrics => text,
            Self::Prometheus => prometheus(&text),
        }
    }
}

/// The specificity of a range that names type and subtype.
const NAMED: u8 = 2;

/// One media range of `Accept`.
#[derive(Debug)]
struct Range<'a> {
    kind: &'a str,
    version: Option<&'a str>,
    /// In thousandths.
    quality: u16,
}

/// How a range fits a media type.
#[derive(Debug, Clone, Copy)]
struct Fit {
    specificity: u8,
    quality: u16,
    place: usize,
}

impl<'a> Range<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next().filter(|kind| kind.contains('/'))?;
        let (mut version, mut quality) = (None, 1_000);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => quality = thousandths(value)?,
                "version" => version = Some(value),
                _ => {}
            }
        }
        Some(Self {
            kind,
            version,
            quality,
        })
    }

    fn specificity(&self, kind: &str, versions: &[&str]) -> Option<u8> {
        let (major, _) = kind.split_once('/')?;
        if self.kind.eq_ignore_ascii_case(kind) {
            let fits = self
                .version
                .is_none_or(|version| versions.contains(&version));
            return fits.then_some(NAMED);
        }
        match self.kind.split_once('/')? {
            ("*", "*") => Some(0),
            (found, "*") if found.eq_ignore_ascii_case(major) => Some(1),
            _ => None,
        }
    }
}

/// `0.5` as 500; `None` when it is no quality.
fn thousandths(text: &str) -> Option<u16> {
    let quality: f32 = text.parse().ok()?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 0 and 1,000"
    )]
    (0.0..=1.0)
        .contains(&quality)
        .then_some((quality * 1_000.0).round() as u16)
}

/// The most specific range that means a type, of those as specific the one that is liked most.
fn best(ranges: &[Range<'_>], kind: &str, versions: &[&str]) -> Option<Fit> {
    let fits = ranges.iter().enumerate().filter_map(|(place, range)| {
        let specificity = range.specificity(kind, versions)?;
        let quality = range.quality;
        Some(Fit {
            specificity,
            quality,
            place,
        })
    });
    // Of equals the last is the greatest, so from the end.
    let fits: Vec<_> = fits.collect();
    fits.into_iter()
        .rev()
        .max_by_key(|fit| (fit.specificity, fit.quality))
}

/// OpenMetrics text as Prometheus text 0.0.4: there a counter's family has the name of its samples, types have
/// older names, and neither units nor an end are written.
fn prometheus(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(told) = line.strip_prefix("# HELP ") {
            help = told.split_once(' ');
        } else if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').unwrap_or((told, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            // Writing into a String cannot fail.
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                // There a quotation mark is not escaped.
                let help = help.replace("\\\"", "\"");
                let _ = writeln!(out, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn wanted(accept: &[&str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, HeaderValue::from_str(value).unwrap());
        }
        Format::wanted(&headers)
    }

    #[test]
    fn openmetrics_is_for_those_that_prefer_it() {
        use Format::{OpenMetrics, Prometheus};
        const PROMETHEUS_2: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, expected) in [
            (&[][..], Prometheus),
            (&[""], Prometheus),
            (&["*/*"], Prometheus),
            (&["text/plain"], Prometheus),
            (&["text/plain;version=0.0.4"], Prometheus),
            (&["application/openmetrics-text"], OpenMetrics),
            (
                &["Application/OpenMetrics-Text; Version=1.0.0"],
                OpenMetrics,
            ),
            (
                &["application/openmetrics-text; version=\"1.0.0\""],
                OpenMetrics,
            ),
            (&["application/openmetrics-text;version=2.0.0"], Prometheus),
            (&["application/openmetrics-text;q=0"], Prometheus),
            (&["application/openmetrics-text;q=2"], Prometheus),
            (&["application/openmetrics-text, */*"], OpenMetrics),
            (&["application/openmetrics-text;q=0.5, */*"], Prometheus),
            (
                &["application/openmetrics-text;q=0.5, text/plain;q=0.2"],
                OpenMetrics,
            ),
            (
                &["application/openmetrics-text;q=0.2, text/plain;q=0.5"],
                Prometheus,
            ),
            (
                &["application/openmetrics-text;q=0.2, text/*;q=0.1"],
                OpenMetrics,
            ),
            (&["application/openmetrics-text, text/plain"], OpenMetrics),
            (&["text/plain, application/openmetrics-text"], Prometheus),
            (&["text/plain", "application/openmetrics-text"], Prometheus),
            (
                &["text/plain;q=0.1", "application/openmetrics-text"],
                OpenMetrics,
            ),
            (&["application/*"], Prometheus),
            (&["application/json"], Prometheus),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Prometheus),
            (&[PROMETHEUS_2], OpenMetrics),
            (&[PROMETHEUS_3], OpenMetrics),
        ] {
            assert_eq!(wanted(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn a_familys_name_is_that_of_its_samples() {
        let text = "# HELP a_bars Bars \\\"x\\\" \\\\ y.\n# TYPE a_bars counter\na_bars_total{b=\"# TYPE\"} 1\n\
            # HELP c_seconds Time.\n# TYPE c_seconds histogram\n# UNIT c_seconds seconds\nc_seconds_sum 1.5\n\
            # HELP d D.\n# TYPE d unknown\nd 1\n# EOF\n";
        let expected = "# HELP a_bars_total Bars \"x\" \\\\ y.\n# TYPE a_bars_total counter\na_bars_total{b=\"# TYPE\"} 1\n\
            # HELP c_seconds Time.\n# TYPE c_seconds histogram\nc_seconds_sum 1.5\n\
            # HELP d D.\n# TYPE d untyped\nd 1\n";
        assert_eq!(prometheus(text), expected);
    }
}
