//! What an attempt to connect may take, and what it is at when its time is over.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::ClientError;

/// Longest attempt to connect, from the look-up of the name to the answer to the handshake. A TCP packet
/// that is lost twice costs 3 s, and a hanging attempt must leave time for the next one.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);

/// All stages of an attempt together end at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    limit: Duration,
    until: Instant,
}

impl Attempt {
    /// Begins now.
    pub fn within(limit: Duration) -> Self {
        Self {
            limit,
            until: Instant::now() + limit,
        }
    }

    /// One stage: an error that says which it was when the attempt's time is over.
    pub async fn stage<T>(
        self,
        stage: impl FnOnce() -> String,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        match timeout_at(self.until, work).await {
            Ok(done) => done,
            Err(_) => Err(ClientError::Timeout {
                limit: self.limit,
                stage: stage(),
            }),
        }
    }
}
