//! Figures as reports hold and print them.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latency from the planned publish time to the arrival at the client, in µs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub p9999: u64,
    pub max: u64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: at(0.50),
            p90: at(0.90),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.999_9),
            max: histogram.max(),
        }
    }
}

/// Points of the percentile curve: share of updates (0 to 1) and the latency in µs that they stay
/// within, closer and closer together towards 1.
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    /// Points each time the distance to 1 halves.
    const POINTS_PER_HALVING: u32 = 4;
    histogram
        .iter_quantiles(POINTS_PER_HALVING)
        .map(|point| (point.quantile_iterated_to(), point.value_iterated_to()))
        .collect()
}

/// Microseconds as milliseconds with three digits behind the point.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn ms(us: u64) -> String {
    format!("{:.3} ms", us as f64 / 1_000.0)
}

/// `a` per `b`, or 0 where there is no `b`.
#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
pub fn per(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// A whole number in groups of three.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Where the middle half of some figures lies, and their ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub count: usize,
    pub min: f64,
    pub lower_quartile: f64,
    pub median: f64,
    /// Between these lies, with a confidence of 95 %, the median of ever more figures. Fewer than six
    /// figures say less than that: then these are their ends.
    pub median_from: f64,
    pub median_to: f64,
    pub upper_quartile: f64,
    pub max: f64,
}

impl Spread {
    /// Of these figures, interpolated between neighbours; all 0 when there are none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let Some(last) = sorted.len().checked_sub(1) else {
                return 0.0;
            };
            #[expect(clippy::cast_precision_loss, reason = "a handful of figures")]
            let place = share * last as f64;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "from 0 to their number"
            )]
            let below = place.floor() as usize;
            let above = (below + 1).min(last);
            sorted[below] + (sorted[above] - sorted[below]) * place.fract()
        };
        // The number of figures below the true median is binomial: these ranks lie 1.96 standard
        // deviations around it (Conover, Practical Nonparametric Statistics, section 3.2).
        #[expect(clippy::cast_precision_loss, reason = "a handful of figures")]
        let count = sorted.len() as f64;
        let rank = (count / 2.0 - 0.98 * count.sqrt()).floor().max(0.0);
        let edge = rank / (count - 1.0).max(1.0);
        Self {
            count: sorted.len(),
            min: at(0.0),
            lower_quartile: at(0.25),
            median: at(0.5),
            median_from: at(edge),
            median_to: at(1.0 - edge),
            upper_quartile: at(0.75),
            max: at(1.0),
        }
    }

    /// Where the median lies with a confidence of 95 %, when there are figures enough to say so.
    pub fn confidence(&self) -> Option<(f64, f64)> {
        /// Fewer figures cannot bound a median with this confidence.
        const FEWEST: usize = 6;
        (self.count >= FEWEST).then_some((self.median_from, self.median_to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }

    #[test]
    fn medians_and_quartiles_lie_between_neighbours() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]);
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.5, 4.0));
        assert_eq!((spread.lower_quartile, spread.upper_quartile), (1.75, 3.25));
        // Ranks 3 and 10 of 12, as tables of the sign test have it.
        let dozen = Spread::of((1..=12).map(f64::from));
        assert_eq!(
            (dozen.median_from.round(), dozen.median_to.round()),
            (3.0, 10.0)
        );
        assert!(dozen.confidence().is_some() && spread.confidence().is_none());
        assert_eq!(Spread::of([7.0]).median, 7.0);
        assert_eq!(Spread::of([]), Spread::default());
    }

    #[test]
    fn percentiles_come_from_the_histogram() {
        let mut histogram = crate::swarm::latencies();
        for us in 1..=1_000 {
            histogram.record(us).unwrap();
        }
        let latency = Latency::from(&histogram);
        assert_eq!((latency.p50, latency.p99, latency.max), (500, 990, 1_000));
        assert_eq!(curve(&histogram).last(), Some(&(1.0, 1_000)));
    }
}
