//! Private \Seen: each user's own on mailboxes that are not theirs, within the changes of an account.
//!
//! The owner of an account has \Seen in the messages' records. Everybody else, and in a shared tree everybody, has it
//! here, by mailbox and user.
//!
//! Invariants:
//! - A user's change has a modseq of the account and an entry in its change log, but moves no HIGHESTMODSEQ except the
//!   user's own: nobody else hears of it.
//! - What is in memory of a mailbox's readers is part of its state, so it is published with the messages it is about.
//! - An expunge writes nothing here. What has gone since a user's last change is taken off when it is counted: from the
//!   tombstones, or where these are trimmed, from the messages.

use crate::account::Account;
use crate::error::StoreError;
use crate::keys;
use crate::messages::Message;
use crate::records::{self, Change, Summary};
use crate::seen::{Block, Head, SeenBy};
use crate::sequencer::{MailboxState, Transaction};
use crate::store::Store;
use bytes::Bytes;
use rookery_kv::engine::{Engine, Space, prefix_end};
use rookery_kv::off_thread;
use rookery_types::{MailboxId, ModSeq, SystemFlags, UidSet, UserName};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The users who have a mailbox open that is not theirs, and what each has seen of it.
pub(crate) type Readers = Arc<BTreeMap<UserName, SeenBy>>;

/// Whose \Seen a handle to an account shows and keeps: not the owner's.
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    pub(crate) user: Arc<UserName>,
    /// What the user sees is kept. It is not, where a message comes to a mailbox in which the user may not keep it.
    pub(crate) keeps: bool,
}

impl Account {
    /// The account as a user sees it: \Seen is the user's own, unless it is the owner.
    pub fn seen_by(mut self, user: &UserName) -> Account {
        let own = self.owner().as_ref() == Some(user);
        self.viewer = (!own).then(|| Viewer { user: Arc::new(user.clone()), keeps: true });
        self
    }

    /// The same for a user who may not keep \Seen: what comes here by this handle is not seen by them.
    pub fn without_keeping_seen(mut self) -> Account {
        if let Some(viewer) = &mut self.viewer {
            viewer.keeps = false;
        }
        self
    }

    /// The account as its records have it.
    pub(crate) fn as_kept(&self) -> Account {
        Account { store: self.store.clone(), cell: self.cell.clone(), viewer: None }
    }

    /// What is counted of a mailbox as the user of this handle sees it: unseen messages and HIGHESTMODSEQ. Looks at
    /// messages only where nothing else tells.
    pub async fn summary_of(&self, state: &MailboxState) -> Result<Summary, StoreError> {
        if self.viewer.is_none() {
            return Ok(state.summary);
        }
        let (account, id) = (self.clone(), state.id);
        match off_thread(move || account.quick_summary(id)).await?? {
            Some(summary) => Ok(summary),
            None => Ok(self.open(id).await?.now().summary),
        }
    }

    /// What others than the owner have seen of a mailbox, by user; UIDs that are gone may be among them. Reads the disk.
    pub fn seen_by_others(&self, id: MailboxId) -> Result<Vec<(UserName, UidSet)>, StoreError> {
        let mut all: BTreeMap<UserName, UidSet> = BTreeMap::new();
        let prefix = keys::seen_of_mailbox(id);
        let mut failure = None;
        let end = prefix_end(&prefix);
        self.store.engine().scan(Space::Account, &prefix, end.as_deref(), false, &mut |key, value| {
            let Some((_, user, Some(_))) = keys::seen_parts(key) else { return true };
            match Block::decode(key, value) {
                Ok(block) => {
                    let uids = all.entry(user).or_default();
                    let seen = block.runs().iter().filter(|run| run.seen);
                    seen.for_each(|run| uids.insert_range(run.first, run.last));
                }
                Err(damaged) => failure = Some(damaged),
            }
            failure.is_none()
        })?;
        match failure {
            Some(damaged) => Err(StoreError::Damaged(damaged)),
            None => Ok(all.into_iter().filter(|(_, uids)| !uids.is_empty()).collect()),
        }
    }

