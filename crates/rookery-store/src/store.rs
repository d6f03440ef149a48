//! The store: its accounts, and what it does in the background.

mod opening;

pub use opening::{FORMAT, OpenError};
pub(crate) use opening::{
    FORMAT_WITH_SUMMARIES, Identity, decode_group, decode_live, encode_group, encode_live, last_mark,
    read_group, read_live,
};

use crate::account::Account;
use crate::append::{Spool, Waiting};
use crate::background::Rounds;
use crate::committer::{CommitError, Committer, Pending};
use crate::compaction::{Pace, When};
use crate::error::StoreError;
use crate::keys;
use crate::leaf::Source;
use crate::publish::Publisher;
use crate::records::{AccountRecord, AccountState};
use crate::sequencer::AccountCell;
use crate::travel::{Berths, Whereabouts};
use crate::volume::Volumes;
use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::TryRngCore;
use rookery_kv::engine::{Batch, Engine, Space};
use rookery_kv::off_thread;
use rookery_types::{
    AccountId, Epoch, MailboxId, MailboxPath, ModSeq, NodeId, SpecialUse, StoreId, UserName,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// How many octets come in between two looks at the disk, at most; the background work looks besides.
const LOOK_OCTETS: u64 = 16 << 20;
/// Accounts kept in memory though nobody uses them.
const IDLE_ACCOUNTS_MAX: usize = 10_000;

/// How a store works.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How long expunged messages and deleted mailboxes are kept for undelete.
    pub retention: Duration,
    /// At this many octets a volume is full.
    pub volume_octets: u64,
    /// The largest message taken.
    pub message_octets_max: u64,
    /// Octets of whole messages that wait in memory to be appended, in all commands; further ones wait in volumes.
    pub waiting_octets_max: u64,
    /// Octets of messages that stay in memory: half for those that were read from chunks, half for what is known of
    /// closed mailboxes.
    pub hot_octets_max: usize,
    /// How often the background work looks around; `None`: never, for tests.
    pub background: Option<Duration>,
    /// Change log entries and tombstones of an account that are kept at least.
    pub log_entries: u64,
    /// Annotations that one user can have on one mailbox, and that all can share there.
    pub annotations_max: usize,
    /// Octets of the largest annotation.
    pub annotation_octets_max: u64,
    /// Octets that all annotations of an account take, names included.
    pub account_annotation_octets_max: u64,
    /// With less room than this left on the disk no new messages are taken, in octets.
    pub reserve_octets: u64,
    /// Whether compaction packs messages.
    pub compress: bool,
    /// The volume that is being filled is ended so that it can be packed when it has so many octets and the store is
    /// idle.
    pub pack_octets_min: u64,
    /// The committer has no threads: nothing is written but by [`Store::commit_step`], from outside. For simulations.
    pub by_steps: bool,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            retention: Duration::from_secs(7 * 86_400),
            volume_octets: 128 << 20,
            message_octets_max: 64 << 20,
            waiting_octets_max: 16 << 20,
            hot_octets_max: 64 << 20,
            background: Some(Duration::from_secs(1)),
            log_entries: 100_000,
            annotations_max: 100,
            annotation_octets_max: 32 << 10,
            account_annotation_octets_max: 16 << 20,
            reserve_octets: 256 << 20,
            compress: true,
            pack_octets_min: 1 << 20,
            by_steps: false,
        }
    }
}

/// What a new account begins with.
#[derive(Clone, Debug, Default)]
pub struct NewAccount {
    /// Whose tree it is; `None` for shared mailboxes.
    pub owner: Option<UserName>,
    /// The mailboxes it has from the start, with what they are for.
    pub mailboxes: Vec<(MailboxPath, Vec<SpecialUse>)>,
    /// The names its user is subscribed to from the start, in canonical form.
    pub subscriptions: Vec<String>,
}

