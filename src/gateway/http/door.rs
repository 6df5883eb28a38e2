//! Where a connection goes: a worker accepts it and looks once at how it begins.
//!
//! What asks for a WebSocket at once stays. Everything else goes to the thread `http` with its place, pieces of
//! a request line included, and comes back to this worker if it turns out to be an upgrade after all.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;

use super::places::Place;
use super::{MAX_HEAD_BYTES, handshake};
use crate::gateway::node::Admission;
use crate::gateway::reading::Reading;
use crate::gateway::rendition::Rendition;
use crate::gateway::session::{Connection, Session};
use crate::gateway::worker::Worker;
use crate::gateway::ws::Decoder;
use crate::running::{self, timeout};

/// How a connection begins whose first request is for a WebSocket; a space or a query follows.
const UPGRADES: [&[u8]; 2] = [b"GET /ws", b"GET /api/v1/ws"];
/// The longest of them, and what follows.
const LOOK_BYTES: usize = 15;

/// A connection for the thread `http`.
#[derive(Debug)]
pub struct Visitor {
    pub(super) stream: StdStream,
    pub(super) peer: SocketAddr,
    pub(super) place: Place,
    /// The worker that accepted it.
    pub(super) worker: usize,
    /// How much of its time to ask for something is left.
    pub(super) patience: Duration,
}

/// An upgraded connection for a worker.
#[derive(Debug)]
pub struct Newcomer {
    pub(super) stream: StdStream,
    pub(super) admission: Admission,
    /// What the client sent right behind its handshake.
    pub(super) early: Bytes,
}

/// A queue whose other end is taken once. It needs no bound of its own: each connection in it has a place
/// among [`MAX_HTTP_CONNECTIONS`](super::places::MAX_HTTP_CONNECTIONS) or among `--max-clients`.
#[derive(Debug)]
struct Lane<T> {
    sender: UnboundedSender<T>,
    receiver: Mutex<Option<UnboundedReceiver<T>>>,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        let (sender, receiver) = unbounded_channel();
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
        }
    }
}

