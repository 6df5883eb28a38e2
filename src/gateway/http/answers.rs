//! The thread `http-bodies`: whatever takes longer the more topics there are is built here, and neither on a
//! worker nor on the thread that speaks HTTP.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderValue, RETRY_AFTER, VARY};
use tokio::sync::oneshot;

use super::holder::holder_of;
use super::listing::{Listing, Page};
use super::queue::Queue;
use super::waiting::Built;
use super::{Answer, JSON, TEXT, refuse, respond};
use crate::gateway::node::Node;
use crate::gateway::udf;
use crate::metrics;

/// How old a shared body may be.
pub(super) const SHARED_FOR: Duration = Duration::from_secs(1);
/// Bodies of so many bytes are shared: many may wait to be read. Smaller ones are made anew.
const SHARED_FROM_BYTES: usize = 64 << 10;
/// Likewise those that took this long.
const SHARED_FROM: Duration = Duration::from_millis(5);
/// Shared bodies kept at once: one is at most some 1 MB.
const MAX_SHARED: usize = 16;

/// One request for the thread.
#[derive(Debug)]
struct Job {
    path: String,
    query: String,
    answer: oneshot::Sender<Answer>,
}

/// The way to the thread.
#[derive(Debug, Default)]
pub struct Answers {
    queue: Arc<Queue<Job>>,
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Answers {
    /// Starts the thread; it ends when `node` is gone.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(node: &Arc<Node>) -> io::Result<()> {
        let queue = Arc::clone(&node.answers.queue);
        let weak = Arc::downgrade(node);
        thread::Builder::new()
            .name("http-bodies".to_owned())
            .spawn(move || work(&queue, &weak))?;
        Ok(())
    }

    /// What the thread answers; 503 when too many wait for it.
    pub async fn ask(&self, address: IpAddr, path: &str, query: &str) -> Answer {
        let (answer, answered) = oneshot::channel();
        let (path, query) = (path.to_owned(), query.to_owned());
        let job = Job {
            path,
            query,
            answer,
        };
        self.queue.push(holder_of(address), job);
        if let Ok(answer) = answered.await {
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

/// However the thread ends, nobody waits for it any more.
struct Ends<'a>(&'a Queue<Job>);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn work(queue: &Queue<Job>, node: &Weak<Node>) {
    let _ends = Ends(queue);
    let mut bodies = Bodies::default();
    while let Some(job) = queue.pop() {
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
    shared: HashMap<(String, String), (Instant, Bytes, Built)>,
}

impl Bodies {
    fn answer(&mut self, node: &Node, path: &str, query: &str) -> Answer {
        let (mut answer, built) = match path {
            "/metrics" => {
                let format = metrics::Format::named(query);
                let render = |_: &mut Self| node.render_metrics(format).into();
                let (body, built) = self.shared(path, query, render);
                let mut answer = respond(StatusCode::OK, format.content_type(), body);
                let vary = HeaderValue::from_static("Accept");
                answer.headers_mut().insert(VARY, vary);
                (answer, built)
            }
            "/api/v1/topics" => match Page::of(query) {
                Ok(page) => {
                    let (body, built) = self.shared(path, query, |bodies| {
                        let listing = Listing::fresh(&mut bodies.listing, node);
                        listing.write(&page).into()
                    });
                    (respond(StatusCode::OK, JSON, body), built)
                }
                Err(why) => (refuse(StatusCode::BAD_REQUEST, &why), Built::default()),
            },
            _ => {
                let name = path.strip_prefix("/udf/").unwrap_or_default();
                let reply = udf::reply(node, name, query);
                let content_type = if reply.is_json { JSON } else { TEXT };
                let answer = respond(reply.code, content_type, reply.body);
                (answer, Built::default())
            }
        };
        answer.extensions_mut().insert(built);
        answer
    }

    fn shared(
        &mut self,
        path: &str,
        query: &str,
        build: impl FnOnce(&mut Self) -> Bytes,
    ) -> (Bytes, Built) {
        let now = Instant::now();
        self.shared
            .retain(|_, (at, ..)| now.duration_since(*at) < SHARED_FOR);
        let key = (path.to_owned(), query.to_owned());
        if let Some((_, body, built)) = self.shared.get(&key) {
            return (body.clone(), built.clone());
        }
        let (body, built) = (build(self), Built::default());
        let is_dear = body.len() >= SHARED_FROM_BYTES || now.elapsed() >= SHARED_FROM;
        if is_dear && self.shared.len() < MAX_SHARED {
            let kept = (now, body.clone(), built.clone());
            self.shared.insert(key, kept);
        }
        (body, built)
    }
}