    /// From what is in memory or counted on disk; `None` if that is not enough.
    fn quick_summary(&self, id: MailboxId) -> Result<Option<Summary>, StoreError> {
        let Some(viewer) = &self.viewer else { return Ok(None) };
        let (published, engine) = (*self.cell.changed.borrow(), self.store.engine());
        let state = || self.cell.tree.load().state(id).ok_or(StoreError::NoMailbox);
        let now = state()?;
        if let Some(seen) = now.readers.get(&*viewer.user) {
            return Ok(seen.head().count.map(|_| summary(&now, seen)));
        }
        let key = keys::seen(id, &viewer.user);
        let head = match engine.get(Space::Account, &key)? {
            Some(value) => Head::decode(&key, &value).map_err(StoreError::Damaged)?,
            None => SeenBy::default().head(),
        };
        // A change that is on the disk and not published yet: what else is, is not in the state either.
        if head.modseq > published || head.count.is_none() {
            return Ok(None);
        }
        let state = state()?;
        let mut seen = SeenBy::new(head, BTreeMap::new());
        if head.count != Some(0) {
            let Some(gone) = self.vanished(id, head.modseq, state.summary.highest_modseq)? else {
                return Ok(None);
            };
            if !gone.is_empty() {
                let mut rows = Vec::new();
                engine.scan(
                    Space::Account,
                    &key,
                    prefix_end(&key).as_deref(),
                    false,
                    &mut |key, value| {
                        rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                        true
                    },
                )?;
                seen = from_rows(&rows)?;
                if seen.head() != head {
                    return Ok(None);
                }
                seen = seen.without(&gone);
            }
        }
        Ok(Some(summary(&state, &seen)))
    }

    /// Which UIDs of a mailbox have gone after one modseq, up to another; `None` if that is longer ago than the store
    /// remembers. Reads the disk.
    pub(crate) fn vanished(
        &self,
        id: MailboxId,
        after: u64,
        until: ModSeq,
    ) -> Result<Option<UidSet>, StoreError> {
        if after < self.cell.record.load().log_floor {
            return Ok(None);
        }
        let mut vanished = UidSet::new();
        let prefix = keys::mailbox(id);
        let start = [&prefix[..], &after.saturating_add(1).to_be_bytes()].concat();
        let mut failure = None;
        self.store.engine().scan(
            Space::Tombstone,
            &start,
            prefix_end(&prefix).as_deref(),
            false,
            &mut |key, value| {
                if keys::modseq_of(key).is_some_and(|modseq| modseq > until) {
                    return false;
                }
                match records::decode_tombstone(key, value) {
                    Ok(uids) => vanished.extend(&uids),
                    Err(damaged) => failure = Some(damaged),
                }
                failure.is_none()
            },
        )?;
        match failure {
            Some(damaged) => Err(StoreError::Damaged(damaged)),
            None => Ok(Some(vanished)),
        }
    }
}

fn summary(state: &MailboxState, seen: &SeenBy) -> Summary {
    let summary = state.summary;
    let own = ModSeq::new(seen.modseq()).unwrap_or(ModSeq::FIRST);
    Summary {
        highest_modseq: summary.highest_modseq.max(own),
        unseen: summary.exists.saturating_sub(seen.head().count.unwrap_or(0)),
        ..summary
    }
}

/// A mailbox's state as one of its readers sees it.
pub(crate) fn personal(state: &MailboxState, user: &UserName) -> MailboxState {
    let seen = state.readers.get(user).cloned().unwrap_or_default();
    MailboxState {
        summary: summary(state, &seen),
        messages: state.messages.as_ref().map(|messages| messages.seen_by(seen)),
        ..state.clone()
    }
}

/// A user's records of one mailbox; the first is what is counted of the others.
fn from_rows(rows: &[(Bytes, Bytes)]) -> Result<SeenBy, StoreError> {
    let mut head = None;
    let mut blocks = BTreeMap::new();
    for (key, value) in rows {
        match keys::seen_block_of(key) {
            Some(number) => {
                let block = Block::decode(key, value).map_err(StoreError::Damaged)?;
                blocks.insert(number, Arc::new(block));
            }
            None => head = Some(Head::decode(key, value).map_err(StoreError::Damaged)?),
        }
    }
    Ok(match head {
        Some(head) => SeenBy::new(head, blocks),
        None => SeenBy::default(),
    })
}

/// What a user has seen of a mailbox, as this change sees it.
pub(crate) fn of(t: &Transaction<'_>, id: MailboxId, user: &UserName) -> Result<SeenBy, StoreError> {
    let state = t.any_mailbox(id).ok_or(StoreError::NoMailbox)?;
    let seen = match state.readers.get(user) {
        Some(seen) => seen.clone(),
        None => read(t, id, user)?,
    };
    match (&state.messages, seen.head().count) {
        (Some(messages), None) => seen.counted(messages),
        _ => Ok(seen),
    }
}

