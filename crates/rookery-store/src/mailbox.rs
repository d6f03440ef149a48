//! An open mailbox: its messages, and what changes them.
//!
//! Changes of many messages run in slices of [`SLICE_MESSAGES`]: each slice is atomic and has its own modseq, and
//! between slices others get their turn.

mod transfer;

pub use transfer::Copied;

use crate::account::Account;
use crate::committer::Ticket;
use crate::error::StoreError;
use crate::keys;
use crate::leaf::{ChunkSummary, Packed};
use crate::load;
use crate::messages::{KeywordNumbers, Message, Messages};
use crate::quota;
use crate::readers::{self, Viewer};
use crate::records::{self, AccountState, Change, Held, Settings};
use crate::sequencer::{MailboxCell, MailboxState, ReaderCell, Transaction};
use crate::store::now_unix;
use rookery_kv::engine::Space;
use rookery_kv::off_thread;
use rookery_types::acl::{Acl, Identifier};
use rookery_types::{Keyword, MailboxId, MailboxPath, ModSeq, Rights, SystemFlags, Uid, UidSet, UidValidity};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// Messages changed in one step.
pub(crate) const SLICE_MESSAGES: usize = 1000;
/// Keywords a mailbox can have.
pub const KEYWORDS_MAX: usize = 4096;

/// How STORE changes flags.
#[derive(Clone, Debug)]
pub enum FlagChange {
    /// These and no others.
    Set(FlagList),
    /// These too.
    Add(FlagList),
    /// These no more.
    Remove(FlagList),
}

/// Flags as a client names them.
#[derive(Clone, Debug, Default)]
pub struct FlagList {
    /// System flags.
    pub flags: SystemFlags,
    /// Keywords.
    pub keywords: Vec<Keyword>,
}

/// What STORE did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Messages whose flags are now others than before.
    pub changed: UidSet,
    /// Messages left alone since they changed after UNCHANGEDSINCE (RFC 7162 §3.1.3).
    pub failed: UidSet,
    /// UIDs that have no message, of those the mailbox has ever given.
    pub missing: UidSet,
}

/// What is done to messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Touch {
    /// They are other than before, or gone.
    Changes,
    /// They stay as they are.
    Reads,
}

/// A handle to an open mailbox.
pub struct Mailbox {
    account: Account,
    cell: Arc<MailboxCell>,
    /// The user of the handle, where \Seen is their own.
    reader: Option<Arc<ReaderCell>>,
}

impl Clone for Mailbox {
    fn clone(&self) -> Mailbox {
        Mailbox::new(&self.account, self.cell.clone())
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            self.cell.remove_reader(reader);
        }
        if self.cell.openers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.account.store.closed(&self.account.cell, self.cell.id);
        }
    }
}

/// Chunks that stay in memory until they are durable, and when that is.
type Loaded = (Vec<Arc<Packed>>, Ticket);

impl Account {
    /// Brings a mailbox into memory; `None`: it is to be tried again when the account is not frozen any more, since
    /// something has to be mended.
    fn load_mailbox(&self, id: MailboxId) -> Result<Option<Loaded>, StoreError> {
        let mut t = self.peek()?;
        let mut kept = Vec::new();
        if t.mailbox(id).ok_or(StoreError::NoMailbox)?.messages.is_none() {
            kept = load::messages(&mut t, self.store.source(), id)?;
        }
        if let Some(viewer) = &self.viewer {
            readers::load(&mut t, id, &viewer.user)?;
        }
        if !t.only_loads() {
            if t.record.state != AccountState::Home {
                return Err(StoreError::Moved);
            }
            if t.is_frozen() {
                return Ok(None);
            }
        }
        Ok(Some((kept, t.finish(self.store.committer()))))
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailbox({})", self.cell.id)
    }
}

impl Mailbox {
    /// Counts the handle; dropping it counts it off again.
    fn new(account: &Account, cell: Arc<MailboxCell>) -> Mailbox {
        cell.openers.fetch_add(1, Ordering::AcqRel);
        let reader = account.viewer.as_ref().map(|viewer| cell.add_reader(&viewer.user));
        Mailbox { account: account.clone(), cell, reader }
    }

    pub(crate) async fn open(account: &Account, id: MailboxId) -> Result<Mailbox, StoreError> {
        let cell = account.tree().by_number.get(&id.number).filter(|cell| cell.id == id).cloned();
        let mailbox = Mailbox::new(account, cell.ok_or(StoreError::NoMailbox)?);
        // What a reader has seen may be on its way out of memory, which the published state does not tell.
        if mailbox.reader.is_some() || mailbox.cell.published.load().messages.is_none() {
            let (kept, ticket) = loop {
                let loading = account.clone();
                match off_thread(move || loading.load_mailbox(id)).await?? {
                    Some(loaded) => break loaded,
                    None => account.until_open().await,
                }
            };
            // Published in queue order, so when everything before it is durable.
            ticket.wait().await?;
            kept.iter().for_each(|packed| packed.is_durable(mailbox.account.store.source()));
        }
        Ok(mailbox)
    }

