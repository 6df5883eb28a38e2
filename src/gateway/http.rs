//! HTTP beside the WebSockets. A worker looks at how a connection begins ([`door`]): what asks for an upgrade at
//! once is its own, everything else is served by the thread `http` ([`server`]). What grows with the topics is
//! built by one thread more ([`answers`]).

pub mod answers;
pub mod door;
mod forwarded;
mod handshake;
pub mod holder;
mod idle;
pub mod listing;
pub mod patience;
pub mod places;
mod progress;
mod proxied;
mod queue;
pub mod server;
mod waiting;

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};

use super::cors;
use super::documents;
use super::node::Node;
use super::udf;
use crate::health::quoted;
use crate::metrics;
use crate::ui;
pub use handshake::{Accepted, accept, refusal, stream_of};

/// Largest head of a request, in bytes: hyper answers 431 beyond it.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// What a page of ours may load: nothing from elsewhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self' ws: wss:";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Whether this is a path of WebSockets, below the base path.
fn is_websocket(path: &str) -> bool {
    matches!(path, "/ws" | "/api/v1/ws")
}

/// A whole answer.
pub type Answer = Response<Full<Bytes>>;

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
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

fn refuse(status: StatusCode, why: &str) -> Answer {
    respond(status, TEXT, format!("{why}\n"))
}

/// What a request gets that is no upgrade.
async fn route(node: &Node, request: &Request<Incoming>, address: IpAddr) -> Answer {
    let base_path = &node.config.base_path;
    let asked = request.uri().path();
    // What a load balancer asks that was told nothing else, as HAProxy's `option httpchk`.
    if *request.method() == Method::OPTIONS && matches!(asked, "/" | "*") {
        return options(node);
    }
    let Some(path) = base_path.strip(asked) else {
        return if base_path.is_bare(asked) {
            redirect(&format!("{base_path}/"), request.uri().query())
        } else {
            not_found(node)
        };
    };
    let shared = node.config.cors.shares(path);
    let mut response = match *request.method() {
        Method::GET | Method::HEAD if path == "/metrics" => {
            let format = metrics::Format::wanted(request.headers());
            node.answers.ask(address, path, format.name()).await
        }
        Method::GET | Method::HEAD => {
            let query = request.uri().query().unwrap_or_default();
            get(node, path, query, address).await
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

fn redirect(path: &str, query: Option<&str>) -> Answer {
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut response = refuse(StatusCode::PERMANENT_REDIRECT, &format!("see {path}"));
    if let Ok(target) = HeaderValue::try_from(target) {
        response.headers_mut().insert(LOCATION, target);
    }
    response
}

/// Like `/readyz`, with what may be asked here.
fn options(node: &Node) -> Answer {
    let mut response = ready(node);
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    response
}

fn method_not_allowed() -> Answer {
    let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD are allowed");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

async fn get(node: &Node, path: &str, query: &str, address: IpAddr) -> Answer {
    match path {
        "/healthz" => alive(node),
        "/readyz" => ready(node),
        "/api/v1/topics" => node.answers.ask(address, path, query).await,
        documents::ASYNCAPI_PATH => respond(StatusCode::OK, JSON, documents::ASYNCAPI),
        documents::OPENAPI_PATH => respond(StatusCode::OK, JSON, documents::OPENAPI),
        _ => match path.strip_prefix("/udf/") {
            Some(name) => {
                udf::read_past(node, name, query).await;
                node.answers.ask(address, path, query).await
            }
            None => page(node, path),
        },
    }
}

fn page(node: &Node, path: &str) -> Answer {
    let file = ui::file(path).filter(|_| node.config.ui);
    let Some(file) = file else {
        return not_found(node);
    };
    let mut response = respond(StatusCode::OK, file.content_type, file.bytes);
    response.headers_mut().insert(
        HeaderName::from_static("content-security-policy"),
        HeaderValue::from_static(CONTENT_SECURITY_POLICY),
    );
    response
}

fn not_found(node: &Node) -> Answer {
    let below = &node.config.base_path;
    let pages = if node.config.ui {
        format!("{below}/, {below}/ops, ")
    } else {
        String::new()
    };
    let why = format!(
        "not found: {pages}{below}/ws, {below}/api/v1/ws, {below}/api/v1/topics, {below}/udf/, /healthz, /readyz and /metrics are there"
    );
    refuse(StatusCode::NOT_FOUND, &why)
}

/// 200 whatever is wrong: starting the process again would put none of it right.
fn alive(node: &Node) -> Answer {
    let status = quoted(&node.health.status());
    respond(StatusCode::OK, JSON, format!(r#"{{"status":{status}}}"#))
}

fn ready(node: &Node) -> Answer {
    let connected = node.bus.is_connected();
    let draining = node.is_draining();
    let state = format!(r#""bus_connected":{connected},"draining":{draining}"#);
    match node.unready() {
        None => respond(StatusCode::OK, JSON, format!(r#"{{"ready":true,{state}}}"#)),
        Some(why) => {
            let body = format!(r#"{{"ready":false,{state},"reason":{}}}"#, quoted(&why));
            respond(StatusCode::SERVICE_UNAVAILABLE, JSON, body)
        }
    }
}