fn read(t: &Transaction<'_>, id: MailboxId, user: &UserName) -> Result<SeenBy, StoreError> {
    let prefix = keys::seen(id, user);
    let rows = t.scan(Space::Account, &prefix, prefix_end(&prefix).as_deref(), usize::MAX)?;
    let seen = from_rows(&rows)?;
    if rows.is_empty() {
        return Ok(seen);
    }
    if seen.modseq() < t.record.log_floor {
        return Ok(seen.uncounted());
    }
    let prefix = keys::mailbox(id);
    let start = [&prefix[..], &seen.modseq().saturating_add(1).to_be_bytes()].concat();
    let mut gone = UidSet::new();
    for (key, value) in t.scan(Space::Tombstone, &start, prefix_end(&prefix).as_deref(), usize::MAX)? {
        gone.extend(&records::decode_tombstone(&key, &value).map_err(StoreError::Damaged)?);
    }
    Ok(seen.without(&gone))
}

/// Puts what a user has seen of a mailbox beside its messages in memory, for one who opens it.
pub(crate) fn load(t: &mut Transaction<'_>, id: MailboxId, user: &UserName) -> Result<(), StoreError> {
    let seen = of(t, id, user)?;
    let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
    Arc::make_mut(&mut mailbox.readers).insert(user.clone(), seen);
    Ok(())
}

/// The messages of a mailbox as a user sees them.
pub(crate) fn shown<'a>(
    t: &Transaction<'_>,
    id: MailboxId,
    viewer: Option<&Viewer>,
    messages: &'a [Message],
) -> Result<Cow<'a, [Message]>, StoreError> {
    let Some(viewer) = viewer else { return Ok(Cow::Borrowed(messages)) };
    let seen = of(t, id, &viewer.user)?;
    Ok(messages.iter().map(|message| seen.show(message.clone())).collect())
}

/// How messages that come to a mailbox are kept: what their records have of flags, and which of them whoever brings
/// them has seen.
pub(crate) struct Coming<'a> {
    viewer: Option<&'a Viewer>,
    seen: UidSet,
}

