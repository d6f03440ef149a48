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

use crate::committer::{CommitError, Committer, Fence, Pending, TailEntry, Ticket};
use crate::encoding::Damaged;
use crate::error::StoreError;
use crate::keys;
use crate::messages::Messages;
use crate::publish::{Outbox, Publisher, Seen, SeenChange};
use crate::readers::{self, Readers};
use crate::records::{
    self, AccountRecord, AccountState, AnnotationName, Change, ContentRecord, Held, LogEntry, Settings,
    Summary,
};
use crate::transit::Transit;
use crate::volume::Placed;
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rookery_kv::engine::{Batch, Engine, Read, Space, prefix_end};
use rookery_types::acl::Asker;
use rookery_types::{AccountId, ContentId, MailboxId, MailboxPath, ModSeq, Rights, UidSet, UserName};
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
    fn new(state: MailboxState) -> Arc<MailboxCell> {
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
        })
    }

    /// Begins a change. Holds the account's lock until it is finished or dropped: do no waiting in between.
    pub(crate) fn begin<'a>(
        self: &'a Arc<Self>,
        engine: &'a dyn Engine,
    ) -> Result<Transaction<'a>, StoreError> {
        let mut sequencer = self.sequencer.lock();
        self.trim(&mut sequencer);
        let modseq = sequencer.record.modseq.next().ok_or(StoreError::Exhausted("modseqs"))?;
        Ok(Transaction {
            cell: self,
            engine,
            record: sequencer.record.clone(),
            sequencer,
            modseq,
            staged: BTreeMap::new(),
            created: Vec::new(),
            removed: Vec::new(),
            writes: BTreeMap::new(),
            log: LogEntry::default(),
            subscriptions: None,
            tree_changed: false,
            departures: Vec::new(),
            pending: Pending::default(),
        })
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

/// One change of an account in the making.
pub(crate) struct Transaction<'a> {
    cell: &'a Arc<AccountCell>,
    engine: &'a dyn Engine,
    sequencer: MutexGuard<'a, Sequencer>,
    /// The account's record as it will be.
    pub(crate) record: AccountRecord,
    /// The modseq that everything in this change gets.
    pub(crate) modseq: ModSeq,
    staged: BTreeMap<u32, MailboxState>,
    created: Vec<u32>,
    removed: Vec<u32>,
    writes: BTreeMap<(Space, Bytes), Option<Bytes>>,
    log: LogEntry,
    subscriptions: Option<BTreeMap<String, Option<MailboxId>>>,
    tree_changed: bool,
    /// The moves to other homes that begin, with their messages, and those that end.
    departures: Vec<(u32, u64, Option<UidSet>)>,
    pending: Pending,
}

