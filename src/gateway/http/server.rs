//! The thread `http`: all that is not a WebSocket, sockets included. Probes and pages are answered at once; what
//! grows with the topics comes from the thread of [`answers`](super::answers), so that they wait for none of it.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

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
use super::forwarded;
use super::idle::{MAX_EXCHANGE, Over, Pulse, stays};
use super::progress::Progressing;
use super::waiting::{Waiting, keep_budget};
use super::{Answer, MAX_HEAD_BYTES, handshake, is_websocket, route};
use crate::gateway::node::Node;
use crate::running::{self, sleep, timeout};

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
        duties.spawn_local(running::keep(|pause| {
            tracing::warn!(?pause, "process did not run; clients are pinged before they are judged");
        }));
        let waiting = Rc::new(Waiting::on(Arc::clone(&node)));
        duties.spawn_local(keep_budget(Rc::clone(&waiting)));
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
    let pulse = Arc::new(Pulse::new(
        limits.handshake_timeout.saturating_sub(patience),
    ));
    let meter = Arc::clone(&counted.meter);
    let stream = Progressing::new(stream, limits.slow_grace, meter, Arc::clone(&pulse));
    let (node, counted, place, pulse) = (&node, &counted, &place, &pulse);
    let service = service_fn(move |request: Request<Incoming>| {
        pulse.begin();
        let in_use = place.in_use();
        async move {
            let stays = stays(&request);
            let path = node.config.base_path.strip(request.uri().path());
            let mut answer = if path.is_some_and(is_websocket) {
                upgrade(node, request, worker, peer.ip())
            } else {
                let address = forwarded::origin(node, peer.ip(), request.headers());
                route(node, &request, address).await
            };
            pulse.announce(node, stays, &mut answer);
            counted.begin(&mut answer);
            pulse.answered();
            drop(in_use);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let gone = async {
        tokio::select! {
            () = place.evicted() => tracing::debug!(%peer, "HTTP connection ended: others need its place"),
            () = counted.meter.ended() => tracing::debug!(%peer, "HTTP connection ended: more waits than may"),
        }
    };
    let mut gone = pin!(gone);
    let over = tokio::select! {
        // In this order: what has come is answered before anything ends.
        biased;
        ended = connection.as_mut() => return told(peer, ended),
        () = gone.as_mut() => return,
        over = pulse.over(limits.handshake_timeout, limits.http_idle_timeout) => over,
    };
    tracing::debug!(%peer, ?over, "HTTP connection ended: it took too long");
    if over == Over::Idle {
        // If a request came in this very moment, it is answered all the same.
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection => told(peer, ended),
            () = gone => {}
            () = sleep(MAX_EXCHANGE) => {}
        }
    }
}

fn told(peer: SocketAddr, ended: Result<(), hyper::Error>) {
    if let Err(why) = ended {
        tracing::debug!(%peer, %why, "HTTP connection ended");
    }
}

fn upgrade(node: &Arc<Node>, request: Request<Incoming>, worker: usize, peer: IpAddr) -> Answer {
    let (answer, admission, upgraded) = match handshake::let_in(node, request, peer) {
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
