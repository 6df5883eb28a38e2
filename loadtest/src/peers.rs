//! What people use today beside barcast: small servers under `loadtest/peers`, each with what it needs
//! installed on demand by `loadtest/peers/install`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Also of its folder, and what `install` is asked for.
    pub name: &'static str,
    /// Of its WebSocket, as [`crate::swarm::Target`] has it.
    pub path: &'static str,
}

impl Peer {
    pub const ALL: [Self; 3] = [
        Self {
            name: "fastapi",
            path: "/ws",
        },
        Self {
            name: "node-ws",
            path: "/ws",
        },
        Self {
            name: "nchan",
            path: "/ws?topics={topics}",
        },
    ];

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|peer| peer.name == name)
    }

    /// What starts it on a port of 127.0.0.1. It says by itself when it is not installed.
    ///
    /// # Errors
    /// When there is no source tree, in which its few lines are.
    pub fn command(self, port: u16, redis_url: &str, workers: usize) -> Result<Command> {
        /// Where things are installed.
        const TARGET: &str = "CARGO_TARGET_DIR";
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let start = peers.join(self.name).join("start");
        let start = start
            .canonicalize()
            .with_context(|| start.display().to_string())?;
        let mut command = Command::new(start);
        command.args([&port.to_string(), redis_url, &workers.to_string()]);
        if let Some(target) = std::env::var_os(TARGET) {
            // It is started in a folder of its own.
            command.env(TARGET, std::path::absolute(target)?);
        }
        Ok(command)
    }
}
