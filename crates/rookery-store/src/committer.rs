//! The committer: the only caller of the engine's write path.
//!
//! Every batch of the store comes here, in the order its account's sequencer queued it. A group of batches is
//! committed with one sync of the engine while the volumes with the group's bodies are synced beside it; when all
//! are back, the group's changes become visible and its callers hear so. The next group is whatever has queued
//! up meanwhile: there is no timer.
//!
//! Invariants:
//! - Queue order is commit order, and order of becoming visible.
//! - Nothing is acknowledged or shown before every sync of its group has returned.
//! - After one failed sync nothing is acknowledged any more until the store is opened again.
//! - A batch whose account has left this home (fence) is refused here.

use crate::encoding::{Encoder, seal};
use crate::keys;
use crate::publish::Publisher;
use crate::records::Locator;
use crate::store::{encode_group, encode_live};
use crate::travel::Taps;
use crate::volume::{Volume, VolumeError, Volumes};
use parking_lot::{Condvar, Mutex};
use rookery_kv::engine::{Batch, Engine, Space};
use rookery_types::{AccountId, ContentId, Epoch, MailboxId, Uid};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, oneshot};

/// Octets of batches in a group, after which it is closed.
const GROUP_OCTETS_MAX: usize = 1 << 20;
/// Octets of batches that may wait; callers are slowed by waiting for their own batch, so this is never near.
const QUEUE_MAX: usize = 1 << 20;

/// Why a change was not made durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A write or sync failed; the store takes no more changes until it is opened again.
    #[error("the store is read-only since a write failed: {0}")]
    Poisoned(String),
    /// The account's home is no longer here, or its epoch has changed.
    #[error("the account's home is no longer here")]
    Fenced,
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
    /// The change is made here, and others do not see it yet: the directory is away, or slow.
    #[error("the change is made, and not yet published: outcome pending")]
    Unpublished,
}

/// A body that a batch brought: what to look at after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TailEntry {
    /// Which batch of the group it came with: what a batch brought is kept or taken back as a whole.
    pub(crate) batch: u32,
    pub(crate) mailbox: MailboxId,
    pub(crate) uid: Uid,
    pub(crate) content: ContentId,
    pub(crate) locator: Locator,
}

/// Whether an account is still at home here; shared by its sequencer and the committer.
#[derive(Debug, Default)]
pub(crate) struct Fence(AtomicU64);

impl Fence {
    pub(crate) fn new(epoch: Epoch) -> Fence {
        Fence(AtomicU64::new(epoch.0))
    }

    /// No epoch is the right one any more.
    pub(crate) fn close(&self) {
        self.0.store(0, Ordering::Release);
    }

    pub(crate) fn is(&self, epoch: Epoch) -> bool {
        self.0.load(Ordering::Acquire) == epoch.0
    }
}

/// A change on its way to the disk.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) batch: Batch,
    pub(crate) fence: Option<(Arc<Fence>, Epoch)>,
    /// The volumes its bodies are in.
    pub(crate) volumes: Vec<Arc<Volume>>,
    pub(crate) tail: Vec<TailEntry>,
    /// The first of its bodies that had waited for it.
    pub(crate) back: Option<Locator>,
    /// By how much the octets in use of a volume change.
    pub(crate) live: Vec<(u32, i64)>,
    /// Makes the change visible.
    pub(crate) publish: Option<Box<dyn FnOnce() + Send>>,
    done: Option<oneshot::Sender<Result<(), CommitError>>>,
}

/// The end of a change on its way.
pub(crate) struct Ticket {
    done: oneshot::Receiver<Result<(), CommitError>>,
    published: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
}

impl Ticket {
    /// Of something that needs no waiting for.
    pub(crate) fn ended(result: Result<(), CommitError>) -> Ticket {
        let (done, ticket) = oneshot::channel();
        let _ = done.send(result);
        Ticket { done: ticket, published: None }
    }

    /// What else is waited for.
    pub(crate) fn published(self, published: Option<Pin<Box<dyn Future<Output = bool> + Send>>>) -> Ticket {
        Ticket { published, ..self }
    }

    /// Returns when the change is durable and visible, also to others, or will never be.
    pub(crate) async fn wait(self) -> Result<(), CommitError> {
        self.done.await.unwrap_or(Err(CommitError::Closed))?;
        let is_published = match self.published {
            Some(published) => published.await,
            None => true,
        };
        if is_published { Ok(()) } else { Err(CommitError::Unpublished) }
    }
}

struct Queue {
    waiting: VecDeque<Pending>,
    closing: bool,
}

