//! What a follower sees of an embedded directory before whoever changed it is told.

use crate::contract::swap;
use crate::following::following;
use crate::world::engine;
use rookery_directory::source::Source;
use rookery_directory::{Commit, CommitError, DirectCommit, Directory, EmbeddedSource};
use rookery_kv::{Batch, Bytes};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Batches are in the engine long before this says so.
struct Slow {
    commit: DirectCommit,
    says: Arc<Semaphore>,
    /// The batch counts as failed.
    fails: bool,
}

impl Commit for Slow {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>> {
        let (committed, says, fails) = (self.commit.commit(batch), self.says.clone(), self.fails);
        Box::pin(async move {
            committed.await?;
            says.acquire().await.unwrap().forget();
            match fails {
                true => Err(CommitError("nobody knows".to_owned())),
                false => Ok(()),
            }
        })
    }
}

fn slow(fails: bool) -> (Arc<EmbeddedSource>, Arc<Semaphore>) {
    let (engine, says) = (engine(), Arc::new(Semaphore::new(0)));
    let commit = Slow { commit: DirectCommit(engine.clone()), says: says.clone(), fails };
    (Arc::new(EmbeddedSource::open(engine, Arc::new(commit)).unwrap()), says)
}

#[tokio::test]
async fn the_head_is_never_behind_what_was_seen() {
    let (source, says) = slow(false);
    let copy = engine();
    let directory = following(&copy, source.clone()).await;
    let before = source.head().await.unwrap();
    let writer = source.clone();
    let writing = tokio::spawn(async move { writer.commit(swap(b"lseen", None, Some("1".into()))).await });
    while source.get(vec![Bytes::from_static(b"lseen")]).await.unwrap().1 == [None] {
        tokio::task::yield_now().await;
    }
    // Whoever begins to follow now sees it, in pages and in changes alike.
    let late = engine();
    let other = timeout(Duration::from_secs(10), following(&late, source.clone())).await.unwrap();
    let mut changes = source.changes(before).await.unwrap();
    let seen = changes.next().await.unwrap().position;
    assert!(source.head().await.unwrap() >= seen && seen > before);
    assert_eq!(other.barrier().await.unwrap(), seen.revision);
    says.add_permits(1);
    assert_eq!(writing.await.unwrap().unwrap(), seen);
    assert_eq!(directory.barrier().await.unwrap(), seen.revision);
}

#[tokio::test]
async fn what_failed_and_is_there_all_the_same_is_told() {
    let (source, says) = slow(true);
    let copy = engine();
    let directory = following(&copy, source.clone()).await;
    let before = source.head().await.unwrap();
    says.add_permits(1);
    source.commit(swap(b"lseen", None, Some("1".into()))).await.unwrap_err();
    let head = source.head().await.unwrap();
    assert!(head > before);
    assert_eq!(directory.barrier().await.unwrap(), head.revision);
    let (_, values) = source.get(vec![Bytes::from_static(b"lseen")]).await.unwrap();
    assert_eq!(values, [Some(Bytes::from_static(b"1"))]);
}
