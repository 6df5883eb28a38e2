//! The thread `http`: whatever takes longer the more topics there are is built here, and not on a worker.
//!
//! A worker hands over what was asked and goes on; it writes the answer when that comes back. Probes are
//! answered by the worker itself, so they wait for nothing that is built here.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderValue, RETRY_AFTER};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::listing::{Listing, Page};
use super::{Answer, JSON, TEXT, refuse, respond};
use crate::gateway::node::Node;
use crate::gateway::udf;
use crate::metrics;

/// Requests that wait for the thread; one connection has one. Beyond it the answer is 503.
const MAX_QUEUED_REQUESTS: usize = 1_024;
/// How old a shared body may be.
pub(super) const SHARED_FOR: Duration = Duration::from_secs(1);
/// Bodies of so many bytes are shared: many may wait to be read. Smaller ones are made anew.
const SHARED_FROM_BYTES: usize = 64 << 10;
/// Likewise those that took this long.
const SHARED_FROM: Duration = Duration::from_millis(5);
/// Shared bodies kept at once: one is at most some 1 MB.
const MAX_SHARED: usize = 16;

/// One request for the thread.
struct Job {
    path: String,
    query: String,
    answer: oneshot::Sender<Answer>,
}

/// The way to the thread, for every worker.
#[derive(Debug, Default)]
pub struct Answers {
    jobs: OnceLock<SyncSender<Job>>,
}

impl Answers {
    /// Starts the thread; it ends when `node` is gone. Should it end before, by a panic, it cancels `stop`:
    /// a gateway that answers no more than probes would only look alive.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(node: &Arc<Node>, stop: CancellationToken) -> io::Result<thread::JoinHandle<()>> {
        let (jobs, queue) = sync_channel(MAX_QUEUED_REQUESTS);
        let weak = Arc::downgrade(node);
        let fail: DropGuard = stop.drop_guard();
        let thread = thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                work(&queue, &weak);
                drop(fail);
            })?;
        // Started once for each node.
        let _ = node.answers.jobs.set(jobs);
        Ok(thread)
    }

    /// What the thread answers; 503 when too many wait for it.
    pub async fn ask(&self, path: &str, query: &str) -> Answer {
        let (answer, answered) = oneshot::channel();
        let (path, query) = (path.to_owned(), query.to_owned());
        let job = Job {
            path,
            query,
            answer,
        };
        let sent = match self.jobs.get() {
            Some(jobs) => jobs.try_send(job),
            None => Err(TrySendError::Disconnected(job)),
        };
        if sent.is_ok()
            && let Ok(answer) = answered.await
        {
            return answer;
        }
        let mut busy = refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests are waiting, or the gateway is ending",
        );
        busy.headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        busy
    }
}

fn work(queue: &Receiver<Job>, node: &Weak<Node>) {
    let mut bodies = Bodies::default();
    while let Ok(job) = queue.recv() {
        let Some(node) = node.upgrade() else { return };
        // Whoever asked may have left meanwhile: then nothing is built for it.
        if !job.answer.is_closed() {
            let _ = job.answer.send(bodies.answer(&node, &job.path, &job.query));
        }
    }
}

/// A body's bytes, counted among what waits on the node for as long as anybody has to send them; once, however
/// many share them.
struct Counted {
    body: Box<[u8]>,
    node: Weak<Node>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            node.budget.release(node.config.workers, self.body.len());
        }
    }
}

fn counted(node: &Arc<Node>, body: Vec<u8>) -> Bytes {
    // Without the room that was left for growing, up to as much again.
    let body = body.into_boxed_slice();
    node.budget.hold(node.config.workers, body.len());
    let node = Arc::downgrade(node);
    Bytes::from_owner(Counted { body, node })
}

/// What a shared body shows; spelling and unknown parameters of the query make no other.
#[derive(PartialEq, Eq, Hash)]
enum Shown {
    Metrics,
    Topics(Page),
}

/// Bodies that many ask for, built once and shared.
#[derive(Default)]
struct Bodies {
    listing: Option<Listing>,
    shared: HashMap<Shown, (Instant, Bytes)>,
}

impl Bodies {
    fn answer(&mut self, node: &Arc<Node>, path: &str, query: &str) -> Answer {
        match path {
            "/metrics" => {
                let render = || counted(node, node.render_metrics().into_bytes());
                let body = self.shared(Shown::Metrics, |_| render());
                respond(StatusCode::OK, metrics::CONTENT_TYPE, body)
            }
            "/api/v1/topics" => match Page::of(query) {
                Ok(page) => {
                    let body = self.shared(Shown::Topics(page), |bodies| {
                        let listing = Listing::fresh(&mut bodies.listing, node);
                        counted(node, listing.write(&page))
                    });
                    respond(StatusCode::OK, JSON, body)
                }
                Err(why) => refuse(StatusCode::BAD_REQUEST, &why),
            },
            _ => {
                let name = path.strip_prefix("/udf/").unwrap_or_default();
                let reply = udf::reply(node, name, query);
                let content_type = if reply.is_json { JSON } else { TEXT };
                respond(reply.code, content_type, counted(node, reply.body))
            }
        }
    }

    fn shared(&mut self, key: Shown, build: impl FnOnce(&mut Self) -> Bytes) -> Bytes {
        let now = Instant::now();
        self.shared
            .retain(|_, (built, _)| now.duration_since(*built) < SHARED_FOR);
        if let Some((_, body)) = self.shared.get(&key) {
            return body.clone();
        }
        let body = build(self);
        let is_dear = body.len() >= SHARED_FROM_BYTES || now.elapsed() >= SHARED_FROM;
        if is_dear && self.shared.len() < MAX_SHARED {
            self.shared.insert(key, (now, body.clone()));
        }
        body
    }
}
