//! A drain is spread over a part of its grace when there are many clients, and over at once with few.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::time::{Duration, Instant};

use barcast::gateway::Config;
use common::client::{CLOSE, Client, get};
use common::gateway::{Running, config, in_process};

fn draining(grace: u64, spread: u64) -> Config {
    Config {
        workers: 1,
        drain_grace: Duration::from_secs(grace),
        drain_spread: Duration::from_secs(spread),
        ..config()
    }
}

/// Stops the gateway and tells how long it took until the last client had its close frame.
fn closed_after(gateway: &Running, clients: &mut [Client], closed: impl Fn(usize)) -> Duration {
    let begun = Instant::now();
    gateway.stop();
    for (nth, client) in clients.iter_mut().enumerate() {
        let frame = client.wire.frame().unwrap();
        assert_eq!(frame.opcode, CLOSE);
        assert_eq!(frame.payload[..2], 1001_u16.to_be_bytes());
        closed(nth);
    }
    begun.elapsed()
}

#[test]
fn many_clients_are_closed_in_slices_and_not_ready_is_told_at_once() {
    let (gateway, _feed) = in_process(draining(60, 1));
    // Ten slices of 32.
    let mut clients: Vec<_> = (0..320).map(|_| gateway.client()).collect();
    let address = gateway.address;
    let taken = closed_after(&gateway, &mut clients, |nth| {
        if nth == 0 {
            assert_eq!(get(address, "/readyz").status, 503);
        }
    });
    // Four pauses of a tenth of a second, whatever else the machine does.
    assert!(taken >= Duration::from_millis(400), "{taken:?}");
    drop(clients);
    assert_eq!(gateway.ended().cut, 0);
}

#[test]
fn few_clients_are_closed_at_once() {
    let (gateway, _feed) = in_process(draining(600, 300));
    let mut clients: Vec<_> = (0..64).map(|_| gateway.client()).collect();
    let taken = closed_after(&gateway, &mut clients, |_| {});
    assert!(taken < Duration::from_secs(10), "{taken:?}");
    drop(clients);
    assert_eq!(gateway.ended().cut, 0);
}

#[test]
fn the_spread_is_half_of_the_grace_at_most() {
    let (gateway, _feed) = in_process(draining(1, 3600));
    let mut clients: Vec<_> = (0..320).map(|_| gateway.client()).collect();
    let taken = closed_after(&gateway, &mut clients, |_| {});
    assert!(taken < Duration::from_secs(10), "{taken:?}");
}
