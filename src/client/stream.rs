//! TCP, through a proxy or not, and TLS over it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::attempt::Attempt;
use super::{Address, ClientError, proxy, resolve};

/// A connection to a gateway, or to the proxy before it.
pub(super) struct Stream {
    io: Io,
    /// Bytes that came.
    heard: Heard,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How many bytes came over a connection: whatever comes, be it a part of a long message, is a sign of
/// life.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<AtomicU64>);

impl Heard {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Stream {
    /// Connects as a part of `attempt`, through the environment's proxy if it names one.
    pub async fn connect(address: &Address, attempt: Attempt) -> Result<Self, ClientError> {
        let proxy = proxy::of(address)?;
        let (host, port) = match &proxy {
            Some(proxy) => (proxy.host.as_str(), proxy.port),
            None => (address.host.as_str(), address.port),
        };
        let failed = |why: std::io::Error| match &proxy {
            Some(proxy) => ClientError::Connection(format!("{}: {why}", proxy.name())),
            None => ClientError::Connection(why.to_string()),
        };
        let lookup = async { resolve::lookup(host, port).await.map_err(failed) };
        let stage = || format!("looking up the name {host}");
        let addresses = attempt.stage(stage, lookup).await?;
        let stage = {
            let tried: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            move || format!("connecting to {}", tried.join(" and "))
        };
        let connect = async { resolve::connect(addresses).await.map_err(failed) };
        let mut tcp = attempt.stage(stage, connect).await?;
        // Requests are small and waited for.
        let _ = tcp.set_nodelay(true);
        if let Some(proxy) = &proxy {
            let stage = || format!("waiting for {} to answer CONNECT", proxy.name());
            attempt.stage(stage, proxy.open(&mut tcp, address)).await?;
        }
        let heard = Heard::default();
        if !address.is_tls {
            let io = Io::Plain(tcp);
            return Ok(Self { io, heard });
        }
        let tls = |why: String| ClientError::Tls(why);
        let name = ServerName::try_from(address.host.clone());
        let name = name.map_err(|why| tls(why.to_string()))?;
        let connector = TlsConnector::from(config()?);
        let shake = async { connector.connect(name, tcp).await.map_err(broken_tls) };
        let stage = || "the TLS handshake".to_owned();
        let stream = attempt.stage(stage, shake).await?;
        let io = Io::Tls(Box::new(stream));
        Ok(Self { io, heard })
    }

    /// Counts on while the stream is in use.
    pub fn heard(&self) -> Heard {
        self.heard.clone()
    }
}

/// A road that breaks in the middle of it may be better next time; another's certificate will not.
fn broken_tls(why: std::io::Error) -> ClientError {
    match why.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
            ClientError::Tls(why.to_string())
        }
        _ => ClientError::Connection(format!("TLS: {why}")),
    }
}

/// Trusts whom this machine trusts (`SSL_CERT_FILE` names others).
fn config() -> Result<Arc<ClientConfig>, ClientError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(ClientError::Tls("this machine trusts nobody".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| ClientError::Tls(why.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let stream = self.get_mut();
        let polled = match &mut stream.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        stream.heard.add(buffer.filled().len() - before);
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(context),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
