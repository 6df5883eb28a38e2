//! One symbol's price path: a seeded random walk that looks like a market.

use crate::bar::Symbol;

/// Calendar year in milliseconds: volatilities are per year.
const YEAR_MS: f64 = 365.25 * 86_400_000.0;
/// Smallest price step, as its inverse: prices are whole cents.
const STEPS_PER_UNIT: f64 = 100.0;
/// Lowest and highest price: far from any start, they only stop a run of years from leaving the
/// range in which cents are exact in a double.
const PRICE_RANGE: (f64, f64) = (0.01, 10_000_000.0);
/// Start prices, log-uniform: what shares mostly cost.
const START_PRICE: (f64, f64) = (20.0, 600.0);
/// Volatility per year, as a share of the price. Lively, so that a minute's candle has a body.
const VOLATILITY: (f64, f64) = (0.4, 0.8);
/// Share of the distance to the start price that is pulled back per year: without it a run of months
/// drifts anywhere.
const PULL_PER_YEAR: f64 = 2.0;
/// Largest move in one step, as a share of the price: a process that slept for months still steps
/// to a price above zero.
const LARGEST_MOVE: f64 = 0.5;
/// Units traded per second, on average.
const VOLUME_PER_SECOND: (f64, f64) = (5.0, 200.0);

/// What happened between two steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    /// Price before, which is where a bar that starts now opens.
    pub last: f64,
    pub price: f64,
    /// Units traded since the step before.
    pub volume: u64,
}

#[derive(Debug)]
pub(super) struct Path {
    random: fastrand::Rng,
    start: f64,
    /// Before rounding to cents, so that many small moves add up.
    exact: f64,
    volatility: f64,
    volume_per_second: f64,
    /// Time of the last step, ms since the epoch.
    at: Option<i64>,
}

impl Path {
    /// The path depends on the seed and the symbol's name alone.
    pub fn new(symbol: Symbol, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(mix(seed ^ fnv1a(symbol.as_str().as_bytes())));
        let (low, high) = START_PRICE;
        let start = cents(low * (high / low).powf(random.f64()));
        Self {
            start,
            exact: start,
            volatility: between(VOLATILITY, random.f64()),
            volume_per_second: between(VOLUME_PER_SECOND, random.f64()),
            at: None,
            random,
        }
    }

    /// Moves on to `now`, ms since the epoch; a clock that steps back stands still here.
    pub fn step(&mut self, now: i64) -> Step {
        let last = cents(self.exact);
        let elapsed = milliseconds(now.saturating_sub(self.at.unwrap_or(now)));
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        let years = elapsed / YEAR_MS;
        let shock = self.normal();
        let movement = self.volatility * years.sqrt() * shock;
        self.exact += (self.start - self.exact) * (PULL_PER_YEAR * years).min(1.0);
        self.exact *= 1.0 + movement.clamp(-LARGEST_MOVE, LARGEST_MOVE);
        self.exact = self.exact.clamp(PRICE_RANGE.0, PRICE_RANGE.1);
        // More is traded when the price moves.
        let mean = self.volume_per_second * elapsed / 1_000.0 * (0.2 + shock.abs());
        let volume = whole(mean + self.random.f64());
        Step {
            last,
            price: cents(self.exact),
            volume,
        }
    }

    /// Mean 0, variance 1, within ±3.5: four uniforms summed (Irwin-Hall). Arithmetic alone, so that
    /// a seed gives the same path on every machine.
    fn normal(&mut self) -> f64 {
        let sum: f64 = (0..4).map(|_| self.random.f64()).sum();
        (sum - 2.0) * 3.0_f64.sqrt()
    }
}

fn between((low, high): (f64, f64), share: f64) -> f64 {
    low + (high - low) * share
}

fn cents(price: f64) -> f64 {
    (price * STEPS_PER_UNIT).round() / STEPS_PER_UNIT
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53 ms, which is 285,000 years"
)]
fn milliseconds(elapsed: i64) -> f64 {
    elapsed.max(0) as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast of a float saturates, and it is never below zero"
)]
fn whole(amount: f64) -> u64 {
    amount as u64
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo): the standard library's hashes may change between versions,
/// and a seed must not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): neighbouring seeds give unrelated paths.
fn mix(mut n: u64) -> u64 {
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
