use clap::Args;

use crate::client::Address;

/// Which gateway to talk to.
#[derive(Debug, Clone, Args)]
pub struct AddressArgs {
    /// The gateway's WebSocket: ws:// or wss:// (TLS), host, port and path
    #[arg(
        long,
        env = "BARCAST_URL",
        default_value = "ws://127.0.0.1:8000/api/v1/ws",
        hide_env_values = true
    )]
    url: String,
}

impl AddressArgs {
    /// Where the gateway is; nothing is connected yet.
    ///
    /// # Errors
    /// One line that names the flag and what is allowed, and never holds the URL.
    pub fn address(&self) -> Result<Address, String> {
        let address = self.url.parse();
        address.map_err(|why| format!("--url (BARCAST_URL): {why}"))
    }
}
