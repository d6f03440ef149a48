//! Requests that arrive when whoever sent them has given them up, or has had them done a second time.

use crate::following::{following, make, records, until};
use crate::world::{engine, node_as};
use parking_lot::Mutex;
use rookery_directory::source::{Changes, ConditionalBatch, RecordPage, Reply, Source, SourceError};
use rookery_directory::{
    CopiedDirectory, Directory, DirectoryError, Following, Home, MemorySource, Position, Published,
};
use rookery_kv::{Bytes, Engine};
use rookery_types::{Acl, Epoch, Identifier, MailboxId, MailboxPath, NodeId, Rights};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A source to which requests come late.
struct Late {
    source: MemorySource,
    /// So many of the next requests stay on their way.
    keeps: AtomicUsize,
    kept: Mutex<Vec<ConditionalBatch>>,
}

/// The same for whoever holds it.
#[derive(Clone)]
struct At(Arc<Late>);

impl At {
    fn new() -> At {
        At(Arc::new(Late {
            source: MemorySource::new(1),
            keeps: AtomicUsize::new(0),
            kept: Mutex::default(),
        }))
    }

    /// What stayed on its way arrives; how much of it is done.
    async fn arrive(&self) -> usize {
        let mut done = 0;
        let kept = std::mem::take(&mut *self.0.kept.lock());
        assert!(!kept.is_empty());
        for batch in kept {
            done += usize::from(self.0.source.commit(batch).await.is_ok());
        }
        done
    }
}

impl Source for At {
    fn commit(&self, batch: ConditionalBatch) -> Reply<'_, Position> {
        let keeps = self.0.keeps.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if keeps.is_ok() {
            self.0.kept.lock().push(batch);
            return Box::pin(async { Err(SourceError::Unknown("it is on its way".to_owned())) });
        }
        self.0.source.commit(batch)
    }

    fn head(&self) -> Reply<'_, Position> {
        self.0.source.head()
    }

    fn get(&self, keys: Vec<Bytes>) -> Reply<'_, (Position, Vec<Option<Bytes>>)> {
        self.0.source.get(keys)
    }

    fn page(&self, start: Bytes, limit: usize) -> Reply<'_, RecordPage> {
        self.0.source.page(start, limit)
    }

    fn changes(&self, since: Position) -> Reply<'_, Changes> {
        self.0.source.changes(since)
    }
}

/// A shared mailbox that everybody may see.
async fn plans(directory: &CopiedDirectory) -> (MailboxId, Published) {
    directory.add_domain("x.test".to_owned()).await.unwrap();
    let account = make(directory, "team@x.test").await;
    let mut acl = Acl::new();
    acl.set(Identifier::Anyone, false, Rights::LOOKUP);
    let mailbox = MailboxId { account: account.id, number: 1 };
    let path = MailboxPath::new("Plans").unwrap();
    (mailbox, Published::of(&account.name, mailbox, &path, &acl, &[]).unwrap())
}