impl Queue {
    /// What has queued up, up to a group's size.
    fn take_group(&mut self) -> Vec<Pending> {
        let mut octets = 0;
        let mut group = Vec::new();
        while octets < GROUP_OCTETS_MAX {
            let Some(pending) = self.waiting.pop_front() else { break };
            octets += pending.batch.octets();
            group.push(pending);
        }
        group
    }
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    poisoned: AtomicBool,
    poison: Mutex<Option<String>>,
}

impl Shared {
    fn new() -> Shared {
        Shared {
            queue: Mutex::new(Queue { waiting: VecDeque::new(), closing: false }),
            wake: Condvar::new(),
            poisoned: AtomicBool::new(false),
            poison: Mutex::new(None),
        }
    }

    /// From now on nothing is acknowledged; the first reason stays.
    fn fail(&self, reason: &str) {
        let mut poison = self.poison.lock();
        if poison.is_none() {
            tracing::error!(reason, "a write failed; the store is read-only until it is started again");
            *poison = Some(reason.to_string());
        }
        self.poisoned.store(true, Ordering::Release);
    }
}

/// The handle by which batches are queued.
pub(crate) struct Committer {
    pub(crate) publisher: OnceLock<Arc<dyn Publisher>>,
    /// Who wants to know what changes of an account.
    pub(crate) taps: Arc<Taps>,
    shared: Arc<Shared>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// What the committer's thread would have, if there is none.
    steps: Option<Steps>,
}

/// A committer without threads: somebody from outside does one group after another.
struct Steps {
    worker: Mutex<Worker>,
    queued: Notify,
}

impl Committer {
    /// Starts the committer's two threads. `live`: the octets in use of each volume so far.
    pub(crate) fn start(
        engine: Arc<dyn Engine>,
        volumes: Arc<Volumes>,
        group: u64,
        live: BTreeMap<u32, u64>,
    ) -> std::io::Result<Committer> {
        let shared = Arc::new(Shared::new());
        let (to_syncer, requests) = std::sync::mpsc::channel::<Vec<Arc<Volume>>>();
        let (answers, from_syncer) = std::sync::mpsc::channel();
        let syncer = {
            let volumes = volumes.clone();
            move || {
                for request in requests {
                    let result = sync(&request, &volumes);
                    // Whoever hears of it finds the volumes out of use.
                    drop(request);
                    if answers.send(result).is_err() {
                        return;
                    }
                }
            }
        };
        let syncer_thread = SyncedBy::Thread { to: to_syncer, from: from_syncer };
        let taps: Arc<Taps> = Arc::default();
        let (shared_too, taps_too) = (shared.clone(), taps.clone());
        let worker = Worker {
            shared: shared_too,
            engine,
            volumes,
            group,
            live,
            synced_by: syncer_thread,
            taps: taps_too,
        };
        let threads = vec![
            std::thread::Builder::new().name("volume-sync".into()).spawn(syncer)?,
            std::thread::Builder::new().name("committer".into()).spawn(move || worker.run())?,
        ];
        let (publisher, threads) = (OnceLock::new(), Mutex::new(threads));
        Ok(Committer { publisher, taps, shared, threads, steps: None })
    }

    /// The same without threads: nothing is written but by [`Committer::step`].
    pub(crate) fn by_steps(
        engine: Arc<dyn Engine>,
        volumes: Arc<Volumes>,
        group: u64,
        live: BTreeMap<u32, u64>,
    ) -> Committer {
        let shared = Arc::new(Shared::new());
        let synced_by = SyncedBy::Committer;
        let taps: Arc<Taps> = Arc::default();
        let worker =
            Worker { shared: shared.clone(), engine, volumes, group, live, synced_by, taps: taps.clone() };
        let steps = Some(Steps { worker: Mutex::new(worker), queued: Notify::new() });
        Committer { publisher: OnceLock::new(), taps, shared, threads: Mutex::default(), steps }
    }

    /// Returns when something waits for a step. Never, if there are threads.
    pub(crate) async fn waits(&self) {
        let Some(steps) = &self.steps else { return std::future::pending().await };
        while self.shared.queue.lock().waiting.is_empty() {
            steps.queued.notified().await;
        }
    }

    /// Commits one group of what waits, if there are no threads for that; whether there was one.
    pub(crate) fn step(&self) -> bool {
        let Some(steps) = &self.steps else { return false };
        let mut worker = steps.worker.lock();
        let group = self.shared.queue.lock().take_group();
        let is_there = !group.is_empty();
        if is_there {
            worker.commit(group);
        }
        is_there
    }

