//! An address that leads to one server or another.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// One address that leads where it is told to; connections that are there stay as they are.
pub struct Proxy {
    port: u16,
    to: Arc<AtomicU16>,
    /// Connections before this one carry nothing any more, and do not end.
    dead: Arc<AtomicUsize>,
    pub made: Arc<AtomicUsize>,
    /// Both ends of each connection.
    held: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            to: Arc::new(AtomicU16::new(to)),
            dead: Arc::default(),
            made: Arc::default(),
            held: Arc::default(),
        };
        let (to, dead, made) = (proxy.to.clone(), proxy.dead.clone(), proxy.made.clone());
        let held = proxy.held.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to.load(Ordering::SeqCst)))
                else {
                    continue;
                };
                let number = made.fetch_add(1, Ordering::SeqCst);
                let both = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                held.lock().unwrap().extend(both);
                for (mut from, mut into) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server, client),
                ] {
                    let dead = dead.clone();
                    thread::spawn(move || {
                        let mut buffer = [0; 65_536];
                        while let Ok(read @ 1..) = from.read(&mut buffer) {
                            let is_dead = number < dead.load(Ordering::SeqCst);
                            if !is_dead && into.write_all(&buffer[..read]).is_err() {
                                break;
                            }
                        }
                        if number >= dead.load(Ordering::SeqCst) {
                            let _ = into.shutdown(std::net::Shutdown::Both);
                        } else {
                            thread::sleep(super::DEADLINE * 2);
                        }
                    });
                }
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn lead_to(&self, port: u16) {
        self.to.store(port, Ordering::SeqCst);
    }

    /// New connections go there, and those that stand end.
    pub fn cut_to(&self, port: u16) {
        self.lead_to(port);
        for stream in self.held.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Connections that stand carry nothing any more, and do not end.
    pub fn swallow(&self) {
        self.dead
            .store(self.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}
