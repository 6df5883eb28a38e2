use clap::Args;

/// `barcast replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {}
