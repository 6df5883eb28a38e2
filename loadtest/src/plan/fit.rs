//! Costs from measurements: least squares without negative costs.

/// A measurement: so much of each kind of work, and what all of it took.
#[derive(Debug, Clone)]
pub struct Row {
    pub load: Vec<f64>,
    pub measured: f64,
}

impl Row {
    /// What the load takes at these costs.
    pub fn cost(&self, costs: &[f64]) -> f64 {
        self.load
            .iter()
            .zip(costs)
            .map(|(load, cost)| load * cost)
            .sum()
    }
}

/// Two kinds of work whose shares agree better than this cannot be told apart: squared sine of the
/// angle between their columns.
const ALIKE: f64 = 1e-4;

/// The cost of each kind of work that best explains the rows, by the sum of squared *relative* errors,
/// so that a small run counts as much as a large one; `None` for work that no row has. No cost is
/// negative: kinds that would be are left out in turn (Lawson and Hanson, Solving Least Squares
/// Problems, chapter 23; with so few kinds all choices are tried instead).
///
/// Nothing when the rows are too few or too much alike to tell the kinds apart.
pub fn fit(rows: &[Row]) -> Option<Vec<Option<f64>>> {
    let kinds = rows.first()?.load.len();
    let there: Vec<usize> = (0..kinds)
        .filter(|&kind| rows.iter().any(|row| row.load[kind] > 0.0))
        .collect();
    if there.is_empty() || rows.iter().any(|row| row.measured <= 0.0) {
        return None;
    }
    // All together first: whether they can be told apart at all.
    solve(rows, &there)?;
    let mut best: Option<(f64, Vec<f64>)> = None;
    for choice in 1..1_u32 << there.len() {
        let chosen: Vec<usize> = (0..there.len())
            .filter(|at| choice >> at & 1 == 1)
            .map(|at| there[at])
            .collect();
        let Some(solved) = solve(rows, &chosen).filter(|costs| costs.iter().all(|c| *c >= 0.0))
        else {
            continue;
        };
        let mut costs = vec![0.0; kinds];
        for (&kind, cost) in chosen.iter().zip(solved) {
            costs[kind] = cost;
        }
        let error = rows
            .iter()
            .map(|row| (row.cost(&costs) / row.measured - 1.0).powi(2))
            .sum();
        if best.as_ref().is_none_or(|(least, _)| error < *least) {
            best = Some((error, costs));
        }
    }
    let (_, costs) = best?;
    let all = (0..kinds).map(|kind| there.contains(&kind).then(|| costs[kind]));
    Some(all.collect())
}

/// Least squares over these kinds of work, by the normal equations and elimination: there are at most
/// four unknowns, and the columns are brought to the same length before.
fn solve(rows: &[Row], kinds: &[usize]) -> Option<Vec<f64>> {
    let column = |kind: usize| rows.iter().map(move |row| row.load[kind] / row.measured);
    let lengths: Vec<f64> = kinds
        .iter()
        .map(|&kind| column(kind).map(|x| x * x).sum::<f64>().sqrt())
        .collect();
    let dot = |a: usize, b: usize| -> f64 {
        let products = column(kinds[a]).zip(column(kinds[b])).map(|(x, y)| x * y);
        products.sum::<f64>() / lengths[a] / lengths[b]
    };
    let n = kinds.len();
    // The last column is the right side: every row's own measurement is 1 of itself.
    let mut m: Vec<Vec<f64>> = (0..n)
        .map(|a| {
            let right = column(kinds[a]).sum::<f64>() / lengths[a];
            (0..n).map(|b| dot(a, b)).chain([right]).collect()
        })
        .collect();
    for at in 0..n {
        // Symmetric and positive: what is left on the diagonal is the squared sine of the angle to the
        // columns before.
        if m[at][at].is_nan() || m[at][at] < ALIKE {
            return None;
        }
        let pivot = m[at].clone();
        for (other, row) in m.iter_mut().enumerate() {
            let factor = row[at] / pivot[at];
            if other != at {
                for (x, p) in row.iter_mut().zip(&pivot) {
                    *x -= factor * p;
                }
            }
        }
    }
    Some(
        (0..n)
            .map(|at| m[at][n] / m[at][at] / lengths[at])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(costs: &[f64], loads: &[&[f64]]) -> Vec<Row> {
        let row = |load: &&[f64]| {
            let mut row = Row {
                load: load.to_vec(),
                measured: 0.0,
            };
            row.measured = row.cost(costs);
            row
        };
        loads.iter().map(row).collect()
    }

    #[test]
    fn costs_are_found_again() {
        let loads: [&[f64]; 4] = [
            &[2e4, 2e4, 20.0],
            &[5e3, 1e5, 1e3],
            &[5.0, 5.0, 2e4],
            &[1e4, 1e4, 500.0],
        ];
        let fitted = fit(&rows(&[8.5, 0.06, 1.8], &loads)).unwrap();
        for (found, cost) in fitted.iter().zip([8.5, 0.06, 1.8]) {
            assert!((found.unwrap() / cost - 1.0).abs() < 1e-6, "{fitted:?}");
        }
    }

    #[test]
    fn work_that_no_run_did_has_no_cost() {
        let fitted = fit(&rows(&[8.0, 0.5], &[&[1.0, 0.0], &[2.0, 0.0]])).unwrap();
        assert!((fitted[0].unwrap() - 8.0).abs() < 1e-9);
        assert_eq!(fitted[1], None);
    }

    #[test]
    fn no_cost_is_negative() {
        // More bars a write made it cheaper: noise.
        let noisy = [
            Row {
                load: vec![1e4, 1e4],
                measured: 1e5,
            },
            Row {
                load: vec![1e4, 2e5],
                measured: 0.95e5,
            },
        ];
        let fitted = fit(&noisy).unwrap();
        assert_eq!(fitted[1], Some(0.0));
        assert!((9.5..10.0).contains(&fitted[0].unwrap()), "{fitted:?}");
    }

    #[test]
    fn runs_that_are_alike_tell_nothing_apart() {
        assert!(fit(&rows(&[8.0, 0.5], &[&[1.0, 20.0]])).is_none());
        assert!(fit(&rows(&[8.0, 0.5], &[&[1.0, 20.0], &[2.0, 40.0]])).is_none());
        assert!(fit(&[]).is_none());
    }
}
