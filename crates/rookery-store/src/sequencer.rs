//! The sequencer of one account: where its changes get their order.
//!
//! A [`Change`](Transaction) checks its conditions, gets its modseq and UIDs and is queued at the committer in one
//! critical section, so queue order is commit order. It sees what is queued before it, durable or not; sessions
//! see only what is durable.
//!
//! Invariants:
//! - A transaction that fails leaves no trace: all it does is staged until [`Transaction::finish`].
//! - What is queued but not durable is in the overlay; overlay over engine is what the next transaction reads.
//! - A mailbox's published state is swapped only by the committer, in queue order.

mod transaction;

pub(crate) use transaction::Transaction;

use crate::account::empty_summary;
use crate::committer::Fence;
use crate::encoding::Damaged;
use crate::error::StoreError;
use crate::keys;
use crate::messages::Messages;
use crate::readers::{self, Readers};
use crate::records::{self, AccountRecord, Held, Settings, Summary};
use crate::transit::Transit;
use crate::travel::{Gate, Whereabouts};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use parking_lot::Mutex;
use rookery_kv::engine::{Engine, Read, Space, prefix_end};
use rookery_types::acl::Asker;
use rookery_types::{AccountId, MailboxId, MailboxPath, ModSeq, Rights, UidSet, UserName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{Notify, watch};

/// A mailbox at one moment.
#[derive(Clone, Debug)]
pub struct MailboxState {
    /// Which mailbox it is.
    pub id: MailboxId,
    /// What is set on it.
    pub settings: Arc<Settings>,
    /// What is counted of it.
    pub summary: Summary,
    /// What its quota root holds, if one begins here.
    pub held: Held,
    /// Its messages, if somebody has the mailbox open.
    pub messages: Option<Messages>,
    /// What those who have it open have seen, but for the owner.
    pub(crate) readers: Readers,
}

impl MailboxState {
    /// Without messages, and nobody has it open.
    pub(crate) fn empty(id: MailboxId, settings: Settings, modseq: ModSeq) -> MailboxState {
        let summary = empty_summary(modseq);
        let (settings, readers) = (Arc::new(settings), Readers::default());
        MailboxState { id, settings, summary, held: Held::default(), messages: None, readers }
    }
}

/// What all users of a mailbox share.
#[derive(Debug)]
pub(crate) struct MailboxCell {
    pub(crate) id: MailboxId,
    /// The newest durable state.
    pub(crate) published: ArcSwap<MailboxState>,
    /// Its HIGHESTMODSEQ, told after the state is published.
    pub(crate) changed: watch::Sender<u64>,
    /// The first UID that no session has been told of as \Recent.
    pub(crate) recent_from: AtomicU32,
    /// How many handles there are; the messages of a mailbox that nobody has open may be forgotten.
    pub(crate) openers: AtomicUsize,
    /// Those with \Seen of their own who have it open, and how many handles each has.
    readers: Mutex<BTreeMap<UserName, (Arc<ReaderCell>, usize)>>,
}

/// What all handles of one user to a mailbox that is not theirs share.
#[derive(Debug)]
pub(crate) struct ReaderCell {
    user: UserName,
    /// The user's HIGHESTMODSEQ of the mailbox.
    pub(crate) changed: watch::Sender<u64>,
    /// The last state that was shown, and how.
    shown: ArcSwapOption<(Arc<MailboxState>, Arc<MailboxState>)>,
}

impl ReaderCell {
    /// A state as the user sees it.
    pub(crate) fn show(&self, state: Arc<MailboxState>) -> Arc<MailboxState> {
        if let Some(last) = &*self.shown.load()
            && Arc::ptr_eq(&last.0, &state)
        {
            return last.1.clone();
        }
        let own = Arc::new(readers::personal(&state, &self.user));
        self.shown.store(Some(Arc::new((state, own.clone()))));
        own
    }
}

impl MailboxCell {
    pub(crate) fn new(state: MailboxState) -> Arc<MailboxCell> {
        Arc::new(MailboxCell {
            id: state.id,
            recent_from: AtomicU32::new(state.summary.uid_next),
            changed: watch::Sender::new(state.summary.highest_modseq.get()),
            published: ArcSwap::from_pointee(state),
            openers: AtomicUsize::new(0),
            readers: Mutex::default(),
        })
    }

    /// One more handle of a user who has \Seen of their own here.
    pub(crate) fn add_reader(&self, user: &UserName) -> Arc<ReaderCell> {
        let mut readers = self.readers.lock();
        let fresh = || {
            let modseq = self.published.load().summary.highest_modseq.get();
            let (changed, shown) = (watch::Sender::new(modseq), ArcSwapOption::empty());
            (Arc::new(ReaderCell { user: user.clone(), changed, shown }), 0)
        };
        let (cell, handles) = readers.entry(user.clone()).or_insert_with(fresh);
        *handles += 1;
        cell.clone()
    }

    /// One less.
    pub(crate) fn remove_reader(&self, reader: &ReaderCell) {
        let mut readers = self.readers.lock();
        if let Some((_, handles)) = readers.get_mut(&reader.user) {
            *handles -= 1;
            if *handles == 0 {
                readers.remove(&reader.user);
            }
        }
    }

    /// Lets go of what those have seen who have closed the mailbox.
    fn forget_readers(&self, readers: &mut Readers) {
        let open = self.readers.lock();
        if readers.keys().any(|user| !open.contains_key(user)) {
            Arc::make_mut(readers).retain(|user, _| open.contains_key(user));
        }
    }

    fn publish(&self, state: Arc<MailboxState>) {
        let modseq = state.summary.highest_modseq.get();
        let before = self.published.swap(state.clone());
        // Folding tells nobody anything new, but whoever looks at the chunks of before should let them go.
        let folded = match (&before.messages, &state.messages) {
            (Some(before), Some(now)) => !before.same_as(now),
            _ => false,
        };
        for (user, (reader, _)) in &*self.readers.lock() {
            let own = state.readers.get(user).map_or(0, |seen| seen.modseq());
            let modseq = modseq.max(own);
            reader.changed.send_if_modified(|told| std::mem::replace(told, modseq) != modseq || folded);
        }
        self.changed.send_if_modified(|told| std::mem::replace(told, modseq) != modseq || folded);
    }
}

/// An account's mailboxes and subscriptions at one moment; each mailbox's own state is always the newest durable.
#[derive(Debug, Default)]
pub struct Tree {
    pub(crate) by_path: BTreeMap<MailboxPath, Arc<MailboxCell>>,
    pub(crate) by_number: BTreeMap<u32, Arc<MailboxCell>>,
    /// Those that are quota roots.
    pub(crate) roots: BTreeMap<MailboxPath, Arc<MailboxCell>>,
    pub(crate) subscriptions: Arc<BTreeMap<String, Option<MailboxId>>>,
}

impl Tree {
    /// The mailbox with a path.
    pub fn get(&self, path: &MailboxPath) -> Option<MailboxId> {
        self.by_path.get(path).map(|cell| cell.id)
    }

    /// A mailbox's newest durable state.
    pub fn state(&self, id: MailboxId) -> Option<Arc<MailboxState>> {
        self.by_number.get(&id.number).filter(|cell| cell.id == id).map(|cell| cell.published.load_full())
    }

    /// All mailboxes in order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&MailboxPath, Arc<MailboxState>)> {
        self.by_path.iter().map(|(path, cell)| (path, cell.published.load_full()))
    }

    /// The names the account's user subscribes to, and the mailbox each had when it was subscribed to.
    pub fn subscriptions(&self) -> &BTreeMap<String, Option<MailboxId>> {
        &self.subscriptions
    }

    /// The same as a value that stays as it is: another one is another state.
    pub fn subscriptions_now(&self) -> Arc<BTreeMap<String, Option<MailboxId>>> {
        self.subscriptions.clone()
    }

    /// The rights that decide whether something can be made at a path where nothing is: those on the nearest mailbox
    /// above (RFC 4314 §4). At the top of their own account the owner may do anything, as may administrators; others
    /// nothing.
    pub fn rights_above(&self, path: &MailboxPath, asker: &Asker<'_>) -> Rights {
        let mut above = path.parent();
        while let Some(path) = above {
            if let Some(state) = self.get(&path).and_then(|id| self.state(id)) {
                return state.settings.acl.rights_of(asker);
            }
            above = path.parent();
        }
        if asker.owner || asker.administrator { Rights::ALL } else { Rights::NONE }
    }

    /// Whether a mailbox stands below the path.
    pub fn has_children(&self, path: &MailboxPath) -> bool {
        // Between "a" and "a/…" stand only names like "a b" and "a-b"; a range that begins at "a/" has none.
        match MailboxPath::new(&format!("{path}/0")) {
            _ if path.is_root() => self.by_path.keys().any(|p| p.is_below(path)),
            Ok(_) => {
                let from = format!("{path}/");
                self.by_path
                    .range::<MailboxPath, _>((std::ops::Bound::Excluded(path), std::ops::Bound::Unbounded))
                    .find(|(p, _)| p.as_str() >= from.as_str())
                    .is_some_and(|(p, _)| p.is_below(path))
            }
            Err(_) => false,
        }
    }
}

