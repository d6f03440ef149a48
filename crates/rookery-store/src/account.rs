//! An account: its tree of mailboxes, and what changes the tree.

use crate::annotations;
use crate::committer::CommitError;
use crate::error::StoreError;
use crate::keys;
use crate::mailbox::Mailbox;
use crate::quota::{self, Before};
use crate::readers::Viewer;
use crate::records::{self, AccountState, Change, ContentRecord, Facts, Held, LogEntry, Settings, Summary};
use crate::sequencer::{AccountCell, MailboxState, Transaction, Tree};
use crate::store::{Store, now_unix};
use bytes::Bytes;
use rookery_kv::engine::Space;
use rookery_types::acl::{Acl, Identifier};
use rookery_types::{
    AccountId, AccountName, Address, ContentId, MailboxId, MailboxPath, ModSeq, Rights, SpecialUse,
    UidValidity, UserName,
};
use std::sync::Arc;
use tokio::sync::watch;

/// A handle to an account of this store. Cheap to clone.
#[derive(Clone)]
pub struct Account {
    pub(crate) store: Store,
    pub(crate) cell: Arc<AccountCell>,
    /// Whose \Seen it is about; `None`: that of the records, which is the owner's.
    pub(crate) viewer: Option<Viewer>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({})", self.cell.id)
    }
}

impl Account {
    /// Its id.
    pub fn id(&self) -> AccountId {
        self.cell.id
    }

    /// Whose tree it is; `None` for shared mailboxes.
    pub fn owner(&self) -> Option<UserName> {
        self.cell.record.load().owner.clone()
    }

    /// Whether it has not been deleted.
    pub fn exists(&self) -> bool {
        self.cell.record.load().state != AccountState::Deleted
    }

    /// Makes it another user's: their entries in the ACLs of its mailboxes, and its own subscriptions to its
    /// mailboxes, follow. Nothing to do for a shared account.
    pub async fn change_owner(&self, owner: UserName) -> Result<(), StoreError> {
        self.transact(|t| {
            let Some(old) = t.record.owner.replace(owner.clone()) else {
                t.record.owner = None;
                return Ok(());
            };
            let (before, after) = (Identifier::User(old.clone()), Identifier::User(owner.clone()));
            let acls: Vec<(MailboxId, Acl)> = t
                .mailboxes()
                .filter(|state| state.settings.acl.entries().iter().any(|entry| entry.identifier == before))
                .map(|state| {
                    let mut acl = state.settings.acl.clone();
                    for negative in [false, true] {
                        let rights = acl.of(&before, negative).union(acl.of(&after, negative));
                        acl.set(before.clone(), negative, Rights::NONE);
                        acl.set(after.clone(), negative, rights);
                    }
                    (state.id, acl)
                })
                .collect();
            for (id, acl) in acls {
                set(t, id, |settings| settings.acl = acl)?;
            }
            let (before, after) = (AccountName::User(old), AccountName::User(owner));
            let moved: Vec<(String, String, Option<MailboxId>)> = t
                .subscriptions()
                .iter()
                .filter_map(|(name, mailbox)| {
                    let (account, path) = Address::parse(name).ok()?.into_parts();
                    let new = Address::new(after.clone(), path).ok()?.to_string();
                    (account == before).then_some((name.clone(), new, *mailbox))
                })
                .collect();
            for (old, new, mailbox) in moved {
                t.subscriptions().remove(&old);
                t.delete(Space::Account, keys::subscription(self.cell.id, &old));
                let key = keys::subscription(self.cell.id, &new);
                let value = records::encode_subscription(&key, mailbox);
                t.put(Space::Account, key, value);
                t.subscriptions().insert(new, mailbox);
            }
            Ok(())
        })
        .await
    }

    /// The modseq of its last durable change.
    pub fn modseq(&self) -> u64 {
        self.cell.record.load().modseq.get()
    }

    /// Its mailboxes and subscriptions, as they are on disk now.
    pub fn tree(&self) -> Arc<Tree> {
        self.cell.tree.load_full()
    }

    /// What all its mailboxes hold.
    pub fn usage(&self) -> Held {
        let record = self.cell.record.load();
        Held { octets: record.octets, messages: record.messages }
    }

