//! An echo server that runs what the gateway runs — handshake, reading, decoder, encoder — so that
//! conformance suites made for echo servers, such as the Autobahn|Testsuite, can be run against it.
//!
//! For tests only: what a client does not read waits without a bound.
//!
//! `cargo run --release --example echo -- --listen 127.0.0.1:9001`

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::{Shutdown, SocketAddr};
use std::ops::ControlFlow;
use std::rc::Rc;

use barcast::gateway::http;
use barcast::gateway::reading::{Listener, ReadBuffer, Reading};
use barcast::gateway::rendition::Rendition;
use barcast::gateway::ws::{
    CloseCode, Decoder, Deflater, Event, FrameBuilder, Stop, Violation, close_frame, pong_frame,
};
use bytes::Bytes;
use clap::Parser;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;

/// Size of one message, fragments added up: suites go up to 16 MiB.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// One read, as in the gateway.
const READ_BYTES: usize = 16 << 10;

#[derive(Parser)]
struct Args {
    /// Address and port; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9001")]
    listen: SocketAddr,
}

/// What leaves.
enum Out {
    Frame(Bytes),
    /// Nothing comes after it.
    End(Bytes, Shutdown),
}

/// One connection.
struct Echo {
    stream: Rc<TcpStream>,
    buffer: ReadBuffer,
    frames: FrameBuilder,
    /// For a client who takes compressed frames.
    deflater: Option<Deflater>,
    out: UnboundedSender<Out>,
}

impl Echo {
    fn text(&mut self, text: &[u8]) -> Bytes {
        let mut frame = Vec::new();
        let deflater = self.deflater.as_mut();
        match deflater.and_then(|deflater| deflater.append_text(text, &mut frame)) {
            // It may begin behind bytes that are no part of it.
            Some(range) => Bytes::from(frame).slice(range),
            None => self.frames.text(|out| out.extend_from_slice(text)),
        }
    }

    fn send(&self, out: Out) {
        // The writer has gone when the client has.
        let _ = self.out.send(out);
    }
}

impl Listener for Echo {
    fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn buffer(&self) -> ReadBuffer {
        Rc::clone(&self.buffer)
    }

    fn event(&mut self, event: Event<'_>) -> ControlFlow<Stop> {
        let frame = match event {
            Event::Text(text) => self.text(text.as_bytes()),
            Event::Binary(bytes) => self.frames.binary(|out| out.extend_from_slice(bytes)),
            Event::Ping(payload) => pong_frame(payload),
            Event::Pong(_) | Event::Fragment => return ControlFlow::Continue(()),
            Event::Close(close) => {
                let code = close.code.unwrap_or(CloseCode::Normal.code());
                self.send(Out::End(close_frame(code, ""), Shutdown::Both));
                return ControlFlow::Break(Stop::End);
            }
        };
        self.send(Out::Frame(frame));
        ControlFlow::Continue(())
    }

    fn violation(&mut self, violation: Violation) {
        let frame = close_frame(violation.code().code(), &violation.to_string());
        self.send(Out::End(frame, Shutdown::Write));
    }

    fn fed(&mut self) {}
}

async fn write(stream: Rc<TcpStream>, mut out: UnboundedReceiver<Out>) {
    while let Some(next) = out.recv().await {
        let (mut bytes, end) = match next {
            Out::Frame(bytes) => (bytes, None),
            Out::End(bytes, how) => (bytes, Some(how)),
        };
        while !bytes.is_empty() {
            if stream.writable().await.is_err() {
                return;
            }
            match stream.try_write(&bytes) {
                Ok(written) => drop(bytes.split_to(written)),
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
        if let Some(how) = end {
            // An error means that the other side was faster.
            let _ = SockRef::from(&*stream).shutdown(how);
            return;
        }
    }
}

fn answer(mut request: Request<Incoming>, buffer: ReadBuffer) -> Response<Full<Bytes>> {
    if let Some(refusal) = http::refusal(&request) {
        return refusal;
    }
    let http::Accepted {
        response,
        upgraded,
        rendition,
    } = match http::accept(&mut request, true) {
        Ok(accepted) => accepted,
        Err(refusal) => return *refusal,
    };
    let compressed = rendition == Rendition::Deflated;
    spawn_local(async move {
        let Some((stream, early)) = http::stream_of(upgraded).await else {
            return;
        };
        let stream = Rc::new(stream);
        let (out, outgoing) = unbounded_channel();
        spawn_local(write(Rc::clone(&stream), outgoing));
        let echo = Echo {
            stream,
            buffer,
            frames: FrameBuilder::default(),
            // What is not text, or would not become smaller, goes back plain (RFC 7692, section 6).
            deflater: compressed.then(Deflater::default),
            out,
        };
        let mut decoder = Decoder::new(MAX_MESSAGE_BYTES);
        if compressed {
            decoder = decoder.inflating();
        }
        Reading::new(echo, decoder, early).await;
    });
    response
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = TcpListener::bind(args.listen).await?;
        println!("echo listens address={}", listener.local_addr()?);
        let buffer: ReadBuffer = Rc::new(RefCell::new(vec![0; READ_BYTES].into_boxed_slice()));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let buffer = Rc::clone(&buffer);
            let service = service_fn(move |request| {
                let response = answer(request, Rc::clone(&buffer));
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            spawn_local(async move {
                // A broken connection is the client's affair.
                let _ = connection.await;
            });
        }
    })
}
