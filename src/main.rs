//! Parses, starts what was asked for, waits for a signal; nothing else.

use barcast::cli;

fn main() -> anyhow::Result<()> {
    let cli = cli::parse();
    cli.logs.start();
    let _ = cli.command();
    Ok(())
}