struct Inner {
    options: StoreOptions,
    engine: Arc<dyn Engine>,
    /// The messages of open mailboxes, as far as they are in memory.
    source: Arc<Source>,
    volumes: Arc<Volumes>,
    committer: Committer,
    identity: Identity,
    accounts: Mutex<HashMap<AccountId, Arc<AccountCell>>>,
    /// Mailboxes that were closed and still have their messages in memory, oldest first.
    closed: Mutex<Vec<(Weak<AccountCell>, MailboxId)>>,
    /// Annotations of the server as a whole, as they are on disk.
    annotations: ArcSwap<BTreeMap<String, Bytes>>,
    /// One change of them at a time.
    annotations_turn: tokio::sync::Mutex<()>,
    annotations_changed: watch::Sender<u64>,
    background: Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// How compaction goes on; one at a time.
    compacting: tokio::sync::Mutex<Pace>,
    /// The disk has less room left than the reserve.
    full: AtomicBool,
    /// Octets that have come in since the start.
    arrived: AtomicU64,
    waiting: Waiting,
    /// Accounts that come from other homes, and those that have gone: what is done to them.
    berths: Berths,
}

/// A store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.0.identity.store)
    }
}

/// Seconds since 1970 by the machine's clock, as far as 32 bits go.
pub(crate) fn now_unix() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// Random octets from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], std::io::Error> {
    let mut octets = [0; N];
    rand::rngs::OsRng.try_fill_bytes(&mut octets).map_err(std::io::Error::other)?;
    Ok(octets)
}

impl Store {
    /// Sets who publishes what others may see. Once, before anything is changed.
    pub fn set_publisher(&self, publisher: Arc<dyn Publisher>) {
        if self.0.committer.publisher.set(publisher).is_err() {
            tracing::error!("a second publisher was not taken");
        }
    }

    /// The node this store belongs to.
    pub fn node(&self) -> NodeId {
        self.0.identity.node
    }

    /// The store's own id.
    pub fn store_id(&self) -> StoreId {
        self.0.identity.store
    }

    /// How it works.
    pub fn options(&self) -> &StoreOptions {
        &self.0.options
    }

    /// The engine, for a check of a store that nobody uses.
    pub fn engine_for_check(&self) -> Arc<dyn Engine> {
        self.0.engine.clone()
    }

    /// Returns when a change waits for [`Store::commit_step`]. Never, if the committer has threads of its own.
    pub async fn commit_waits(&self) {
        self.0.committer.waits().await;
    }

    /// Writes one group of the changes that wait, in a store without threads ([`StoreOptions::by_steps`]): what the
    /// committer's thread does in any other. Returns whether there was one.
    pub fn commit_step(&self) -> bool {
        self.0.committer.step()
    }

    /// Does the background work that is due, now.
    pub async fn tend_now(&self) -> Result<(), StoreError> {
        crate::background::round(self, &mut Rounds::default(), When::Now).await
    }

    /// How compaction goes on.
    pub(crate) fn compacting(&self) -> &tokio::sync::Mutex<Pace> {
        &self.0.compacting
    }

    pub(crate) fn berths(&self) -> &Berths {
        &self.0.berths
    }

    pub(crate) fn engine_handle(&self) -> Arc<dyn Engine> {
        self.0.engine.clone()
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.0.engine
    }

    pub(crate) fn source(&self) -> &Arc<Source> {
        &self.0.source
    }

    pub(crate) fn volumes(&self) -> &Arc<Volumes> {
        &self.0.volumes
    }

    pub(crate) fn committer(&self) -> &Committer {
        &self.0.committer
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.0.identity.secret
    }

    /// Why nothing can be written any more; `None` while all is well.
    pub fn read_only_because(&self) -> Option<String> {
        self.0.committer.poison().map(|error| error.to_string())
    }

    /// Whether the disk is so full that no new messages are taken. Deletions always are.
    pub fn is_full(&self) -> bool {
        self.0.full.load(Ordering::Acquire)
    }

    /// Counts octets that come in, and looks at the disk each time that many have come: what comes between two looks
    /// must stay far below the reserve, however fast it comes.
    pub(crate) fn count_arriving(&self, octets: usize) {
        let octets = octets as u64;
        let before = self.0.arrived.fetch_add(octets, Ordering::Relaxed);
        if before / LOOK_OCTETS != before.wrapping_add(octets) / LOOK_OCTETS {
            self.look_at_the_disk();
        }
    }

