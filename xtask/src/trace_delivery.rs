//! One LMTP delivery under strace: which files were written, when their sync returned, when the 250 went out.

use anyhow::Result;

/// x
pub(crate) fn run() -> Result<()> {
    anyhow::bail!("not here yet")
}
