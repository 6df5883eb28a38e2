//! What a client's TCP took of what was sent, asked of the kernel over netlink (sock_diag(7)): the
//! same figures as `SIOCOUTQ` and `TCP_INFO`, which safe code cannot ask for.
//!
//! Where it cannot be asked (another system than Linux, a sandbox without netlink), nothing is known.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// `AF_NETLINK` and `NETLINK_SOCK_DIAG` of Linux.
const NETLINK: (i32, i32) = (16, 4);
/// Message type of a question and its answer.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;
/// `INET_DIAG_INFO`: the attribute with a `struct tcp_info`.
const INFO: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// Bytes of `struct nlmsghdr`, `inet_diag_req_v2` and `inet_diag_msg`.
const HEADER: usize = 16;
const QUESTION: usize = 56;
const ANSWER: usize = 72;
/// Where `inet_diag_msg` has `idiag_wqueue` and `tcp_info` has `tcpi_bytes_acked`.
const QUEUED_AT: usize = 60;
const ACKED_AT: usize = 120;
/// An answer has some 400 bytes.
const BUFFER: usize = 4 << 10;

/// How far a connection's sending has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// Bytes that the peer's TCP took since the connection began.
    pub acked: u64,
    /// Bytes that it has yet to take.
    pub queued: u32,
}

/// Asks about connections of this process's network.
pub(super) struct Kernel(Socket);

impl Kernel {
    /// # Errors
    /// Where it cannot be asked.
    pub fn open() -> io::Result<Self> {
        if !cfg!(target_os = "linux") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (family, protocol) = NETLINK;
        let protocol = Some(Protocol::from(protocol));
        let socket = Socket::new(Domain::from(family), Type::DGRAM, protocol)?;
        // The kernel answers before a question's `send` returns.
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Whether it answers, asked about a connection of this process with itself.
    ///
    /// # Errors
    /// Where it cannot be asked, or does not answer.
    pub async fn check() -> io::Result<()> {
        let kernel = Self::open()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let Ok(address) = listener.as_ref().map(TcpListener::local_addr) else {
            // There is none to ask about.
            return Ok(());
        };
        let stream = TcpStream::connect(address?).await?;
        let sent = kernel.sent(&stream);
        sent.map(|_| ())
            .ok_or_else(|| io::Error::other("it gives no answer to sock_diag"))
    }

    /// Some five microseconds, whatever the number of connections.
    pub fn sent(&self, stream: &TcpStream) -> Option<Sent> {
        let question = question(stream.local_addr().ok()?, stream.peer_addr().ok()?);
        self.0.send(&question).ok()?;
        let mut answer = [0; BUFFER];
        let len = (&self.0).read(&mut answer).ok()?;
        read(answer.get(..len)?)
    }
}

/// An address as the kernel keeps it: that of an IPv4 client is one also where the listener is IPv6.
fn plain(address: SocketAddr) -> (u8, [u8; 16], u16) {
    let mut bytes = [0; 16];
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            bytes[..4].copy_from_slice(&ip.octets());
            (AF_INET, bytes, address.port())
        }
        IpAddr::V6(ip) => (AF_INET6, ip.octets(), address.port()),
    }
}

fn question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let (family, from, from_port) = plain(local);
    let (_, to, to_port) = plain(peer);
    let interface = match peer {
        SocketAddr::V6(peer) => peer.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    let mut out = Vec::with_capacity(HEADER + QUESTION);
    out.extend_from_slice(&u32::try_from(HEADER + QUESTION).unwrap_or(0).to_ne_bytes());
    out.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend_from_slice(&REQUEST.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    let wanted = 1 << (INFO - 1);
    out.extend_from_slice(&[family, IPPROTO_TCP, wanted, 0]);
    // In any state.
    out.extend_from_slice(&[0xff; 4]);
    out.extend_from_slice(&from_port.to_be_bytes());
    out.extend_from_slice(&to_port.to_be_bytes());
    out.extend_from_slice(&from);
    out.extend_from_slice(&to);
    out.extend_from_slice(&interface.to_ne_bytes());
    // Whatever its cookie.
    out.extend_from_slice(&[0xff; 8]);
    out
}

/// Reads an answer; `None` is one that says that there is no such connection.
fn read(answer: &[u8]) -> Option<Sent> {
    if u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?) != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let body = answer.get(HEADER..)?;
    let queued = body.get(QUEUED_AT..QUEUED_AT + 4)?;
    let queued = u32::from_ne_bytes(queued.try_into().ok()?);
    let mut attributes = body.get(ANSWER..)?;
    loop {
        let (len, rest) = attributes.split_at_checked(2)?;
        let (kind, value) = rest.split_at_checked(2)?;
        let len = usize::from(u16::from_ne_bytes(len.try_into().ok()?));
        if u16::from_ne_bytes(kind.try_into().ok()?) == INFO {
            let acked = value.get(ACKED_AT..ACKED_AT + 8)?;
            let acked = u64::from_ne_bytes(acked.try_into().ok()?);
            return Some(Sent { acked, queued });
        }
        // Each begins at a multiple of four; one shorter than its own header would be no end of them.
        attributes = attributes.get(len.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// Both families, and IPv4 at a listener that is IPv6.
    #[tokio::test]
    async fn the_kernel_says_what_the_peer_took() {
        for (listen, reach) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
        ] {
            let listener = std::net::TcpListener::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut client = std::net::TcpStream::connect((reach, port)).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            server.set_nonblocking(true).unwrap();
            let mut written = 0;
            while let Ok(n) = server.write(&[0; 64 << 10]) {
                written += n as u64;
            }
            let server = TcpStream::from_std(server).unwrap();
            let kernel = Kernel::open().unwrap();
            let before = kernel.sent(&server).unwrap();
            assert!(before.queued > 0, "{listen}");
            let all = before.acked + u64::from(before.queued);
            // The kernel may count the handshake's own number with it.
            assert!(all.abs_diff(written) <= 1, "{listen}: {all} of {written}");
            let mut left = written;
            let mut buffer = vec![0; 64 << 10];
            while left > 0 {
                left -= client.read(&mut buffer).unwrap() as u64;
            }
            let mut after = kernel.sent(&server).unwrap();
            for _ in 0..1_000 {
                if after.queued == 0 {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
                after = kernel.sent(&server).unwrap();
            }
            assert_eq!((after.acked, after.queued), (all, 0), "{listen}");
        }
    }

    #[test]
    fn what_is_no_answer_is_none() {
        assert_eq!(read(&[]), None);
        let mut refused = [0; 36];
        refused[4] = 2;
        assert_eq!(read(&refused), None);
        let mut short = vec![0; HEADER + ANSWER + 8];
        short[4] = 20;
        assert_eq!(read(&short), None, "no attribute of that kind");
    }
}
