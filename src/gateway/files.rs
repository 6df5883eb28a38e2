//! How a limit of open files is divided: what the gateway itself needs first, then connections that are no
//! sessions, handshakes and probes among them, then clients.

use super::config::Config;
use super::http::places::{MAX_HTTP_CONNECTIONS, spare};
use crate::files::RESERVED_FILES;

/// A worker's own files: its listener, its runtime, and the connection that it just accepts.
const FILES_PER_WORKER: u64 = 6;
/// Files for strangers without which a gateway does not start.
const LEAST_FILES: u64 = 32;
/// Connections without a session that a small limit leaves, if they are no more than a quarter of it.
const LEAST_HTTP: u64 = 16;

/// What a limit of open files means for a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    /// The limit.
    pub limit: u64,
    /// Connections without a session.
    pub http_connections: usize,
    /// Clients that it leaves, if those are fewer than `--max-clients`.
    pub clients: Option<usize>,
}

/// The limit is too low.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "open-file limit (ulimit -n) = {limit}: {workers} workers need {least} or more; raise ulimit -n"
)]
pub struct TooFewFiles {
    limit: u64,
    workers: usize,
    least: u64,
}

impl Files {
    /// Divides `limit` files.
    ///
    /// # Errors
    /// When they are too few to serve anybody.
    pub fn of(limit: u64, workers: usize, max_clients: usize) -> Result<Self, TooFewFiles> {
        let own = RESERVED_FILES + FILES_PER_WORKER * workers as u64;
        let left = limit.saturating_sub(own);
        if left < LEAST_FILES {
            return Err(TooFewFiles {
                limit,
                workers,
                least: own + LEAST_FILES,
            });
        }
        let share = (left / 8).max(LEAST_HTTP.min(left / 4));
        let fitting = usize::try_from(left - share).unwrap_or(usize::MAX);
        let clients = max_clients.min(fitting);
        // All that clients leave, up to what they would be without a limit.
        let http = usize::try_from(left).unwrap_or(usize::MAX) - clients;
        let http = http - spare(http);
        Ok(Self {
            limit,
            http_connections: http.min(MAX_HTTP_CONNECTIONS * workers),
            clients: (clients < max_clients).then_some(clients),
        })
    }
}

impl Config {
    /// Fits clients and other connections into `limit` open files.
    ///
    /// # Errors
    /// When they are too few to serve anybody.
    pub fn fit_files(&mut self, limit: u64) -> Result<(), TooFewFiles> {
        let max_clients = self.limits.max_clients;
        let files = Files::of(limit, self.workers, max_clients)?;
        if let Some(clients) = files.clients {
            self.limits.max_clients = clients;
        }
        self.files = Some(files);
        Ok(())
    }

    /// Connections without a session that this gateway holds at once.
    pub fn http_connections(&self) -> usize {
        self.files
            .map_or(MAX_HTTP_CONNECTIONS * self.workers, |files| {
                files.http_connections
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_probes_and_our_own_fit_into_any_limit() {
        for limit in (54..2_000).chain([20_000, 65_536, 1 << 20, u64::MAX]) {
            for (workers, max_clients) in [(1, 1), (1, 100_000), (2, 500), (16, 100_000)] {
                let Ok(files) = Files::of(limit, workers, max_clients) else {
                    assert!(limit < 160, "{limit} files, {workers} workers");
                    continue;
                };
                let clients = files.clients.unwrap_or(max_clients);
                assert!(clients >= 1 && files.http_connections >= 1, "{files:?}");
                let http = files.http_connections as u64 + spare(files.http_connections) as u64;
                let own = RESERVED_FILES + FILES_PER_WORKER * workers as u64;
                assert!(own + http + clients as u64 <= limit, "{files:?}");
            }
        }
    }

    #[test]
    fn a_high_limit_changes_nothing() {
        let files = Files::of(1 << 20, 2, 100_000).unwrap();
        assert_eq!(files.clients, None);
        assert_eq!(files.http_connections, 2 * MAX_HTTP_CONNECTIONS);
        let few = Files::of(53, 1, 100_000).unwrap_err();
        let text = few.to_string();
        assert!(
            text.contains("= 53:") && text.contains("need 70 or more"),
            "{text}"
        );
    }
}
