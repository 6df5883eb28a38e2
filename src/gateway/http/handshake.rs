//! The opening handshake of a WebSocket (RFC 6455, section 4.2): what is refused, and letting a client in.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, HOST, HeaderMap, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::forwarded;
use super::progress::Progressing;
use super::{Answer, refuse};
use crate::gateway::node::{Admission, Node, Refused};
use crate::gateway::rendition::Rendition;
use crate::gateway::ws::Agreed;

/// The subprotocol that this gateway speaks, for clients that must name one.
const SUBPROTOCOL: &str = "barcast";

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
    if subprotocols(headers).is_none() {
        return Some((
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Protocol must list different tokens",
        ));
    }
    None
}

/// What a client offers to speak (RFC 6455, sections 4.1 and 11.3.4): different tokens, in one header or several;
/// `None` when they are something else.
fn subprotocols(headers: &HeaderMap) -> Option<Vec<&str>> {
    let mut offered = Vec::new();
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let before = offered.len();
        let names = value.to_str().ok()?.split(',').map(str::trim);
        for name in names.filter(|name| !name.is_empty()) {
            if !name.bytes().all(is_token) || offered.contains(&name) {
                return None;
            }
            offered.push(name);
        }
        if offered.len() == before {
            return None;
        }
    }
    Some(offered)
}

/// Whether a byte may be in a token (RFC 9110, section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
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
    let speaks = subprotocols(request.headers()).is_some_and(|all| all.contains(&SUBPROTOCOL));
    // Taken first: fastwebsockets takes it, too, and gives back a stream that has lost the bytes
    // which came right behind the handshake.
    let upgraded = hyper::upgrade::on(&mut *request);
    match fastwebsockets::upgrade::upgrade(request) {
        Ok((response, _)) => {
            let mut response = response.map(|_| Full::default());
            if speaks {
                response.headers_mut().insert(
                    SEC_WEBSOCKET_PROTOCOL,
                    HeaderValue::from_static(SUBPROTOCOL),
                );
            }
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
    // Of the thread `http`; a worker, and `examples/echo.rs`, serve the bare socket.
    let upgraded = match upgraded.downcast::<TokioIo<Progressing>>() {
        Ok(parts) => return Some((parts.io.into_inner().into_inner(), parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        tracing::error!("upgraded connection is not a TCP stream");
        return None;
    };
    Some((parts.io.into_inner(), parts.read_buf))
}

/// Lets whoever asks for it in, over a connection from `peer`: what to answer, its place among the clients, and the connection once the
/// answer has gone out.
///
/// # Errors
/// The answer to one that is not let in.
pub(super) fn let_in(
    node: &Arc<Node>,
    mut request: Request<Incoming>,
    peer: IpAddr,
) -> Result<(Answer, Admission, OnUpgrade), Box<Answer>> {
    if let Some(refusal) = refusal(&request) {
        return Err(Box::new(refusal));
    }
    let address = forwarded::origin(node, peer, request.headers());
    let mut admission = node.admit(address).map_err(|why| {
        let status = match why {
            Refused::ClientsPerAddress => {
                forwarded::hint(node, peer, request.headers());
                StatusCode::TOO_MANY_REQUESTS
            }
            Refused::Draining | Refused::Clients => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = refuse(status, &node.refusal(why));
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("5"));
        Box::new(response)
    })?;
    let accepted = accept(&mut request, node.config.compression)?;
    admission.rendition = accepted.rendition;
    Ok((accepted.response, admission, accepted.upgraded))
}
