//! From figures to places along an axis, and the round figures that an axis shows.

/// About so many ticks fit an axis.
const TICKS: f64 = 5.0;
/// An axis never shows more, whatever the data.
const MOST_TICKS: usize = 24;
/// No figure of ours is larger; beyond it, sums would overflow.
const LARGEST: f64 = 1e300;
/// Percentiles that an axis of percentiles shows.
const NINES: [f64; 6] = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999];

/// How figures lie along an axis.
#[derive(Debug, Clone, PartialEq)]
pub enum Scale {
    /// Evenly, between two multiples of `step`.
    Linear { from: f64, to: f64, step: f64 },
    /// By their logarithm.
    Log { from: f64, to: f64 },
    /// Shares from 0 to 1 by the logarithm of 1/(1 − share): each nine more is as far as the one before.
    Nines,
}

impl Scale {
    /// Around these figures, with 0 when `zero`; from 0 to 1 when there are none.
    pub fn linear(figures: impl IntoIterator<Item = f64>, zero: bool) -> Self {
        let (mut low, mut high) = ends(figures).unwrap_or((0.0, 1.0));
        if zero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        if high <= low {
            // One figure only: some room around it.
            let room = if low == 0.0 { 1.0 } else { low.abs() * 0.5 };
            (low, high) = if zero {
                (0.0, room)
            } else {
                (low - room, high + room)
            };
        }
        let step = round_step((high - low) / TICKS);
        Self::Linear {
            from: (low / step).floor() * step,
            to: (high / step).ceil() * step,
            step,
        }
    }

    /// From 0 to the largest of these.
    pub fn until(figures: impl IntoIterator<Item = f64> + Clone) -> Self {
        let largest = ends(figures.clone()).map_or(0.0, |(_, high)| high);
        match Self::linear(figures, true) {
            Self::Linear { from, step, .. } if largest > 0.0 => Self::Linear {
                from,
                to: largest,
                step,
            },
            other => other,
        }
    }

    /// Around these figures; those that are not above 0 have no place.
    pub fn log(figures: impl IntoIterator<Item = f64>) -> Self {
        let positive = figures.into_iter().filter(|figure| *figure > 0.0);
        let (low, high) = ends(positive).unwrap_or((1.0, 10.0));
        Self::Log {
            from: below(low),
            to: above(high.max(low * 2.0)),
        }
    }

    /// 0 to 1 along the axis; figures beyond its ends stay at them.
    pub fn place(&self, figure: f64) -> f64 {
        let place = match self {
            Self::Linear { from, to, .. } => (figure - from) / (to - from),
            Self::Log { from, to } => {
                if figure <= 0.0 {
                    0.0
                } else {
                    (figure / from).ln() / (to / from).ln()
                }
            }
            Self::Nines => {
                let last = NINES[NINES.len() - 1];
                (1.0 - figure.min(last)).ln() / (1.0 - last).ln()
            }
        };
        place.clamp(0.0, 1.0)
    }

    /// The figures to be shown along it.
    pub fn ticks(&self) -> Vec<f64> {
        match self {
            Self::Linear { from, to, step } => (0..MOST_TICKS)
                .map(|nth| {
                    #[expect(clippy::cast_precision_loss, reason = "two dozen at most")]
                    let nth = nth as f64;
                    from + nth * step
                })
                .take_while(|tick| *tick <= to + step * 0.01)
                .collect(),
            Self::Log { from, to } => log_ticks(*from, *to),
            Self::Nines => NINES.to_vec(),
        }
    }

    /// A tick as the axis shows it.
    pub fn label(&self, tick: f64) -> String {
        match self {
            Self::Linear { step, .. } => plain(tick, decimals(*step)),
            Self::Log { .. } => plain(tick, decimals(tick)),
            Self::Nines => percent(tick),
        }
    }
}

/// A share as percent, with as many digits as it takes to tell it from 100 %.
pub fn percent(share: f64) -> String {
    let hundredths = format!("{:.2}", share * 100.0);
    let short = hundredths.trim_end_matches('0').trim_end_matches('.');
    format!("{short} %")
}

/// With so many digits behind the point, in groups of three before it.
pub fn plain(figure: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", figure.abs());
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let zero = !text.contains(|c: char| c.is_ascii_digit() && c != '0');
    let sign = if figure < 0.0 && !zero { "−" } else { "" };
    let whole = whole
        .parse()
        .map_or(whole.to_owned(), crate::figures::grouped);
    format!("{sign}{whole}{fraction}")
}

