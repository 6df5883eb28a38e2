//! The yardstick: what any server must do for the same bars, and nothing more.
//!
//! It subscribes to Redis, builds each bar's frame once, exactly as the gateway does, and sends it to
//! each subscriber with a plain non-blocking `send()`. One thread, no runtime, no outbox, no limits, no
//! metrics. What a gateway costs above this is what the gateway adds.
//!
//! - `bare` sends every bar to every subscriber by itself, as soon as it is read.
//! - `gather` waits until a tick's bars are all there, lists for each client the frames it gets (the
//!   lists are made anew for each tick), copies them together and sends once.
//!
//! A client whose socket is full is closed and counted: keeping its frames is a gateway's job.

mod peer;
mod resp;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use barcast::bar::{CHANNEL_PATTERN, Decoder, Message, Topic, write_update};
use clap::ValueEnum;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use nix::poll::{PollFd, PollFlags, ppoll};
use redis::IntoConnectionInfo;
use socket2::{Domain, Socket, Type};

use crate::frame::{TEXT, write_server_frame};
use peer::{Ended, Peer};

const LISTENER: Token = Token(usize::MAX);
const REDIS: Token = Token(usize::MAX - 1);
/// Sockets taken from epoll at once.
const EVENTS: usize = 1_024;
/// Connections that wait to be accepted; the kernel caps it at its own limit (4096).
const BACKLOG: i32 = 4_096;
/// Room for one read, in bytes.
const READ_BYTES: usize = 256 << 10;
/// A Redis that never falls quiet is sent from after this long.
const LONGEST_GATHERING: Duration = Duration::from_millis(20);

/// How bars are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Each bar to each subscriber with a send() of its own, as soon as it is read
    Bare,
    /// All bars of a tick to each client with one send()
    Gather,
}

/// `loadtest floor`.
#[derive(Debug, Clone, clap::Args)]
pub struct FloorArgs {
    /// Where to listen; port 0 takes a free one, and the address is printed
    #[arg(long, default_value = "127.0.0.1:8001")]
    pub listen: SocketAddr,
    /// Where the bars come from: redis://host:port, without a password
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    pub redis_url: String,
    /// How bars are sent
    #[arg(long, value_enum, default_value = "gather")]
    pub mode: Mode,
    /// With --mode gather: how long Redis must have been quiet before the bars are sent, in µs. Redis
    /// hands a pipelined tick on in pieces of some 16 KiB, 50 to 200 µs apart, so the default makes
    /// one send per client of a tick of 200 bars, and adds as much to the latency
    #[arg(long, default_value_t = 500)]
    pub gather_window_us: u32,
}

struct Floor {
    poll: Poll,
    mode: Mode,
    window: Duration,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    subscribers: HashMap<Topic, Vec<usize>>,
    /// Clients closed because their socket was full.
    overrun: u64,
    buffer: Vec<u8>,
}

/// Serves until the process is ended.
///
/// # Errors
/// When it cannot listen, or Redis cannot be reached or is lost.
pub fn serve(args: &FloorArgs) -> Result<()> {
    let redis = subscribe(&args.redis_url)?;
    let mut listener = listen(args.listen)?;
    let poll = Poll::new()?;
    let mut redis = TcpStream::from_std(redis);
    poll.registry()
        .register(&mut redis, REDIS, Interest::READABLE)?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("listening on {}", listener.local_addr()?);
    let floor = Floor {
        poll,
        mode: args.mode,
        window: Duration::from_micros(args.gather_window_us.into()),
        peers: Vec::new(),
        free: Vec::new(),
        subscribers: HashMap::new(),
        overrun: 0,
        buffer: vec![0; READ_BYTES],
    };
    floor.run(&listener, Feed::new(redis))
}

