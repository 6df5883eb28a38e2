//! Where a connection goes: a worker accepts it and looks once at how it begins.
//!
//! What asks for a WebSocket at once stays. Everything else goes to the thread `http` with its place, pieces of
//! a request line included, and comes back to this worker if it turns out to be an upgrade after all.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;

use super::places::Place;
use super::proxied::{self, ProxiedError};
use super::{MAX_HEAD_BYTES, handshake};
use crate::gateway::base_path::{BasePath, MAX_BASE_PATH_BYTES};
use crate::gateway::node::Admission;
use crate::gateway::reading::Reading;
use crate::gateway::rendition::Rendition;
use crate::gateway::session::{Connection, Session};
use crate::gateway::worker::{REFUSED_PROXY_HEADER, Worker};
use crate::gateway::ws::Decoder;
use crate::networks::any_contains;
use crate::running::{self, timeout};

/// What a first request for a WebSocket asks for; a space or a query follows.
const UPGRADES: [&[u8]; 2] = [b"/ws", b"/api/v1/ws"];
const METHOD: &[u8] = b"GET ";
/// The longest of them below a path, and what follows.
const LOOK_BYTES: usize = 15 + MAX_BASE_PATH_BYTES;
/// How long a connection that is turned away may take to read why.
const TURN_AWAY: Duration = Duration::from_secs(1);

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

/// How a connection begins.
#[derive(Debug, PartialEq, Eq)]
enum Beginning {
    /// With a request for a WebSocket.
    Upgrade,
    /// With a PROXY header.
    Proxied,
    Other,
}

/// The beginning of one TCP connection, until it is a session or somebody else's.
pub async fn enter(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, place: Place) {
    let config = &worker.node.config;
    let due = Due(running::now() + config.limits.handshake_timeout);
    if config.proxy_protocol && any_contains(&config.trusted_proxies, peer.ip()) {
        // In a box of its own, so that nobody else's beginning is larger for it.
        Box::pin(introduce(worker, stream, peer, place, due)).await;
    } else {
        look(worker, stream, peer, place, due).await;
    }
}

/// When a connection must have asked for something, by this thread's clock.
#[derive(Clone, Copy)]
struct Due(Instant);

impl Due {
    fn left(self) -> Duration {
        self.0.saturating_duration_since(running::now())
    }
}

/// Reads whose connection it is that a trusted proxy made.
async fn introduce(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    proxy: SocketAddr,
    mut place: Place,
    due: Due,
) {
    let read = tokio::select! {
        read = timeout(due.left(), proxied::read(&mut stream)) => read,
        () = place.evicted() => {
            tracing::debug!(%proxy, "connection ended: others need its place");
            return;
        }
    };
    match read {
        Some(Ok(None)) => look(worker, stream, proxy, place, due).await,
        Some(Ok(Some(peer))) => {
            // From here on it is the client's, and counted as its.
            place.belongs_to(peer.ip());
            look(worker, stream, peer, place, due).await;
        }
        // Also a check that only looks whether the port is open.
        Some(Err(ProxiedError::Io(why))) => tracing::debug!(%proxy, %why, "connection ended"),
        None => tracing::debug!(%proxy, "connection ended: no PROXY header came"),
        Some(Err(why)) => {
            worker.node.metrics.refused(REFUSED_PROXY_HEADER).inc();
            worker.proxy_log.borrow_mut().say(|left_out| {
                tracing::warn!(%proxy, %why, left_out, "connection of a trusted proxy refused (--proxy-protocol)");
            });
        }
    }
}

/// Looks whose a connection is, and hands it on.
async fn look(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, place: Place, due: Due) {
    let begins = begins(&stream, &worker.node.config.base_path);
    let looked = tokio::select! {
        looked = timeout(due.left(), begins) => looked,
        () = place.evicted() => {
            tracing::debug!(%peer, "connection ended: others need its place");
            return;
        }
    };
    match looked {
        Some(Ok(Beginning::Upgrade)) => {
            let greeted = timeout(due.left(), greet(&worker, stream, peer, &place));
            if greeted.await.is_none() {
                tracing::debug!(%peer, "connection ended: its handshake took too long");
            }
        }
        Some(Ok(Beginning::Other)) => {
            let Ok(stream) = stream.into_std() else {
                return;
            };
            let visitor = Visitor {
                stream,
                peer,
                place,
                worker: worker.at,
                patience: due.left(),
            };
            // Nobody takes it only when the gateway is ending.
            let _ = worker.node.lanes.visitors.sender.send(visitor);
        }
        Some(Ok(Beginning::Proxied)) => {
            worker.node.metrics.refused(REFUSED_PROXY_HEADER).inc();
            tokio::select! {
                _ = timeout(TURN_AWAY, turn_away(&worker, stream, peer)) => {}
                () = place.evicted() => {}
            }
        }
        Some(Err(why)) => tracing::debug!(%peer, %why, "connection ended"),
        None => tracing::debug!(%peer, "connection ended: it sent nothing"),
    }
}

/// Says to one that begins with a PROXY header why it is not read.
async fn turn_away(worker: &Worker, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let why = if worker.node.config.proxy_protocol {
        "a PROXY header is read from trusted proxies alone: name this address in --trusted-proxies (BARCAST_TRUSTED_PROXIES)"
    } else {
        "a PROXY header is not read here: switch it off in the proxy (send-proxy), or read it with --proxy-protocol (BARCAST_PROXY_PROTOCOL) and --trusted-proxies (BARCAST_TRUSTED_PROXIES)"
    };
    worker.proxy_log.borrow_mut().say(|left_out| {
        tracing::warn!(%peer, left_out, "connection refused: {why}");
    });
    let length = why.len() + 1;
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{why}\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // With something unread TCP would reset the connection, and the answer might be lost.
    let mut rest = [0; 256];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Looks at the first bytes that come, and leaves them where they are.
async fn begins(stream: &TcpStream, below: &BasePath) -> io::Result<Beginning> {
    let mut start = [0; LOOK_BYTES];
    let seen = stream.peek(&mut start).await?;
    if seen == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let start = &start[..seen];
    Ok(if is_upgrade(start, below) {
        Beginning::Upgrade
    } else if proxied::is_start(start) {
        Beginning::Proxied
    } else {
        Beginning::Other
    })
}

fn is_upgrade(start: &[u8], below: &BasePath) -> bool {
    let path = start.strip_prefix(METHOD);
    let Some(path) = path.and_then(|path| path.strip_prefix(below.as_bytes())) else {
        return false;
    };
    UPGRADES.iter().any(|upgrade| {
        let rest = path.strip_prefix(*upgrade);
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
            let root = BasePath::default();
            assert!(is_upgrade(stays.as_bytes(), &root), "{stays}");
            let below = "/bars".parse().unwrap();
            assert!(!is_upgrade(stays.as_bytes(), &below), "{stays}");
            let stays = stays.replacen('/', "/bars/", 1);
            assert!(is_upgrade(stays.as_bytes(), &below), "{stays}");
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
            assert!(!is_upgrade(goes.as_bytes(), &BasePath::default()), "{goes}");
        }
    }
}
