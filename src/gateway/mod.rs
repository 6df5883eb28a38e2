//! The gateway: bars from a bus out to WebSocket clients.
//!
//! The life of a bar: [`ingest`] (its own thread) decodes it, keeps it in the [`registry`] and, if
//! anybody watches, encodes one frame; a [`mailbox`] takes the [`batch`] to each [`worker`]; the
//! worker's [`hub`] writes every client that is due once. What a full socket does not take waits in
//! the session's [`lag`] and [`outbox`].

mod allowance;
pub mod base_path;
pub mod batch;
pub mod budget;
pub mod closing;
pub mod config;
pub mod cors;
mod documents;
pub mod files;
mod holders;
pub mod http;
pub mod hub;
pub mod ingest;
pub mod interest;
pub mod lag;
mod load;
mod machine;
pub mod mailbox;
pub mod memory;
pub mod missed;
pub mod node;
pub mod outbox;
pub mod past;
mod patterns;
mod placeholders;
pub mod protocol;
pub mod reading;
pub mod registry;
pub mod rendition;
mod sent;
pub mod session;
mod silence;
pub mod state;
mod subscribe;
pub mod udf;
pub mod watching;
pub mod worker;
pub mod ws;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use config::{Config, Limits};

use crate::bus::Bus;
use crate::limited::Limited;
use crate::metrics::GatewayMetrics;
use crate::running;
use http::answers::Answers;
use http::door;
use http::patience::Patience;
use ingest::Ingest;
use mailbox::Mailbox;
use node::Node;
use sent::Kernel;
use worker::Worker;

/// Connections the kernel holds until they are accepted; it takes less where `somaxconn` is lower.
const BACKLOG: i32 = 4_096;
/// Wait after a failed accept, most often for want of file descriptors: they come back slowly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a drain looks whether everybody is gone.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// A gateway whose port is bound and that is not running yet.
#[derive(Debug)]
pub struct Gateway {
    node: Arc<Node>,
    listeners: Vec<TcpListener>,
    address: SocketAddr,
}

/// How a gateway's run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Clients that were still there when the grace period was over.
    pub cut: usize,
}

impl Gateway {
    /// Binds one listener a worker to the same address.
    ///
    /// # Errors
    /// When the address is taken or cannot be bound.
    pub fn bind(config: Config) -> io::Result<Self> {
        // With SO_REUSEPORT a second gateway on the same port would silently share its clients with
        // the first, so the port is tried without it before.
        drop(TcpListener::bind(config.listen)?);
        let mut address = config.listen;
        let mut listeners = Vec::with_capacity(config.workers);
        for _ in 0..config.workers {
            let listener = bind_shared(address)?;
            address = listener.local_addr()?;
            listeners.push(listener);
        }
        Ok(Self {
            node: Arc::new(Node::new(config, GatewayMetrics::default())),
            listeners,
            address,
        })
    }

    /// The address that clients connect to, with the port that port 0 became.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the gateway's parts share, to look at from outside.
    pub fn node(&self) -> Arc<Node> {
        Arc::clone(&self.node)
    }

    /// Runs until `stop` is cancelled and everybody has left, or the grace period is over.
    ///
    /// # Errors
    /// When a thread or a runtime cannot be made.
    pub async fn run<B: Bus>(self, bus: B, stop: CancellationToken) -> io::Result<Ended> {
        let node = self.node;
        let mailbox = match self.listeners.as_slice() {
            // Nobody else waits while it blocks ingest, and Redis can hold more than it.
            [_] => Mailbox::default,
            _ => Mailbox::never_full,
        };
        let mailboxes: Vec<_> = self.listeners.iter().map(|_| Arc::new(mailbox())).collect();
        let ingest_stop = CancellationToken::new();
        let ingest = Ingest::new(
            Arc::clone(&node.registry),
            mailboxes.clone(),
            node.metrics.clone(),
            Arc::clone(&node.bus),
            bus.address(),
        )
        .naming(bus.prefix())
        .telling(node.health.clone(), node.config.max_ahead)
        .history_within(node.config.history_bytes)
        .recalling_for(Arc::clone(&node.pasts))
        .proof_within(node.config.proof_wait);
        check_kernel().await;
        Answers::start(&node)?;
        let http_stop = CancellationToken::new();
        let http_end = spawn_thread("http".to_owned(), {
            let (node, http_stop) = (Arc::clone(&node), http_stop.clone());
            let fail = stop.clone().drop_guard();
            move || {
                let ended = http::server::run(node, &http_stop);
                drop(fail);
                ended.map(|()| 0)
            }
        })?;
        let mut ends = Vec::new();
        for (at, (listener, mailbox)) in self.listeners.into_iter().zip(&mailboxes).enumerate() {
            let worker = (Arc::clone(&node), listener, Arc::clone(mailbox));
            // However a worker ends, the others must not go on as if nothing had happened.
            let (stop, fail) = (stop.clone(), stop.clone().drop_guard());
            ends.push(spawn_thread(format!("worker-{at}"), move || {
                let (node, listener, mailbox) = worker;
                let ended = run_worker(at, node, listener, mailbox, stop);
                drop(fail);
                ended
            })?);
        }
        let ingest_end = spawn_thread("ingest".to_owned(), {
            let (ingest_stop, fail) = (ingest_stop.clone(), stop.clone().drop_guard());
            move || {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    tokio::select! {
                        () = bus.subscribe(ingest, ingest_stop) => {}
                        () = running::keep(|_| {}) => {}
                    }
                });
                // A name server that is silent may still be waited for: not here.
                runtime.shutdown_background();
                drop(fail);
                Ok(0)
            }
        })?;
        let (mut cut, mut failed) = (0, None);
        for end in ends {
            match end.await.unwrap_or_else(|_| Err(panicked())) {
                Ok(clients) => cut += clients,
                Err(why) => failed = Some(why),
            }
        }
        // Probes were answered up to here.
        http_stop.cancel();
        if let Err(why) = http_end.await.unwrap_or_else(|_| Err(panicked())) {
            failed = Some(why);
        }
        ingest_stop.cancel();
        for mailbox in &mailboxes {
            mailbox.close();
        }
        ingest_end.await.unwrap_or_else(|_| Err(panicked()))?;
        failed.map_or(Ok(Ended { cut }), Err)
    }
}