    /// Looks how much room the disk has left.
    pub(crate) fn look_at_the_disk(&self) {
        let full = match self.0.volumes.free_octets() {
            Ok(free) => free < self.0.options.reserve_octets,
            Err(error) => {
                tracing::warn!(%error, "the room left on the disk is unknown");
                return;
            }
        };
        if self.0.full.swap(full, Ordering::AcqRel) != full {
            match full {
                true => tracing::error!("the disk is nearly full: no new messages are taken"),
                false => tracing::info!("the disk has room again"),
            }
        }
    }

    /// Begins to take a message. Where the account is known for which it comes, [`Account::spool`] bounds what waits in
    /// memory.
    pub fn spool(&self) -> Spool {
        Spool::new(self, None)
    }

    /// Octets of what is known of messages that wait to be appended, in all commands of the server: their envelopes and
    /// structures. Those are in memory, so whoever takes many messages at once looks at this.
    pub fn octets_known_waiting(&self) -> u64 {
        self.waiting().octets_known()
    }

    pub(crate) fn waiting(&self) -> &Waiting {
        &self.0.waiting
    }

    /// Makes an account with its first mailboxes, in one step. `AlreadyExists` if the id has one.
    pub async fn create_account(&self, id: AccountId, new: NewAccount) -> Result<Account, StoreError> {
        let berth = self.berths().of(id);
        let _turn = berth.lock().await;
        if self.find(id)?.is_some() {
            return Err(StoreError::AlreadyExists);
        }
        let cell = AccountCell::fresh(
            id,
            AccountRecord {
                node: self.0.identity.node,
                store: self.0.identity.store,
                epoch: Epoch(1),
                incarnation: 1,
                state: AccountState::Home,
                owner: new.owner,
                modseq: ModSeq::FIRST,
                log_floor: 1,
                last_mailbox: 0,
                last_uid_validity: 0,
                octets: 0,
                messages: 0,
                limits: crate::records::Limits::default(),
            },
        );
        let account = Account { store: self.clone(), cell: cell.clone(), viewer: None };
        account
            .transact(|t| {
                // Written even if it has no mailbox to speak of.
                t.put(Space::Account, keys::account_record(id).to_vec(), t.record.encode(id));
                for (path, special_use) in &new.mailboxes {
                    crate::account::create_mailbox(t, id, path, special_use.clone())?;
                }
                for name in &new.subscriptions {
                    t.subscriptions().insert(name.clone(), None);
                    let key = keys::subscription(id, name);
                    let value = crate::records::encode_subscription(&key, None);
                    t.put(Space::Account, key, value);
                }
                Ok(())
            })
            .await?;
        // Who found it on the disk already has it in memory: there is one for each account.
        let cell = self.0.accounts.lock().entry(id).or_insert(cell).clone();
        Ok(Account { cell, ..account })
    }

    /// An account that is at home here; `Moved` if another node serves it.
    pub async fn account(&self, id: AccountId) -> Result<Account, StoreError> {
        let account = self.find(id)?.ok_or(StoreError::NoAccount)?;
        match account.cell.record.load().state {
            AccountState::Deleted => Err(StoreError::NoAccount),
            // It is read here until its new home serves it.
            _ if *account.cell.whereabouts.borrow() == Whereabouts::Here => Ok(account),
            _ => Err(StoreError::Moved),
        }
    }

    /// An account that is in memory.
    pub(crate) fn in_memory(&self, id: AccountId) -> Option<Account> {
        let cell = self.0.accounts.lock().get(&id).cloned()?;
        Some(Account { store: self.clone(), cell, viewer: None })
    }

    /// An account's own record, as it is on disk. Reads the disk.
    pub fn account_record(&self, id: AccountId) -> Result<Option<AccountRecord>, StoreError> {
        let key = keys::account_record(id);
        let Some(value) = self.engine().get(Space::Account, &key)? else { return Ok(None) };
        AccountRecord::decode(&key, &value).map(Some).map_err(StoreError::Damaged)
    }

