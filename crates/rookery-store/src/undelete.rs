//! Bringing back what was deleted, as long as the retention keeps it: messages, mailboxes, whole accounts.
//!
//! Invariants:
//! - A message that comes back is a new message of its mailbox: it gets a new UID, since its old one was told to be
//!   gone. Its octets never left.
//! - What the background has begun to take apart does not come back.

use crate::account::Account;
use crate::error::StoreError;
use crate::keys;
use crate::mailbox::put_messages;
use crate::messages::Message;
use crate::quota;
use crate::records::{self, AccountState, Change, Held, Settings};
use crate::sequencer::{MailboxState, Transaction};
use crate::store::{Store, now_unix};
use rookery_kv::engine::{Space, prefix_end};
use rookery_types::{AccountId, MailboxId, MailboxPath, SystemFlags, UidSet, UserName};
use std::sync::Arc;

/// Messages that come back in one change.
const STEP_MESSAGES: usize = 1000;

/// What was expunged lately is among so many records.
const LATELY_MAX: usize = 100_000;

/// An expunged message that is still kept.
#[derive(Clone, Debug)]
pub struct Expunged {
    /// The mailbox it was in, which may be deleted itself.
    pub mailbox: MailboxId,
    /// When it was expunged, seconds since 1970.
    pub unix_seconds: u32,
    /// As it was last.
    pub message: Message,
}

/// A deleted mailbox that is still kept.
#[derive(Clone, Debug)]
pub struct DeletedMailbox {
    /// Its id.
    pub id: MailboxId,
    /// Where it stood.
    pub path: MailboxPath,
    /// When it was deleted, seconds since 1970.
    pub unix_seconds: u32,
    /// How many messages it has.
    pub messages: u32,
    /// How many octets they have.
    pub octets: u64,
}

/// A deleted account that is still kept.
#[derive(Clone, Debug)]
pub struct DeletedAccount {
    /// Its id.
    pub id: AccountId,
    /// Whose it was; `None`: a tree of shared mailboxes.
    pub owner: Option<UserName>,
    /// When it was deleted, seconds since 1970.
    pub unix_seconds: u32,
    /// How many messages it has.
    pub messages: u64,
    /// How many octets they have.
    pub octets: u64,
}

impl Account {
    /// The expunged messages that are still kept, by the second of their expunge; of one mailbox, or of all. Reads
    /// the disk.
    pub fn expunged(&self, of: Option<MailboxId>) -> Result<Vec<Expunged>, StoreError> {
        let id = self.id();
        let mut found = Vec::new();
        let mut damaged = None;
        let prefix = keys::account(id);
        let end = prefix_end(&prefix);
        self.store.engine().scan(Space::Queue, &prefix, end.as_deref(), false, &mut |key, value| {
            let (Some(mailbox), Some(unix_seconds)) = (keys::queued_mailbox(key), keys::queued_second(key))
            else {
                return true;
            };
            if keys::uid_of(key).is_none() || of.is_some_and(|of| of != mailbox) {
                return true;
            }
            match records::decode_expunged(key, value) {
                Ok(message) => found.push(Expunged { mailbox, unix_seconds, message }),
                Err(error) => damaged = Some(error),
            }
            true
        })?;
        // One damaged record does not keep the others from coming back.
        match (found.is_empty(), damaged) {
            (true, Some(error)) => Err(StoreError::Damaged(error)),
            _ => Ok(found),
        }
    }

    /// Messages of a mailbox as they were when they were expunged, those of some UIDs that were expunged lately and are
    /// still kept. Reads the disk.
    pub fn lately_expunged(&self, mailbox: MailboxId, uids: &UidSet) -> Result<Vec<Message>, StoreError> {
        let prefix = keys::account(self.id());
        let end = prefix_end(&prefix);
        let (mut found, mut seen) = (Vec::new(), 0);
        self.store.engine().scan(Space::Queue, &prefix, end.as_deref(), true, &mut |key, value| {
            seen += 1;
            let wanted = keys::uid_of(key).filter(|uid| uids.contains_uid(*uid));
            if wanted.is_some() && keys::queued_mailbox(key) == Some(mailbox) {
                found.extend(records::decode_expunged(key, value));
            }
            seen < LATELY_MAX && (found.len() as u64) < uids.len()
        })?;
        found.sort_unstable_by_key(|message| message.uid);
        Ok(found)
    }

    /// The deleted mailboxes that are still kept.
    pub fn deleted_mailboxes(&self) -> Result<Vec<DeletedMailbox>, StoreError> {
        let deleted = |state: &MailboxState| {
            Some(DeletedMailbox {
                id: state.id,
                path: state.settings.path.clone(),
                unix_seconds: state.settings.deleted_unix_seconds?,
                messages: state.summary.exists,
                octets: state.summary.octets,
            })
        };
        Ok(self.peek()?.all_mailboxes().filter_map(deleted).collect())
    }

    /// Brings expunged messages back into the mailbox they were in, without \Deleted and under new UIDs; says which.
    /// Those that are not kept any more are passed over.
    pub async fn undelete_messages(
        &self,
        mailbox: MailboxId,
        gone: &[Expunged],
    ) -> Result<UidSet, StoreError> {
        // So that what is in memory of it changes as well.
        let _open = self.open(mailbox).await?;
        let mut back = UidSet::new();
        for step in gone.chunks(STEP_MESSAGES) {
            let given = self.transact(|t| bring_back(t, mailbox, step)).await?;
            for (first, last) in given.ranges() {
                back.insert_range(first, last);
            }
        }
        Ok(back)
    }