/// Digits behind the point that a figure of this size needs.
fn decimals(size: f64) -> usize {
    /// More would be dust.
    const MOST: usize = 6;
    let mut size = size.abs();
    let mut digits = 0;
    while digits < MOST && size > 0.0 && (size - size.round()).abs() > size * 1e-6 {
        size *= 10.0;
        digits += 1;
    }
    digits
}

fn ends(figures: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    figures
        .into_iter()
        .filter(|figure| figure.abs() < LARGEST)
        .fold(None, |ends, figure| {
            let (low, high) = ends.unwrap_or((figure, figure));
            Some((figure.min(low), figure.max(high)))
        })
}

/// The smallest of 1, 2, 5, 10, 20 … that is not below.
fn round_step(step: f64) -> f64 {
    above(step.max(f64::MIN_POSITIVE * 1e10))
}

/// 1, 2 or 5 times a power of ten, not below this.
fn above(figure: f64) -> f64 {
    let power = 10f64.powf(figure.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|round| *round >= figure * (1.0 - 1e-9))
        .unwrap_or(figure)
}

/// 1, 2 or 5 times a power of ten, not above this.
fn below(figure: f64) -> f64 {
    let power = 10f64.powf(figure.log10().floor());
    [5.0, 2.0, 1.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|round| *round <= figure * (1.0 + 1e-9))
        .unwrap_or(figure)
}

/// 1, 2 and 5 of each power of ten, or the powers alone where that were too many.
fn log_ticks(from: f64, to: f64) -> Vec<f64> {
    /// Over more powers of ten than this, only they are shown.
    const FINE: f64 = 2.5;
    let digits: &[f64] = if (to / from).log10() <= FINE {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let mut ticks = Vec::new();
    let mut power = 10f64.powf(from.log10().floor());
    while power <= to * 1.001 && ticks.len() < MOST_TICKS {
        let here = digits.iter().map(|digit| digit * power);
        ticks.extend(here.filter(|tick| (from * 0.999..=to * 1.001).contains(tick)));
        power *= 10.0;
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        let ticks = scale.ticks();
        ticks.iter().map(|tick| scale.label(*tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_hold_the_figures_between_them() {
        let scale = Scale::linear([3.0, 13.3], true);
        assert_eq!(labels(&scale), ["0", "5", "10", "15"]);
        assert_eq!((scale.place(0.0), scale.place(15.0)), (0.0, 1.0));
        let small = Scale::linear([0.0, 0.021], true);
        assert_eq!(
            labels(&small),
            ["0.000", "0.005", "0.010", "0.015", "0.020", "0.025"]
        );
        assert_eq!(
            labels(&Scale::linear([-2.0, 3.0], true)),
            ["−2", "−1", "0", "1", "2", "3"]
        );
        assert_eq!(labels(&Scale::linear([9_000.0], true))[1], "2,000");
    }

    #[test]
    fn logarithms_show_powers_or_their_parts() {
        let scale = Scale::log([0.7, 45.0]);
        assert_eq!(labels(&scale), ["0.5", "1", "2", "5", "10", "20", "50"]);
        assert!((scale.place(5.0) - 0.5).abs() < 1e-9);
        assert_eq!(
            labels(&Scale::log([1.0, 9_000.0])),
            ["1", "10", "100", "1,000", "10,000"]
        );
    }

    #[test]
    fn each_nine_takes_the_same_room() {
        let scale = Scale::Nines;
        assert_eq!(
            labels(&scale),
            ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]
        );
        assert!((scale.place(0.9) - 0.25).abs() < 1e-9);
        assert!((scale.place(0.99) - 0.5).abs() < 1e-9);
        assert_eq!(scale.place(1.0), 1.0);
    }

    #[test]
    fn nothing_one_figure_and_absurd_figures_have_an_axis_too() {
        for figures in [
            &[][..],
            &[0.0],
            &[7.0],
            &[-3.0],
            &[f64::NAN, f64::INFINITY],
            &[1e-300, 1e300],
            &[f64::MAX],
        ] {
            for scale in [
                Scale::linear(figures.iter().copied(), true),
                Scale::linear(figures.iter().copied(), false),
                Scale::log(figures.iter().copied()),
            ] {
                let ticks = scale.ticks();
                assert!(
                    (1..=MOST_TICKS).contains(&ticks.len()),
                    "{figures:?} {scale:?}"
                );
                for figure in figures.iter().filter(|figure| figure.is_finite()) {
                    assert!((0.0..=1.0).contains(&scale.place(*figure)), "{scale:?}");
                }
            }
        }
    }
}