    /// A mailbox that is deleted, for whoever has it open since before: it is empty, and stays so.
    pub(crate) fn deleted(account: &Account, id: MailboxId, uid_validity: UidValidity) -> Mailbox {
        // Whoever had it open could read it; there is nothing to read any more.
        let mut acl = Acl::new();
        acl.set(Identifier::Anyone, false, Rights::ALL);
        let settings = Settings {
            path: MailboxPath::root(),
            uid_validity,
            special_use: Vec::new(),
            acl,
            keywords: Arc::default(),
            deleted_unix_seconds: Some(now_unix()),
            quota: None,
        };
        let modseq = ModSeq::new(account.modseq()).unwrap_or(ModSeq::FIRST);
        let state = MailboxState::empty(id, settings, modseq);
        Mailbox::new(account, MailboxCell::new(state))
    }

    /// Its id.
    pub fn id(&self) -> MailboxId {
        self.cell.id
    }

    /// The account it stands in.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Its newest durable state, messages included, as the user of the account's handle sees it.
    pub fn now(&self) -> Arc<MailboxState> {
        let state = self.cell.published.load_full();
        match &self.reader {
            Some(reader) => reader.show(state),
            None => state,
        }
    }

    fn viewer(&self) -> Option<&Viewer> {
        self.account.viewer.as_ref()
    }

    /// Whether it has not been deleted.
    pub fn exists(&self) -> bool {
        self.cell.published.load().settings.deleted_unix_seconds.is_none()
    }

    /// Woken after each durable change of the mailbox, with its HIGHESTMODSEQ.
    pub fn changed(&self) -> watch::Receiver<u64> {
        match &self.reader {
            Some(reader) => reader.changed.subscribe(),
            None => self.cell.changed.subscribe(),
        }
    }

    /// The first UID that is \Recent for the caller alone (RFC 3501 §2.3.2), below `uid_next`: that of the state
    /// which the caller tells its client of. What has come since is left to whoever tells of it first.
    pub fn claim_recent(&self, uid_next: u32) -> u32 {
        self.cell.recent_from.fetch_max(uid_next, Ordering::AcqRel)
    }

    /// The first UID that would be \Recent, without claiming it.
    pub fn peek_recent(&self) -> u32 {
        self.cell.recent_from.load(Ordering::Acquire)
    }

    /// Changes flags. A message that has the flags already keeps its modseq. Where \Seen is the user's own, it is
    /// changed for them alone.
    pub async fn store_flags(
        &self,
        uids: &UidSet,
        change: FlagChange,
        unchanged_since: Option<u64>,
    ) -> Result<Stored, StoreError> {
        let mut stored = Stored { missing: uids.clone(), ..Stored::default() };
        let last = self.now().summary.uid_next.saturating_sub(1);
        stored.missing.remove_range(last.saturating_add(1), u32::MAX);
        self.in_slices(uids, Touch::Changes, |t, slice| {
            let keywords = keyword_numbers(t, self.cell.id, &change)?;
            let modseq = t.modseq;
            let shown = readers::shown(t, self.cell.id, self.viewer(), &slice)?;
            let mailbox = t.change(self.cell.id).ok_or(StoreError::NoMailbox)?;
            let mut changes = Vec::new();
            let mut touched = UidSet::new();
            let (mut seen, mut unseen) = (UidSet::new(), UidSet::new());
            for (kept, old) in slice.iter().zip(shown.iter()) {
                stored.missing.remove(old.uid.get());
                if unchanged_since.is_some_and(|since| old.modseq.get() > since) {
                    stored.failed.insert_uid(old.uid);
                    continue;
                }
                let (flags, keywords) = changed_flags(old, &change, &keywords);
                if flags == old.flags && keywords == old.keywords {
                    continue;
                }
                stored.changed.insert_uid(old.uid);
                let mut flags = flags;
                if self.reader.is_some() {
                    match (old.flags.contains(SystemFlags::SEEN), flags.contains(SystemFlags::SEEN)) {
                        (false, true) => seen.insert_uid(old.uid),
                        (true, false) => unseen.insert_uid(old.uid),
                        _ => {}
                    }
                    // The record has the owner's.
                    let owners = kept.flags.without(kept.flags.without(SystemFlags::SEEN));
                    flags = flags.without(SystemFlags::SEEN) | owners;
                    if flags == kept.flags && keywords == kept.keywords {
                        continue;
                    }
                }
                let new = Message { flags, keywords, modseq, ..kept.clone() };
                mailbox.summary.subtract(kept.size, kept.flags);
                mailbox.summary.add(new.size, new.flags);
                touched.insert_uid(new.uid);
                changes.push((new.uid, Some(new)));
            }
            if !changes.is_empty() {
                put_messages(t, self.cell.id, &changes)?;
                t.note(self.cell.id, Change::Flags(touched));
            }
            match self.viewer() {
                Some(viewer) => readers::mark(t, self.cell.id, &viewer.user, &seen, &unseen),
                None => Ok(()),
            }
        })
        .await?;
        Ok(stored)
    }

