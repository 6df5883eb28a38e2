//! The HTTP side of a worker: routes, and the upgrade to a WebSocket. What grows with the topics is built
//! by the thread of [`answers`].

pub mod answers;
pub mod listing;
pub mod places;
mod progress;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::cors;
use super::documents;
use super::node::{Node, Refused};
use super::reading::Reading;
use super::rendition::Rendition;
use super::session::{Connection, Session};
use super::udf;
use super::worker::Worker;
use super::ws::{Agreed, Decoder};
use crate::ui;
use progress::Progressing;

/// Largest head of a request, in bytes: hyper answers 431 beyond it.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Longest life of a connection that stays HTTP: pages and probes open new ones.
const HTTP_LIFETIME: Duration = Duration::from_secs(120);
/// What a page of ours may load: nothing from elsewhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self' ws: wss:";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The server side of one TCP connection, until it ends or becomes a session.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let Some(place) = worker.http_connection(peer.ip()) else {
        tracing::debug!(%peer, "connection refused: too many without a session");
        return;
    };
    let limits = &worker.node.config.limits;
    let (handshake_timeout, grace) = (limits.handshake_timeout, limits.slow_grace);
    let stream = Progressing::new(stream, grace);
    let service = service_fn(|request| {
        let in_use = place.in_use();
        let worker = Rc::clone(&worker);
        async move {
            let response = route(&worker, request, peer).await;
            drop(in_use);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(handshake_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        ended = timeout(HTTP_LIFETIME, connection) => match ended {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::debug!(%peer, %why, "HTTP connection ended"),
            Err(_) => tracing::debug!(%peer, "HTTP connection ended: too old"),
        },
        () = place.evicted() => tracing::debug!(%peer, "HTTP connection ended: others need its place"),
    }
}

/// A whole answer.
pub type Answer = Response<Full<Bytes>>;

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    respond(status, TEXT, format!("{why}\n"))
}

async fn route(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if matches!(path, "/ws" | "/api/v1/ws") {
        return upgrade(worker, request, peer);
    }
    let node = &worker.node;
    let shared = node.config.cors.shares(path);
    let mut response = match *request.method() {
        Method::GET | Method::HEAD => {
            get(node, path, request.uri().query().unwrap_or_default()).await
        }
        Method::OPTIONS if shared => cors::preflight(),
        _ => method_not_allowed(),
    };
    if shared {
        let headers = response.headers_mut();
        node.config.cors.mark(request.headers(), headers);
    }
    response
}

fn method_not_allowed() -> Response<Full<Bytes>> {
    let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD are allowed");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

async fn get(node: &Node, path: &str, query: &str) -> Response<Full<Bytes>> {
    match path {
        "/healthz" => respond(StatusCode::OK, JSON, r#"{"status":"alive"}"#),
        "/readyz" => ready(node),
        "/metrics" | "/api/v1/topics" => node.answers.ask(path, query).await,
        documents::ASYNCAPI_PATH => respond(StatusCode::OK, JSON, documents::ASYNCAPI),
        documents::OPENAPI_PATH => respond(StatusCode::OK, JSON, documents::OPENAPI),
        _ => match path.strip_prefix("/udf/") {
            Some(name) => {
                udf::read_past(node, name, query).await;
                node.answers.ask(path, query).await
            }
            None => page(node, path),
        },
    }
}

fn page(node: &Node, path: &str) -> Response<Full<Bytes>> {
    let file = ui::file(path).filter(|_| node.config.ui);
    let Some(file) = file else {
        let pages = if node.config.ui { "/, /ops, " } else { "" };
        let why = format!(
            "not found: {pages}/ws, /api/v1/ws, /api/v1/topics, /udf/, /healthz, /readyz and /metrics are there"
        );
        return refuse(StatusCode::NOT_FOUND, &why);
    };
    let mut response = respond(StatusCode::OK, file.content_type, file.bytes);
    response.headers_mut().insert(
        HeaderName::from_static("content-security-policy"),
        HeaderValue::from_static(CONTENT_SECURITY_POLICY),
    );
    response
}

fn ready(node: &Node) -> Response<Full<Bytes>> {
    let connected = node.bus.is_connected();
    let draining = node.is_draining();
    let ready = node.is_ready();
    let body = format!(r#"{{"ready":{ready},"bus_connected":{connected},"draining":{draining}}}"#);
    if ready {
        respond(StatusCode::OK, JSON, body)
    } else {
        respond(StatusCode::SERVICE_UNAVAILABLE, JSON, body)
    }
}

/// What is wrong with a WebSocket handshake (RFC 6455, section 4.2.1), if anything.
fn handshake_fault(request: &Request<Incoming>) -> Option<(StatusCode, &'static str)> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Some((StatusCode::METHOD_NOT_ALLOWED, "a handshake is a GET"));
    }
    if request.version() < Version::HTTP_11 {
        return Some((StatusCode::BAD_REQUEST, "a handshake needs HTTP/1.1"));
    }
    if headers.get_all(HOST).iter().count() != 1 {
        return Some((StatusCode::BAD_REQUEST, "a handshake needs one Host"));
    }
    if !fastwebsockets::upgrade::is_upgrade_request(request) {
        return Some((
            StatusCode::UPGRADE_REQUIRED,
            "this is a WebSocket: Connection: Upgrade and Upgrade: websocket are needed",
        ));
    }
    let mut versions = headers.get_all(SEC_WEBSOCKET_VERSION).iter();
    if versions.next().map(HeaderValue::as_bytes) != Some(b"13") || versions.next().is_some() {
        return Some((
            StatusCode::UPGRADE_REQUIRED,
            "Sec-WebSocket-Version: 13 is needed",
        ));
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().map(HeaderValue::as_bytes);
    if !key.is_some_and(is_key) || keys.next().is_some() {
        return Some((
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key must be 16 bytes in base64",
        ));
    }
    None
}

/// Whether this is the base64 of 16 bytes: 22 characters and `==`, the last of them with its four
/// unused bits zero (RFC 4648, sections 3.5 and 4).
fn is_key(key: &[u8]) -> bool {
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    match key {
        [text @ .., b'=', b'='] if text.len() == 22 => {
            text.iter().all(base64) && text.last().is_some_and(|last| b"AQgw".contains(last))
        }
        _ => false,
    }
}

/// The answer to what is no good WebSocket handshake.
pub fn refusal(request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
    let (status, why) = handshake_fault(request)?;
    let mut response = refuse(status, why);
    let headers = response.headers_mut();
    match status {
        StatusCode::UPGRADE_REQUIRED => {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        _ => {}
    }
    Some(response)
}

/// A good handshake.
pub struct Accepted {
    /// What to answer.
    pub response: Response<Full<Bytes>>,
    /// The connection, once the answer has gone out.
    pub upgraded: OnUpgrade,
    /// Which bytes the client gets, and whether it may send compressed ones, too.
    pub rendition: Rendition,
}

/// Accepts a good handshake; with `compression` also what the client offers of it (RFC 7692).
///
/// # Errors
/// The answer to one that is not good after all.
pub fn accept(
    request: &mut Request<Incoming>,
    compression: bool,
) -> Result<Accepted, Box<Response<Full<Bytes>>>> {
    let offers = request.headers().get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    let agreed = Agreed::on(offers.filter_map(|offer| offer.to_str().ok())).filter(|_| compression);
    let rendition = Rendition::agreed(agreed);
    let agreed = agreed.and_then(|agreed| HeaderValue::try_from(agreed.header()).ok());
    // Taken first: fastwebsockets takes it, too, and gives back a stream that has lost the bytes
    // which came right behind the handshake.
    let upgraded = hyper::upgrade::on(&mut *request);
    match fastwebsockets::upgrade::upgrade(request) {
        Ok((response, _)) => {
            let mut response = response.map(|_| Full::default());
            if let Some(agreed) = agreed {
                response
                    .headers_mut()
                    .insert(SEC_WEBSOCKET_EXTENSIONS, agreed);
            }
            Ok(Accepted {
                response,
                upgraded,
                rendition,
            })
        }
        Err(why) => Err(Box::new(refuse(StatusCode::BAD_REQUEST, &why.to_string()))),
    }
}

/// An upgraded connection's socket, and what the client sent right behind its handshake.
pub async fn stream_of(upgraded: OnUpgrade) -> Option<(TcpStream, Bytes)> {
    let upgraded = upgraded.await.ok()?;
    let upgraded = match upgraded.downcast::<TokioIo<Progressing>>() {
        Ok(parts) => return Some((parts.io.into_inner().into_inner(), parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    // Of a server that serves the bare socket.
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        tracing::error!("upgraded connection is not a TCP stream");
        return None;
    };
    Some((parts.io.into_inner(), parts.read_buf))
}

fn upgrade(
    worker: &Rc<Worker>,
    mut request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<Full<Bytes>> {
    if let Some(refusal) = refusal(&request) {
        return refusal;
    }
    let mut admission = match worker.node.admit(peer.ip()) {
        Ok(admission) => admission,
        Err(why) => {
            let status = match why {
                Refused::ClientsPerAddress => StatusCode::TOO_MANY_REQUESTS,
                Refused::Draining | Refused::Clients => StatusCode::SERVICE_UNAVAILABLE,
            };
            let mut response = refuse(status, &why.to_string());
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("5"));
            return response;
        }
    };
    let compression = worker.node.config.compression;
    let Accepted {
        response,
        upgraded,
        rendition,
    } = match accept(&mut request, compression) {
        Ok(accepted) => accepted,
        Err(refusal) => return *refusal,
    };
    admission.rendition = rendition;
    let worker = Rc::clone(worker);
    let limits = worker.node.config.limits.clone();
    spawn_local(async move {
        let upgraded = timeout(limits.handshake_timeout, stream_of(upgraded));
        let Ok(Some((stream, early))) = upgraded.await else {
            return;
        };
        let connection = Connection::new(stream, admission, worker.seconds());
        let session = Session::new(worker, connection);
        let mut decoder = Decoder::new(limits.max_message_bytes);
        if rendition == Rendition::Deflated {
            decoder = decoder.inflating();
        }
        // A task of its own, so that an idle client costs no more than its session.
        spawn_local(Reading::new(session, decoder, early));
    });
    response
}
