use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes};
use fastwebsockets::handshake::generate_key;
use fastwebsockets::{
    Frame, OpCode, Payload, Role, WebSocket, WebSocketError, WebSocketRead, WebSocketWrite,
};
use http_body_util::Empty;
use hyper::header::{
    CONNECTION, HOST, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::attempt::Attempt;
use super::clock::GatewayTime;
use super::stream::{Heard, Stream};
use super::{Address, ClientError, http, line_of};

/// Longest message taken, in bytes: the largest a gateway sends is a snapshot of 10,000 bars, some 1.3 MB.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Longest body of a refused handshake that is read, in bytes.
const MAX_REFUSAL_BYTES: usize = 4 << 10;
/// Messages read ahead; beyond them the socket fills, and the gateway conflates.
const QUEUED_MESSAGES: usize = 64;
/// Requests and pongs that wait for the socket.
const QUEUED_FRAMES: usize = 16;
/// Longest time that one write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

type Io = TokioIo<Upgraded>;

/// One WebSocket to a gateway. Pings are answered by itself.
#[derive(Debug)]
pub struct Socket {
    incoming: mpsc::Receiver<Result<String, ClientError>>,
    outgoing: mpsc::Sender<Outgoing>,
    reader: JoinHandle<()>,
    heard: Heard,
    time: Option<GatewayTime>,
}

#[derive(Debug)]
enum Outgoing {
    Text(String),
    Pong(Bytes),
    Close(Bytes),
}

impl Socket {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// Why not, within `limit`, and at which stage.
    pub async fn connect(address: &Address, limit: Duration) -> Result<Self, ClientError> {
        let attempt = Attempt::within(limit);
        let stream = Stream::connect(address, attempt).await?;
        let heard = stream.heard();
        let stage = || "waiting for the answer to the WebSocket handshake".to_owned();
        let (io, time) = attempt.stage(stage, handshake(address, stream)).await?;
        Ok(Self::over(io, heard, time))
    }

    fn over(io: Io, heard: Heard, time: Option<GatewayTime>) -> Self {
        let mut socket = WebSocket::after_handshake(io, Role::Client);
        socket.set_max_message_size(MAX_MESSAGE_BYTES);
        // Answered here: the reader could not wait for the writer.
        socket.set_auto_pong(false);
        socket.set_auto_close(false);
        let (from, to) = socket.split(tokio::io::split);
        let (arrived, incoming) = mpsc::channel(QUEUED_MESSAGES);
        let (outgoing, leaving) = mpsc::channel(QUEUED_FRAMES);
        tokio::spawn(write(to, leaving));
        let reader = tokio::spawn(read(from, arrived, outgoing.clone()));
        Self {
            incoming,
            outgoing,
            reader,
            heard,
            time,
        }
    }

    /// Bytes that came so far, those of half a message too: all of them are signs of life.
    pub fn bytes_heard(&self) -> u64 {
        self.heard.bytes()
    }

    /// The gateway's time, by its answer to the handshake.
    pub fn time(&self) -> Option<GatewayTime> {
        self.time
    }

    /// Sends a text message, or puts it behind others that wait.
    ///
    /// # Errors
    /// When the connection is lost, or the other side does not read.
    pub fn send(&self, text: String) -> Result<(), ClientError> {
        let sent = self.outgoing.try_send(Outgoing::Text(text));
        sent.map_err(|_| ClientError::Connection("the gateway does not read".to_owned()))
    }

    /// The next text message. Nothing is lost when this is dropped half way.
    ///
    /// # Errors
    /// Why the connection ended.
    pub async fn next(&mut self) -> Result<String, ClientError> {
        let ended = || ClientError::Connection("the connection ended".to_owned());
        self.incoming.recv().await.unwrap_or_else(|| Err(ended()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // 1000: done (RFC 6455, section 7.4.1). The writer ends with its queue.
        let _ = self
            .outgoing
            .try_send(Outgoing::Close(Bytes::from_static(&[0x03, 0xe8])));
        self.reader.abort();
    }
}

async fn handshake(
    address: &Address,
    stream: Stream,
) -> Result<(Io, Option<GatewayTime>), ClientError> {
    let mut sender = http::open(stream).await?;
    let key = generate_key();
    let request = Request::get(address.target())
        .header(HOST, address.authority())
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(SEC_WEBSOCKET_KEY, &key)
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(USER_AGENT, concat!("barcast/", env!("CARGO_PKG_VERSION")))
        .body(Empty::new())
        .map_err(|why| ClientError::Protocol(why.to_string()))?;
    let response = sender.send_request(request).await.map_err(http::broken)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status().as_u16();
        let body = http::body(response, MAX_REFUSAL_BYTES).await;
        let body = line_of(&body.unwrap_or_default());
        return Err(ClientError::Handshake { status, body });
    }
    verify(&response, &key)?;
    let time = GatewayTime::of(response.headers());
    let upgraded = hyper::upgrade::on(response).await.map_err(http::broken)?;
    Ok((TokioIo::new(upgraded), time))
}

/// Whether a 101 is the answer to our handshake (RFC 6455, section 4.1): fastwebsockets does not look.
fn verify<B>(response: &Response<B>, key: &str) -> Result<(), ClientError> {
    let refuse = |why: &str| {
        let why = format!("the handshake's 101 has {why}; is something between that caches it?");
        Err(ClientError::Protocol(why))
    };
    let has = |name: HeaderName, word: &str| {
        let values = response.headers().get_all(name).iter();
        let mut words = values.flat_map(|value| value.to_str().unwrap_or_default().split(','));
        words.any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    if !has(UPGRADE, "websocket") || !has(CONNECTION, "upgrade") {
        return refuse("no Upgrade: websocket with Connection: Upgrade");
    }
    let mut answers = response.headers().get_all(SEC_WEBSOCKET_ACCEPT).iter();
    let (answer, another) = (answers.next(), answers.next());
    if answer.is_none() || answer != accept(key).as_ref() || another.is_some() {
        return refuse("a Sec-WebSocket-Accept that is not the answer to our key");
    }
    for name in [SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL] {
        if response.headers().contains_key(&name) {
            return refuse(&format!("a {name} that was not offered"));
        }
    }
    Ok(())
}

/// What a server must answer to a key. fastwebsockets can do it on its server's side only.
fn accept(key: &str) -> Option<HeaderValue> {
    let request = Request::get("/")
        .header(SEC_WEBSOCKET_KEY, key)
        .header(SEC_WEBSOCKET_VERSION, "13");
    let mut request = request.body(()).ok()?;
    let (response, _) = fastwebsockets::upgrade::upgrade(&mut request).ok()?;
    response.headers().get(SEC_WEBSOCKET_ACCEPT).cloned()
}

/// Until the connection ends or nobody listens any more.
async fn read(
    mut from: WebSocketRead<ReadHalf<Io>>,
    arrived: mpsc::Sender<Result<String, ClientError>>,
    outgoing: mpsc::Sender<Outgoing>,
) {
    let mut assembly = Assembly::default();
    // Nothing is sent from inside of the reader, see `Socket::over`.
    let mut unused = |_: Frame<'_>| std::future::ready(Ok::<(), Infallible>(()));
    loop {
        let message = match from.read_frame(&mut unused).await {
            Ok(frame) if frame.opcode == OpCode::Ping => {
                // A writer that is behind has an answer under way already.
                let pong = Bytes::copy_from_slice(&frame.payload);
                let _ = outgoing.try_send(Outgoing::Pong(pong));
                continue;
            }
            Ok(frame) => match assembly.take(&frame) {
                Ok(None) => continue,
                Ok(Some(text)) => Ok(text),
                Err(why) => {
                    let _ = outgoing.try_send(Outgoing::Close(Bytes::new()));
                    Err(why)
                }
            },
            Err(why) => Err(lost(why)),
        };
        let is_last = message.is_err();
        if arrived.send(message).await.is_err() || is_last {
            return;
        }
    }
}

/// Messages out of frames: what fastwebsockets does without a bound.
#[derive(Debug, Default)]
struct Assembly {
    /// The fragments so far; none outside of a message.
    text: Option<Vec<u8>>,
}

impl Assembly {
    fn take(&mut self, frame: &Frame<'_>) -> Result<Option<String>, ClientError> {
        let refuse = |why: &str| Err(ClientError::Protocol(why.to_owned()));
        match (frame.opcode, &mut self.text) {
            (OpCode::Close, _) => return Err(closed(&frame.payload)),
            (OpCode::Ping | OpCode::Pong, _) => return Ok(None),
            (OpCode::Text, text @ None) => *text = Some(frame.payload.to_vec()),
            (OpCode::Continuation, Some(text)) => {
                if text.len() + frame.payload.len() > MAX_MESSAGE_BYTES {
                    return refuse("a message of too many bytes");
                }
                text.extend_from_slice(&frame.payload);
            }
            (OpCode::Binary, _) => return refuse("a binary message"),
            _ => return refuse("fragments out of order"),
        }
        if !frame.fin {
            return Ok(None);
        }
        let text = self.text.take().unwrap_or_default();
        match String::from_utf8(text) {
            Ok(text) => Ok(Some(text)),
            Err(_) => refuse("text that is not UTF-8"),
        }
    }
}

fn closed(mut payload: &[u8]) -> ClientError {
    /// No code was sent (RFC 6455, section 7.1.5).
    const NO_CODE: u16 = 1005;
    let code = if payload.len() < 2 {
        NO_CODE
    } else {
        payload.get_u16()
    };
    let reason = line_of(payload);
    ClientError::Closed { code, reason }
}

fn lost(why: WebSocketError) -> ClientError {
    match why {
        WebSocketError::UnexpectedEOF => {
            ClientError::Connection("the connection ended without a close".to_owned())
        }
        WebSocketError::IoError(why) => ClientError::Connection(why.to_string()),
        why => ClientError::Protocol(why.to_string()),
    }
}

async fn write(mut to: WebSocketWrite<WriteHalf<Io>>, mut leaving: mpsc::Receiver<Outgoing>) {
    while let Some(outgoing) = leaving.recv().await {
        let is_last = matches!(outgoing, Outgoing::Close(_));
        let frame = match outgoing {
            Outgoing::Text(text) => Frame::text(Payload::Owned(text.into_bytes())),
            Outgoing::Pong(payload) => Frame::pong(Payload::Owned(payload.into())),
            Outgoing::Close(payload) => Frame::close_raw(Payload::Owned(payload.into())),
        };
        let written = async {
            to.write_frame(frame).await?;
            to.flush().await
        };
        let late = || WebSocketError::IoError(io::ErrorKind::TimedOut.into());
        let written = timeout(WRITE_TIMEOUT, written).await;
        if let Err(why) = written.unwrap_or_else(|_| Err(late())) {
            tracing::debug!(%why, "writing to a gateway");
            return;
        }
        if is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(fin: bool, opcode: OpCode, payload: &[u8]) -> Frame<'_> {
        Frame::new(fin, opcode, None, Payload::Borrowed(payload))
    }

    #[test]
    fn fragments_make_a_message_with_pings_between_them() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.take(&frame(false, OpCode::Text, b"a")), Ok(None));
        assert_eq!(assembly.take(&frame(true, OpCode::Pong, b"")), Ok(None));
        assert_eq!(
            assembly.take(&frame(false, OpCode::Continuation, b"b")),
            Ok(None)
        );
        let whole = assembly.take(&frame(true, OpCode::Continuation, b"c"));
        assert_eq!(whole, Ok(Some("abc".to_owned())));
        let next = assembly.take(&frame(true, OpCode::Text, b"d"));
        assert_eq!(next, Ok(Some("d".to_owned())));
    }

    #[test]
    fn what_breaks_the_rules_or_the_bound_ends_it() {
        let half = vec![b'x'; MAX_MESSAGE_BYTES / 2 + 1];
        let mut assembly = Assembly::default();
        assert_eq!(assembly.take(&frame(false, OpCode::Text, &half)), Ok(None));
        assert!(
            assembly
                .take(&frame(true, OpCode::Continuation, &half))
                .is_err()
        );
        for bad in [
            frame(true, OpCode::Continuation, b""),
            frame(true, OpCode::Binary, b""),
            frame(true, OpCode::Text, b"\xff"),
        ] {
            assert!(Assembly::default().take(&bad).is_err());
        }
        let why = Assembly::default().take(&frame(true, OpCode::Close, b"\x03\xe9bye\x1b"));
        let reason = "bye".to_owned();
        assert_eq!(why, Err(ClientError::Closed { code: 1001, reason }));
    }
}
