//! The arithmetic of a plan: formulas over named numbers. The text that a plan shows is the text that
//! was computed, so the two cannot differ.

use anyhow::{Context, Result, bail, ensure};

/// Computes a formula: numbers, names, `+ - * / ^ ( )`, `min(a, b)`, `max(a, b)`, `ceil(a)`,
/// `floor(a)`, `head(bytes)` and `tree(leaves, width)`. `^` binds tightest and to the left.
///
/// # Errors
/// When it is none, when `value_of` does not know a name, or when the result is no finite number.
pub fn compute(formula: &str, value_of: &dyn Fn(&str) -> Option<f64>) -> Result<f64> {
    let mut parser = Parser {
        rest: formula,
        value_of,
    };
    let context = || format!("formula {formula:?}");
    let value = parser.sum().with_context(context)?;
    ensure!(
        parser.peek().is_none(),
        "{:?} left in {}",
        parser.rest,
        context()
    );
    ensure!(value.is_finite(), "{} is not finite", context());
    Ok(value)
}

/// Bytes of the head of a server's frame (RFC 6455, section 5.2).
fn head(payload: f64) -> f64 {
    if payload < 126.0 {
        2.0
    } else if payload < 65_536.0 {
        4.0
    } else {
        10.0
    }
}

/// Servers of a tree whose last row feeds `leaves` and where nobody feeds more than `width`.
fn tree(leaves: f64, width: f64) -> f64 {
    let width = width.max(2.0);
    let (mut row, mut all) = (leaves, 0.0);
    loop {
        row = (row / width).ceil();
        all += row;
        // Also where it is no number.
        if !(row > 1.0 && row.is_finite()) {
            return all;
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    value_of: &'a dyn Fn(&str) -> Option<f64>,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    /// Takes one of these characters, when it is next.
    fn take(&mut self, any: &[char]) -> Option<char> {
        let next = self.peek().filter(|c| any.contains(c))?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn expect(&mut self, c: char) -> Result<()> {
        self.take(&[c])
            .with_context(|| format!("{c:?} is missing before {:?}", self.rest))?;
        Ok(())
    }

    fn sum(&mut self) -> Result<f64> {
        let mut value = self.product()?;
        while let Some(sign) = self.take(&['+', '-']) {
            let other = self.product()?;
            value += if sign == '+' { other } else { -other };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<f64> {
        let mut value = self.power()?;
        while let Some(sign) = self.take(&['*', '/']) {
            let other = self.power()?;
            value = if sign == '*' {
                value * other
            } else {
                value / other
            };
        }
        Ok(value)
    }

    fn power(&mut self) -> Result<f64> {
        let mut value = self.atom()?;
        while self.take(&['^']).is_some() {
            value = value.powf(self.atom()?);
        }
        Ok(value)
    }

    fn atom(&mut self) -> Result<f64> {
        if self.take(&['(']).is_some() {
            let value = self.sum()?;
            self.expect(')')?;
            return Ok(value);
        }
        self.peek();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        ensure!(
            !word.is_empty(),
            "a number or name is missing before {rest:?}"
        );
        self.rest = rest;
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.parse().with_context(|| format!("number {word:?}"));
        }
        if self.take(&['(']).is_none() {
            return (self.value_of)(word).with_context(|| format!("there is no {word:?}"));
        }
        let mut given = vec![self.sum()?];
        while self.take(&[',']).is_some() {
            given.push(self.sum()?);
        }
        self.expect(')')?;
        match (word, given.as_slice()) {
            ("min", [a, b]) => Ok(a.min(*b)),
            ("max", [a, b]) => Ok(a.max(*b)),
            ("ceil", [a]) => Ok(a.ceil()),
            ("floor", [a]) => Ok(a.floor()),
            ("head", [payload]) => Ok(head(*payload)),
            ("tree", [leaves, width]) => Ok(tree(*leaves, *width)),
            _ => bail!("there is no {word} of {} numbers", given.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(formula: &str) -> f64 {
        compute(formula, &|name| (name == "a_1").then_some(3.0)).unwrap()
    }

    #[test]
    fn formulas_are_computed_as_written() {
        for (formula, result) in [
            ("1 + 2 * a_1", 7.0),
            ("(1 + 2) * a_1 - 1", 8.0),
            ("12 / 2 / 3", 2.0),
            ("10 - 2 - 3", 5.0),
            ("2 * a_1 ^ 2", 18.0),
            ("1e6 / 4", 250_000.0),
            ("min(a_1, 2) + max(a_1, 2)", 5.0),
            ("ceil(2.1) + floor(2.9)", 5.0),
            ("head(125) + head(126) + head(65536)", 16.0),
        ] {
            assert!((value(formula) - result).abs() < 1e-12, "{formula}");
        }
    }

    #[test]
    fn a_tree_has_as_many_servers_as_its_width_asks_for() {
        for (leaves, width, servers) in [
            (1.0, 10.0, 1.0),
            (10.0, 10.0, 1.0),
            // Two replicas and the primary that feeds them.
            (11.0, 10.0, 3.0),
            (100.0, 10.0, 11.0),
            // 11 rows of leaves, 2 above them, 1 above those.
            (101.0, 10.0, 14.0),
            (8.0, 2.0, 7.0),
        ] {
            assert!(
                (tree(leaves, width) - servers).abs() < 1e-12,
                "{leaves} by {width}"
            );
        }
    }

    #[test]
    fn what_is_no_formula_is_refused() {
        for bad in [
            "", "1 +", "b", "(1", "1 2", "min(1)", "1 / 0", "2a", "1 = 1",
        ] {
            assert!(compute(bad, &|_| None).is_err(), "{bad:?}");
        }
    }
}
