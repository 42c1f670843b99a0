//! Placeholder.

use crate::config::Config;

/// Placeholder.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    anyhow::bail!("not built yet, root would be {}", config.root.display())
}