    /// Returns when a change is durable and visible here; for a thread that may block, also within a runtime.
    pub(crate) fn settle(&self, ticket: Ticket) -> Result<(), CommitError> {
        while self.step() {}
        let waiter = std::thread::spawn(move || ticket.done.blocking_recv());
        waiter.join().ok().and_then(Result::ok).unwrap_or(Err(CommitError::Closed))
    }

    /// Queues a change. Called under the account's sequencer, so that queue order is the account's order.
    pub(crate) fn queue(&self, mut pending: Pending) -> Ticket {
        let (done, ticket) = oneshot::channel();
        let mut queue = self.shared.queue.lock();
        let refused = match self.poison() {
            Some(error) => Some(error),
            None if queue.closing || queue.waiting.len() >= QUEUE_MAX => Some(CommitError::Closed),
            None => None,
        };
        match refused {
            Some(error) => drop(done.send(Err(error))),
            None => {
                pending.done = Some(done);
                queue.waiting.push_back(pending);
                match &self.steps {
                    Some(steps) => steps.queued.notify_one(),
                    None => drop(self.shared.wake.notify_one()),
                }
            }
        }
        Ticket { done: ticket, published: None }
    }

    /// Why nothing can be written any more; `None` while all is well.
    pub(crate) fn poison(&self) -> Option<CommitError> {
        if !self.shared.poisoned.load(Ordering::Acquire) {
            return None;
        }
        Some(CommitError::Poisoned(self.shared.poison.lock().clone().unwrap_or_default()))
    }

    /// A sync failed elsewhere: what it was for may be lost even if a later one succeeds, so nothing is acknowledged
    /// any more.
    pub(crate) fn fail(&self, error: &dyn std::error::Error) {
        self.shared.fail(&describe(error));
    }

    /// Commits what is queued and ends the threads.
    pub(crate) fn close(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.wake.notify_all();
        while self.step() {}
        for thread in self.threads.lock().drain(..).rev() {
            if thread.join().is_err() {
                tracing::error!("a committer thread ended in a panic");
            }
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.close();
    }
}

struct Worker {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    volumes: Arc<Volumes>,
    group: u64,
    live: BTreeMap<u32, u64>,
    synced_by: SyncedBy,
    taps: Arc<Taps>,
}

/// Who syncs volumes while the engine commits.
enum SyncedBy {
    /// A thread beside the committer's.
    Thread {
        to: std::sync::mpsc::Sender<Vec<Arc<Volume>>>,
        from: std::sync::mpsc::Receiver<Result<(), VolumeError>>,
    },
    /// The committer itself: before the engine commits or after it, by turns, since either may come first.
    Committer,
}

fn sync(of: &[Arc<Volume>], volumes: &Volumes) -> Result<(), VolumeError> {
    of.iter().try_for_each(|volume| volume.sync(volumes.files()))
}

impl Worker {
    fn run(mut self) {
        while let Some(group) = self.next_group() {
            self.commit(group);
        }
    }

    /// What has queued up, up to a group's size; `None` when the store closes and nothing is left.
    fn next_group(&self) -> Option<Vec<Pending>> {
        let mut queue = self.shared.queue.lock();
        while queue.waiting.is_empty() {
            if queue.closing {
                return None;
            }
            self.shared.wake.wait(&mut queue);
        }
        Some(queue.take_group())
    }

    fn commit(&mut self, group: Vec<Pending>) {
        let (mut group, fenced): (Vec<Pending>, Vec<Pending>) = group
            .into_iter()
            .partition(|pending| pending.fence.as_ref().is_none_or(|(fence, epoch)| is_open(fence, *epoch)));
        for pending in fenced {
            answer(pending.done, Err(CommitError::Fenced));
        }
        #[cfg(feature = "sim")]
        if rookery_kv::defect::is_planted(rookery_kv::defect::Defect::EarlyAcknowledgement) {
            group.iter_mut().for_each(|pending| answer(pending.done.take(), Ok(())));
        }
        // A sync outside of this thread may have failed, also while this group was written.
        let poison = |shared: &Shared| match shared.poisoned.load(Ordering::Acquire) {
            true => Err(shared.poison.lock().clone().unwrap_or_default()),
            false => Ok(()),
        };
        let written =
            poison(&self.shared).and_then(|()| self.write(&mut group)).and_then(|()| poison(&self.shared));
        match written {
            Ok(()) => {
                for mut pending in group {
                    if let Some(publish) = pending.publish.take() {
                        publish();
                    }
                    answer(pending.done, Ok(()));
                }
            }
            Err(reason) => {
                self.shared.fail(&reason);
                let waiting = std::mem::take(&mut self.shared.queue.lock().waiting);
                for pending in group.into_iter().chain(waiting) {
                    answer(pending.done, Err(CommitError::Poisoned(reason.clone())));
                }
            }
        }
    }

