//! The Universal Scalability Law (Gunther, Guerrilla Capacity Planning, 2007, chapter 4), fitted to a
//! ramp:
//!
//! X(N) = λN / (1 + σ(N−1) + κN(N−1))
//!
//! The law is about throughput over load. With an open-loop load both are known apart from each other:
//! **N is what the plan asks for**, in units of the ramp's first step, and **X is what was delivered while
//! the plan ran**, in bars per second. Below the knee X is what was asked for and the law is a straight
//! line (σ = κ = 0); it bends where the server falls behind its plan, since bars that come after the
//! plan's end do not count. So a fit says something only with loads at the knee and beyond, and a ramp
//! makes some; what lies beyond twice the knee is left out. λ is the throughput of the first step, σ the contention, which bounds throughput at λ/σ, and κ
//! what makes it fall again.

use serde::{Deserialize, Serialize};

use super::report::StepBy;

/// Fewer different loads cannot say anything of three parameters.
pub const FEWEST_LOADS: usize = 4;
/// Steps of the solver, of which a dozen are enough.
const MOST_STEPS: usize = 500;

/// One measured load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// In the ramp's unit.
    pub load: f64,
    /// Bars per second, measured.
    pub measured: f64,
    /// Bars per second, by the law.
    pub fitted: f64,
}

impl Point {
    /// Measured minus fitted, bars per second.
    pub fn residual(&self) -> f64 {
        self.measured - self.fitted
    }
}

/// The law with its parameters.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Usl {
    /// The load that is N = 1: the ramp's first step, in the ramp's unit.
    pub unit: f64,
    /// Bars per second at N = 1.
    pub lambda: f64,
    /// Contention, at least 0.
    pub sigma: f64,
    /// Coherency, at least 0.
    pub kappa: f64,
    /// Share of the variance that the law explains; 1 is all.
    pub r_squared: f64,
    /// Root of the mean square of the residuals, bars per second.
    pub rms_residual: f64,
    /// Load with the highest throughput, in the ramp's unit; nothing when κ is 0.
    pub peak_load: Option<f64>,
    /// The highest throughput, bars per second: at the peak, or the bound λ/σ; nothing when there is
    /// neither.
    pub peak: Option<f64>,
    /// Every step, lowest load first.
    pub points: Vec<Point>,
}

impl Usl {
    /// Bars per second by the law, at a load in the ramp's unit.
    pub fn at(&self, load: f64) -> f64 {
        let n = load / self.unit;
        self.lambda * n / (1.0 + self.sigma * (n - 1.0) + self.kappa * n * (n - 1.0))
    }

    /// Fits the law to loads and the bars per second measured there, by least squares with σ, κ ≥ 0.
    /// Nothing when there are fewer than [`FEWEST_LOADS`] different loads.
    pub fn fit(measured: &[(f64, f64)]) -> Option<Self> {
        let mut points: Vec<(f64, f64)> = measured
            .iter()
            .copied()
            .filter(|(load, x)| *load > 0.0 && *x > 0.0)
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut loads: Vec<f64> = points.iter().map(|(load, _)| *load).collect();
        loads.dedup();
        if loads.len() < FEWEST_LOADS {
            return None;
        }
        let unit = loads[0];
        let scaled: Vec<(f64, f64)> = points.iter().map(|(load, x)| (load / unit, *x)).collect();
        let [a, b, c] = solve(&scaled);
        let mut usl = Self {
            unit,
            lambda: 1.0 / a,
            sigma: b / a,
            kappa: c / a,
            r_squared: 0.0,
            rms_residual: 0.0,
            peak_load: None,
            peak: None,
            points: Vec::new(),
        };
        usl.judge(&points);
        Some(usl)
    }

    #[expect(clippy::cast_precision_loss, reason = "a handful of points")]
    fn judge(&mut self, points: &[(f64, f64)]) {
        self.points = points
            .iter()
            .map(|(load, x)| Point {
                load: *load,
                measured: *x,
                fitted: self.at(*load),
            })
            .collect();
        let count = points.len() as f64;
        let mean = points.iter().map(|(_, x)| x).sum::<f64>() / count;
        let around_mean: f64 = points.iter().map(|(_, x)| (x - mean).powi(2)).sum();
        let around_law: f64 = self.points.iter().map(|p| p.residual().powi(2)).sum();
        self.rms_residual = (around_law / count).sqrt();
        self.r_squared = if around_mean > 0.0 {
            1.0 - around_law / around_mean
        } else {
            0.0
        };
        if self.kappa > 0.0 && self.sigma < 1.0 {
            let load = ((1.0 - self.sigma) / self.kappa).sqrt() * self.unit;
            self.peak_load = Some(load);
            self.peak = Some(self.at(load));
        } else if self.sigma > 0.0 {
            self.peak = Some(self.lambda / self.sigma);
        }
    }

