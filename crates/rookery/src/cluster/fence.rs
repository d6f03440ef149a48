//! A node whose data folder is older than it was, or another one, holds nothing until an operator decides: what it would
//! show and take is not what its users have been told.
//!
//! Invariants:
//! - A start counts in the store itself, so that an older store has an older count.
//! - What the directory knows of a node is not overwritten by one that holds nothing.

use rookery_directory::{CopiedDirectory, Directory, Node, boot_of, boot_record};
use rookery_kv::{Batch, Space};
use rookery_store::Store;

use super::{Cluster, failed};
use crate::exit::Failure;

/// Counts this start of the node.
pub(super) async fn next_boot(store: &Store) -> Result<u64, Failure> {
    let last = boot_of(&*store.engine_for_check()).map_err(|error| failed("the count of starts", &error))?;
    let next = last.saturating_add(1);
    let (key, value) = boot_record(next);
    let mut batch = Batch::new();
    batch.put(Space::Directory, key, value);
    store.commit_foreign(batch).await.map_err(|error| failed("the count of starts", &error))?;
    Ok(next)
}

impl Cluster {
    /// Compares this node with what the directory knows of it: whether that could be done. Once it was, it is not done
    /// again.
    pub(crate) async fn look_back(&self, directory: &CopiedDirectory, store: &Store) -> bool {
        if self.fence.is_compared() {
            return true;
        }
        // A directory in the same store is as old as that.
        if directory.embedded().is_none() {
            if directory.barrier().await.is_err() {
                return false;
            }
            let Ok(nodes) = directory.nodes().await else { return false };
            let known = nodes.into_iter().find(|node| node.id == self.links.identity().node);
            if let Some(why) = known.and_then(|known| self.is_older_than(&known, store)) {
                tracing::error!(
                    why,
                    "this node holds nothing; see docs/cluster.md, then: rookery node accept"
                );
                self.fence.close(&why);
            }
        }
        self.fence.compared();
        true
    }

    /// Why this node is not the one that the directory knows, if it is not.
    fn is_older_than(&self, known: &Node, store: &Store) -> Option<String> {
        match known.store {
            None => None,
            Some(other) if other != store.store_id() => {
                Some("the directory knows this node with another store".to_owned())
            }
            Some(_) if known.boot >= self.boot => Some(format!(
                "the directory knows start {} of this node, and by its store this is start {}: the store is older than it was",
                known.boot, self.boot
            )),
            Some(_) => None,
        }
    }
}
