//! How the directory writes to its node's engine.

use rookery_kv::{Batch, Engine, off_thread};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// How the directory writes. The store's committer, which alone writes to the engine, is one.
pub trait Commit: Send + Sync {
    /// Makes a batch durable and visible, then returns. It goes on when the future is dropped.
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>>;
}

/// A batch may not have become durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CommitError(pub String);

/// Commits to an engine without a committer between. Only where nothing else writes to it: in tests and tools.
pub struct DirectCommit(pub Arc<dyn Engine>);

impl Commit for DirectCommit {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>> {
        let engine = self.0.clone();
        Box::pin(async move {
            match off_thread(move || engine.commit(batch)).await {
                Ok(result) => result.map_err(|error| CommitError(error.to_string())),
                Err(error) => Err(CommitError(error.to_string())),
            }
        })
    }
}
