//! From a name to addresses, and from addresses to a connection: all of them are tried, none is waited
//! for alone (RFC 8305, "Happy Eyeballs").

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long an address is waited for alone (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// Look-ups that hang at once: each holds a thread until the system's resolver gives up, up to a minute
/// and more.
const MAX_LOOKUPS: usize = 4;
/// Failed addresses that an error names.
const MAX_TOLD: usize = 4;

static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// A look-up that is under way.
struct UnderWay;

impl UnderWay {
    fn begin() -> io::Result<Self> {
        let before = LOOKUPS.fetch_add(1, Ordering::Relaxed);
        let lookup = Self;
        if before < MAX_LOOKUPS {
            return Ok(lookup);
        }
        let why = format!("the name server has not answered {before} earlier look-ups");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The addresses of a host, in the system's order.
///
/// The thread that asks is nobody's: the system's resolver cannot be stopped, and a process that waited
/// for it could not end.
pub(super) async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let lookup = UnderWay::begin()?;
    let (tell, told) = oneshot::channel();
    let host = host.to_owned();
    thread::Builder::new()
        .name("lookup".to_owned())
        .spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            drop(lookup);
            // Nobody waits for it any more: the attempt's time is over.
            let _ = tell.send(found.map(Iterator::collect));
        })?;
    told.await
        .unwrap_or_else(|_| Err(io::Error::other("the look-up ended without an answer")))
}

/// The families in turn, beginning with that of the first: one of them may lead nowhere.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut out = Vec::new();
    loop {
        let (next, another) = (one.next(), other.next());
        if next.is_none() && another.is_none() {
            return out;
        }
        out.extend(next.into_iter().chain(another));
    }
}

/// A connection to whichever address takes it first. Each is tried when the one before failed, or did not
/// answer for a moment. For how long is the caller's to bound.
pub(super) async fn connect(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut left = interleaved(addresses).into_iter();
    let mut attempts = JoinSet::new();
    let mut failed = Vec::new();
    loop {
        if let Some(address) = left.next() {
            attempts.spawn(async move { (address, TcpStream::connect(address).await) });
        }
        tokio::select! {
            done = attempts.join_next() => match done {
                Some(Ok((_, Ok(stream)))) => return Ok(stream),
                Some(Ok((address, Err(why)))) => failed.push((address, why)),
                Some(Err(_)) => {}
                None => return Err(none(failed)),
            },
            () = sleep(NEXT_ADDRESS_AFTER), if left.len() > 0 => {}
        }
    }
}

/// Why no address took the connection.
fn none(mut failed: Vec<(SocketAddr, io::Error)>) -> io::Error {
    if failed.len() == 1
        && let Some((_, why)) = failed.pop()
    {
        return why;
    }
    if failed.is_empty() {
        return io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    }
    let told = failed.iter().take(MAX_TOLD);
    let told: Vec<_> = told.map(|(at, why)| format!("{at}: {why}")).collect();
    io::Error::other(told.join("; "))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// An address at which nothing answers: its backlog is full, so the kernel drops what comes.
    fn dead() -> (Vec<Socket>, SocketAddr) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.2:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut kept = vec![listener];
        for _ in 0..4 {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&address.into());
            kept.push(filler);
        }
        (kept, address)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_is_not_waited_for() {
        let alive = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_kept, dead) = dead();
        let refused = SocketAddr::from(([127, 0, 0, 3], dead.port()));
        let alive = alive.local_addr().unwrap();
        for addresses in [
            vec![dead, alive],
            vec![refused, alive],
            vec![dead, refused, dead, alive],
        ] {
            let began = Instant::now();
            let stream = connect(addresses.clone()).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), alive, "{addresses:?}");
            assert!(began.elapsed() < Duration::from_secs(3), "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn every_address_that_refuses_is_named() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let at = |last| SocketAddr::from(([127, 0, 0, last], port));
        let why = connect(vec![at(1), at(2)]).await.unwrap_err().to_string();
        assert!(
            why.contains(&at(1).to_string()) && why.contains(&at(2).to_string()),
            "{why}"
        );
        assert!(connect(Vec::new()).await.is_err());
    }

    #[tokio::test]
    async fn an_ip_address_needs_no_look_up() {
        let found = lookup("::1", 80).await.unwrap();
        assert_eq!(found, ["[::1]:80".parse::<SocketAddr>().unwrap()]);
        assert!(!lookup("localhost", 80).await.unwrap().is_empty());
    }

    #[test]
    fn families_take_turns() {
        let all = [
            "[::1]:1",
            "[::2]:1",
            "[::3]:1",
            "127.0.0.1:1",
            "127.0.0.2:1",
        ];
        let all = all.map(|address| address.parse::<SocketAddr>().unwrap());
        let turns = interleaved(all.to_vec());
        assert_eq!(turns, [all[0], all[3], all[1], all[4], all[2]]);
    }
}