    /// Woken after each durable change of the account, with its modseq.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.cell.changed.subscribe()
    }

    /// What has changed after one modseq, up to another that [`Account::changed`] has told; `None` if that is longer
    /// ago than the log remembers, or more than `max` changes. Reads the disk.
    pub fn changes(&self, after: u64, until: u64, max: usize) -> Result<Option<Vec<LogEntry>>, StoreError> {
        if after < self.cell.record.load().log_floor {
            return Ok(None);
        }
        let key = |modseq: u64| ModSeq::new(modseq).map(|modseq| keys::log(self.id(), modseq));
        let (Some(start), Some(end)) = (key(after.saturating_add(1)), key(until.saturating_add(1))) else {
            return Ok(None);
        };
        let mut entries = Vec::new();
        let mut failure = None;
        self.store.engine().scan(Space::Log, &start, Some(&end), false, &mut |key, value| {
            match LogEntry::decode(key, value) {
                Ok(entry) => entries.push(entry),
                Err(damaged) => failure = Some(damaged),
            }
            failure.is_none() && entries.len() <= max
        })?;
        match failure {
            Some(damaged) => Err(StoreError::Damaged(damaged)),
            None => Ok((entries.len() <= max).then_some(entries)),
        }
    }

    /// Where a mailbox stands, or stood before it was deleted; `None` once it is forgotten. Reads the disk.
    pub fn last_path(&self, id: MailboxId) -> Result<Option<MailboxPath>, StoreError> {
        let key = keys::settings(id);
        let Some(value) = self.store.engine().get(Space::Mailbox, &key)? else { return Ok(None) };
        Ok(Some(Settings::decode(&key, &value).map_err(StoreError::Damaged)?.path))
    }

    /// Makes one change, and returns when it is durable and visible. Waits while the account is frozen; `Moved` once it
    /// has been released, and then nothing was changed.
    pub(crate) async fn transact<T>(
        &self,
        change: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (result, ticket) = {
            let mut transaction = self.begin().await?;
            let result = change(&mut transaction)?;
            (result, transaction.finish(self.store.committer()))
        };
        ticket.wait().await?;
        self.cell.tidy();
        Ok(result)
    }

    /// Makes a mailbox; its parents need not exist. Its ACL is that of the nearest mailbox above it, or all rights
    /// for the owner, or lookup and reading for anyone in a shared account.
    pub async fn create(
        &self,
        path: &MailboxPath,
        special_use: Vec<SpecialUse>,
    ) -> Result<MailboxId, StoreError> {
        self.transact(|t| create_mailbox(t, self.cell.id, path, special_use)).await
    }

    /// Deletes a mailbox and its messages; mailboxes below it stay. Kept for undelete until the retention ends.
    /// INBOX and a shared account's root cannot be deleted.
    pub async fn delete(&self, id: MailboxId) -> Result<(), StoreError> {
        self.until_here(id, None).await?;
        self.transact(|t| {
            let state = t.mailbox(id).ok_or(StoreError::NoMailbox)?.clone();
            if t.is_departing(id, None) {
                return Err(StoreError::InUse);
            }
            if state.settings.path.is_inbox() || state.settings.path.is_root() {
                return Err(StoreError::InvalidName);
            }
            let gone = Held { octets: state.summary.octets, messages: state.summary.exists.into() };
            quota::subtract(t, id, gone);
            let modseq = t.modseq;
            let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
            let now = now_unix();
            let old = Settings::clone(&mailbox.settings);
            let was_root = old.quota.is_some();
            mailbox.settings = Arc::new(Settings { deleted_unix_seconds: Some(now), quota: None, ..old });
            mailbox.summary.highest_modseq = modseq;
            let key = keys::deleted_mailbox(id, now);
            let value = records::encode_deleted_mailbox(&key);
            t.put(Space::Queue, key.to_vec(), value);
            t.note(id, Change::Deleted);
            if was_root {
                // What is below it has another root now, which may get more than it may have: nothing is lost by it.
                quota::recount(t);
            }
            Ok(())
        })
        .await
    }

    /// Renames a mailbox and all below it. INBOX itself stays, emptied into the new mailbox, and what is below it
    /// stays too (RFC 9051 §6.3.6).
    ///
    /// `AlreadyExists` leaves all names as they were, and so does `OverQuota`: the new place may have another quota
    /// root.
    pub async fn rename(&self, from: &MailboxPath, to: &MailboxPath) -> Result<(), StoreError> {
        if from.is_inbox() {
            let _guard = self.guard().await?;
            let inbox = self.tree().get(from).ok_or(StoreError::NoMailbox)?;
            let (target, published) = match self.create(to, Vec::new()).await {
                Ok(target) => (target, Ok(())),
                // It is there, and what is in INBOX comes after it.
                Err(error @ StoreError::Commit(CommitError::Unpublished)) => {
                    (self.tree().get(to).ok_or(StoreError::NoMailbox)?, Err(error))
                }
                Err(error) => return Err(error),
            };
            // INBOX keeps its annotations, and the other gets them too (RFC 5464 §4.1).
            self.transact(|t| annotations::copy(t, self, inbox, target)).await?;
            // Whoever renames it, the owner's \Seen stays with the messages.
            let kept = self.as_kept();
            let mailbox = kept.open(inbox).await?;
            let all = rookery_types::UidSet::range(1, u32::MAX);
            if let Err(error) = mailbox.r#move(&all, &kept, target).await {
                if matches!(error, StoreError::OverQuota) {
                    self.delete(target).await?;
                }
                return Err(error);
            }
            return published;
        }
        self.transact(|t| {
            if to.is_below(from) || from.is_root() || to.is_root() || to.is_inbox() {
                return Err(StoreError::InvalidName);
            }
            let moved: Vec<(MailboxId, Option<MailboxPath>)> = t
                .mailboxes()
                .filter(|state| state.settings.path == *from || state.settings.path.is_below(from))
                .map(|state| (state.id, state.settings.path.moved(from, to)))
                .collect();
            if moved.is_empty() {
                return Err(StoreError::NoMailbox);
            }
            for (_, path) in &moved {
                let path = path.as_ref().ok_or(StoreError::InvalidName)?;
                if t.by_path(path).is_some() {
                    return Err(StoreError::AlreadyExists);
                }
            }
            let before = Before::of(t);
            for (id, path) in moved {
                let path = path.ok_or(StoreError::InvalidName)?;
                let old = t.mailbox(id).ok_or(StoreError::NoMailbox)?.settings.path.clone();
                set(t, id, |settings| settings.path = path)?;
                t.note(id, Change::Renamed(old));
            }
            before.check(t)
        })
        .await
    }

    /// Sets who may do what with a mailbox.
    pub async fn set_acl(&self, id: MailboxId, acl: Acl) -> Result<(), StoreError> {
        self.transact(|t| set(t, id, |settings| settings.acl = acl)).await
    }

    /// Changes who may do what with a mailbox. `change` sees the list as it is, and nothing else can change it
    /// meanwhile; if it refuses, nothing happens.
    pub async fn change_acl<E: From<StoreError>>(
        &self,
        id: MailboxId,
        change: impl FnOnce(&mut Acl) -> Result<(), E>,
    ) -> Result<(), E> {
        let ticket = {
            let mut transaction = self.begin().await?;
            let mut acl = transaction.mailbox(id).ok_or(StoreError::NoMailbox)?.settings.acl.clone();
            change(&mut acl)?;
            set(&mut transaction, id, |settings| settings.acl = acl)?;
            transaction.finish(self.store.committer())
        };
        ticket.wait().await.map_err(StoreError::from)?;
        self.cell.tidy();
        Ok(())
    }

    /// Sets what a mailbox is for. A use belongs to one mailbox of an account: any other loses it.
    pub async fn set_special_use(
        &self,
        id: MailboxId,
        special_use: Vec<SpecialUse>,
    ) -> Result<(), StoreError> {
        self.transact(|t| {
            take_special_use(t, &special_use)?;
            set(t, id, |settings| settings.special_use = special_use)
        })
        .await
    }

    /// Subscribes the account's user to a name, in its canonical form; `mailbox` is what has the name now.
    pub async fn subscribe(&self, name: &str, mailbox: Option<MailboxId>) -> Result<(), StoreError> {
        self.transact(|t| {
            t.subscriptions().insert(name.to_string(), mailbox);
            let key = keys::subscription(self.cell.id, name);
            let value = records::encode_subscription(&key, mailbox);
            t.put(Space::Account, key, value);
            Ok(())
        })
        .await
    }

    /// Unsubscribes the account's user from a name. Not being subscribed is no error.
    pub async fn unsubscribe(&self, name: &str) -> Result<(), StoreError> {
        self.transact(|t| {
            if t.subscriptions().remove(name).is_some() {
                t.delete(Space::Account, keys::subscription(self.cell.id, name));
            }
            Ok(())
        })
        .await
    }

    /// Opens a mailbox: its messages are in memory from now on, until nobody has it open.
    pub async fn open(&self, id: MailboxId) -> Result<Mailbox, StoreError> {
        Mailbox::open(self, id).await
    }

    /// A mailbox of this id that has been deleted, for whoever had it open before: it is empty, and stays so.
    pub fn open_deleted(&self, id: MailboxId, uid_validity: UidValidity) -> Mailbox {
        Mailbox::deleted(self, id, uid_validity)
    }

    /// What was found out about a content when it came. Reads the disk: call it where blocking is allowed.
    pub fn facts(&self, content: ContentId) -> Result<Facts, StoreError> {
        let key = keys::facts(self.cell.id, content);
        let value = self.store.engine().get(Space::Content, &key)?.ok_or(StoreError::NoContent)?;
        Facts::decode(&key, &value).map_err(StoreError::Damaged)
    }

    /// Where a content is, its size and its thread. Reads the disk.
    pub fn content(&self, content: ContentId) -> Result<ContentRecord, StoreError> {
        let key = keys::content(self.cell.id, content);
        let value = self.store.engine().get(Space::Content, &key)?.ok_or(StoreError::NoContent)?;
        ContentRecord::decode(&key, &value).map_err(StoreError::Damaged)
    }

    /// A whole message, checked. Reads the disk, and takes as much memory as the message has octets.
    pub fn read(&self, content: ContentId) -> Result<Bytes, StoreError> {
        self.relocating(content, |record| self.store.volumes().read(&record, self.cell.id, content))
    }

    /// Some octets of a message, beginning with octet `from`; fewer at its end. Reads the disk. Whoever reads more than
    /// one part has it cheaper with [`Account::reader`].
    pub fn read_part(&self, content: ContentId, from: u64, octets: usize) -> Result<Bytes, StoreError> {
        self.reader(content)?.read(from, octets)
    }

    /// Reads where the content is now: compaction may move it between the look-up and the reading.
    pub(crate) fn relocating<T>(
        &self,
        content: ContentId,
        read: impl Fn(ContentRecord) -> Result<T, crate::volume::VolumeError>,
    ) -> Result<T, StoreError> {
        let record = self.content(content)?;
        match read(record) {
            Ok(octets) => Ok(octets),
            Err(error) => {
                let again = self.content(content)?;
                if again.locator == record.locator {
                    return Err(error.into());
                }
                Ok(read(again)?)
            }
        }
    }
}

