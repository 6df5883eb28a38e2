//! One request and its answer, both bounded.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;

use super::attempt::Attempt;
use super::stream::Stream;
use super::{Address, ClientError};

/// Longest body taken, in bytes: `/metrics` and `/api/v1/topics` of a full node have some 1 MB.
const MAX_BODY_BYTES: usize = 8 << 20;

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Gets one of the routes beside the gateway's WebSocket, such as `/healthz`.
///
/// # Errors
/// When there is no whole answer within `limit`.
pub async fn get(address: &Address, route: &str, limit: Duration) -> Result<Answer, ClientError> {
    let attempt = Attempt::within(limit);
    let stream = Stream::connect(address, attempt).await?;
    let answer = async {
        let mut sender = open(stream).await?;
        let request = Request::get(address.beside(route))
            .header(HOST, address.authority())
            .header(CONNECTION, "close")
            .body(Empty::new())
            .map_err(|why| ClientError::Protocol(why.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok(Answer {
            status: response.status().as_u16(),
            body: String::from_utf8_lossy(&body(response, MAX_BODY_BYTES).await?).into_owned(),
        })
    };
    let stage = || format!("waiting for the whole answer to GET {route}");
    attempt.stage(stage, answer).await
}

/// HTTP over a connection.
pub(super) async fn open(stream: Stream) -> Result<SendRequest<Empty<Bytes>>, ClientError> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    tokio::spawn(async move {
        if let Err(why) = connection.with_upgrades().await {
            tracing::debug!(%why, "connection to a gateway ended");
        }
    });
    Ok(sender)
}

/// A whole body, up to `most` bytes.
pub(super) async fn body(response: Response<Incoming>, most: usize) -> Result<Bytes, ClientError> {
    match Limited::new(response.into_body(), most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(why) => Err(ClientError::Connection(why.to_string())),
    }
}

pub(super) fn broken(why: hyper::Error) -> ClientError {
    if why.is_parse() {
        ClientError::Protocol(format!("no HTTP: {why}"))
    } else {
        ClientError::Connection(why.to_string())
    }
}