/// The records of one mailbox, as far as they have been read.
type Parts = (Option<Settings>, Option<Summary>, Option<Held>);

/// Messages in transit to other homes, by mailbox and move.
type Departing = BTreeMap<u32, BTreeMap<u64, UidSet>>;

type Overlay = BTreeMap<(Space, Bytes), (u64, Option<Bytes>)>;

/// The state that the next change is made from.
#[derive(Debug)]
pub(crate) struct Sequencer {
    pub(crate) record: AccountRecord,
    pub(crate) subscriptions: Arc<BTreeMap<String, Option<MailboxId>>>,
    /// All mailboxes, deleted ones that are still kept included.
    pub(crate) mailboxes: BTreeMap<u32, (Arc<MailboxCell>, Arc<MailboxState>)>,
    /// The numbers of those that are quota roots.
    roots: BTreeSet<u32>,
    /// Messages in transit to other homes, by mailbox and move.
    departing: Departing,
    overlay: Overlay,
    /// The number of the last batch queued.
    queued: u64,
    /// Nothing is changed for a moment.
    frozen: bool,
}

/// An account in memory.
#[derive(Debug)]
pub(crate) struct AccountCell {
    pub(crate) id: AccountId,
    sequencer: Mutex<Sequencer>,
    pub(crate) tree: ArcSwap<Tree>,
    /// The newest durable account record.
    pub(crate) record: ArcSwap<AccountRecord>,
    /// The number of the last batch that is durable.
    durable: AtomicU64,
    fence: Arc<Fence>,
    /// The account's modseq, told after a change is published.
    pub(crate) changed: watch::Sender<u64>,
    /// Told when messages are in transit no more.
    pub(crate) departed: Notify,
    pub(crate) gate: Gate,
    pub(crate) whereabouts: watch::Sender<Whereabouts>,
}