fn listen(addr: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    let bound = socket
        .bind(&addr.into())
        .and_then(|()| socket.listen(BACKLOG));
    bound.with_context(|| format!("--listen {addr}"))?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Connects and asks for all bars. The answer comes with the first messages.
fn subscribe(url: &str) -> Result<std::net::TcpStream> {
    let info = url
        .into_connection_info()
        .with_context(|| format!("--redis-url {url:?}"))?;
    let settings = info.redis_settings();
    if settings.username().is_some() || settings.password().is_some() {
        bail!("--redis-url: the yardstick knows no passwords");
    }
    let redis::ConnectionAddr::Tcp(host, port) = info.addr() else {
        bail!("--redis-url: the yardstick speaks plain TCP only");
    };
    let mut redis = std::net::TcpStream::connect((host.as_str(), *port))
        .with_context(|| format!("connecting to Redis at {host}:{port}"))?;
    write!(
        redis,
        "*2\r\n$10\r\nPSUBSCRIBE\r\n${}\r\n{CHANNEL_PATTERN}\r\n",
        CHANNEL_PATTERN.len()
    )?;
    redis.set_nonblocking(true)?;
    Ok(redis)
}

/// Redis' side: bytes in, messages out.
struct Feed {
    redis: TcpStream,
    inbox: Vec<u8>,
    filled: usize,
    decoder: Decoder,
}

impl Feed {
    fn new(redis: TcpStream) -> Self {
        Self {
            redis,
            inbox: vec![0; READ_BYTES],
            filled: 0,
            decoder: Decoder::default(),
        }
    }

    /// Reads once. Says whether there may be more, and nothing at all when there was nothing.
    fn read(&mut self, messages: &mut Vec<Message>) -> Result<Option<bool>> {
        if self.filled == self.inbox.len() {
            self.inbox.resize(self.filled * 2, 0);
        }
        let room = self.inbox.len() - self.filled;
        let read = match self.redis.read(&mut self.inbox[self.filled..]) {
            Ok(0) => bail!("Redis closed the connection"),
            Ok(n) => n,
            Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(why) => return Err(why).context("reading from Redis"),
        };
        self.filled += read;
        let bytes = &self.inbox[..self.filled];
        let mut at = 0;
        while let Some(push) = resp::push_at(bytes, at)? {
            if let Some((channel, payload)) = push.message {
                let channel = std::str::from_utf8(&bytes[channel]).unwrap_or_default();
                self.decoder.decode(channel, &bytes[payload], |message| {
                    messages.extend(message.ok());
                });
            }
            at = push.end;
        }
        self.inbox.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(Some(read == room))
    }

    /// Whether more comes within `window`. epoll's own waiting counts in whole milliseconds.
    fn more_within(&self, window: Duration) -> Result<bool> {
        let mut polled = [PollFd::new(self.redis.as_fd(), PollFlags::POLLIN)];
        Ok(ppoll(&mut polled, Some(window.into()), None)? > 0)
    }
}

impl Floor {
    fn run(mut self, listener: &TcpListener, mut feed: Feed) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut messages = Vec::new();
        loop {
            match self.poll.poll(&mut events, None) {
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(listener)?,
                    REDIS => self.bars(&mut feed, &mut messages)?,
                    Token(peer) => self.read(peer),
                }
            }
        }
    }

    fn bars(&mut self, feed: &mut Feed, messages: &mut Vec<Message>) -> Result<()> {
        let started = Instant::now();
        while let Some(more) = feed.read(messages)? {
            if self.mode == Mode::Bare {
                self.send_each(messages);
                messages.clear();
            }
            if more {
                continue;
            }
            let gathers = self.mode == Mode::Gather && started.elapsed() < LONGEST_GATHERING;
            if !gathers || messages.is_empty() || !feed.more_within(self.window)? {
                // epoll tells only of what comes after this read took all there was.
                break;
            }
        }
        if !messages.is_empty() {
            self.send_gathered(messages);
            messages.clear();
        }
        Ok(())
    }

    /// Every bar to every subscriber by itself.
    fn send_each(&mut self, messages: &[Message]) {
        let (mut text, mut frame) = (Vec::new(), Vec::new());
        let mut full = Vec::new();
        for message in messages {
            let Some(subscribers) = self.subscribers.get(&message.topic) else {
                continue;
            };
            write_frame(message, &mut text, &mut frame);
            for peer in subscribers {
                if let Some(Some(to)) = self.peers.get_mut(*peer)
                    && to.send(&frame).is_err()
                {
                    full.push(*peer);
                }
            }
            self.overrun(&mut full);
            frame.clear();
        }
    }

    /// All frames of the messages to each client at once.
    fn send_gathered(&mut self, messages: &[Message]) {
        let mut text = Vec::new();
        let mut frames = Vec::new();
        let mut lists: Vec<Vec<usize>> = vec![Vec::new(); self.peers.len()];
        for message in messages {
            let Some(subscribers) = self.subscribers.get(&message.topic) else {
                continue;
            };
            let mut frame = Vec::new();
            write_frame(message, &mut text, &mut frame);
            for peer in subscribers {
                lists[*peer].push(frames.len());
            }
            frames.push(frame);
        }
        let mut full = Vec::new();
        let mut bytes = Vec::new();
        for (peer, list) in lists
            .iter()
            .enumerate()
            .filter(|(_, list)| !list.is_empty())
        {
            bytes.clear();
            for frame in list {
                bytes.extend_from_slice(&frames[*frame]);
            }
            if let Some(Some(to)) = self.peers.get_mut(peer)
                && to.send(&bytes).is_err()
            {
                full.push(peer);
            }
        }
        self.overrun(&mut full);
    }

    fn overrun(&mut self, full: &mut Vec<usize>) {
        for peer in full.drain(..) {
            self.overrun += 1;
            eprintln!(
                "a client's socket was full: closed ({} so far)",
                self.overrun
            );
            self.remove(peer);
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(why) => return Err(why).context("accepting"),
            };
            stream.set_nodelay(true)?;
            let at = self.free.pop().unwrap_or(self.peers.len());
            self.poll
                .registry()
                .register(&mut stream, Token(at), Interest::READABLE)?;
            if at == self.peers.len() {
                self.peers.push(None);
            }
            self.peers[at] = Some(Peer::new(stream));
        }
    }

    fn read(&mut self, at: usize) {
        let Some(Some(peer)) = self.peers.get_mut(at) else {
            return;
        };
        match peer.read(&mut self.buffer) {
            Ok(asked) => {
                for topic in asked {
                    if !peer.topics.contains(&topic) {
                        peer.topics.push(topic);
                        self.subscribers.entry(topic).or_default().push(at);
                    }
                }
            }
            Err(Ended) => self.remove(at),
        }
    }

    fn remove(&mut self, at: usize) {
        let Some(peer) = self.peers.get_mut(at).and_then(Option::take) else {
            return;
        };
        for topic in peer.topics {
            if let Some(subscribers) = self.subscribers.get_mut(&topic) {
                subscribers.retain(|other| *other != at);
            }
        }
        self.free.push(at);
    }
}

/// The same frame as the gateway sends, built once a bar.
fn write_frame(message: &Message, text: &mut Vec<u8>, frame: &mut Vec<u8>) {
    text.clear();
    write_update(text, message);
    write_server_frame(frame, TEXT, text);
}