    /// Brings a deleted mailbox back with its messages, UIDs and flags, under its old name or another.
    pub async fn undelete_mailbox(&self, id: MailboxId, to: &MailboxPath) -> Result<(), StoreError> {
        self.transact(|t| {
            let state = t.any_mailbox(id).ok_or(StoreError::NoMailbox)?;
            let second = state.settings.deleted_unix_seconds.ok_or(StoreError::AlreadyExists)?;
            if t.by_path(to).is_some() {
                return Err(StoreError::AlreadyExists);
            }
            let key = keys::deleted_mailbox(id, second);
            if t.get(Space::Queue, &key)?.is_none() || !self.store.keeps(second) {
                return Err(StoreError::NoMailbox);
            }
            let back = Held { octets: state.summary.octets, messages: state.summary.exists.into() };
            let mut settings = Settings::clone(&state.settings);
            settings.deleted_unix_seconds = None;
            settings.path = to.clone();
            // Another may have got its use meanwhile.
            settings.special_use.clear();
            let modseq = t.modseq;
            let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
            mailbox.settings = Arc::new(settings);
            mailbox.summary.highest_modseq = modseq;
            quota::check(t, id, back)?;
            quota::add(t, id, back);
            t.delete(Space::Queue, key.to_vec());
            t.note(id, Change::Created);
            // It has a name again.
            t.note(id, Change::Settings);
            Ok(())
        })
        .await
    }
}

fn bring_back(t: &mut Transaction<'_>, id: MailboxId, gone: &[Expunged]) -> Result<UidSet, StoreError> {
    t.mailbox(id).ok_or(StoreError::NoMailbox)?;
    let mut kept = Vec::with_capacity(gone.len());
    for one in gone.iter().filter(|one| one.mailbox == id) {
        let key = keys::expunged(id, one.unix_seconds, one.message.uid);
        if t.get(Space::Queue, &key)?.is_some() {
            t.delete(Space::Queue, key.to_vec());
            kept.push(&one.message);
        }
    }
    if kept.is_empty() {
        return Ok(UidSet::new());
    }
    let more = Held::of(kept.iter().copied());
    quota::check(t, id, more)?;
    quota::add(t, id, more);
    let modseq = t.modseq;
    let mut changes = Vec::with_capacity(kept.len());
    for message in kept {
        let flags = message.flags.without(SystemFlags::DELETED);
        let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
        let uid = crate::append::next_uid(&mut mailbox.summary)?;
        mailbox.summary.add(message.size, flags);
        // Its content is referred to once, as it was while it was expunged.
        changes.push((uid, Some(Message { uid, modseq, flags, ..message.clone() })));
    }
    put_messages(t, id, &changes)?;
    let uids: UidSet = changes.iter().map(|(uid, _)| *uid).collect();
    t.note(id, Change::Arrived(uids.clone()));
    Ok(uids)
}

impl Store {
    /// Whether what was deleted then is kept, and nothing of it can have gone.
    fn keeps(&self, unix_seconds: u32) -> bool {
        let retention = u32::try_from(self.options().retention.as_secs()).unwrap_or(u32::MAX);
        unix_seconds >= now_unix().saturating_sub(retention)
    }

    /// The deleted accounts that are still kept. Reads the disk.
    pub fn deleted_accounts(&self) -> Result<Vec<DeletedAccount>, StoreError> {
        let mut ids = Vec::new();
        self.engine().scan(Space::Queue, b"", None, false, &mut |key, _| {
            if keys::uid_of(key).is_none()
                && let Some(MailboxId { account, number: 0 }) = keys::queued_mailbox(key)
                && let Some(second) = keys::queued_second(key)
            {
                ids.push((account, second));
            }
            true
        })?;
        let mut found = Vec::new();
        for (id, unix_seconds) in ids {
            let account = match self.load_account(id) {
                Ok(Some(account)) => account,
                // What is left of one that has moved is not deleted.
                Ok(None) | Err(StoreError::Moved) => continue,
                Err(error) => return Err(error),
            };
            let record = account.cell.record.load();
            if record.state == AccountState::Deleted {
                let (owner, messages, octets) = (record.owner.clone(), record.messages, record.octets);
                found.push(DeletedAccount { id, owner, unix_seconds, messages, octets });
            }
        }
        Ok(found)
    }

    /// Brings a deleted account back with everything that is in it.
    pub async fn undelete_account(&self, id: AccountId) -> Result<Account, StoreError> {
        let account = self.load_account(id)?.ok_or(StoreError::NoAccount)?;
        let ticket = {
            let mut t = account.cell.begin(self.engine())?;
            if t.record.state != AccountState::Deleted {
                return Err(StoreError::AlreadyExists);
            }
            let prefix = keys::account(id);
            let end = prefix_end(&prefix);
            let queue = t.scan(Space::Queue, &prefix, end.as_deref(), usize::MAX)?;
            let is_account = |key: &[u8]| {
                keys::uid_of(key).is_none()
                    && keys::queued_mailbox(key).is_some_and(|of| of.number == 0)
                    && keys::queued_second(key).is_some_and(|second| self.keeps(second))
            };
            let key = queue.into_iter().map(|(key, _)| key).find(|key| is_account(key));
            t.delete(Space::Queue, key.ok_or(StoreError::NoAccount)?);
            t.record.state = AccountState::Home;
            t.finish(self.committer())
        };
        ticket.wait().await?;
        account.cell.tidy();
        Ok(account)
    }
}