impl<'a> Coming<'a> {
    pub(crate) fn new(viewer: Option<&'a Viewer>) -> Coming<'a> {
        Coming { viewer, seen: UidSet::new() }
    }

    /// The flags for a message's record.
    pub(crate) fn flags(&mut self, uid: rookery_types::Uid, flags: SystemFlags) -> SystemFlags {
        let Some(viewer) = self.viewer else { return flags };
        if viewer.keeps && flags.contains(SystemFlags::SEEN) {
            self.seen.insert_uid(uid);
        }
        flags.without(SystemFlags::SEEN)
    }

    /// Once the messages are there.
    pub(crate) fn finish(self, t: &mut Transaction<'_>, id: MailboxId) -> Result<(), StoreError> {
        match self.viewer {
            Some(viewer) => mark(t, id, &viewer.user, &self.seen, &UidSet::new()),
            None => Ok(()),
        }
    }
}

/// Notes that a user has seen some messages of a mailbox, and others not any more. They exist, and neither was so
/// before.
pub(crate) fn mark(
    t: &mut Transaction<'_>,
    id: MailboxId,
    user: &UserName,
    seen: &UidSet,
    unseen: &UidSet,
) -> Result<(), StoreError> {
    if seen.is_empty() && unseen.is_empty() {
        return Ok(());
    }
    let messages = t.any_mailbox(id).ok_or(StoreError::NoMailbox)?.messages.clone();
    let (mut now, mut touched) = of(t, id, user)?.marked(seen, unseen, t.modseq.get());
    if let Some(messages) = messages {
        now = now.pruned(&messages, &mut touched)?;
    }
    put(t, id, user, now, touched)?;
    let mut uids = seen.clone();
    uids.extend(unseen);
    t.note(id, Change::Seen(user.clone(), uids));
    Ok(())
}

fn put_head(t: &mut Transaction<'_>, id: MailboxId, user: &UserName, seen: &SeenBy) {
    let key = keys::seen(id, user);
    let value = seen.head().encode(&key);
    t.put(Space::Account, key, value);
}

impl Store {
    /// What a user has seen of mailboxes that are not theirs is what they have seen under another name from now on,
    /// in all accounts at home here. What is known under that name already stays. Says in how many mailboxes.
    pub async fn rename_reader(&self, from: &UserName, to: &UserName) -> Result<usize, StoreError> {
        let (store, user) = (self.clone(), from.clone());
        let found = tokio::task::spawn_blocking(move || seen_places(store.engine(), &user));
        let found = found.await.map_err(|_| StoreError::CutOff)??;
        let mut carried = 0;
        for id in found {
            let account = match self.account(id.account).await {
                Ok(account) => account,
                // Deleted, or at home elsewhere.
                Err(StoreError::NoAccount | StoreError::Moved) => continue,
                Err(error) => return Err(error),
            };
            match account.transact(|t| rename(t, id, from, to)).await {
                Ok(done) => carried += usize::from(done),
                Err(StoreError::NoAccount | StoreError::NoMailbox | StoreError::Moved) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(carried)
    }
}

/// The mailboxes of which a user has seen something that is not theirs.
fn seen_places(engine: &dyn Engine, user: &UserName) -> Result<Vec<MailboxId>, StoreError> {
    let next = |start: &[u8]| -> Result<Option<Bytes>, StoreError> {
        let mut next = None;
        engine.scan(Space::Account, start, None, false, &mut |key, _| {
            next = Some(Bytes::copy_from_slice(key));
            false
        })?;
        Ok(next)
    };
    let mut places = Vec::new();
    let mut start = Vec::new();
    while let Some(key) = next(&start)? {
        let Some(account) = keys::account_of(&key) else { break };
        let all = keys::seen_of_account(account);
        if key[..] < all[..] {
            start = all.to_vec();
            continue;
        }
        match keys::seen_parts(&key).filter(|_| key.starts_with(&all)) {
            Some((number, ..)) => {
                let id = MailboxId { account, number };
                let theirs = keys::seen(id, user);
                if next(&theirs)?.is_some_and(|key| key.starts_with(&theirs)) {
                    places.push(id);
                }
                start = prefix_end(&keys::seen_of_mailbox(id)).unwrap_or_default();
            }
            // Of this account that were all.
            None => start = prefix_end(&keys::account(account)).unwrap_or_default(),
        }
        if start.is_empty() {
            break;
        }
    }
    Ok(places)
}

/// What one name has seen of a mailbox goes to another. False: there was nothing.
fn rename(
    t: &mut Transaction<'_>,
    id: MailboxId,
    from: &UserName,
    to: &UserName,
) -> Result<bool, StoreError> {
    let (old, now) = (of(t, id, from)?, of(t, id, to)?);
    let (seen, all) = old.seen_and_known();
    if all.is_empty() {
        return Ok(false);
    }
    let (_, known) = now.seen_and_known();
    let come = seen.difference(&known);
    if !come.is_empty() {
        let (mut new, touched) = now.marked(&come, &UidSet::new(), t.modseq.get());
        // Some may be of messages that are gone.
        new = new.recounted(old.head().count.filter(|_| known.is_empty()));
        let messages = t.any_mailbox(id).ok_or(StoreError::NoMailbox)?.messages.clone();
        if let (Some(messages), None) = (&messages, new.head().count) {
            new = new.counted(messages)?;
        }
        put(t, id, to, new, touched)?;
        t.note(id, Change::Seen(to.clone(), come));
    }
    // The change log speaks of the old name, too: as of one who has seen nothing any more.
    let none = SeenBy::default().at(t.modseq.get());
    put(t, id, from, none, old.numbers())?;
    t.note(id, Change::Seen(from.clone(), all));
    Ok(true)
}

/// Writes what a user has seen of a mailbox, as far as it differs.
fn put(
    t: &mut Transaction<'_>,
    id: MailboxId,
    user: &UserName,
    now: SeenBy,
    touched: BTreeSet<u32>,
) -> Result<(), StoreError> {
    for number in touched {
        let key = keys::seen_block(id, user, number);
        match now.block(number) {
            Some(block) => {
                let value = block.encode(&key);
                t.put(Space::Account, key, value);
            }
            None => t.delete(Space::Account, key),
        }
    }
    put_head(t, id, user, &now);
    let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
    Arc::make_mut(&mut mailbox.readers).insert(user.clone(), now);
    Ok(())
}

/// Takes messages that are being expunged off the counts of who has the mailbox open.
pub(crate) fn expunged(t: &mut Transaction<'_>, id: MailboxId, gone: &UidSet) -> Result<(), StoreError> {
    let readers = t.any_mailbox(id).ok_or(StoreError::NoMailbox)?.readers.clone();
    for (user, seen) in readers.iter().filter(|(_, seen)| seen.count_of(gone) > 0) {
        let now = seen.without(gone);
        // Counted at this very modseq, so its tombstone is not looked at again.
        if now.modseq() == t.modseq.get() {
            put_head(t, id, user, &now);
        }
        let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
        Arc::make_mut(&mut mailbox.readers).insert(user.clone(), now);
    }
    Ok(())
}

/// Forgets what users have seen of a deleted mailbox, at most so many records; returns whether there may be more.
pub(crate) fn forget(t: &mut Transaction<'_>, prefix: &[u8], max: usize) -> Result<bool, StoreError> {
    let doomed = t.scan(Space::Account, prefix, prefix_end(prefix).as_deref(), max)?;
    let more = doomed.len() == max;
    doomed.into_iter().for_each(|(key, _)| t.delete(Space::Account, key));
    Ok(more)
}