    fn find(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        // Loading under the lock: two callers must not get two cells for one account.
        let mut accounts = self.0.accounts.lock();
        if let Some(cell) = accounts.get(&id) {
            return Ok(Some(Account { store: self.clone(), cell: cell.clone(), viewer: None }));
        }
        match self.account_record(id)?.map(|record| record.state) {
            None => return Ok(None),
            Some(AccountState::Home | AccountState::Deleted | AccountState::Released(_)) => {}
            // What is here of it is not whole.
            Some(_) => return Err(StoreError::Moved),
        }
        let Some(cell) = AccountCell::load(&*self.0.engine, id)? else { return Ok(None) };
        if accounts.len() >= IDLE_ACCOUNTS_MAX {
            accounts.retain(|_, cell| Arc::strong_count(cell) > 1 || !cell.is_quiet());
        }
        accounts.insert(id, cell.clone());
        Ok(Some(Account { store: self.clone(), cell, viewer: None }))
    }

    /// Deletes an account: from now on it does not exist. What it held goes in the background.
    pub async fn delete_account(&self, id: AccountId) -> Result<(), StoreError> {
        let account = self.account(id).await?;
        account
            .transact(|t| {
                t.record.state = AccountState::Deleted;
                let key = keys::deleted_account(id, now_unix());
                let value = crate::records::encode_deleted_mailbox(&key);
                t.put(Space::Queue, key.to_vec(), value);
                Ok(())
            })
            .await
    }

    /// An account that has been forgotten does not take up memory either. Nobody may be able to load it meanwhile: who
    /// did has another than those who come later.
    pub(crate) fn unload(&self, id: AccountId) {
        self.0.accounts.lock().remove(&id);
    }

    /// The same, unless it has come anew.
    pub(crate) fn unload_this(&self, account: &Account) {
        let mut accounts = self.0.accounts.lock();
        if accounts.get(&account.id()).is_some_and(|cell| Arc::ptr_eq(cell, &account.cell)) {
            accounts.remove(&account.id());
        }
    }