async fn is_listed(engine: &Arc<dyn Engine>, source: &At, mailbox: MailboxId) -> bool {
    let other = following(engine, Arc::new(source.clone())).await;
    other.barrier().await.unwrap();
    other.published(mailbox).await.unwrap().is_some()
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_is_not_done_after_the_next_decision() {
    let (one, source) = (engine(), At::new());
    let directory = following(&one, Arc::new(source.clone())).await;
    let (mailbox, published) = plans(&directory).await;
    source.0.keeps.store(usize::MAX, Ordering::SeqCst);
    let shared = directory.publish(vec![(mailbox, Some(published.clone()))]).await;
    assert!(matches!(&shared, Err(DirectoryError::Pending(_))), "{shared:?}");
    // Nothing is decided while it may still come.
    let taken_back = directory.publish(vec![(mailbox, None)]).await;
    let is_refused =
        matches!(&taken_back, Err(DirectoryError::Unavailable(why)) if why.contains("nothing was changed"));
    assert!(is_refused, "{taken_back:?}");
    source.0.keeps.store(0, Ordering::SeqCst);
    // There is nothing to take back, and that stays so.
    directory.publish(vec![(mailbox, None)]).await.unwrap();
    assert_eq!(source.arrive().await, 0);
    assert!(!is_listed(&engine(), &source, mailbox).await);
    directory.publish(vec![(mailbox, Some(published))]).await.unwrap();
    assert!(is_listed(&engine(), &source, mailbox).await);
}

#[tokio::test(start_paused = true)]
async fn what_was_done_the_second_time_is_not_done_once_more() {
    let (one, source) = (engine(), At::new());
    let directory = following(&one, Arc::new(source.clone())).await;
    let (mailbox, published) = plans(&directory).await;
    source.0.keeps.store(1, Ordering::SeqCst);
    directory.publish(vec![(mailbox, Some(published))]).await.unwrap();
    directory.publish(vec![(mailbox, None)]).await.unwrap();
    assert_eq!(source.arrive().await, 0);
    assert!(!is_listed(&engine(), &source, mailbox).await);
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_a_restart_is_not_done_after_the_next_decision() {
    let (one, source) = (engine(), At::new());
    let start = || async {
        let node = node_as(NodeId(u64::MAX), &one, Arc::new(source.clone()));
        until(&node, |now| *now == Following::Following).await;
        node
    };
    let before = start().await;
    let (mailbox, published) = plans(&before).await;
    source.0.keeps.store(1, Ordering::SeqCst);
    let asked = tokio::time::timeout(
        std::time::Duration::from_millis(5),
        before.publish(vec![(mailbox, Some(published))]),
    );
    assert!(asked.await.is_err());
    source.0.keeps.store(usize::MAX, Ordering::SeqCst);
    before.stop_following();
    drop(before);
    tokio::time::sleep(std::time::Duration::from_secs(15)).await;
    source.0.keeps.store(0, Ordering::SeqCst);
    let after = start().await;
    after.publish(vec![(mailbox, None)]).await.unwrap();
    assert_eq!(source.arrive().await, 0);
    assert!(!is_listed(&engine(), &source, mailbox).await);
    // A copy has the turns as well, of all nodes.
    let two = engine();
    let other = following(&two, Arc::new(source.clone())).await;
    other.barrier().await.unwrap();
    assert_eq!(records(&one), records(&two));
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_node_asked_is_not_done_once_the_account_is_at_home_elsewhere() {
    let (one, two, source) = (engine(), engine(), At::new());
    let dies = following(&one, Arc::new(source.clone())).await;
    let (mailbox, published) = plans(&dies).await;
    dies.publish(vec![(mailbox, Some(published.clone()))]).await.unwrap();
    let other = node_as(NodeId(u64::MAX), &two, Arc::new(source.clone()));
    until(&other, |now| *now == Following::Following).await;
    source.0.keeps.store(1, Ordering::SeqCst);
    let asked =
        tokio::time::timeout(std::time::Duration::from_millis(5), dies.publish(vec![(mailbox, None)]));
    assert!(asked.await.is_err());
    assert_eq!(source.0.kept.lock().len(), 1);
    dies.stop_following();
    drop(dies);
    source.0.keeps.store(0, Ordering::SeqCst);
    other.barrier().await.unwrap();
    let entry = other.by_id(mailbox.account).await.unwrap();
    let home = Home { node: NodeId(u64::MAX), epoch: Epoch(entry.home.epoch.0 + 1), ..entry.home };
    other.set_home(entry.id, entry.home, home).await.unwrap();
    // The same as it was, so nothing of the mailbox's own record changes.
    other.publish(vec![(mailbox, Some(published))]).await.unwrap();
    assert_eq!(source.arrive().await, 0);
    assert!(is_listed(&engine(), &source, mailbox).await);
}