    /// Expunges the messages with \Deleted, of those in `uids` if given; tells which.
    pub async fn expunge(&self, uids: Option<&UidSet>) -> Result<UidSet, StoreError> {
        // Only these are gone through, slice by slice: of a large mailbox they are few.
        let messages = self.now().messages.clone().unwrap_or_default();
        let marked = off_thread(move || messages.deleted()).await??;
        let doomed = match uids {
            Some(uids) => marked.intersection(uids),
            None => marked,
        };
        let mut gone = UidSet::new();
        if doomed.is_empty() {
            return Ok(gone);
        }
        self.in_slices(&doomed, Touch::Changes, |t, slice| {
            let doomed: Vec<Message> =
                slice.into_iter().filter(|m| m.flags.contains(SystemFlags::DELETED)).collect();
            gone.extend(&doomed.iter().map(|m| m.uid).collect());
            expunge_messages(t, self.cell.id, &doomed, true)
        })
        .await?;
        Ok(gone)
    }

    /// Waits until none of these messages is in transit to another home, but not for long.
    pub async fn until_here(&self, uids: &UidSet) -> Result<(), StoreError> {
        self.account.until_here(self.cell.id, Some(uids)).await
    }

    /// Expunges messages whatever their flags; tells which. A UID without a message is no error.
    pub async fn remove(&self, uids: &UidSet) -> Result<UidSet, StoreError> {
        let mut gone = UidSet::new();
        self.in_slices(uids, Touch::Changes, |t, slice| {
            let doomed: Vec<Message> = slice;
            gone.extend(&doomed.iter().map(|m| m.uid).collect());
            expunge_messages(t, self.cell.id, &doomed, true)
        })
        .await?;
        Ok(gone)
    }