    fn write(&mut self, group: &mut [Pending]) -> Result<(), String> {
        let mut batch = Batch::new();
        let mut volumes: Vec<Arc<Volume>> = Vec::new();
        let mut tail = Vec::new();
        let mut back: Option<Locator> = None;
        let mut live: BTreeMap<u32, i64> = BTreeMap::new();
        for (number, pending) in (0..).zip(group.iter_mut()) {
            batch.append(std::mem::take(&mut pending.batch));
            for volume in pending.volumes.drain(..) {
                if !volumes.iter().any(|known| known.number == volume.number) {
                    volumes.push(volume);
                }
            }
            back = back.into_iter().chain(pending.back).min();
            tail.extend(pending.tail.drain(..).map(|entry| TailEntry { batch: number, ..entry }));
            for (volume, octets) in pending.live.drain(..) {
                *live.entry(volume).or_default() += octets;
            }
        }
        if batch.is_empty() && volumes.is_empty() {
            return Ok(());
        }
        if !volumes.is_empty() {
            for volume in &volumes {
                self.volumes.mark(self.group, volume.number).map_err(|e| describe(&e))?;
            }
        }
        if let Some(back) = back {
            let volume = self.volumes.mark_back(self.group, back).map_err(|e| describe(&e))?;
            if !volumes.iter().any(|known| known.number == volume.number) {
                volumes.push(volume);
            }
        }
        let gone = || "the volume sync thread is gone".to_string();
        let mut synced = match &self.synced_by {
            _ if volumes.is_empty() => Some(Ok(())),
            SyncedBy::Thread { to, .. } => {
                to.send(volumes.clone()).map_err(|_| gone())?;
                None
            }
            SyncedBy::Committer => self.group.is_multiple_of(2).then(|| sync(&volumes, &self.volumes)),
        };
        self.group += 1;
        for (number, octets) in live {
            let now = self.live.entry(number).or_default();
            *now = now.saturating_add_signed(octets);
            let key = keys::volume(number);
            let value = encode_live(&key, *now);
            batch.put(Space::Meta, key, value);
        }
        batch.put(Space::Meta, keys::GROUP, encode_group(self.group));
        batch.put(Space::Meta, keys::TAIL, encode_tail(&tail));
        let touched = self.taps.note(&batch);
        let committed = self.engine.commit(batch).map_err(|e| describe(&e));
        Taps::done(touched);
        if synced.is_none() {
            synced = Some(match &self.synced_by {
                SyncedBy::Thread { from, .. } => from.recv().map_err(|_| gone())?,
                SyncedBy::Committer => sync(&volumes, &self.volumes),
            });
        }
        committed.and(synced.unwrap_or(Ok(())).map_err(|e| describe(&e)))
    }
}

/// Whether a change bound to an epoch may still be made.
fn is_open(fence: &Fence, epoch: Epoch) -> bool {
    #[cfg(feature = "sim")]
    if rookery_kv::defect::is_planted(rookery_kv::defect::Defect::NoEpochCheck) {
        return true;
    }
    fence.is(epoch)
}

fn answer(done: Option<oneshot::Sender<Result<(), CommitError>>>, result: Result<(), CommitError>) {
    if let Some(done) = done {
        // Whoever asked may have gone; the change stands all the same.
        let _ = done.send(result);
    }
}

pub(crate) fn encode_tail(tail: &[TailEntry]) -> bytes::Bytes {
    let mut e = Encoder::new(1);
    e.varint(tail.len() as u64);
    for entry in tail {
        e.u32(entry.batch)
            .u64(entry.mailbox.account.get())
            .u32(entry.mailbox.number)
            .u32(entry.uid.get())
            .raw(&entry.content.0);
        e.u32(entry.locator.volume).u64(entry.locator.offset);
    }
    seal(Space::Meta, keys::TAIL, e)
}

pub(crate) fn decode_tail(value: &[u8]) -> Result<Vec<TailEntry>, crate::encoding::Damaged> {
    crate::encoding::open(Space::Meta, keys::TAIL, value, |d| {
        d.layout(1)?;
        (0..d.count()?)
            .map(|_| {
                let batch = d.u32()?;
                let account = AccountId::new(d.u64()?)?;
                let number = d.u32()?;
                Some(TailEntry {
                    batch,
                    mailbox: MailboxId { account, number },
                    uid: Uid::new(d.u32()?)?,
                    content: ContentId(d.array()?),
                    locator: Locator { volume: d.u32()?, offset: d.u64()? },
                })
            })
            .collect()
    })
}

/// An error with its causes, in one line for the operator.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
