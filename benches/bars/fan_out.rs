//! One batch out to very many clients over real sockets, on one thread: the hub writes, and the clock
//! runs until every client has read every byte. So the kernel's `send` and the clients' `read` are both
//! in the figure: compare it with the yardstick, which sends the same bytes without a hub.

use std::hint::black_box;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use barcast::gateway::hub::Socket;
use criterion::{Criterion, Throughput};

use crate::common::{WATCHLISTS, Watchlists};
use crate::plain::Plain;

/// Clients when the bench is only tried.
const FEW_CLIENTS: usize = 20;
/// Bytes of bars that may wait for a client: all that is sent fits its socket, or the bench fails.
const OUTBOX_BYTES: usize = 1 << 20;
/// After this a byte that was sent does not come any more.
const DEADLINE: Duration = Duration::from_secs(10);

/// A connection's two ends: the gateway's, which never waits, and the client's, which does.
fn connect(listener: &TcpListener) -> io::Result<(Plain, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    client.set_read_timeout(Some(DEADLINE))?;
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok((Plain(stream), client))
}

/// Clients, and the bytes that each gets in a round.
struct Clients(Vec<(TcpStream, usize)>);

impl Clients {
    fn drain(&mut self, buffer: &mut [u8]) {
        for (client, bytes) in &mut self.0 {
            let read = client.read_exact(&mut buffer[..*bytes]);
            read.expect("all that was sent comes");
        }
    }
}

pub fn bench(criterion: &mut Criterion) {
    // Two ends for each client.
    rlimit::increase_nofile_limit(u64::MAX).expect("a limit of open files");
    let mut group = criterion.benchmark_group("fan-out");
    for lists in WATCHLISTS {
        let clients = crate::measured(lists.clients, FEW_CLIENTS);
        let lists = Watchlists { clients, ..lists };
        let (batch, entries) = lists.round();
        let mut buffer = batch.bytes.clone();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (mut senders, mut clients) = (Vec::new(), Clients(Vec::new()));
        for client in 0..lists.clients {
            let (sender, stream) = connect(&listener).expect("a connection");
            senders.push(sender);
            clients.0.push((stream, lists.bytes_of(client, &batch)));
        }
        group.throughput(Throughput::Elements(lists.deliveries() as u64));
        group.bench_function(
            format!("yardstick: send alone, {}", lists.name),
            |bencher| {
                bencher.iter(|| {
                    for (sender, (_, bytes)) in senders.iter().zip(&clients.0) {
                        let sent = sender.try_write(black_box(&batch.bytes[..*bytes]));
                        assert_eq!(sent.ok(), Some(*bytes));
                    }
                    clients.drain(&mut buffer);
                });
            },
        );
        let mut senders = senders.into_iter();
        let connect = || senders.next().expect("one a client");
        let (mut hub, sessions) = lists.hub(&entries, OUTBOX_BYTES, connect);
        group.bench_function(lists.name, |bencher| {
            bencher.iter(|| {
                hub.fan_out(black_box(&batch), Instant::now());
                clients.drain(&mut buffer);
            });
        });
        assert!(sessions.iter().all(|session| hub.lag(*session).is_none()));
    }
    group.finish();
}
