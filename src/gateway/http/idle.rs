//! How long a connection that stays HTTP may be silent, and when it is ended.
//!
//! A proxy keeps connections for its next request, so an idle one lives longer than proxies keep theirs (a
//! minute), and it is told how long (`Keep-Alive: timeout`). An end is said in an answer (`Connection: close`)
//! wherever one is left to say it in; only a connection that nobody uses ends without a word, and never while
//! a request is being read or answered.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Version};
use tokio::sync::Notify;
use tokio::task::yield_now;

use super::Answer;
use crate::gateway::node::Node;
use crate::running;

/// Longest time from the end of a request's head to the last byte of its answer: nobody waits so long.
pub(super) const MAX_EXCHANGE: Duration = Duration::from_secs(120);
/// A client is told to use a connection for so much less than it lives: its request may be under way.
const ANNOUNCED_EARLIER: Duration = Duration::from_secs(5);

/// Why a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Its first request did not come.
    First,
    /// A request's head began and did not end.
    Head,
    /// An answer was not made or not taken.
    Exchange,
    /// Nobody uses it.
    Idle,
}

/// What went over one connection, and when. Its socket tells, which must be able to change threads, so these can
/// too.
#[derive(Debug)]
pub struct Pulse {
    accepted: Instant,
    has_asked: AtomicBool,
    /// An answer is being made.
    is_busy: AtomicBool,
    /// A part of an answer waits for the socket.
    is_unsent: AtomicBool,
    /// Bytes came of which there is no request yet.
    is_heard: AtomicBool,
    /// Since `accepted`, in ms: when the last bytes went over, and when the last exchange or head began.
    moved: AtomicU64,
    began: AtomicU64,
    changed: Notify,
}

impl Pulse {
    /// Of a connection that was made so long ago, by the clock of this thread.
    pub fn new(age: Duration) -> Self {
        let now = running::now();
        Self {
            accepted: now.checked_sub(age).unwrap_or(now),
            has_asked: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            is_unsent: AtomicBool::new(false),
            is_heard: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            began: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    fn age(&self) -> Duration {
        running::now().saturating_duration_since(self.accepted)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX)
    }

    /// These bytes came. Empty lines between requests are no request (RFC 9112, section 2.2), and keep nothing alive.
    pub(super) fn read(&self, bytes: &[u8]) {
        let is_blank = bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
        let is_between =
            !self.is_busy.load(Ordering::Relaxed) && !self.is_heard.load(Ordering::Relaxed);
        if is_blank && is_between {
            return;
        }
        let now = self.now();
        self.moved.store(now, Ordering::Relaxed);
        if !self.is_busy.load(Ordering::Relaxed) && !self.is_heard.swap(true, Ordering::Relaxed) {
            self.began.store(now, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }

    /// The socket took something, all that there was or not.
    pub(super) fn wrote(&self, is_all: bool) {
        self.moved.store(self.now(), Ordering::Relaxed);
        self.is_heard.store(false, Ordering::Relaxed);
        if self.is_unsent.swap(!is_all, Ordering::Relaxed) && is_all {
            self.changed.notify_one();
        }
    }

    /// A request is to be answered.
    pub fn begin(&self) {
        self.has_asked.store(true, Ordering::Relaxed);
        self.is_busy.store(true, Ordering::Relaxed);
        self.is_heard.store(false, Ordering::Relaxed);
        self.began.store(self.now(), Ordering::Relaxed);
    }

    /// Its answer is made, and goes to the socket next.
    pub fn answered(&self) {
        self.is_busy.store(false, Ordering::Relaxed);
        self.moved.store(self.now(), Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Until when the connection may go on as it is, and what ends it then.
    fn due(&self, handshake: Duration, idle: Duration) -> (Instant, Over) {
        let at = |ms: &AtomicU64, more: Duration| {
            self.accepted + Duration::from_millis(ms.load(Ordering::Relaxed)) + more
        };
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if !is(&self.has_asked) {
            // The worker waited, too: the first request is due so long after the connection was made.
            (self.accepted + handshake, Over::First)
        } else if is(&self.is_busy) || is(&self.is_unsent) {
            (at(&self.began, MAX_EXCHANGE), Over::Exchange)
        } else if is(&self.is_heard) {
            (at(&self.began, handshake), Over::Head)
        } else {
            (at(&self.moved, idle), Over::Idle)
        }
    }

    /// Waits until the connection is to end.
    pub async fn over(&self, handshake: Duration, idle: Duration) -> Over {
        loop {
            let (until, _) = self.due(handshake, idle);
            tokio::select! {
                () = running::sleep(until.saturating_duration_since(running::now())) => {}
                () = self.changed.notified() => continue,
            }
            // What has come meanwhile is read first.
            yield_now().await;
            let (until, over) = self.due(handshake, idle);
            if until <= running::now() {
                return over;
            }
        }
    }

    /// Says in an answer how long the connection lives on; a client that `stays` may use it again.
    pub fn announce(&self, node: &Node, stays: bool, answer: &mut Answer) {
        let headers = answer.headers_mut();
        if headers.contains_key(CONNECTION) {
            return;
        }
        let is_old = self.age() >= node.config.http_lifetime;
        if is_old || node.is_draining() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        } else if stays {
            let idle = node.config.limits.http_idle_timeout;
            let told = idle.saturating_sub(ANNOUNCED_EARLIER).max(idle / 2);
            // Whole seconds; with less than one a client would ask at once or never.
            if let Ok(told) = HeaderValue::try_from(format!("timeout={}", told.as_secs().max(1))) {
                headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
                headers.insert(HeaderName::from_static("keep-alive"), told);
            }
        }
    }
}

/// Whether whoever asks means to ask again on the same connection (RFC 9112, section 9.3).
pub fn stays<B>(request: &Request<B>) -> bool {
    if has_token(request.headers(), "close") {
        return false;
    }
    request.version() >= Version::HTTP_11 || has_token(request.headers(), "keep-alive")
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let values = headers.get_all(CONNECTION).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|found| found.trim().eq_ignore_ascii_case(token))
}
