//! What tests of harmful clients share: clients that must not feel them, and what is left when they are gone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use barcast::bus::Publisher;
use barcast::gateway::Config;

use super::client::metric;
use super::gateway::{Feed, Running, candle, config};
use super::{DEADLINE, eventually_blocking};

/// Clients that are there before the harm begins, on both workers.
pub const ESTABLISHED: usize = 8;
/// The longest that a bar may take to all of them meanwhile. Seconds against milliseconds, and no timing:
/// debug builds on a busy machine take tens of milliseconds.
const WORST_WAIT: Duration = Duration::from_secs(1);
/// No limit on messages: what is left when the rate does not protect.
const ANY_RATE: u32 = 1_000_000;

pub fn any_rate() -> Config {
    let mut config = config();
    config.limits.max_messages_per_second = ANY_RATE;
    config
}

/// Bars flow to established clients all the while: each gets every one, in order, and in time.
pub fn unharmed<T: Send>(
    gateway: &Running,
    feed: &mut Feed<impl Publisher>,
    harm: impl FnOnce(SocketAddr) -> T + Send,
) -> T {
    let mut clients: Vec<_> = (0..ESTABLISHED).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.subscribe("bars:GOOD:1");
    }
    let mut price = 0;
    let mut worst = Duration::ZERO;
    let mut round = || {
        price += 1;
        let bar = candle("GOOD", 0, price).closed();
        let published = Instant::now();
        feed.bar(&bar);
        for client in &mut clients {
            assert_eq!(client.text(), bar.update());
        }
        worst = worst.max(published.elapsed());
    };
    let address = gateway.address;
    let done = thread::scope(|scope| {
        let harm = scope.spawn(move || harm(address));
        while !harm.is_finished() {
            round();
        }
        (0..10).for_each(|_| round());
        harm.join().unwrap()
    });
    assert!(worst < WORST_WAIT, "established clients waited {worst:?}");
    done
}

/// Nobody is left, nothing is watched, and there are `topics` topics.
pub fn given_back(gateway: &Running, topics: usize) {
    eventually_blocking("all have left", || gateway.node.clients() == 0);
    assert_eq!(metric(gateway.address, "barcast_clients"), 0);
    let registry = &gateway.node.registry;
    eventually_blocking("nothing is watched", || {
        registry.placeholders() == 0
            && registry.all().iter().all(|entry| {
                entry.subscribers.load(Ordering::Relaxed) == 0 && !registry.is_watched(entry)
            })
    });
    assert_eq!(registry.len(), topics);
}

/// Sends what the other side may no longer take.
pub fn push(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

/// Reads to the end of the connection, whatever comes.
pub fn drain(stream: &mut TcpStream) -> Vec<u8> {
    // Pings would begin each read's patience anew.
    let end = Instant::now() + DEADLINE;
    let (mut all, mut bytes) = (Vec::new(), [0; 4 << 10]);
    while Instant::now() < end {
        match stream.read(&mut bytes) {
            Ok(0) => return all,
            Ok(read) => all.extend_from_slice(&bytes[..read]),
            Err(why) if why.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(why) => panic!("the connection does not end: {why}"),
        }
    }
    panic!("the connection does not end");
}
