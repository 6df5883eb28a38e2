use clap::Args;

/// `barcast generate`.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {}
