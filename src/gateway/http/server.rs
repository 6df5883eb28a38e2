//! The thread `http`: all that is not a WebSocket, sockets included. Probes and pages are answered at once; what
//! grows with the topics comes from the thread of [`answers`](super::answers), so that they wait for none of it.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{JoinSet, spawn_local};
use tokio_util::sync::CancellationToken;

use super::door::{Newcomer, Visitor};
use super::progress::Progressing;
use super::waiting::{Waiting, keep_budget};
use super::{Answer, MAX_HEAD_BYTES, handshake, is_websocket, route};
use crate::gateway::node::Node;
use crate::running::{self, timeout};

/// Longest life of a connection that stays HTTP: pages and probes open new ones.
const HTTP_LIFETIME: Duration = Duration::from_secs(120);

/// The thread's life, until `stop`.
///
/// # Errors
/// When its runtime cannot be made, or a part of it ends.
pub fn run(node: Arc<Node>, stop: &CancellationToken) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let mut duties = JoinSet::new();
        let waiting = Rc::new(Waiting::on(Arc::clone(&node)));
        duties.spawn_local(keep_budget(Rc::clone(&waiting)));
        duties.spawn_local(running::keep(|pause| {
            tracing::warn!(?pause, "process did not run; clients are pinged before they are judged");
        }));
        duties.spawn_local(receive(node, waiting));
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            // Neither ends by itself.
            _ = duties.join_next() => Err(io::Error::other("the thread http ended: a message is above")),
        }
    })
}

async fn receive(node: Arc<Node>, waiting: Rc<Waiting>) {
    let Some(mut visitors) = node.lanes.visitors() else {
        return;
    };
    while let Some(visitor) = visitors.recv().await {
        spawn_local(serve(Arc::clone(&node), Rc::clone(&waiting), visitor));
    }
}

/// One connection, until it ends or becomes a session of a worker. hyper takes its requests one by one: the next
/// is looked at when the answer before it is with the kernel.
async fn serve(node: Arc<Node>, waiting: Rc<Waiting>, visitor: Visitor) {
    let Visitor {
        stream,
        peer,
        place,
        worker,
        patience,
    } = visitor;
    let limits = &node.config.limits;
    let Ok(stream) = TcpStream::from_std(stream) else {
        return;
    };
    let counted = waiting.count();
    let stream = Progressing::new(stream, limits.slow_grace, Arc::clone(&counted.meter));
    let asked = Cell::new(false);
    let (node, counted, place, asked) = (&node, &counted, &place, &asked);
    let service = service_fn(move |request: Request<Incoming>| {
        asked.set(true);
        let in_use = place.in_use();
        async move {
            let mut answer = if is_websocket(request.uri().path()) {
                upgrade(node, request, worker, peer.ip())
            } else {
                route(node, &request, peer.ip()).await
            };
            counted.begin(&mut answer);
            drop(in_use);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(running::Timer)
        .header_read_timeout(limits.handshake_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // The worker waited, too: the first request is due so long after the connection was made.
    let late = async {
        running::sleep(patience).await;
        if asked.get() {
            pending::<()>().await;
        }
    };
    tokio::select! {
        ended = timeout(HTTP_LIFETIME, connection) => match ended {
            Some(Ok(())) => {}
            Some(Err(why)) => tracing::debug!(%peer, %why, "HTTP connection ended"),
            None => tracing::debug!(%peer, "HTTP connection ended: too old"),
        },
        () = place.evicted() => tracing::debug!(%peer, "HTTP connection ended: others need its place"),
        () = counted.meter.ended() => tracing::debug!(%peer, "HTTP connection ended: more waits than may"),
        () = late => tracing::debug!(%peer, "HTTP connection ended: its first request took too long"),
    }
}

fn upgrade(
    node: &Arc<Node>,
    request: Request<Incoming>,
    worker: usize,
    address: std::net::IpAddr,
) -> Answer {
    let (answer, admission, upgraded) = match handshake::let_in(node, request, address) {
        Ok(let_in) => let_in,
        Err(refusal) => return *refusal,
    };
    let node = Arc::clone(node);
    spawn_local(async move {
        let patience = node.config.limits.handshake_timeout;
        let upgraded = timeout(patience, handshake::stream_of(upgraded));
        if let Some(Some((stream, early))) = upgraded.await
            && let Ok(stream) = stream.into_std()
        {
            let newcomer = Newcomer {
                stream,
                admission,
                early,
            };
            node.lanes.join(worker, newcomer);
        }
    });
    answer
}