    /// For people.
    pub fn lines(&self, step: StepBy) -> Vec<String> {
        let mut lines = vec![format!(
            "USL     λ {:.0} bars/s per {}, σ {:.5}, κ {:.7}; R² {:.4}, residuals {:.0} bars/s (rms)",
            self.lambda,
            step.told(self.unit),
            self.sigma,
            self.kappa,
            self.r_squared,
            self.rms_residual
        )];
        if let Some(peak) = self.peak {
            lines.push(match self.peak_load {
                Some(load) => format!("        highest {peak:.0} bars/s, at {}", step.told(load)),
                None => format!("        bound {peak:.0} bars/s"),
            });
        }
        let residuals: Vec<String> = self
            .points
            .iter()
            .map(|p| format!("{:+.1} %", 100.0 * p.residual() / p.measured))
            .collect();
        lines.push(format!("        residuals {}", residuals.join(", ")));
        lines
    }
}

/// One row of the linear form N/X = a + b(N−1) + cN(N−1), where a = 1/λ, b = σ/λ, c = κ/λ.
fn row(n: f64) -> [f64; 3] {
    [1.0, n - 1.0, n * (n - 1.0)]
}

fn predicted(parameters: [f64; 3], n: f64) -> f64 {
    let row = row(n);
    let sum: f64 = (0..3).map(|i| parameters[i] * row[i]).sum();
    n / sum
}

fn squares(parameters: [f64; 3], points: &[(f64, f64)]) -> f64 {
    let residual = |(n, x): &(f64, f64)| (x - predicted(parameters, *n)).powi(2);
    points.iter().map(residual).sum()
}

/// Levenberg–Marquardt (Marquardt 1963: damping by the diagonal, so that the parameters' sizes do not
/// matter) over a, b, c with b, c ≥ 0: what a step takes below 0 stays at 0, and a parameter that lies
/// there and would go below is left out of the step.
fn solve(points: &[(f64, f64)]) -> [f64; 3] {
    let slopes: Vec<f64> = points.iter().map(|(n, x)| n / x).collect();
    let mut best = [
        slopes.iter().copied().fold(f64::INFINITY, f64::min),
        0.0,
        0.0,
    ];
    let mut cost = squares(best, points);
    let mut damping = 1e-3;
    for _ in 0..MOST_STEPS {
        let (mut normal, mut gradient) = ([[0.0; 3]; 3], [0.0; 3]);
        for (n, x) in points {
            let fitted = predicted(best, *n);
            // dX/dparameter = −X²/N · row
            let slope = row(*n).map(|value| -fitted * fitted / n * value);
            for i in 0..3 {
                gradient[i] += slope[i] * (x - fitted);
                for j in 0..3 {
                    normal[i][j] += slope[i] * slope[j];
                }
            }
        }
        let free = [0, 1, 2].map(|i| i == 0 || best[i] > 0.0 || gradient[i] > 0.0);
        let step = damped_step(normal, gradient, free, damping);
        let mut next = best;
        for i in 0..3 {
            next[i] += step[i];
        }
        next[1] = next[1].max(0.0);
        next[2] = next[2].max(0.0);
        let next_cost = squares(next, points);
        if next[0] > 0.0 && next_cost.is_finite() && next_cost < cost {
            let gained = (cost - next_cost) / cost;
            (best, cost) = (next, next_cost);
            damping = (damping / 10.0).max(1e-15);
            if gained < 1e-14 {
                break;
            }
        } else {
            damping *= 10.0;
            if damping > 1e15 {
                break;
            }
        }
    }
    best
}

