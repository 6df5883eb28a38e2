//! The way to the knee: up until an objective breaks, a little beyond, then between.

use anyhow::Result;

use super::report::Part;

/// How a load grows from step to step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Growth {
    Factor(f64),
    Increment(f64),
}

/// What to try.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    pub start: f64,
    /// Never more than this.
    pub most: f64,
    pub growth: Growth,
    /// Steps above the first that broke.
    pub beyond: u32,
    /// A bisection ends when what holds and what does not are within this share of each other.
    pub precision: f64,
    /// Bisections.
    pub repeats: u32,
    /// Whether loads are whole numbers.
    pub whole: bool,
}

/// What was found.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Found {
    /// The highest load of the climb that held, and the first that did not.
    pub held: Option<f64>,
    pub broken: Option<f64>,
    /// The highest load that held, by each bisection.
    pub repeats: Vec<f64>,
}

/// A step could not be finished, since the user asked for the end.
pub struct Stopped;

impl Search {
    fn next(&self, load: f64) -> f64 {
        let next = match self.growth {
            Growth::Factor(factor) => load * factor,
            Growth::Increment(increment) => load + increment,
        };
        let next = if self.whole {
            next.round().max(load + 1.0)
        } else {
            next
        };
        next.min(self.most)
    }

    fn between(&self, low: f64, high: f64) -> Option<f64> {
        let middle = f64::midpoint(low, high);
        let middle = if self.whole { middle.round() } else { middle };
        (high - low > self.precision * low && middle > low && middle < high).then_some(middle)
    }

    /// Tries loads with `hold`, which says whether one held.
    ///
    /// # Errors
    /// What `hold` says.
    pub fn run(
        &self,
        mut hold: impl FnMut(f64, Part, u32) -> Result<Result<bool, Stopped>>,
    ) -> Result<Found> {
        let mut found = Found::default();
        let mut load = self.start;
        loop {
            match hold(load, Part::Climb, 0)? {
                Err(Stopped) => return Ok(found),
                Ok(true) => found.held = Some(load),
                Ok(false) => {
                    found.broken = Some(load);
                    break;
                }
            }
            if load >= self.most {
                return Ok(found);
            }
            load = self.next(load);
        }
        for _ in 0..self.beyond {
            let next = self.next(load);
            if next <= load {
                break;
            }
            load = next;
            if hold(load, Part::Beyond, 0)?.is_err() {
                return Ok(found);
            }
        }
        let Some((held, broken)) = found.held.zip(found.broken) else {
            return Ok(found);
        };
        for repeat in 0..self.repeats {
            let (mut low, mut high) = (held, broken);
            while let Some(middle) = self.between(low, high) {
                match hold(middle, Part::Bisection, repeat)? {
                    Err(Stopped) => return Ok(found),
                    Ok(true) => low = middle,
                    Ok(false) => high = middle,
                }
            }
            found.repeats.push(low);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEARCH: Search = Search {
        start: 100.0,
        most: 10_000.0,
        growth: Growth::Factor(2.0),
        beyond: 1,
        precision: 0.02,
        repeats: 2,
        whole: true,
    };

    /// Tries with a server that carries up to `knee`; the loads that were tried, too.
    fn against(search: Search, knee: f64) -> (Found, Vec<(f64, Part)>) {
        let mut tried = Vec::new();
        let found = search
            .run(|load, part, _| {
                tried.push((load, part));
                Ok(Ok(load <= knee))
            })
            .unwrap();
        (found, tried)
    }

    #[test]
    fn every_bisection_finds_the_knee() {
        for knee in [100.0, 137.0, 555.0, 799.0, 1_600.0, 5_001.0] {
            let (found, tried) = against(SEARCH, knee);
            assert_eq!(found.repeats.len(), 2, "{knee}");
            for at in found.repeats {
                assert!(at <= knee && at >= knee / 1.021 - 1.0, "{at} for {knee}");
                assert_eq!(at.fract(), 0.0);
            }
            let beyond = tried.iter().filter(|(_, part)| *part == Part::Beyond);
            assert_eq!(beyond.count(), 1);
        }
    }

    #[test]
    fn the_climb_ends_at_the_most() {
        let (found, tried) = against(SEARCH, 1e9);
        assert_eq!((found.held, found.broken), (Some(10_000.0), None));
        assert_eq!(tried.last(), Some(&(10_000.0, Part::Climb)));
        // Beyond the most nothing is tried either.
        let (found, tried) = against(SEARCH, 9_999.0);
        assert_eq!(found.broken, Some(10_000.0));
        assert!(tried.iter().all(|(load, _)| *load <= 10_000.0));
    }

    #[test]
    fn a_first_step_that_breaks_leaves_nothing_to_bisect() {
        let (found, tried) = against(SEARCH, 99.0);
        assert_eq!((found.held, found.broken), (None, Some(100.0)));
        assert_eq!(tried.len(), 2);
    }

    #[test]
    fn increments_and_fractions() {
        let search = Search {
            start: 0.5,
            growth: Growth::Increment(0.25),
            precision: 0.001,
            whole: false,
            ..SEARCH
        };
        let (found, tried) = against(search, 1.1);
        assert_eq!(tried[1].0, 0.75);
        assert!((found.repeats[0] - 1.1).abs() < 0.002, "{found:?}");
    }

    #[test]
    fn neighbours_end_a_bisection_of_whole_numbers() {
        let search = Search {
            start: 1.0,
            precision: 0.0,
            growth: Growth::Increment(4.0),
            ..SEARCH
        };
        let (found, _) = against(search, 7.0);
        assert_eq!(found.repeats, [7.0, 7.0]);
    }

    #[test]
    fn the_end_can_come_at_any_time() {
        for after in 0..12 {
            let mut tried = 0;
            let found = SEARCH.run(|load, _, _| {
                tried += 1;
                Ok(if tried > after {
                    Err(Stopped)
                } else {
                    Ok(load <= 555.0)
                })
            });
            let found = found.unwrap();
            assert_eq!(tried, after + 1);
            assert!(found.repeats.len() < 2);
        }
    }
}
