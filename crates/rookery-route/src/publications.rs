//! From the store's outbox to the directory: what others may see of the mailboxes that are at home here.
//!
//! Invariants:
//! - What is to be published stands in the outbox from the batch of the change on, until the directory has recorded
//!   it. So a crash loses none of it, and what is published twice is published the same.
//! - Only what is durable here is published: nobody sees what a loss of power takes back.
//! - The last change of a mailbox is published last.

use parking_lot::Mutex;
use rookery_directory::{Directory, DirectoryError, Published, published};
use rookery_kv::{Batch, Engine, Space};
use rookery_store::check::CheckError;
use rookery_store::{CommitError, Outbox, Publisher, Seen, SeenChange, Settings, Store};
use rookery_types::{AccountId, MailboxId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// Mailboxes that are published together.
const STEP: usize = 16;
/// How long a change waits until others see it.
const PUBLISH_MAX: Duration = Duration::from_secs(10);
/// The shortest and the longest pause before the directory is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why it cannot be begun to publish.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The node's copy of the directory cannot be read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] CheckError),
    /// The outbox cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Publishes the mailboxes of a store.
pub struct Publications {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    engine: Arc<dyn Engine>,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

/// The mailboxes that the outbox has something for, or soon will.
#[derive(Default)]
struct Waiting {
    /// Counts changes.
    last: u64,
    mailboxes: BTreeMap<MailboxId, Mailbox>,
}

#[derive(Default)]
struct Mailbox {
    /// The last change on its way to the disk.
    queued: u64,
    /// The last one that is there.
    durable: u64,
    /// The directory does not take it. It is tried again after its next change, or at the next start.
    is_refused: bool,
    /// Whoever waits for a change to be published.
    callers: Vec<(u64, oneshot::Sender<()>)>,
}

impl Waiting {
    fn refuse(&mut self, mailbox: MailboxId) {
        if let Some(entry) = self.mailboxes.get_mut(&mailbox) {
            entry.is_refused = true;
            // Nobody is to wait for what will not come.
            entry.callers.clear();
        }
    }
}

impl Publications {
    /// Becomes the store's publisher and begins with what was left in the outbox; in a store that has never published
    /// anything, with all that is shared. `engine`: that of the store and of the node's directory.
    pub async fn start(
        store: Store,
        directory: Arc<dyn Directory>,
        engine: Arc<dyn Engine>,
    ) -> Result<Arc<Publications>, StartError> {
        if !published::is_complete(&*engine)? {
            let shared = rookery_store::check::shared_mailboxes(&*engine)?;
            let shared: Vec<published::Shared> = shared
                .into_iter()
                .map(|(mailbox, settings)| {
                    let Settings { path, acl, special_use, .. } = settings;
                    published::Shared { mailbox, path, acl, special_use }
                })
                .collect();
            let here = rookery_store::check::homes(&*engine)?.into_iter().map(|(id, _)| id).collect();
            let (batch, _) = published::rebuild(&*engine, &shared, &here)?;
            store.commit_foreign(batch).await?;
        }
        let mut waiting = Waiting::default();
        for mailbox in published::outbox(&*engine)? {
            waiting.mailboxes.entry(mailbox).or_default();
        }
        let shared = Arc::new(Shared { engine, waiting: Mutex::new(waiting), wake: Notify::new() });
        let publications = Arc::new(Publications { shared: shared.clone(), task: Mutex::default() });
        store.set_publisher(publications.clone());
        let task = tokio::spawn(async move { shared.run(&store, &*directory).await });
        *publications.task.lock() = Some(task);
        Ok(publications)
    }

    /// Whether something of an account is still to be published.
    pub fn waits_for(&self, account: AccountId) -> bool {
        let waiting = self.shared.waiting.lock();
        let first = MailboxId { account, number: 0 };
        let mut of = waiting.mailboxes.range(first..).take_while(|(id, _)| id.account == account);
        // What the directory refuses is not waited for.
        of.any(|(_, mailbox)| !mailbox.is_refused)
    }

    /// Ends it; what is left stays in the outbox. It holds the store open until then.
    pub async fn stop(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
            // Cut off, which is what was asked for.
            let _ = task.await;
        }
    }
}

impl Drop for Publications {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

impl Publisher for Publications {
    fn changes(&self, changes: &[SeenChange<'_>]) -> Option<Outbox> {
        let mut writes = Vec::new();
        let mut mailboxes = Vec::new();
        let mut unchanged = Vec::new();
        for change in changes {
            if change.before == change.after {
                unchanged.push(change.mailbox);
                continue;
            }
            let of = |seen: Option<Seen<'_>>| match seen {
                Some(seen) => {
                    let Seen { path, acl, special_use } = seen;
                    published::published_of(&*self.shared.engine, change.mailbox, path, acl, special_use)
                }
                None => Ok(None),
            };
            match of(change.before).and_then(|before| Ok((before, of(change.after)?))) {
                Ok((before, after)) if before == after => {}
                Ok((_, after)) => {
                    writes.push(published::outbox_record(change.mailbox, after.as_ref()));
                    mailboxes.push(change.mailbox);
                }
                // The ACL holds all the same; only LIST does not know of it until it is mended.
                Err(error) => {
                    let account = change.mailbox.account;
                    tracing::error!(%error, %account, "a shared mailbox is not listed; `rookery check --repair` lists it");
                }
            }
        }
        let mut published = Vec::new();
        let number = {
            let mut waiting = self.shared.waiting.lock();
            for mailbox in unchanged {
                // What was changed before may still be on its way to others: who sets the same waits for it, too.
                if let Some(entry) = waiting.mailboxes.get_mut(&mailbox).filter(|entry| !entry.is_refused) {
                    let (done, waits) = oneshot::channel();
                    entry.callers.push((entry.queued, done));
                    published.push(waits);
                }
            }
            if mailboxes.is_empty() && published.is_empty() {
                return None;
            }
            waiting.last += 1;
            let number = waiting.last;
            for mailbox in &mailboxes {
                let (done, waits) = oneshot::channel();
                let entry = waiting.mailboxes.entry(*mailbox).or_default();
                entry.queued = number;
                entry.callers.push((number, done));
                published.push(waits);
            }
            number
        };
        let shared = self.shared.clone();
        let durable = Box::new(move || shared.is_durable(&mailboxes, number));
        let published = Box::pin(async move {
            let all = async {
                for waits in published {
                    if waits.await.is_err() {
                        return false;
                    }
                }
                true
            };
            tokio::time::timeout(PUBLISH_MAX, all).await.unwrap_or(false)
        });
        Some(Outbox { writes, durable, published })
    }
}

/// A mailbox to be published, the change that is, and what of it.
type Ready = (MailboxId, u64, Option<Published>);

impl Shared {
    fn is_durable(&self, mailboxes: &[MailboxId], number: u64) {
        let mut waiting = self.waiting.lock();
        for mailbox in mailboxes {
            if let Some(entry) = waiting.mailboxes.get_mut(mailbox) {
                entry.durable = entry.durable.max(number);
                entry.is_refused = false;
            }
        }
        drop(waiting);
        self.wake.notify_one();
    }

    async fn run(&self, store: &Store, directory: &dyn Directory) {
        let mut pause = PAUSE_MIN;
        loop {
            let ready = self.ready(STEP);
            if ready.is_empty() {
                self.wake.notified().await;
                continue;
            }
            match self.publish(ready, store, directory).await {
                Ok(()) => pause = PAUSE_MIN,
                Err(error) => {
                    if pause == PAUSE_MIN {
                        tracing::warn!(%error, "what users share is not published yet");
                    }
                    if store.read_only_because().is_some() {
                        // This node's copy of the directory will not change any more.
                        self.waiting.lock().mailboxes.values_mut().for_each(|entry| entry.callers.clear());
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// What is durable, and not about to change.
    fn ready(&self, max: usize) -> Vec<Ready> {
        let mut ready = Vec::new();
        let mut waiting = self.waiting.lock();
        let candidates = waiting.mailboxes.iter();
        let candidates: Vec<(MailboxId, u64)> = candidates
            .filter(|(_, entry)| entry.queued == entry.durable && !entry.is_refused)
            .map(|(mailbox, entry)| (*mailbox, entry.durable))
            .take(max)
            .collect();
        for (mailbox, number) in candidates {
            match published::outbox_of(&*self.engine, mailbox) {
                Ok(Some(published)) => ready.push((mailbox, number, published)),
                // It is published already.
                Ok(None) => {
                    for (_, caller) in
                        waiting.mailboxes.remove(&mailbox).into_iter().flat_map(|gone| gone.callers)
                    {
                        let _ = caller.send(());
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a shared mailbox is not listed; `rookery check --repair` lists it");
                    waiting.refuse(mailbox);
                }
            }
        }
        ready
    }

    async fn publish(
        &self,
        ready: Vec<Ready>,
        store: &Store,
        directory: &dyn Directory,
    ) -> Result<(), DirectoryError> {
        let all = ready.iter().map(|(mailbox, _, published)| (*mailbox, published.clone())).collect();
        match directory.publish(all).await {
            Ok(()) => {
                self.forget(&ready, store);
                Ok(())
            }
            Err(error) if error.is_away() => Err(error),
            // Something is wrong with one of them: that one is not to hold up the others.
            Err(_) => {
                for one in ready {
                    match directory.publish(vec![(one.0, one.2.clone())]).await {
                        Ok(()) => self.forget(&[one], store),
                        Err(error) if error.is_away() => return Err(error),
                        Err(error) => {
                            tracing::error!(%error, account = %one.0.account, "a shared mailbox is not published");
                            self.waiting.lock().refuse(one.0);
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Takes out of the outbox what is published, unless it has changed meanwhile.
    fn forget(&self, done: &[Ready], store: &Store) {
        let mut batch = Batch::new();
        let mut waiting = self.waiting.lock();
        for (mailbox, number, _) in done {
            let Some(entry) = waiting.mailboxes.get_mut(mailbox) else { continue };
            let (told, later) =
                std::mem::take(&mut entry.callers).into_iter().partition(|(n, _)| n <= number);
            entry.callers = later;
            let told: Vec<(u64, oneshot::Sender<()>)> = told;
            for (_, caller) in told {
                // Whoever waited may have gone.
                let _ = caller.send(());
            }
            if entry.queued == *number {
                batch.delete(Space::Directory, published::outbox_key(*mailbox));
                waiting.mailboxes.remove(mailbox);
            }
        }
        if !batch.is_empty() {
            // Queued while no change can come before it; nobody waits for it. What a crash leaves is published again.
            drop(store.commit_foreign(batch));
        }
    }
}