/// Solves (normal + damping · its diagonal) · step = gradient for the free parameters, by elimination.
fn damped_step(
    normal: [[f64; 3]; 3],
    gradient: [f64; 3],
    free: [bool; 3],
    damping: f64,
) -> [f64; 3] {
    // Scaled to a diagonal of ones, since the columns differ by many orders of magnitude.
    let scale = [0, 1, 2].map(|i| {
        if free[i] && normal[i][i] > 0.0 {
            1.0 / normal[i][i].sqrt()
        } else {
            0.0
        }
    });
    let mut rows = [[0.0; 4]; 3];
    for i in 0..3 {
        for j in 0..3 {
            rows[i][j] = normal[i][j] * scale[i] * scale[j];
        }
        rows[i][i] = if scale[i] > 0.0 { 1.0 + damping } else { 1.0 };
        rows[i][3] = gradient[i] * scale[i];
    }
    // The matrix is positive definite: no pivot is 0.
    for at in 0..3 {
        let pivot = rows[at];
        for (i, row) in rows.iter_mut().enumerate() {
            if i != at {
                let factor = row[at] / pivot[at];
                for j in at..4 {
                    row[j] -= factor * pivot[j];
                }
            }
        }
    }
    [0, 1, 2].map(|i| rows[i][3] / rows[i][i] * scale[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn law(lambda: f64, sigma: f64, kappa: f64, loads: &[f64]) -> Vec<(f64, f64)> {
        let unit = loads[0];
        let at = |n: f64| lambda * n / (1.0 + sigma * (n - 1.0) + kappa * n * (n - 1.0));
        loads.iter().map(|load| (*load, at(load / unit))).collect()
    }

    fn near(a: f64, b: f64, tolerance: f64) {
        assert!(
            (a - b).abs() <= tolerance * b.abs().max(1e-9),
            "{a} is not {b}"
        );
    }

    const LOADS: [f64; 9] = [
        100.0, 200.0, 400.0, 800.0, 1_600.0, 2_400.0, 3_200.0, 4_800.0, 6_400.0,
    ];

    #[test]
    fn known_parameters_come_back() {
        for (lambda, sigma, kappa) in [
            (40_000.0, 0.02, 0.000_5),
            (40_000.0, 0.05, 0.0),
            (7.0, 0.0, 0.01),
            (1e7, 0.3, 0.1),
        ] {
            let usl = Usl::fit(&law(lambda, sigma, kappa, &LOADS)).unwrap();
            near(usl.lambda, lambda, 1e-5);
            near(usl.sigma, sigma, 1e-4);
            near(usl.kappa, kappa, 1e-4);
            near(usl.r_squared, 1.0, 1e-9);
            assert!(usl.rms_residual < lambda * 1e-4, "{usl:?}");
        }
    }

    #[test]
    fn a_straight_line_has_neither_contention_nor_a_peak() {
        let usl = Usl::fit(&law(500.0, 0.0, 0.0, &LOADS)).unwrap();
        near(usl.lambda, 500.0, 1e-9);
        assert!(usl.sigma < 1e-9 && usl.kappa < 1e-9, "{usl:?}");
    }

    #[test]
    fn the_peak_lies_where_the_law_has_it() {
        let usl = Usl::fit(&law(1_000.0, 0.1, 0.001, &LOADS)).unwrap();
        near(usl.peak_load.unwrap(), 100.0 * 900_f64.sqrt(), 1e-3);
        let peak = usl.at(usl.peak_load.unwrap());
        near(usl.peak.unwrap(), peak, 1e-12);
        assert!(peak > usl.at(2_900.0) && peak > usl.at(3_100.0));
    }

    #[test]
    fn bounds_hold_where_the_points_bend_upwards() {
        // Faster than a line: only a negative contention would fit.
        let points: Vec<(f64, f64)> = LOADS.iter().map(|n| (*n, n * n)).collect();
        let usl = Usl::fit(&points).unwrap();
        assert!(usl.sigma >= 0.0 && usl.kappa >= 0.0, "{usl:?}");
        assert!(usl.rms_residual > 0.0);
    }

    #[test]
    fn residuals_are_what_the_law_leaves() {
        let mut points = law(1_000.0, 0.05, 0.000_1, &LOADS);
        for (nth, point) in points.iter_mut().enumerate() {
            point.1 *= if nth % 2 == 0 { 1.02 } else { 0.98 };
        }
        let usl = Usl::fit(&points).unwrap();
        assert_eq!(usl.points.len(), points.len());
        for (point, (load, x)) in usl.points.iter().zip(&points) {
            assert_eq!((point.load, point.measured), (*load, *x));
            near(point.fitted, usl.at(*load), 1e-12);
            assert!(point.residual().abs() < 0.06 * x, "{point:?}");
        }
        assert!(
            usl.r_squared > 0.99 && usl.r_squared < 1.0,
            "{}",
            usl.r_squared
        );
        // No neighbour of the solution is better.
        let scaled: Vec<(f64, f64)> = points.iter().map(|(n, x)| (n / usl.unit, *x)).collect();
        let found = [1.0, usl.sigma, usl.kappa].map(|value| value / usl.lambda);
        for i in 0..3 {
            for factor in [0.99, 1.01] {
                let mut other = found;
                other[i] *= factor;
                assert!(
                    squares(other, &scaled) > squares(found, &scaled),
                    "{i} {factor}"
                );
            }
        }
    }

    #[test]
    fn too_few_loads_are_no_fit() {
        assert!(Usl::fit(&law(1.0, 0.0, 0.0, &LOADS[..3])).is_none());
        let same = [(1.0, 1.0), (1.0, 1.1), (1.0, 0.9), (2.0, 2.0), (3.0, 3.0)];
        assert!(Usl::fit(&same).is_none());
    }
}
