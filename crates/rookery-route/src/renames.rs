//! What this node's store keeps by the names of users follows them when they are renamed: what they have seen of
//! mailboxes that are not theirs.
//!
//! Invariant: a renaming that the node's copy of the directory has written down is done once at least, through
//! restarts as well; doing it again changes nothing.

use parking_lot::Mutex;
use rookery_directory::renamed::renamed;
use rookery_directory::{Directory, DirectoryError};
use rookery_kv::{Batch, Engine, Space};
use rookery_store::{CommitError, Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Renamings that are looked at together.
const STEP: usize = 64;
/// The pause before it is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// Why a renaming was not followed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Follows renamings.
pub struct Renames {
    /// The directory's revision up to which all are done.
    done: watch::Receiver<u64>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Renames {
    /// Begins with what is left. `engine`: that of the store and of the node's directory.
    pub fn start(store: Store, directory: &dyn Directory, engine: Arc<dyn Engine>) -> Renames {
        let (told, done) = watch::channel(0);
        let mut revisions = directory.subscribe();
        let task = tokio::spawn(async move {
            loop {
                let revision = *revisions.borrow_and_update();
                match follow(&store, &*engine).await {
                    Ok(()) => {
                        told.send_replace(revision);
                        if revisions.changed().await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "what renamed users have seen is not carried over yet");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
        Renames { done, task: Mutex::new(Some(task)) }
    }

    /// Returns when all renamings up to a revision of the node's directory are done.
    pub async fn reach(&self, revision: u64) {
        // An error means that it has ended, and nothing more will be done.
        let _ = self.done.clone().wait_for(|done| *done >= revision).await;
    }

    /// Ends it; what is left is done after the next start. It holds the store open until then.
    pub async fn stop(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
            // Cut off, which is what was asked for.
            let _ = task.await;
        }
    }
}

impl Drop for Renames {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

async fn follow(store: &Store, engine: &dyn Engine) -> Result<(), Failed> {
    loop {
        let some = renamed(engine, STEP)?;
        if some.is_empty() {
            return Ok(());
        }
        for renamed in some {
            let carried = store.rename_reader(&renamed.from, &renamed.to).await?;
            let (from, to) = (&renamed.from, &renamed.to);
            tracing::info!(%from, %to, mailboxes = carried, "a renamed user keeps what they have seen");
            let mut batch = Batch::new();
            batch.delete(Space::Directory, renamed.key());
            store.commit_foreign(batch).await?;
        }
    }
}