    /// Makes changes outside of accounts durable, in the same groups: the directory's.
    /// What is asked for earlier is made durable no later.
    pub fn commit_foreign(
        &self,
        batch: Batch,
    ) -> impl Future<Output = Result<(), CommitError>> + Send + 'static + use<> {
        let mut pending = Pending::default();
        pending.batch = batch;
        // Queued now, not when somebody waits.
        self.0.committer.queue(pending).wait()
    }

    /// The annotations of the server as a whole, by their entries.
    pub fn server_annotations(&self) -> Arc<BTreeMap<String, Bytes>> {
        self.0.annotations.load_full()
    }

    /// Woken after each change of them.
    pub fn server_annotations_changed(&self) -> watch::Receiver<u64> {
        self.0.annotations_changed.subscribe()
    }

    /// Changes annotations of the server, all or none; `None` takes one away. `TooMany` and `TooLarge` as for those of
    /// mailboxes.
    pub async fn annotate_server(&self, changes: &[(String, Option<Bytes>)]) -> Result<(), StoreError> {
        let max = self.options().annotation_octets_max;
        if changes.iter().any(|(_, value)| value.as_ref().is_some_and(|value| value.len() as u64 > max)) {
            return Err(StoreError::TooLarge(max));
        }
        let _turn = self.0.annotations_turn.lock().await;
        let mut entries = BTreeMap::clone(&self.server_annotations());
        for (entry, value) in changes {
            match value {
                Some(value) => drop(entries.insert(entry.clone(), value.clone())),
                None => drop(entries.remove(entry)),
            }
        }
        if entries.len() > self.options().annotations_max && changes.iter().any(|(_, value)| value.is_some())
        {
            return Err(StoreError::TooMany("annotations"));
        }
        let mut batch = Batch::new();
        batch.put(Space::Meta, keys::SERVER_ANNOTATIONS, crate::records::encode_server_annotations(&entries));
        self.commit_foreign(batch).await?;
        self.0.annotations.store(Arc::new(entries));
        self.0.annotations_changed.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// Folds what there is time for, so that the next opening has less to read. The store is used meanwhile, but does
    /// nothing by itself any more: it is to be closed soon, and closing it then takes little time.
    pub async fn settle(&self) {
        let background = self.0.background.lock().take();
        if let Some(task) = background {
            task.abort();
            // Aborted, or at an end of its own.
            let _ = task.await;
            if self.read_only_because().is_none() && !self.is_full() {
                crate::background::settle(self).await;
            }
        }
    }

    /// Commits what is queued, and settles unless that was done; nothing can be written afterwards.
    pub async fn close(&self) {
        self.settle().await;
        let inner = self.0.clone();
        let settles = self.read_only_because().is_none() && !self.is_full();
        let end = move || {
            inner.committer.close();
            if settles {
                inner.engine.settle();
            }
        };
        if off_thread(end).await.is_err() {
            tracing::error!("closing the store was cut off");
        }
    }

    /// A mailbox has no handle any more: its messages stay in memory until the room is needed.
    pub(crate) fn closed(&self, account: &Arc<AccountCell>, mailbox: MailboxId) {
        let mut closed = self.0.closed.lock();
        closed.retain(|(_, id)| *id != mailbox);
        closed.push((Arc::downgrade(account), mailbox));
    }

    /// Takes the messages of mailboxes that nobody has open out of memory, oldest first, until the rest fits.
    pub(crate) fn shrink(&self) {
        let mut candidates = std::mem::take(&mut *self.0.closed.lock());
        candidates.retain(|(account, id)| account.upgrade().is_some_and(|cell| hot_octets(&cell, *id) > 0));
        let sizes =
            candidates.iter().map(|(cell, id)| cell.upgrade().map_or(0, |cell| hot_octets(&cell, *id)));
        let mut octets: usize = sizes.sum();
        let mut kept = Vec::new();
        for (weak, id) in candidates {
            let Some(cell) = weak.upgrade() else { continue };
            if octets > self.0.options.hot_octets_max / 2 {
                octets = octets.saturating_sub(hot_octets(&cell, id));
                self.forget_messages(&cell, id);
            } else {
                kept.push((weak, id));
            }
        }
        self.0.closed.lock().splice(0..0, kept);
    }

    fn forget_messages(&self, cell: &Arc<AccountCell>, id: MailboxId) {
        let Ok(mut t) = cell.begin(self.engine()) else { return };
        let open =
            cell.tree.load().by_number.get(&id.number).is_some_and(|m| m.openers.load(Ordering::Acquire) > 0);
        if let Some(mailbox) = t.change(id).filter(|_| !open) {
            mailbox.messages = None;
            // Publishing needs no waiting for: whoever opens the mailbox queues behind it.
            drop(t.finish(self.committer()));
        }
    }

    pub(crate) fn load_account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        self.find(id)
    }

    /// The accounts that are in memory.
    pub(crate) fn loaded(&self) -> Vec<Account> {
        let accounts = self.0.accounts.lock();
        accounts
            .values()
            .map(|cell| Account { store: self.clone(), cell: cell.clone(), viewer: None })
            .collect()
    }
}

/// A store that does not keep it from being closed.
pub(crate) struct WeakStore(Weak<Inner>);

impl From<Weak<Inner>> for WeakStore {
    fn from(inner: Weak<Inner>) -> WeakStore {
        WeakStore(inner)
    }
}

impl WeakStore {
    pub(crate) fn upgrade(&self) -> Option<Store> {
        self.0.upgrade().map(Store)
    }
}

fn hot_octets(cell: &AccountCell, id: MailboxId) -> usize {
    let tree = cell.tree.load();
    let Some(mailbox) = tree.by_number.get(&id.number) else { return 0 };
    if mailbox.openers.load(Ordering::Acquire) > 0 {
        return 0;
    }
    mailbox.published.load().messages.as_ref().map_or(0, |messages| messages.octets().max(1))
}