/// Reads and checks a record of a kind.
fn decoded<T>(result: Result<T, Damaged>) -> Result<T, StoreError> {
    result.map_err(StoreError::Damaged)
}

/// The messages of an account that are in transit.
fn departing(read: &dyn Read, id: AccountId) -> Result<Departing, StoreError> {
    let mut departing = Departing::new();
    let mut failure = None;
    let prefix = keys::departures(id);
    read.scan(Space::Account, &prefix, prefix_end(&prefix).as_deref(), false, &mut |key, value| {
        match (keys::transit_of_departure(key), Transit::decode(key, value)) {
            (Some(transit), Ok(Transit::Open(departure))) => {
                let uids = departure.messages.iter().map(|(uid, _)| *uid).collect();
                departing.entry(departure.mailbox.number).or_default().insert(transit.counter, uids);
            }
            (_, Err(damaged)) => failure = Some(damaged),
            _ => {}
        }
        failure.is_none()
    })?;
    match failure {
        Some(damaged) => Err(StoreError::Damaged(damaged)),
        None => Ok(departing),
    }
}

impl AccountCell {
    /// Reads an account's record and mailboxes; `None` if there is no such account.
    pub(crate) fn load(engine: &dyn Engine, id: AccountId) -> Result<Option<Arc<AccountCell>>, StoreError> {
        let snapshot = engine.snapshot();
        let key = keys::account_record(id);
        let Some(value) = snapshot.get(Space::Account, &key)? else { return Ok(None) };
        let record = decoded(AccountRecord::decode(&key, &value))?;
        let mut subscriptions = BTreeMap::new();
        let mut failure = None;
        let prefix = keys::subscriptions(id);
        snapshot.scan(
            Space::Account,
            &prefix,
            prefix_end(&prefix).as_deref(),
            false,
            &mut |key, value| {
                let name = key
                    .get(prefix.len()..)
                    .and_then(|name| std::str::from_utf8(name).ok())
                    .map(str::to_string);
                match (name, records::decode_subscription(key, value)) {
                    (Some(name), Ok(mailbox)) => drop(subscriptions.insert(name, mailbox)),
                    (_, Err(damaged)) => failure = Some(damaged),
                    (None, Ok(_)) => {
                        let key = crate::encoding::hex(key);
                        failure = Some(Damaged { space: Space::Account, key, what: "its name is not UTF-8" });
                    }
                }
                failure.is_none()
            },
        )?;
        let departing = departing(&*snapshot, id)?;
        let mut parts: BTreeMap<u32, Parts> = BTreeMap::new();
        let prefix = keys::account(id);
        snapshot.scan(
            Space::Mailbox,
            &prefix,
            prefix_end(&prefix).as_deref(),
            false,
            &mut |key, value| {
                let Some(mailbox) = keys::mailbox_of(key) else { return true };
                let part = parts.entry(mailbox.number).or_default();
                let read = match key.last() {
                    Some(0) => Settings::decode(key, value).map(|settings| part.0 = Some(settings)),
                    Some(2) => Held::decode(key, value).map(|held| part.2 = Some(held)),
                    _ => Summary::decode(key, value).map(|summary| part.1 = Some(summary)),
                };
                failure = read.err();
                failure.is_none()
            },
        )?;
        if let Some(damaged) = failure {
            return Err(StoreError::Damaged(damaged));
        }
        let mut mailboxes = BTreeMap::new();
        for (number, parts) in parts {
            let id = MailboxId { account: id, number };
            let complete = match parts {
                (Some(settings), Some(summary), held) if held.is_some() == settings.quota.is_some() => {
                    Some((settings, summary, held.unwrap_or_default()))
                }
                _ => None,
            };
            let Some((settings, summary, held)) = complete else {
                let what = "a mailbox lacks its settings, its summary or the usage of its quota";
                let key = crate::encoding::hex(&keys::mailbox(id));
                return Err(StoreError::Damaged(Damaged { space: Space::Mailbox, key, what }));
            };
            let (settings, readers) = (Arc::new(settings), Readers::default());
            let state = MailboxState { id, settings, summary, held, messages: None, readers };
            mailboxes.insert(number, (MailboxCell::new(state.clone()), Arc::new(state)));
        }
        Ok(Some(AccountCell::new(id, record, subscriptions, mailboxes, departing)))
    }