impl Transaction<'_> {
    /// The value of a key as this change sees it.
    pub(crate) fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let at = (space, Bytes::copy_from_slice(key));
        if let Some(value) = self.writes.get(&at) {
            return Ok(value.clone());
        }
        if let Some((_, value)) = self.sequencer.overlay.get(&at) {
            return Ok(value.clone());
        }
        Ok(self.engine.get(space, key)?)
    }

    /// The value of a key that the engine does not have yet: on its way there, or of this change.
    pub(crate) fn on_its_way(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        let at = (space, Bytes::copy_from_slice(key));
        let queued = || self.sequencer.overlay.get(&at).map(|(_, value)| value);
        self.writes.get(&at).or_else(queued).cloned().flatten()
    }

    /// Entries with `start <= key < end` as this change sees them, ascending, at most `max` of them.
    pub(crate) fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let from = (space, Bytes::copy_from_slice(start));
        let inside = |key: &(Space, Bytes)| key.0 == space && end.is_none_or(|end| &key.1[..] < end);
        let mut over: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
        for (key, (_, value)) in
            self.sequencer.overlay.range(from.clone()..).take_while(|(key, _)| inside(key))
        {
            over.insert(key.1.clone(), value.clone());
        }
        for (key, value) in self.writes.range(from..).take_while(|(key, _)| inside(key)) {
            over.insert(key.1.clone(), value.clone());
        }
        let mut over = over.into_iter().peekable();
        let mut out = Vec::new();
        let put = |out: &mut Vec<(Bytes, Bytes)>, key: Bytes, value: Option<Bytes>| {
            out.extend(value.map(|value| (key, value)));
        };
        self.engine.scan(space, start, end, false, &mut |key, value| {
            while let Some((over_key, over_value)) = over.next_if(|(over_key, _)| &over_key[..] < key) {
                put(&mut out, over_key, over_value);
            }
            match over.next_if(|(over_key, _)| &over_key[..] == key) {
                Some((over_key, over_value)) => put(&mut out, over_key, over_value),
                None => out.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))),
            }
            out.len() < max
        })?;
        for (key, value) in over {
            if out.len() >= max {
                break;
            }
            put(&mut out, key, value);
        }
        out.truncate(max);
        Ok(out)
    }

    /// The last entry with `start <= key <= last` as this change sees it.
    pub(crate) fn last_at(
        &self,
        space: Space,
        start: &[u8],
        last: &[u8],
    ) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        let range = (space, Bytes::copy_from_slice(start))..=(space, Bytes::copy_from_slice(last));
        let over: BTreeMap<Bytes, Option<Bytes>> = self
            .sequencer
            .overlay
            .range(range.clone())
            .map(|(key, (_, value))| (key.1.clone(), value.clone()))
            .chain(self.writes.range(range).map(|(key, value)| (key.1.clone(), value.clone())))
            .collect();
        let newest = over.iter().rev().find_map(|(key, value)| Some((key.clone(), value.clone()?)));
        let mut found = None;
        let end = [last, &[0]].concat();
        self.engine.scan(space, start, Some(&end), true, &mut |key, value| {
            if over.contains_key(key) {
                return true;
            }
            found = Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            false
        })?;
        Ok(match (found, newest) {
            (Some(found), Some(newest)) => Some(if found.0 > newest.0 { found } else { newest }),
            (found, newest) => found.or(newest),
        })
    }

    pub(crate) fn put(&mut self, space: Space, key: impl Into<Bytes>, value: Bytes) {
        self.writes.insert((space, key.into()), Some(value));
    }

    pub(crate) fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.writes.insert((space, key.into()), None);
    }

    /// A mailbox as it will be after this change; `None` if it does not exist or is deleted.
    pub(crate) fn mailbox(&self, id: MailboxId) -> Option<&MailboxState> {
        self.any_mailbox(id).filter(|state| state.settings.deleted_unix_seconds.is_none())
    }

    /// The same, also for a mailbox that is deleted but kept.
    pub(crate) fn any_mailbox(&self, id: MailboxId) -> Option<&MailboxState> {
        let state = match self.staged.get(&id.number) {
            Some(state) => Some(state),
            None => self.sequencer.mailboxes.get(&id.number).map(|(_, state)| &**state),
        };
        state.filter(|state| state.id == id)
    }

    /// All mailboxes as they will be, deleted ones left out.
    pub(crate) fn mailboxes(&self) -> impl Iterator<Item = &MailboxState> {
        let known = self.sequencer.mailboxes.keys().filter(|number| !self.staged.contains_key(number));
        known
            .filter_map(|number| self.sequencer.mailboxes.get(number).map(|(_, state)| &**state))
            .chain(self.staged.values())
            .filter(|state| state.settings.deleted_unix_seconds.is_none())
    }

    /// All mailboxes as they are now, deleted ones that are kept included.
    pub(crate) fn all_mailboxes(&self) -> impl Iterator<Item = &MailboxState> {
        self.sequencer.mailboxes.values().map(|(_, state)| &**state)
    }

    /// The mailboxes that will be quota roots, in no order. Cheap where there are none.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &MailboxState> {
        let known = self.sequencer.roots.iter().filter(|number| !self.staged.contains_key(number));
        known
            .filter_map(|number| self.sequencer.mailboxes.get(number).map(|(_, state)| &**state))
            .chain(self.staged.values())
            .filter(|state| state.settings.quota.is_some() && state.settings.deleted_unix_seconds.is_none())
    }

    /// The mailbox that will have a path.
    pub(crate) fn by_path(&self, path: &MailboxPath) -> Option<MailboxId> {
        self.mailboxes().find(|state| state.settings.path == *path).map(|state| state.id)
    }

    /// Whether any message of a mailbox, or any of these, is in transit to another home.
    pub(crate) fn is_departing(&self, id: MailboxId, uids: Option<&UidSet>) -> bool {
        let moves = self.sequencer.departing.get(&id.number);
        let mut moves = moves.into_iter().flat_map(BTreeMap::values);
        moves.any(|gone| uids.is_none_or(|uids| !uids.intersection(gone).is_empty()))
    }

    /// The messages of a mailbox that are.
    pub(crate) fn departing(&self, id: MailboxId) -> UidSet {
        let mut gone = UidSet::new();
        let moves = self.sequencer.departing.get(&id.number);
        moves.into_iter().flat_map(BTreeMap::values).for_each(|uids| gone.extend(uids));
        gone
    }

    /// The number of the first move to another home that is under way.
    pub(crate) fn first_departure(&self) -> Option<u64> {
        self.sequencer.departing.values().filter_map(|moves| moves.keys().next()).min().copied()
    }

    /// Messages of a mailbox are in transit from now on.
    pub(crate) fn begin_departure(&mut self, number: u32, counter: u64, uids: UidSet) {
        self.departures.push((number, counter, Some(uids)));
    }

    /// They are not any more.
    pub(crate) fn end_departure(&mut self, number: u32, counter: u64) {
        self.departures.push((number, counter, None));
    }

    /// A mailbox to be changed: what is done to it is written and published with this change.
    pub(crate) fn change(&mut self, id: MailboxId) -> Option<&mut MailboxState> {
        if !self.staged.contains_key(&id.number) {
            let state = MailboxState::clone(&self.sequencer.mailboxes.get(&id.number)?.1);
            self.staged.insert(id.number, state);
        }
        self.staged.get_mut(&id.number)
    }

    /// Adds a mailbox.
    pub(crate) fn add_mailbox(&mut self, state: MailboxState) {
        self.created.push(state.id.number);
        self.log.changes.push((state.id.number, Change::Created));
        self.tree_changed = true;
        self.staged.insert(state.id.number, state);
    }

    /// Forgets a mailbox that was deleted, for good.
    pub(crate) fn remove_mailbox(&mut self, id: MailboxId) {
        self.delete(Space::Mailbox, keys::settings(id));
        self.delete(Space::Mailbox, keys::summary(id));
        self.delete(Space::Mailbox, keys::held(id));
        self.removed.push(id.number);
    }

    /// Notes in the change log what happens to a mailbox; settings and deletions also make a new tree.
    pub(crate) fn note(&mut self, id: MailboxId, change: Change) {
        if matches!(change, Change::Settings | Change::Deleted) {
            self.tree_changed = true;
        }
        self.log.changes.push((id.number, change));
    }

    /// Notes in the change log which annotations of a mailbox, or of the account itself, change.
    pub(crate) fn note_annotations(&mut self, of: Option<MailboxId>, names: Vec<AnnotationName>) {
        self.log.changes.push((of.map_or(0, |id| id.number), Change::Annotations(names)));
    }

    /// The subscriptions, to be changed.
    pub(crate) fn subscriptions(&mut self) -> &mut BTreeMap<String, Option<MailboxId>> {
        let now = &self.sequencer.subscriptions;
        self.log.subscriptions = true;
        self.tree_changed = true;
        self.subscriptions.get_or_insert_with(|| BTreeMap::clone(now))
    }

    /// A content's record as this change sees it.
    pub(crate) fn content(&self, content: ContentId) -> Result<Option<ContentRecord>, StoreError> {
        let key = keys::content(self.cell.id, content);
        match self.get(Space::Content, &key)? {
            Some(value) => decoded(ContentRecord::decode(&key, &value)).map(Some),
            None => Ok(None),
        }
    }

    /// Writes a content's record.
    pub(crate) fn put_content(&mut self, content: ContentId, record: &ContentRecord) {
        let key = keys::content(self.cell.id, content);
        let value = record.encode(&key);
        self.put(Space::Content, Bytes::copy_from_slice(&key), value);
    }

    /// A body was written for this change: it is synced with it, and looked at after a crash.
    pub(crate) fn bring(&mut self, placed: &Placed, tail: TailEntry) {
        self.sync_with(placed);
        self.pending.tail.push(tail);
    }

    /// Whether a content's record is changed by something that is not durable yet.
    pub(crate) fn is_on_its_way(&self, content: ContentId) -> bool {
        let key = Bytes::copy_from_slice(&keys::content(self.cell.id, content));
        self.sequencer.overlay.contains_key(&(Space::Content, key))
    }

    /// The octets of a body are on the disk when this change is. Nothing refers to them yet.
    pub(crate) fn sync_body(&mut self, placed: &Placed) {
        if !self.pending.volumes.iter().any(|volume| volume.number == placed.volume.number) {
            self.pending.volumes.push(placed.volume.clone());
        }
    }

    /// A record was written for this change: it is synced with it, and counts as in use.
    pub(crate) fn sync_with(&mut self, placed: &Placed) {
        self.sync_body(placed);
        self.pending.live.push((placed.locator.volume, placed.stored.into()));
    }

    /// A body of the last change's group is looked at after a crash also for this message.
    pub(crate) fn watch_body(&mut self, tail: TailEntry) {
        self.pending.tail.push(tail);
    }

    /// A volume's octets in use change.
    pub(crate) fn live(&mut self, volume: u32, octets: i64) {
        self.pending.live.push((volume, octets));
    }

    /// Writes to the outbox what changes of what others may see.
    fn publish(&mut self, publisher: &dyn Publisher) -> Option<Outbox> {
        let (was_open, is_open) = (&self.sequencer.record.state, &self.record.state);
        let opens = was_open != is_open;
        let is_open = *is_open == AccountState::Home;
        let was_open = *was_open == AccountState::Home;
        fn shown(settings: &Option<Arc<Settings>>) -> Option<Seen<'_>> {
            settings.as_ref().map(|settings| Seen { path: &settings.path, acl: &settings.acl })
        }
        let seen = |state: &MailboxState, open: bool| {
            (open && state.settings.deleted_unix_seconds.is_none()).then(|| state.settings.clone())
        };
        let mut changed = Vec::new();
        let known = self.sequencer.mailboxes.keys().chain(&self.created).copied();
        let numbers: BTreeSet<u32> = match opens {
            true => known.collect(),
            false => self.staged.keys().copied().collect(),
        };
        for number in numbers {
            let before = self.sequencer.mailboxes.get(&number).map(|(_, state)| &**state);
            let after = self.staged.get(&number).or(before);
            let Some(id) = after.map(|state| state.id) else { continue };
            let before = before.and_then(|state| seen(state, was_open));
            let after =
                after.filter(|_| !self.removed.contains(&number)).and_then(|state| seen(state, is_open));
            let same = before.as_ref().zip(after.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b));
            if !same && shown(&before) != shown(&after) {
                changed.push((id, before, after));
            }
        }
        let changes: Vec<_> = changed
            .iter()
            .map(|(id, before, after)| SeenChange {
                mailbox: *id,
                before: shown(before),
                after: shown(after),
            })
            .collect();
        if changes.is_empty() {
            return None;
        }
        let mut outbox = publisher.changes(&changes)?;
        for (key, value) in std::mem::take(&mut outbox.writes) {
            self.put(Space::Directory, key, value);
        }
        Some(outbox)
    }

    /// Where nothing can be written any more: what only brings mailboxes into memory is shown at once, changes are
    /// refused and leave nothing behind. Nothing is shown of an account that had a change on its way at the time, since
    /// nobody knows whether that is on the disk.
    fn show(mut self, refusal: CommitError) -> Ticket {
        let is_behind = self.sequencer.queued > self.cell.durable.load(Ordering::Acquire);
        if is_behind || !self.only_loads() {
            return Ticket::ended(Err(refusal));
        }
        for (number, state) in std::mem::take(&mut self.staged) {
            if let Some((cell, known)) = self.sequencer.mailboxes.get_mut(&number) {
                *known = Arc::new(state);
                cell.publish(known.clone());
            }
        }
        Ticket::ended(Ok(()))
    }

    /// Whether it changes nothing but what is in memory of mailboxes.
    fn only_loads(&self) -> bool {
        let same = |state: &MailboxState| {
            self.sequencer.mailboxes.get(&state.id.number).is_some_and(|(_, before)| {
                Arc::ptr_eq(&before.settings, &state.settings)
                    && before.summary == state.summary
                    && before.held == state.held
            })
        };
        self.writes.is_empty()
            && self.removed.is_empty()
            && self.subscriptions.is_none()
            && self.log == LogEntry::default()
            && self.record == self.sequencer.record
            && self.pending.volumes.is_empty()
            && self.staged.values().all(same)
    }

    /// Queues the change. Its effects are durable and visible when the ticket is.
    pub(crate) fn finish(mut self, committer: &Committer) -> Ticket {
        if let Some(refusal) = committer.poison() {
            return self.show(refusal);
        }
        if self.log != LogEntry::default() {
            self.record.modseq = self.modseq;
            crate::noted::note(self.cell.id, self.modseq);
            let key = keys::log(self.cell.id, self.modseq);
            let value = self.log.encode(&key);
            self.put(Space::Log, Bytes::copy_from_slice(&key), value);
        }
        if self.record != self.sequencer.record {
            let value = self.record.encode(self.cell.id);
            self.put(Space::Account, Bytes::copy_from_slice(&keys::account_record(self.cell.id)), value);
        }
        let outbox = committer.publisher.get().and_then(|publisher| self.publish(&**publisher));
        let (durable, published) = match outbox {
            Some(outbox) => (Some(outbox.durable), Some(outbox.published)),
            None => (None, None),
        };
        let removed: BTreeSet<u32> = self.removed.iter().copied().collect();
        let mut publish = Vec::new();
        for (number, mut state) in std::mem::take(&mut self.staged) {
            if removed.contains(&number) {
                continue;
            }
            let before = self.sequencer.mailboxes.get(&number).map(|(_, state)| state.clone());
            let fresh = self.created.contains(&number);
            if fresh || before.as_ref().is_none_or(|before| !Arc::ptr_eq(&before.settings, &state.settings)) {
                let value = state.settings.encode(state.id);
                self.put(Space::Mailbox, keys::settings(state.id), value);
            }
            if fresh || before.as_ref().is_none_or(|before| before.summary != state.summary) {
                let value = state.summary.encode(state.id);
                self.put(Space::Mailbox, keys::summary(state.id), value);
            }
            let was_root = before.as_ref().is_some_and(|before| before.settings.quota.is_some());
            let is_root = state.settings.quota.is_some();
            if is_root && (!was_root || before.as_ref().is_some_and(|before| before.held != state.held)) {
                self.put(Space::Mailbox, keys::held(state.id), state.held.encode(state.id));
                self.sequencer.roots.insert(number);
            }
            if was_root && !is_root {
                self.delete(Space::Mailbox, keys::held(state.id));
                self.sequencer.roots.remove(&number);
            }
            if !state.readers.is_empty()
                && let Some((cell, _)) = self.sequencer.mailboxes.get(&number)
            {
                cell.forget_readers(&mut state.readers);
            }
            let state = Arc::new(state);
            let cell = match self.sequencer.mailboxes.get(&number) {
                Some((cell, _)) => cell.clone(),
                None => MailboxCell::new(MailboxState::clone(&state)),
            };
            self.sequencer.mailboxes.insert(number, (cell.clone(), state.clone()));
            publish.push((cell, state));
        }
        for number in &self.removed {
            self.sequencer.mailboxes.remove(number);
            self.sequencer.roots.remove(number);
        }
        for (number, counter, uids) in std::mem::take(&mut self.departures) {
            let moves = self.sequencer.departing.entry(number).or_default();
            match uids {
                Some(uids) => drop(moves.insert(counter, uids)),
                None => {
                    moves.remove(&counter);
                    self.cell.departed.notify_waiters();
                }
            }
            if moves.is_empty() {
                self.sequencer.departing.remove(&number);
            }
        }
        self.sequencer.record = self.record.clone();
        if let Some(subscriptions) = self.subscriptions.take() {
            let key = keys::subscription_list(self.cell.id);
            let value = records::encode_subscription_list(&key, &subscriptions);
            self.put(Space::Account, Bytes::copy_from_slice(&key), value);
            self.sequencer.subscriptions = Arc::new(subscriptions);
        }
        self.sequencer.queued += 1;
        let number = self.sequencer.queued;
        let mut batch = Batch::new();
        for ((space, key), value) in std::mem::take(&mut self.writes) {
            match &value {
                Some(value) => batch.put(space, key.clone(), value.clone()),
                None => batch.delete(space, key.clone()),
            }
            self.sequencer.overlay.insert((space, key), (number, value));
        }
        let tree = self.tree_changed.then(|| Arc::new(self.sequencer.tree()));
        let record = Arc::new(self.record.clone());
        let cell = self.cell.clone();
        let mut pending = std::mem::take(&mut self.pending);
        pending.batch = batch;
        pending.fence = Some((self.cell.fence.clone(), self.record.epoch));
        pending.publish = Some(Box::new(move || {
            for (mailbox, state) in publish {
                mailbox.publish(state);
            }
            if let Some(tree) = tree {
                cell.tree.store(tree);
            }
            let modseq = record.modseq.get();
            cell.record.store(record);
            cell.durable.store(number, Ordering::Release);
            cell.changed.send_if_modified(|told| std::mem::replace(told, modseq) != modseq);
            if let Some(durable) = durable {
                durable();
            }
        }));
        // The lock is held until the change is queued: queue order is the account's order.
        let ticket = committer.queue(pending).published(published);
        drop(self.sequencer);
        ticket
    }
}
