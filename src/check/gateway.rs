//! A gateway's probes and metrics.

use std::time::Duration;

use serde::Deserialize;

use super::report::{Reporter, Step};
use super::{Config, measured};
use crate::client::{Address, http};

/// From publish to send, at the 99th percentile: beyond it people see that a chart is late.
const LATE: Duration = Duration::from_secs(1);

pub(super) async fn check<T: FnMut(&Step)>(config: &Config, report: &mut Reporter<T>) {
    let address = &config.address;
    let get = |route| measured(config.limit, http::get(address, route, config.limit));
    let (answer, took) = get("/healthz").await;
    let is_alive = answer.is_ok();
    report.add(match answer {
        Ok(answer) if answer.status == 200 => alive(address, &answer.body).took(took),
        Ok(answer) => Step::fail(
            "gateway alive",
            format!("{address}: /healthz answers {}", answer.status),
            "is this a gateway's address, and does a proxy let /healthz through?",
        ),
        Err(why) => Step::fail(
            "gateway alive",
            format!("{address}: {why}"),
            "is the gateway running there, and is --url (BARCAST_URL) right?",
        ),
    });
    if !is_alive {
        for name in ["gateway ready", "gateway metrics"] {
            report.add(Step::skip(name, "the gateway is not reached"));
        }
        return;
    }
    let (answer, took) = get("/readyz").await;
    report.add(match answer {
        Ok(answer) => ready(answer.status, &answer.body).took(took),
        Err(why) => Step::fail(
            "gateway ready",
            why,
            "ask /readyz again, see the gateway's log",
        ),
    });
    let (answer, took) = get("/metrics").await;
    report.add(match answer {
        Ok(answer) if answer.status == 200 => metrics(&answer.body).took(took),
        Ok(answer) => {
            let detail = format!("/metrics answers {}", answer.status);
            Step::warn("gateway metrics", detail, "does a proxy hide /metrics?")
        }
        Err(why) => Step::warn("gateway metrics", why, "see the gateway's log"),
    });
}

/// What `/healthz` tells.
#[derive(Deserialize)]
struct Alive {
    status: String,
}

fn alive(address: &Address, body: &str) -> Step {
    let name = "gateway alive";
    match serde_json::from_str(body) {
        Ok(Alive { status }) if status.starts_with("degraded") => Step::warn(
            name,
            format!("{address}: {status}"),
            "docs/troubleshooting.md has what to do about it",
        ),
        _ => Step::ok(name, address.to_string()),
    }
}

/// What `/readyz` tells.
#[derive(Deserialize)]
struct Ready {
    draining: bool,
    /// Why it is not ready.
    #[serde(default)]
    reason: String,
}

fn ready(status: u16, body: &str) -> Step {
    let name = "gateway ready";
    if status == 200 {
        return Step::ok(name, "takes clients");
    }
    match serde_json::from_str(body) {
        Ok(Ready { draining: true, .. }) => Step::fail(
            name,
            "it is draining",
            "it was told to stop: ask the one that took its place",
        ),
        Ok(Ready { reason, .. }) if !reason.is_empty() => Step::fail(
            name,
            reason,
            "docs/troubleshooting.md has what to do about it; is its --redis-url the Redis above?",
        ),
        _ => Step::fail(
            name,
            format!("/readyz answers {status}"),
            "is this a gateway's address, and does a proxy let /readyz through?",
        ),
    }
}

/// Samples of a metrics text, all labels of a name together.
struct Samples<'a>(&'a str);

impl<'a> Samples<'a> {
    /// Labels and values of a name.
    fn of(&self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_it = labels.is_empty() || labels.starts_with('{');
            let value = value.parse().ok()?;
            is_it.then_some((labels, value))
        })
    }

    fn sum(&self, name: &'a str) -> Option<f64> {
        let mut found = self.of(name).map(|(_, value)| value).peekable();
        found.peek()?;
        Some(found.sum())
    }

    /// Upper bound of the bucket in which the 99th percentile lies, in seconds.
    fn p99(&self) -> Option<f64> {
        let all = self.sum("barcast_lag_seconds_count").filter(|n| *n > 0.0)?;
        let within = self.of("barcast_lag_seconds_bucket");
        within
            .filter(|(_, below)| *below >= 0.99 * all)
            .filter_map(|(labels, _)| {
                let bound = labels.strip_prefix("{le=\"")?.strip_suffix("\"}")?;
                bound.replace("+Inf", "inf").parse().ok()
            })
            .next()
    }
}