/// Says what follows where the kernel cannot be asked.
async fn check_kernel() {
    if let Err(why) = Kernel::check().await {
        tracing::warn!(%why, "the kernel cannot be asked what a client's TCP took (AF_NETLINK): one on a slow link may be closed as silent (4408)");
    }
}

fn panicked() -> io::Error {
    io::Error::other("a thread panicked: its message is above")
}

fn bind_shared(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn spawn_thread(
    name: String,
    run: impl FnOnce() -> io::Result<usize> + Send + 'static,
) -> io::Result<oneshot::Receiver<io::Result<usize>>> {
    let (done, end) = oneshot::channel();
    thread::Builder::new().name(name).spawn(move || {
        // Nobody waits any more only when the process is on its way out.
        let _ = done.send(run());
    })?;
    Ok(end)
}

/// A worker thread's life; tells how many clients it had to cut at the end.
fn run_worker(
    at: usize,
    node: Arc<Node>,
    listener: TcpListener,
    mailbox: Arc<Mailbox>,
    stop: CancellationToken,
) -> io::Result<usize> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    if let Some(load) = node.loads.get(at) {
        load.watch(runtime.metrics(), Arc::clone(&mailbox));
    }
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let worker = Rc::new(Worker::new(at, Arc::clone(&node)));
        let mut duties = JoinSet::new();
        duties.spawn_local(running::keep(|_| {}));
        duties.spawn_local(accept(Rc::clone(&worker), listener));
        duties.spawn_local(worker::deliver(Rc::clone(&worker), Arc::clone(&mailbox)));
        duties.spawn_local(closing::sweep(Rc::clone(&worker)));
        duties.spawn_local(worker::pace(Rc::clone(&worker)));
        duties.spawn_local(placeholders::evict(Rc::clone(&worker)));
        duties.spawn_local(door::welcome(Rc::clone(&worker)));
        tokio::select! {
            () = stop.cancelled() => {}
            // None of them ends by itself: a worker that lacks one only looks alive.
            _ = duties.join_next() => {
                mailbox.close();
                return Err(panicked());
            }
        }
        // Probes are still answered, with 503, and upgrades are refused.
        node.drain();
        let grace = running::now() + node.config.drain_grace;
        let spread = node.config.drain_spread.min(node.config.drain_grace / 2);
        worker.close_all(spread).await;
        // Of the whole node: a worker that has none left still answers the probes that reach it.
        while node.clients() > 0 && running::now() < grace {
            sleep(DRAIN_POLL).await;
        }
        mailbox.close();
        Ok(worker.clients())
    })
}

async fn accept(worker: Rc<Worker>, listener: tokio::net::TcpListener) {
    let mut log = Limited::default();
    let mut patience = Patience::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(place) = patience.place_for(&worker, peer.ip()).await else {
                    tracing::debug!(%peer, "connection refused: too many without a session");
                    continue;
                };
                // Frames are gathered before they are written: waiting for more gains nothing.
                if stream.set_nodelay(true).is_ok() {
                    spawn_local(door::enter(Rc::clone(&worker), stream, peer, place));
                }
            }
            Err(why) => {
                worker.node.metrics.accept_failures.inc();
                log.say(|left_out| tracing::warn!(%why, left_out, "cannot accept a connection"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
