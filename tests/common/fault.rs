//! What can be wrong with a Redis, on a real one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use super::{RedisServer, eventually_blocking};

/// What is wrong with a Redis for a while.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Its disk refuses its dump.
    Misconf,
    /// It may use no more memory.
    Oom,
    /// It wants replicas that it has not.
    NoReplicas,
    /// A script holds it.
    Busy,
    /// Somebody made it a replica.
    Replica,
    /// The user lost the right to write keys.
    NoKeys,
    /// The user lost the right to publish.
    NoChannels,
}

impl Fault {
    /// The word that Redis says, or that names it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Misconf => "MISCONF",
            Self::Oom => "OOM",
            Self::NoReplicas => "NOREPLICAS",
            Self::Busy => "BUSY",
            Self::Replica => "replica",
            Self::NoKeys | Self::NoChannels => "NOPERM",
        }
    }

    pub fn begin(self, server: &RedisServer) {
        match self {
            Self::Misconf => {
                std::fs::create_dir(server.folder().join("dump.rdb")).unwrap();
                server.command("CONFIG SET save \"3600 1\"");
                eventually_blocking("a dump that fails", || {
                    server.command("BGSAVE");
                    server.command("PING").contains("MISCONF")
                });
            }
            Self::Oom => {
                server.command("CONFIG SET maxmemory 1");
            }
            Self::NoReplicas => {
                server.command("CONFIG SET min-replicas-to-write 1");
            }
            Self::Busy => {
                server.command("CONFIG SET busy-reply-threshold 50");
                let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
                stream
                    .write_all(b"EVAL \"while true do end\" 0\r\n")
                    .unwrap();
                thread::spawn(move || stream.read(&mut [0; 1]));
                eventually_blocking("busy", || server.command("PING").contains("BUSY"));
            }
            Self::Replica => {
                server.command("REPLICAOF 127.0.0.1 1");
            }
            Self::NoKeys => {
                server.command("ACL SETUSER u resetkeys");
            }
            Self::NoChannels => {
                server.command("ACL SETUSER u resetchannels");
            }
        }
    }

    pub fn end(self, server: &RedisServer) {
        match self {
            Self::Misconf => {
                std::fs::remove_dir(server.folder().join("dump.rdb")).unwrap();
                eventually_blocking("a dump that works", || {
                    server.command("BGSAVE");
                    !server.command("PING").contains("MISCONF")
                });
            }
            Self::Oom => {
                server.command("CONFIG SET maxmemory 0");
            }
            Self::NoReplicas => {
                server.command("CONFIG SET min-replicas-to-write 0");
            }
            Self::Busy => {
                server.command("SCRIPT KILL");
            }
            Self::Replica => {
                server.command("REPLICAOF NO ONE");
            }
            Self::NoKeys => {
                server.command("ACL SETUSER u allkeys");
            }
            Self::NoChannels => {
                server.command("ACL SETUSER u allchannels");
            }
        }
    }
}