/// Changes what is set on a mailbox, and notes it.
pub(crate) fn set(
    t: &mut Transaction<'_>,
    id: MailboxId,
    change: impl FnOnce(&mut Settings),
) -> Result<(), StoreError> {
    t.mailbox(id).ok_or(StoreError::NoMailbox)?;
    let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
    let mut settings = Settings::clone(&mailbox.settings);
    change(&mut settings);
    mailbox.settings = Arc::new(settings);
    t.note(id, Change::Settings);
    Ok(())
}

pub(crate) fn take_special_use(
    t: &mut Transaction<'_>,
    special_use: &[SpecialUse],
) -> Result<(), StoreError> {
    let has_one =
        |state: &&MailboxState| state.settings.special_use.iter().any(|one| special_use.contains(one));
    let losers: Vec<MailboxId> = t.mailboxes().filter(has_one).map(|state| state.id).collect();
    losers.into_iter().try_for_each(|id| {
        set(t, id, |settings| settings.special_use.retain(|one| !special_use.contains(one)))
    })
}

/// Stages a new mailbox.
pub(crate) fn create_mailbox(
    t: &mut Transaction<'_>,
    account: AccountId,
    path: &MailboxPath,
    special_use: Vec<SpecialUse>,
) -> Result<MailboxId, StoreError> {
    if t.by_path(path).is_some() {
        return Err(StoreError::AlreadyExists);
    }
    let before = Before::of(t);
    take_special_use(t, &special_use)?;
    let number = t.record.last_mailbox.checked_add(1).ok_or(StoreError::Exhausted("mailbox numbers"))?;
    let validity = t.record.last_uid_validity.checked_add(1).ok_or(StoreError::Exhausted("UIDVALIDITYs"))?;
    let validity = validity.max(now_unix());
    t.record.last_mailbox = number;
    t.record.last_uid_validity = validity;
    let id = MailboxId { account, number };
    let settings = Settings {
        path: path.clone(),
        uid_validity: UidValidity::new(validity).ok_or(StoreError::Exhausted("UIDVALIDITYs"))?,
        special_use,
        acl: inherited_acl(t, path),
        keywords: Arc::default(),
        deleted_unix_seconds: None,
        quota: None,
    };
    t.add_mailbox(MailboxState::empty(id, settings, t.modseq));
    before.check(t)?;
    Ok(id)
}

pub(crate) fn empty_summary(modseq: ModSeq) -> Summary {
    Summary {
        uid_next: 1,
        highest_modseq: modseq,
        exists: 0,
        unseen: 0,
        deleted: 0,
        octets: 0,
        deleted_octets: 0,
        deltas: 0,
        chunks: 0,
    }
}

/// The nearest mailbox above gives its ACL on; INBOX does not stand above the rest of a tree.
fn inherited_acl(t: &Transaction<'_>, path: &MailboxPath) -> Acl {
    let mut above = path.parent();
    while let Some(path) = above {
        if let Some(state) = t.by_path(&path).and_then(|id| t.mailbox(id)) {
            return state.settings.acl.clone();
        }
        above = path.parent();
    }
    let mut acl = Acl::new();
    match &t.record.owner {
        Some(owner) => acl.set(Identifier::User(owner.clone()), false, Rights::ALL),
        None => acl.set(Identifier::Anyone, false, Rights::LOOKUP.union(Rights::READ).union(Rights::SEEN)),
    }
    acl
}
