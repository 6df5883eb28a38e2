//! `/healthz` and `/metrics` of a process that is no gateway: a generator, an ingest, a recorder.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::files;
use crate::limited::Limited;
use crate::metrics::{self, GeneratorMetrics};

/// Connections at once: a few probes and scrapers. Fewer where few files may be open.
const MAX_CONNECTIONS: usize = 64;
/// Longest wait for a request's headers, which also ends idle connections.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after accept failed, mostly for want of open files: trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What `/healthz` answers, as JSON.
pub type Health = Arc<dyn Fn() -> String + Send + Sync>;

/// Answers on `listener` in the background until `stop`, with what is in `registry`, as a publisher does.
pub fn start(
    listener: TcpListener,
    registry: Registry,
    metrics: GeneratorMetrics,
    stop: CancellationToken,
) {
    start_with(listener, registry, Arc::new(move || health(&metrics)), stop);
}

/// Answers on `listener` in the background until `stop`, with what is in `registry` and what `health` says.
pub fn start_with(
    listener: TcpListener,
    registry: Registry,
    health: Health,
    stop: CancellationToken,
) {
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, "health and metrics"),
        Err(why) => tracing::warn!(%why, "health and metrics at an unknown address"),
    }
    tokio::spawn(serve(listener, Arc::new(registry), health, stop));
}

/// Answers on `listener` until `stop`.
///
/// `/healthz` is 200 as long as the process answers, and says whether the bus is connected: a
/// generator without its bus goes on, and restarting it would not help.
async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    health: Health,
    stop: CancellationToken,
) {
    let free = Arc::new(Semaphore::new(files::for_probes(MAX_CONNECTIONS)));
    let accept = async {
        let mut log = Limited::default();
        let mut held = VecDeque::<CancellationToken>::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(why) => {
                    log.say(|left_out| tracing::warn!(%why, left_out, "health: cannot accept"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            held.retain(|other| !other.is_cancelled());
            // The oldest gives way: strangers who hold all of them keep no probe out.
            if free.available_permits() == 0
                && let Some(oldest) = held.pop_front()
            {
                oldest.cancel();
            }
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
                return;
            };
            let end = stop.child_token();
            held.push_back(end.clone());
            let (registry, health) = (Arc::clone(&registry), Arc::clone(&health));
            tokio::spawn(async move {
                let served = connection(stream, &registry, &health);
                end.run_until_cancelled(served).await;
                end.cancel();
                drop(permit);
            });
        }
    };
    stop.run_until_cancelled(accept).await;
}

async fn connection(stream: TcpStream, registry: &Registry, health: &Health) {
    let service = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(answer(&request, registry, health))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(why) = served {
        tracing::debug!(%why, "health: connection ended");
    }
}

fn answer<B>(request: &Request<B>, registry: &Registry, health: &Health) -> Response<Full<Bytes>> {
    let (content_type, text) = match request.uri().path() {
        "/healthz" => ("application/json", health()),
        "/metrics" => (metrics::CONTENT_TYPE, metrics::render(registry)),
        _ => {
            return plain(
                StatusCode::NOT_FOUND,
                "not found: /healthz and /metrics are there\n",
            );
        }
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD are allowed\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    let mut response = Response::new(Full::from(text));
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn health(metrics: &GeneratorMetrics) -> String {
    let bus = match metrics.bus_connected.get() {
        0 => "disconnected",
        _ => "connected",
    };
    format!("{{\"status\":\"ok\",\"bus\":\"{bus}\"}}\n")
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
