use std::time::Duration;

use serde_json::{Value, json};

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// Bars flow, but somebody should look at it.
    Warn,
    Fail,
    /// Not tried, since something before it failed.
    Skip,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
        }
    }

    /// SGR parameters (ECMA-48, section 8.3.117).
    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "32",
            Self::Warn => "33",
            Self::Fail => "31",
            Self::Skip => "2",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: &'static str,
    pub status: Status,
    /// What was measured, where there is something to measure.
    pub took: Option<Duration>,
    /// What was found.
    pub detail: String,
    /// What to do, unless all is well.
    pub next: Option<String>,
}

impl Step {
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            took: None,
            detail: detail.into(),
            next: None,
        }
    }

    pub fn warn(name: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            status: Status::Warn,
            next: Some(next.into()),
            ..Self::ok(name, detail)
        }
    }

    pub fn fail(name: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            ..Self::warn(name, detail, next)
        }
    }

    pub fn skip(name: &'static str, because: impl Into<String>) -> Self {
        Self {
            status: Status::Skip,
            ..Self::ok(name, because)
        }
    }

    #[must_use]
    pub fn took(self, took: Duration) -> Self {
        let took = Some(took);
        Self { took, ..self }
    }

    /// For people: one line, and one more with what to do.
    pub fn line(&self, colours: bool) -> String {
        let status = format!("{:<4}", self.status.name());
        let status = if colours {
            format!("\x1b[{}m{status}\x1b[0m", self.status.colour())
        } else {
            status
        };
        let took = self.took.map_or_else(String::new, |took| {
            format!("{:.1} ms", took.as_secs_f64() * 1e3)
        });
        let line = format!("{status}  {:<20}{took:>11}  {}", self.name, self.detail);
        match &self.next {
            Some(next) => format!("{line}\n      → {next}"),
            None => line,
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "status": self.status.name().to_lowercase(),
            "ms": self.took.map(|took| took.as_secs_f64() * 1e3),
            "detail": self.detail,
            "next": self.next,
        })
    }
}

/// Steps in the making.
pub(super) struct Reporter<T> {
    steps: Vec<Step>,
    tell: T,
}

/// All that was looked at.
#[derive(Debug)]
pub struct Report {
    pub steps: Vec<Step>,
}

impl Report {
    fn count(&self, status: Status) -> usize {
        self.steps.iter().filter(|s| s.status == status).count()
    }

    /// Whether nothing failed. A warning is no failure.
    pub fn is_well(&self) -> bool {
        self.count(Status::Fail) == 0
    }

    /// For people: the last line.
    pub fn summary(&self) -> String {
        let warnings = match self.count(Status::Warn) {
            0 => String::new(),
            1 => ", 1 warning".to_owned(),
            many => format!(", {many} warnings"),
        };
        match self.count(Status::Fail) {
            0 => format!("all well{warnings}"),
            failed => format!("{failed} of {} steps failed{warnings}", self.steps.len()),
        }
    }

    /// For machines: one object.
    pub fn json(&self) -> String {
        let steps: Vec<_> = self.steps.iter().map(Step::json).collect();
        json!({ "ok": self.is_well(), "steps": steps }).to_string()
    }
}

impl<T: FnMut(&Step)> Reporter<T> {
    pub fn new(tell: T) -> Self {
        let steps = Vec::new();
        Self { steps, tell }
    }

    pub fn add(&mut self, step: Step) {
        (self.tell)(&step);
        self.steps.push(step);
    }

    pub fn end(self) -> Report {
        let steps = self.steps;
        Report { steps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(steps: Vec<Step>) -> Report {
        Report { steps }
    }

    #[test]
    fn a_warning_is_well_and_a_failure_is_not() {
        let warned = report(vec![Step::ok("a", ""), Step::warn("b", "", "x")]);
        assert!(warned.is_well());
        assert_eq!(warned.summary(), "all well, 1 warning");
        let failed = report(vec![Step::fail("a", "", "x"), Step::skip("b", "")]);
        assert!(!failed.is_well());
        assert_eq!(failed.summary(), "1 of 2 steps failed");
    }

    #[test]
    fn colours_only_when_wanted() {
        let step = Step::fail("redis", "gone", "start it").took(Duration::from_micros(1_500));
        assert!(step.line(true).starts_with("\x1b[31mFAIL\x1b[0m  redis"));
        let plain = step.line(false);
        assert!(!plain.contains('\x1b') && plain.contains("1.5 ms  gone\n      → start it"));
    }
}
