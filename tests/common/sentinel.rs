//! A real Redis Sentinel.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::{eventually_blocking, free_port};

/// It watches a master, or nothing; ended on drop.
pub struct Sentinel {
    pub port: u16,
    _folder: tempfile::TempDir,
    child: Child,
}

impl Sentinel {
    /// Answers when this returns.
    pub fn start(master: Option<u16>) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let file = folder.path().join("sentinel.conf");
        let watched = master.map_or_else(String::new, |master| {
            format!("sentinel monitor mymaster 127.0.0.1 {master} 1\n")
        });
        std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\n{watched}")).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").stdout(Stdio::null());
        let sentinel = Self {
            port,
            _folder: folder,
            child: command.spawn().unwrap(),
        };
        eventually_blocking("a Sentinel", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        sentinel
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