fn metrics(text: &str) -> Step {
    let name = "gateway metrics";
    let samples = Samples(text);
    let Some(clients) = samples.sum("barcast_clients") else {
        return Step::warn(
            name,
            "no metrics of a gateway",
            "what answers /metrics there?",
        );
    };
    let sum = |name| samples.sum(name).unwrap_or(0.0);
    let lag = samples.p99();
    let dropped = sum("barcast_dropped_messages_total");
    let gaps = sum("barcast_upstream_gaps_total");
    let gapped = sum("barcast_gapped_bars_total");
    let told = lag.map_or_else(
        || "no lag measured yet".to_owned(),
        |lag| format!("lag p99 up to {:.1} ms", lag * 1e3),
    );
    let detail = format!(
        "{clients} clients, {told}; since its start {dropped} messages dropped, {gaps} holes upstream, {gapped} bars lost to slow clients"
    );
    let mut look = Vec::new();
    if sum("barcast_bus_connected") < 1.0 {
        look.push("Redis is not connected");
    }
    if lag.is_some_and(|lag| lag > LATE.as_secs_f64()) {
        look.push("bars are late: is a core full, or are clocks apart?");
    }
    if dropped > 0.0 {
        look.push("malformed messages are in its log, with the reason");
    }
    if gaps > 0.0 {
        look.push("holes come from a lost Redis or a producer that skips seq");
    }
    if gapped > 0.0 {
        look.push("slow clients lost bars: see --outbox-bytes");
    }
    if look.is_empty() {
        Step::ok(name, detail)
    } else {
        Step::warn(name, detail, look.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::report::Status;

    #[test]
    fn the_reason_of_a_gateway_that_is_not_ready() {
        for (status, body, part) in [
            (
                503,
                r#"{"ready":false,"bus_connected":false,"draining":false,"reason":"bus lost: LOADING"}"#,
                "bus lost: LOADING",
            ),
            (
                503,
                r#"{"ready":false,"bus_connected":true,"draining":true,"reason":"draining"}"#,
                "draining",
            ),
            (404, "not found", "404"),
        ] {
            let step = ready(status, body);
            assert_eq!(step.status, Status::Fail);
            assert!(step.detail.contains(part), "{step:?}");
        }
        assert_eq!(ready(200, "").status, Status::Ok);
    }

    #[test]
    fn metrics_are_added_up_over_their_labels() {
        let text = "barcast_clients 3\nbarcast_bus_connected 1\n\
            barcast_dropped_messages_total{reason=\"json\"} 2\n\
            barcast_dropped_messages_total{reason=\"bar\"} 3\n\
            barcast_lag_seconds_bucket{le=\"0.001\"} 98\n\
            barcast_lag_seconds_bucket{le=\"0.002\"} 99\n\
            barcast_lag_seconds_bucket{le=\"+Inf\"} 100\n\
            barcast_lag_seconds_count 100\n";
        let step = metrics(text);
        assert_eq!(step.status, Status::Warn);
        assert!(step.detail.contains("5 messages dropped"), "{step:?}");
        assert!(step.detail.contains("p99 up to 2.0 ms"), "{step:?}");
        let step = metrics("barcast_clients 0\nbarcast_bus_connected 1\n");
        assert_eq!(step.status, Status::Ok, "{step:?}");
        assert_eq!(
            metrics("barcast_bus_connected 0\nbarcast_clients 0\n").status,
            Status::Warn
        );
        assert_eq!(metrics("up 1\n").status, Status::Warn);
    }
}
