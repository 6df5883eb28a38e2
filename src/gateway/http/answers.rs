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
    /// Starts the thread; it ends when `node` is gone.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(node: &Arc<Node>) -> io::Result<()> {
        let (jobs, queue) = sync_channel(MAX_QUEUED_REQUESTS);
        let weak = Arc::downgrade(node);
        thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || work(&queue, &weak))?;
        // Started once for each node.
        let _ = node.answers.jobs.set(jobs);
        Ok(())
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

/// Bodies that many ask for, built once and shared.
#[derive(Default)]
struct Bodies {
    listing: Option<Listing>,
    shared: HashMap<(String, String), (Instant, Bytes)>,
}

impl Bodies {
    fn answer(&mut self, node: &Node, path: &str, query: &str) -> Answer {
        match path {
            "/metrics" => {
                let body = self.shared(path, "", |_| node.render_metrics().into());
                respond(StatusCode::OK, metrics::CONTENT_TYPE, body)
            }
            "/api/v1/topics" => match Page::of(query) {
                Ok(page) => {
                    let body = self.shared(path, query, |bodies| {
                        let listing = Listing::fresh(&mut bodies.listing, node);
                        listing.write(&page).into()
                    });
                    respond(StatusCode::OK, JSON, body)
                }
                Err(why) => refuse(StatusCode::BAD_REQUEST, &why),
            },
            _ => {
                let name = path.strip_prefix("/udf/").unwrap_or_default();
                let reply = udf::reply(node, name, query);
                let content_type = if reply.is_json { JSON } else { TEXT };
                respond(reply.code, content_type, reply.body)
            }
        }
    }

    fn shared(&mut self, path: &str, query: &str, build: impl FnOnce(&mut Self) -> Bytes) -> Bytes {
        let now = Instant::now();
        self.shared
            .retain(|_, (built, _)| now.duration_since(*built) < SHARED_FOR);
        let key = (path.to_owned(), query.to_owned());
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