impl<T> Lane<T> {
    fn take(&self) -> Option<UnboundedReceiver<T>> {
        let receiver = self.receiver.lock();
        receiver.unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The ways between the workers and the thread `http`.
#[derive(Debug)]
pub struct Lanes {
    visitors: Lane<Visitor>,
    newcomers: Box<[Lane<Newcomer>]>,
}

impl Lanes {
    /// One for the thread and one for each of so many workers.
    pub fn of(workers: usize) -> Self {
        Self {
            visitors: Lane::default(),
            newcomers: (0..workers).map(|_| Lane::default()).collect(),
        }
    }

    /// What comes for the thread `http`; once.
    pub(super) fn visitors(&self) -> Option<UnboundedReceiver<Visitor>> {
        self.visitors.take()
    }

    /// Hands a connection to the worker that accepted it; if that is gone, the connection ends.
    pub(super) fn join(&self, worker: usize, newcomer: Newcomer) {
        if let Some(lane) = self.newcomers.get(worker) {
            let _ = lane.sender.send(newcomer);
        }
    }
}

/// The beginning of one TCP connection, until it is a session or somebody else's.
pub async fn enter(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, place: Place) {
    let patience = worker.node.config.limits.handshake_timeout;
    let due = running::now() + patience;
    let left = || due.saturating_duration_since(running::now());
    let looked = tokio::select! {
        looked = timeout(patience, asks_for_upgrade(&stream)) => looked,
        () = place.evicted() => {
            tracing::debug!(%peer, "connection ended: others need its place");
            return;
        }
    };
    match looked {
        Some(Ok(true)) => {
            let greeted = timeout(left(), greet(&worker, stream, peer, &place));
            if greeted.await.is_none() {
                tracing::debug!(%peer, "connection ended: its handshake took too long");
            }
        }
        Some(Ok(false)) => {
            let Ok(stream) = stream.into_std() else {
                return;
            };
            let visitor = Visitor {
                stream,
                peer,
                place,
                worker: worker.at,
                patience: left(),
            };
            // Nobody takes it only when the gateway is ending.
            let _ = worker.node.lanes.visitors.sender.send(visitor);
        }
        Some(Err(why)) => tracing::debug!(%peer, %why, "connection ended"),
        None => tracing::debug!(%peer, "connection ended: it sent nothing"),
    }
}

/// Looks at the first bytes that come, and leaves them where they are.
async fn asks_for_upgrade(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; LOOK_BYTES];
    let seen = stream.peek(&mut start).await?;
    if seen == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(is_upgrade(&start[..seen]))
}

fn is_upgrade(start: &[u8]) -> bool {
    UPGRADES.iter().any(|upgrade| {
        let rest = start.strip_prefix(*upgrade);
        rest.is_some_and(|rest| matches!(rest.first(), Some(b' ' | b'?')))
    })
}

/// Answers the handshake. A refused one ends the connection: what else it may ask for is not served here.
async fn greet(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, place: &Place) {
    let service = service_fn(|request| {
        let in_use = place.in_use();
        let answer = match handshake::let_in(&worker.node, request, peer.ip()) {
            Ok((answer, admission, upgraded)) => {
                let worker = Rc::clone(worker);
                let patience = worker.node.config.limits.handshake_timeout;
                spawn_local(async move {
                    let upgraded = timeout(patience, handshake::stream_of(upgraded));
                    if let Some(Some((stream, early))) = upgraded.await {
                        begin(worker, stream, admission, early);
                    }
                });
                answer
            }
            Err(mut refusal) => {
                let headers = refusal.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                *refusal
            }
        };
        drop(in_use);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        ended = connection => if let Err(why) = ended {
            tracing::debug!(%peer, %why, "handshake ended");
        },
        () = place.evicted() => tracing::debug!(%peer, "handshake ended: others need its place"),
    }
}

/// The life of a session.
fn begin(worker: Rc<Worker>, stream: TcpStream, admission: Admission, early: Bytes) {
    let rendition = admission.rendition;
    let connection = Connection::new(stream, admission, worker.seconds());
    let mut decoder = Decoder::new(worker.node.config.limits.max_message_bytes);
    if rendition == Rendition::Deflated {
        decoder = decoder.inflating();
    }
    let session = Session::new(worker, connection);
    // A task of its own, so that an idle client costs no more than its session.
    spawn_local(Reading::new(session, decoder, early));
}

/// Takes in those whom the thread `http` upgraded.
pub async fn welcome(worker: Rc<Worker>) {
    let lane = worker.node.lanes.newcomers.get(worker.at);
    let Some(mut newcomers) = lane.and_then(Lane::take) else {
        return;
    };
    while let Some(newcomer) = newcomers.recv().await {
        let Newcomer {
            stream,
            admission,
            early,
        } = newcomer;
        match TcpStream::from_std(stream) {
            Ok(stream) => begin(Rc::clone(&worker), stream, admission, early),
            Err(why) => tracing::warn!(%why, "cannot take over an upgraded connection"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_certainly_is_an_upgrade_stays() {
        for stays in [
            "GET /ws HTTP/1.1\r\n",
            "GET /ws?a",
            "GET /api/v1/ws ",
            "GET /api/v1/ws?",
        ] {
            let start = &stays.as_bytes()[..stays.len().min(LOOK_BYTES)];
            assert!(is_upgrade(start), "{stays}");
        }
        for goes in [
            "",
            "G",
            "GET /ws",
            "GET /ws/",
            "GET /wsx",
            "POST /ws ",
            "get /ws ",
            "GET  /ws ",
            "GET /api/v1/topics",
        ] {
            assert!(!is_upgrade(goes.as_bytes()), "{goes}");
        }
    }
}