    /// A new account without mailboxes; nothing is written yet.
    pub(crate) fn fresh(id: AccountId, record: AccountRecord) -> Arc<AccountCell> {
        AccountCell::new(id, record, BTreeMap::new(), BTreeMap::new(), Departing::new())
    }

    fn new(
        id: AccountId,
        record: AccountRecord,
        subscriptions: BTreeMap<String, Option<MailboxId>>,
        mailboxes: BTreeMap<u32, (Arc<MailboxCell>, Arc<MailboxState>)>,
        departing: Departing,
    ) -> Arc<AccountCell> {
        let is_root = |state: &MailboxState| state.settings.quota.is_some();
        let roots = mailboxes.iter().filter(|(_, (_, state))| is_root(state)).map(|(number, _)| *number);
        let sequencer = Sequencer {
            roots: roots.collect(),
            record,
            subscriptions: Arc::new(subscriptions),
            mailboxes,
            departing,
            overlay: Overlay::new(),
            queued: 0,
            frozen: false,
        };
        Arc::new(AccountCell {
            id,
            tree: ArcSwap::from_pointee(sequencer.tree()),
            changed: watch::Sender::new(sequencer.record.modseq.get()),
            fence: Arc::new(Fence::new(sequencer.record.epoch)),
            record: ArcSwap::from_pointee(sequencer.record.clone()),
            sequencer: Mutex::new(sequencer),
            durable: AtomicU64::new(0),
            departed: Notify::new(),
            gate: Gate::default(),
            whereabouts: watch::Sender::new(Whereabouts::Here),
        })
    }

    /// Begins a change. Holds the account's lock until it is finished or dropped: do no waiting in between.
    pub(crate) fn begin<'a>(
        self: &'a Arc<Self>,
        engine: &'a dyn Engine,
    ) -> Result<Transaction<'a>, StoreError> {
        let mut sequencer = self.sequencer.lock();
        self.trim(&mut sequencer);
        Transaction::new(self, engine, sequencer)
    }

    /// Whether transactions are to wait.
    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.sequencer.lock().frozen = frozen;
    }

    /// Drops the part of the overlay that the engine has by now.
    fn trim(&self, sequencer: &mut Sequencer) {
        let durable = self.durable.load(Ordering::Acquire);
        if !sequencer.overlay.is_empty() {
            sequencer.overlay.retain(|_, (number, _)| *number > durable);
        }
    }

    /// Drops what is durable from memory, unless somebody is at work here.
    pub(crate) fn tidy(&self) {
        if let Some(mut sequencer) = self.sequencer.try_lock() {
            self.trim(&mut sequencer);
        }
    }

    /// Whether nothing of it is on its way to the disk.
    pub(crate) fn is_quiet(&self) -> bool {
        self.sequencer
            .try_lock()
            .is_some_and(|sequencer| sequencer.queued <= self.durable.load(Ordering::Acquire))
    }
}

impl Sequencer {
    fn tree(&self) -> Tree {
        let visible =
            || self.mailboxes.values().filter(|(_, state)| state.settings.deleted_unix_seconds.is_none());
        Tree {
            by_path: visible().map(|(cell, state)| (state.settings.path.clone(), cell.clone())).collect(),
            by_number: visible().map(|(cell, state)| (state.id.number, cell.clone())).collect(),
            roots: visible()
                .filter(|(_, state)| state.settings.quota.is_some())
                .map(|(cell, state)| (state.settings.path.clone(), cell.clone()))
                .collect(),
            subscriptions: self.subscriptions.clone(),
        }
    }
}