    /// Runs a change over the messages with these UIDs, slice by slice; each slice waits for its own durability, and
    /// before, if it changes them, for those that are in transit to another home.
    async fn in_slices(
        &self,
        uids: &UidSet,
        touch: Touch,
        mut change: impl FnMut(&mut Transaction<'_>, Vec<Message>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let _guard = self.account.guard().await?;
        let mut from = uids.first().unwrap_or(u32::MAX);
        loop {
            let ticket = {
                let mut t = self.account.begin().await?;
                let state = t.mailbox(self.cell.id).ok_or(StoreError::NoMailbox)?;
                let messages = state.messages.clone().ok_or(StoreError::NoMailbox)?;
                let slice = next_slice(&messages, uids, from)?;
                let Some(last) = slice.last() else { return Ok(()) };
                let touched: UidSet = match touch {
                    Touch::Changes => slice.iter().map(|message| message.uid).collect(),
                    Touch::Reads => UidSet::new(),
                };
                match t.is_departing(self.cell.id, Some(&touched)) {
                    true => Err(touched),
                    false => {
                        from = last.uid.get().saturating_add(1);
                        change(&mut t, slice)?;
                        Ok(t.finish(self.account.store.committer()))
                    }
                }
            };
            match ticket {
                Ok(ticket) => ticket.wait().await?,
                Err(busy) => self.account.until_here(self.cell.id, Some(&busy)).await?,
            }
            self.account.cell.tidy();
        }
    }

    /// Which UIDs have gone since a modseq; `None` if that is longer ago than the store remembers. Reads the disk.
    pub fn vanished_since(&self, modseq: u64) -> Result<Option<UidSet>, StoreError> {
        let now = self.cell.published.load().summary.highest_modseq;
        self.account.vanished(self.cell.id, modseq, now)
    }
}

/// The next messages of a set, from a UID on. Steps over ranges of the set that have no messages.
pub(crate) fn next_slice(messages: &Messages, uids: &UidSet, from: u32) -> Result<Vec<Message>, StoreError> {
    let mut slice = Vec::new();
    for (first, last) in uids.ranges() {
        if last < from || slice.len() >= SLICE_MESSAGES {
            continue;
        }
        let place = messages.place_of(first.max(from))?;
        for found in messages.iter_from(place).take(SLICE_MESSAGES - slice.len()) {
            let (_, message) = found?;
            if message.uid.get() > last {
                break;
            }
            slice.push(message);
        }
    }
    Ok(slice)
}

/// Numbers for the keywords of a change, giving new ones where the mailbox does not have them yet.
fn keyword_numbers(
    t: &mut Transaction<'_>,
    id: MailboxId,
    change: &FlagChange,
) -> Result<Vec<u16>, StoreError> {
    match change {
        FlagChange::Set(list) | FlagChange::Add(list) => numbers_for(t, id, &list.keywords),
        FlagChange::Remove(list) => {
            let state = t.mailbox(id).ok_or(StoreError::NoMailbox)?;
            Ok(list.keywords.iter().filter_map(|keyword| state.settings.keyword_number(keyword)).collect())
        }
    }
}

/// Numbers for keywords in a mailbox's table, which grows by those it does not have.
pub(crate) fn numbers_for(
    t: &mut Transaction<'_>,
    id: MailboxId,
    keywords: &[Keyword],
) -> Result<Vec<u16>, StoreError> {
    if keywords.is_empty() {
        return Ok(Vec::new());
    }
    let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
    let mut numbers = Vec::with_capacity(keywords.len());
    for keyword in keywords {
        if let Some(number) = mailbox.settings.keyword_number(keyword) {
            numbers.push(number);
            continue;
        }
        let mut table = Vec::clone(&mailbox.settings.keywords);
        if table.len() >= KEYWORDS_MAX {
            return Err(StoreError::TooManyKeywords(id));
        }
        numbers.extend(u16::try_from(table.len()));
        table.push(keyword.clone());
        let settings = Settings { keywords: Arc::new(table), ..Settings::clone(&mailbox.settings) };
        mailbox.settings = Arc::new(settings);
    }
    Ok(numbers)
}

fn changed_flags(old: &Message, change: &FlagChange, numbers: &[u16]) -> (SystemFlags, KeywordNumbers) {
    let had = old.keywords.as_slice();
    match change {
        FlagChange::Set(list) => (list.flags, KeywordNumbers::new(numbers.to_vec())),
        FlagChange::Add(list) => {
            (old.flags.union(list.flags), KeywordNumbers::new(had.iter().chain(numbers).copied().collect()))
        }
        FlagChange::Remove(list) => {
            let kept = had.iter().copied().filter(|number| !numbers.contains(number));
            (old.flags.without(list.flags), KeywordNumbers::new(kept.collect()))
        }
    }
}

/// Writes messages' new states and puts them into the mailbox's version, if it has one in memory. It must have one
/// if any of the messages is not new: then what is counted of their chunks is written as well.
pub(crate) fn put_messages(
    t: &mut Transaction<'_>,
    id: MailboxId,
    changes: &[(Uid, Option<Message>)],
) -> Result<(), StoreError> {
    let messages = t.change(id).ok_or(StoreError::NoMailbox)?.messages.take();
    if let Some(messages) = messages {
        let (messages, touched) = messages.changed(changes)?;
        for (packed, counts) in touched {
            let summary = ChunkSummary { counts, ..packed.summary };
            let key = keys::message(id, Uid::new(summary.first).unwrap_or(Uid::FIRST));
            let value = records::encode_chunk_summary(&key, &summary);
            t.put(Space::Leaf, key, value);
        }
        t.change(id).ok_or(StoreError::NoMailbox)?.messages = Some(messages);
    }
    for (uid, message) in changes {
        let key = keys::message(id, *uid);
        let value = records::encode_delta(&key, message.as_ref());
        t.put(Space::Delta, key, value);
    }
    let modseq = t.modseq;
    let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
    mailbox.summary.highest_modseq = modseq;
    mailbox.summary.deltas =
        mailbox.summary.deltas.saturating_add(u32::try_from(changes.len()).unwrap_or(u32::MAX));
    Ok(())
}

/// Takes messages out of a mailbox. `keep`: they can be undeleted until the retention ends, and hold their content;
/// otherwise their content's references have found another owner.
pub(crate) fn expunge_messages(
    t: &mut Transaction<'_>,
    id: MailboxId,
    messages: &[Message],
    keep: bool,
) -> Result<(), StoreError> {
    if messages.is_empty() {
        return Ok(());
    }
    let gone: UidSet = messages.iter().map(|m| m.uid).collect();
    let changes: Vec<(Uid, Option<Message>)> = messages.iter().map(|m| (m.uid, None)).collect();
    put_messages(t, id, &changes)?;
    quota::subtract(t, id, Held::of(messages));
    let now = now_unix();
    for message in messages {
        if keep {
            let key = keys::expunged(id, now, message.uid);
            let value = records::encode_expunged(&key, message);
            t.put(Space::Queue, key.to_vec(), value);
        }
    }
    let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
    for message in messages {
        mailbox.summary.subtract(message.size, message.flags);
    }
    let key = keys::tombstone(id, t.modseq);
    let value = records::encode_tombstone(&key, &gone);
    t.put(Space::Tombstone, key, value);
    readers::expunged(t, id, &gone)?;
    t.note(id, Change::Expunged(gone));
    Ok(())
}
