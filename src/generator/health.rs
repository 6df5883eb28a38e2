//! `/healthz`, `/readyz` and `/metrics` of a process that is no gateway: a generator, an ingest, a recorder.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::files;
use crate::health::quoted;
use crate::limited::Limited;
use crate::metrics::process::ProcessCollector;
use crate::metrics::{self, Format, GeneratorMetrics};

/// Connections at once: a few probes and scrapers. Fewer where few files may be open.
const MAX_CONNECTIONS: usize = 64;
/// Longest wait for the first bytes of a request.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection lives, as one of a gateway does: longer than proxies keep theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// What clients are told of it: a little less, since a request may be under way.
const KEEP_ALIVE: &str = "timeout=70";
/// Pause after accept failed, mostly for want of open files: trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const JSON: &str = "application/json";

/// What probes are answered.
pub trait Probed: Send + Sync + 'static {
    /// What keeps the process from its work; none when it is ready.
    fn unready(&self) -> Option<String>;
    /// The body of `/healthz`, as JSON.
    fn healthz(&self) -> String;
}

impl Probed for GeneratorMetrics {
    fn unready(&self) -> Option<String> {
        self.health.unready()
    }

    fn healthz(&self) -> String {
        let bus = match self.bus_connected.get() {
            0 => "disconnected",
            _ => "connected",
        };
        let status = quoted(&self.health.status());
        format!("{{\"status\":{status},\"bus\":\"{bus}\"}}\n")
    }
}

/// Answers at `address` in the background until `stop`: with the metrics that `register` adds and those of every
/// process, and with what `probed` says.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn listen(
    address: SocketAddr,
    register: impl FnOnce(&mut Registry),
    probed: impl Probed,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let mut registry = Registry::default();
    register(&mut registry);
    registry.register_collector(Box::new(ProcessCollector));
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, "health and metrics"),
        Err(why) => tracing::warn!(%why, "health and metrics at an unknown address"),
    }
    tokio::spawn(serve(listener, Arc::new(registry), Arc::new(probed), stop));
    Ok(())
}

/// Answers on `listener` until `stop`.
///
/// `/healthz` is 200 as long as the process answers, and says what is wrong: a generator without its bus
/// goes on, and restarting it would not help. `/readyz` is 200 while bars can flow.
async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    probed: Arc<impl Probed>,
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
            let (registry, probed) = (Arc::clone(&registry), Arc::clone(&probed));
            tokio::spawn(async move {
                let served = connection(stream, &registry, &*probed);
                end.run_until_cancelled(served).await;
                end.cancel();
                drop(permit);
            });
        }
    };
    stop.run_until_cancelled(accept).await;
}

async fn connection(stream: TcpStream, registry: &Registry, probed: &impl Probed) {
    if timeout(FIRST_TIMEOUT, stream.readable()).await.is_err() {
        return;
    }
    let service = service_fn(|request: Request<Incoming>| async move {
        let mut answer = answer(&request, registry, probed);
        let told = HeaderValue::from_static(KEEP_ALIVE);
        let headers = answer.headers_mut();
        headers.insert(HeaderName::from_static("keep-alive"), told);
        Ok::<_, Infallible>(answer)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(why) = served {
        tracing::debug!(%why, "health: connection ended");
    }
}

fn answer<B>(
    request: &Request<B>,
    registry: &Registry,
    probed: &impl Probed,
) -> Response<Full<Bytes>> {
    let mut status = StatusCode::OK;
    let (content_type, text) = match request.uri().path() {
        "/metrics" => {
            let format = Format::wanted(request.headers());
            (format.content_type(), metrics::render(registry, format))
        }
        "/healthz" => (JSON, probed.healthz()),
        "/readyz" => {
            let unready = probed.unready();
            if unready.is_some() {
                status = StatusCode::SERVICE_UNAVAILABLE;
            }
            (JSON, readyz(unready))
        }
        _ => {
            return plain(
                StatusCode::NOT_FOUND,
                "not found: /healthz, /readyz and /metrics are there\n",
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
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    let no_sniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, no_sniff);
    let by_accept = HeaderValue::from_static("Accept");
    response.headers_mut().insert(VARY, by_accept);
    response
}

fn readyz(unready: Option<String>) -> String {
    match unready {
        None => "{\"ready\":true}\n".to_owned(),
        Some(why) => format!("{{\"ready\":false,\"reason\":{}}}\n", quoted(&why)),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
